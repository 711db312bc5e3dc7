// The settings of the conversation that is shown, and of the page.

import type { ComponentChildren, JSX } from "preact";
import { useContext } from "preact/hooks";

import { Context } from "./context";
import { Dialog, type Ask } from "./dialogs";
import type { Sampling } from "./engine";
import type { Settings } from "./storage";

/** Range and step of each number; the same limits as the server's. */
const NUMBERS: [keyof Sampling, number, number | undefined, number][] = [
  ["temperature", 0, 10, 0.05],
  ["top_p", 0.05, 1, 0.05],
  ["top_k", 0, undefined, 1],
  ["min_p", 0, 1, 0.01],
  ["repetition_penalty", 0.05, 10, 0.05],
  ["max_tokens", 1, undefined, 1],
  ["seed", 0, undefined, 1],
];

interface Props {
  settings: Settings;
  change: (settings: Settings) => void;
  ask: Ask;
  close: () => void;
}

export function SettingsDialog({ settings, change, ask, close }: Props): JSX.Element {
  const { talk, words } = useContext(Context);
  const removeAll = async (): Promise<void> => {
    if ((await ask(words.removeAllQuestion, words.remove)) !== null) await talk.removeAll();
  };
  return (
    <Dialog title={words.settings} close={close}>
      <ConversationSettings />
      <fieldset>
        <legend>{words.pageSettings}</legend>
        <Choice
          label={words.language}
          value={settings.language}
          options={[["auto", words.auto], ["ja", "日本語"], ["en", "English"]]}
          choose={(language) => change({ ...settings, language })}
        />
        <Choice
          label={words.theme}
          value={settings.theme}
          options={[["auto", words.auto], ["light", words.light], ["dark", words.dark]]}
          choose={(theme) => change({ ...settings, theme })}
        />
        {!talk.local && <Key />}
        <p class="hint">{talk.local ? words.privacyLocal : words.privacy}</p>
        <button type="button" onClick={() => void removeAll()}>
          {words.removeAll}
        </button>
      </fieldset>
    </Dialog>
  );
}

function Key(): JSX.Element {
  const { talk, words } = useContext(Context);
  return (
    <>
      <Field label={words.key} hint={words.keyHint}>
        <input
          type="password"
          autocomplete="off"
          defaultValue={talk.key.key}
          onChange={(event) => talk.useKey(event.currentTarget.value.trim(), talk.key.kept)}
        />
      </Field>
      <label class="check">
        <input
          type="checkbox"
          checked={talk.key.kept}
          onChange={(event) => talk.useKey(talk.key.key, event.currentTarget.checked)}
        />
        {words.keepKey}
      </label>
    </>
  );
}

function ConversationSettings(): JSX.Element {
  const { talk, words } = useContext(Context);
  const { system, sampling, carried } = talk.current;
  const setNumber = (name: keyof Sampling, input: HTMLInputElement): void => {
    if (!input.reportValidity()) return;
    const value = input.value === "" ? null : input.valueAsNumber;
    void talk.change((conversation) => (conversation.sampling = { ...conversation.sampling, [name]: value }));
  };
  return (
    <fieldset key={talk.current.id}>
      <legend>{words.conversationSettings}</legend>
      <Field label={words.system} hint={words.systemHint}>
        <textarea
          rows={3}
          defaultValue={system} // not `value`: whatever draws the page anew would take back what is being typed
          onChange={(event) => {
            const text = event.currentTarget.value;
            void talk.change((conversation) => (conversation.system = text));
          }}
        />
      </Field>
      <div class="numbers">
        {NUMBERS.map(([name, min, max, step]) => (
          <Field key={name} label={words[name]}>
            <input
              type="number"
              min={min}
              max={max}
              step={step}
              defaultValue={sampling[name] ?? ""}
              placeholder={talk.local ? words.byOwn : words.byModel}
              onChange={(event) => setNumber(name, event.currentTarget)}
            />
          </Field>
        ))}
      </div>
      {!talk.local && (
        <Choice
          label={words.memoryPlace}
          value={carried ? "carried" : "server"}
          options={[["server", words.memoryServer], ["carried", words.memoryCarried]]}
          choose={(place) => void talk.change((conversation) => (conversation.carried = place === "carried"))}
        />
      )}
    </fieldset>
  );
}

function Field({ label, hint, children }: { label: string; hint?: string; children: ComponentChildren }): JSX.Element {
  return (
    <label class="field">
      <span>
        {label}
        {hint && <span class="hint"> {hint}</span>}
      </span>
      {children}
    </label>
  );
}

interface ChoiceProps<T extends string> {
  label: string;
  value: T;
  options: [T, string][];
  choose: (value: T) => void;
}

function Choice<T extends string>({ label, value, options, choose }: ChoiceProps<T>): JSX.Element {
  return (
    <Field label={label}>
      <select value={value} onChange={(event) => choose(event.currentTarget.value as T)}>
        {options.map(([name, text]) => (
          <option key={name} value={name}>
            {text}
          </option>
        ))}
      </select>
    </Field>
  );
}
