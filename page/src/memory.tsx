// How old is what the model still knows: the half-lives of its heads, layer by layer.

import type { JSX } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";

import { Context } from "./context";
import { path } from "./conversation";
import { Dialog } from "./dialogs";
import type { Memory } from "./engine";
import { Icon } from "./icons";
import type { Words } from "./words";

export function MemoryDialog({ close }: { close: () => void }): JSX.Element {
  const { talk, words } = useContext(Context);
  const [memory, setMemory] = useState<Memory | null | "waiting">("waiting");
  const model = talk.modelOf(talk.current);
  useEffect(() => {
    let here = true;
    const show = (found: Memory | null): void => {
      if (here) setMemory(found);
    };
    if (model) talk.memoryOf(model).then(show, () => show(null));
    else show(null);
    return () => {
      here = false;
    };
  }, [model?.id]);
  return (
    <Dialog title={words.memory} close={close}>
      {model && (
        <p>
          {model.id}
          {model.parameters !== null && ` · ${words.parameters(model.parameters.toLocaleString())}`}
        </p>
      )}
      {model?.stateBytes != null && <p>{words.stateSize((model.stateBytes / 1000).toFixed(1))}</p>}
      {talk.kept && (
        <button type="button" title={words.downloadStateHint} onClick={() => talk.downloadState()}>
          <Icon name="down" />
          {words.downloadState}
        </button>
      )}
      {memory === "waiting" ? null : memory === null ? <p class="hint">{words.memoryUnknown}</p> : <Layers {...memory} />}
    </Dialog>
  );
}

function Layers({ layers }: Memory): JSX.Element {
  const { talk, words } = useContext(Context);
  const length = path(talk.current).findLast((message) => message.stats?.contextTokens)?.stats?.contextTokens ?? null;
  const finite = layers.flat().filter((value): value is number => value !== null);
  const least = Math.min(0.5, ...finite);
  const most = Math.max(10, length ?? 0, ...finite) * 1.3;
  const place = (value: number): string => `${2 + (96 * Math.log(value / least)) / Math.log(most / least)}%`;
  return (
    <>
      <p class="hint">{words.memoryText}</p>
      {length !== null && <p class="hint">{words.memoryLength(length)}</p>}
      <div class="scroll" tabIndex={0} role="region" aria-label={words.memory}>
        <table class="layers">
          <thead>
            <tr>
              <th scope="col">{words.layer}</th>
              <th scope="col">{words.shortest}</th>
              <th scope="col">{words.median}</th>
              <th scope="col">{words.longest}</th>
              <td class="wide" aria-hidden="true" />
            </tr>
          </thead>
          <tbody>
            {layers.map((heads, i) => (
              <tr key={i}>
                <th scope="row">{i + 1}</th>
                {three(heads).map((value, j) => (
                  <td key={j}>{shown(value, words)}</td>
                ))}
                <td aria-hidden="true">
                  <svg class="heads">
                    {length !== null && <line x1={place(length)} x2={place(length)} y1="0" y2="100%" />}
                    {heads.map((value, j) => (
                      <circle key={j} cx={place(value ?? most)} cy="50%" r="3" />
                    ))}
                  </svg>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

/** The shortest, the median and the longest; null is longer than any number. */
function three(heads: (number | null)[]): (number | null)[] {
  const sorted = [...heads].sort((a, b) => (a ?? Infinity) - (b ?? Infinity));
  return [sorted[0] ?? null, sorted[Math.floor((sorted.length - 1) / 2)] ?? null, sorted.at(-1) ?? null];
}

function shown(value: number | null, words: Words): string {
  if (value === null) return words.forever;
  return value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString();
}
