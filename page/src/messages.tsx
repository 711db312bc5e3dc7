// The conversation: its messages, their versions, and what can be done with each.

import type { JSX } from "preact";
import { useContext, useLayoutEffect, useRef, useState } from "preact/hooks";

import { Context } from "./context";
import { branches, path, type Message } from "./conversation";
import { Icon } from "./icons";
import { render } from "./markdown";

/** How near to the end a reader is taken to be at the end, in pixels. */
const NEAR = 80;

export function Messages(): JSX.Element {
  const { talk, words } = useContext(Context);
  const scroller = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  const conversation = talk.current;
  const shown = path(conversation);
  useLayoutEffect(() => {
    following.current = true;
  }, [conversation.id, shown.length]);
  useLayoutEffect(() => {
    const { current } = scroller;
    if (current && following.current) current.scrollTop = current.scrollHeight;
  });
  const note = (): void => {
    const { scrollHeight, scrollTop, clientHeight } = scroller.current!;
    following.current = scrollHeight - scrollTop - clientHeight < NEAR;
  };
  return (
    <div class="messages" ref={scroller} onScroll={note} tabIndex={0} role="region" aria-label={words.messages}>
      {conversation.base && <p class="hint">{words.begun(conversation.base.name)}</p>}
      {shown.length === 0 && !conversation.base && (
        <div class="welcome">
          <p>{words.welcome}</p>
          <p class="hint">{words.welcomeHint}</p>
        </div>
      )}
      {shown.map((message, i) => (
        <One key={message.id} message={message} last={i === shown.length - 1} />
      ))}
    </div>
  );
}

function One({ message, last }: { message: Message; last: boolean }): JSX.Element {
  const { talk, words } = useContext(Context);
  const [editing, setEditing] = useState(false);
  const mine = message.role === "user";
  const name = mine ? words.you : (message.model ?? words.model);
  const ended = message.status !== "whole" && message.status !== "writing" ? words[message.status] : "";
  return (
    <article class={`message ${message.role}`} aria-label={name} aria-busy={message.status === "writing"}>
      <h2 class="who">{name}</h2>
      {editing ? (
        <Editor message={message} done={() => setEditing(false)} />
      ) : mine ? (
        <p class="text plain">{message.text}</p>
      ) : (
        <Markdown text={message.text} writing={message.status === "writing"} />
      )}
      {ended && <p class="ended">{ended}</p>}
      {!editing && message.status !== "writing" && (
        <div class="actions">
          <Versions message={message} />
          {mine && last && !talk.isWriting() && (
            <Action icon="again" label={words.answer} act={() => void talk.answer(message.id)} />
          )}
          {!mine && <Action icon="again" label={words.regenerate} act={() => void talk.answer(message.parent)} busy />}
          <Action icon="edit" label={words.edit} act={() => setEditing(true)} busy />
          <Copy text={message.text} />
          {message.stats && <Figures message={message} />}
        </div>
      )}
    </article>
  );
}

/** A button with an icon alone; one that is `busy` waits while a reply is written. */
function Action(props: { icon: Parameters<typeof Icon>[0]["name"]; label: string; act: () => void; busy?: boolean }) {
  const { talk } = useContext(Context);
  const { icon, label, act, busy } = props;
  return (
    <button type="button" class="quiet" title={label} aria-label={label} disabled={busy && talk.isWriting()} onClick={act}>
      <Icon name={icon} />
    </button>
  );
}

function Copy({ text }: { text: string }): JSX.Element {
  const { talk, words } = useContext(Context);
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(text);
      talk.tell((now) => now.copied);
    } catch {
      talk.fail((now) => now.errorCopy);
    }
  };
  return <Action icon="copy" label={words.copy} act={() => void copy()} />;
}

function Versions({ message }: { message: Message }): JSX.Element | null {
  const { talk, words } = useContext(Context);
  const all = branches(talk.current, message.parent);
  if (all.length < 2) return null;
  const i = all.findIndex((each) => each.id === message.id);
  const step = (by: number, icon: "left" | "right", label: string): JSX.Element => (
    <button
      type="button"
      class="quiet"
      title={label}
      aria-label={label}
      disabled={talk.isWriting()}
      aria-disabled={!all[i + by]}
      onClick={() => all[i + by] && void talk.choose(all[i + by]!)}
    >
      <Icon name={icon} />
    </button>
  );
  return (
    <span class="versions">
      {step(-1, "left", words.previousBranch)}
      <span role="status" aria-label={words.branchOf(i + 1, all.length)}>
        {i + 1}/{all.length}
      </span>
      {step(1, "right", words.nextBranch)}
    </span>
  );
}

function Figures({ message }: { message: Message }): JSX.Element {
  const { words } = useContext(Context);
  const { tokens, tokensPerSecond, firstSeconds, reusedTokens, stateBytes } = message.stats!;
  const figures = [
    tokensPerSecond !== null && words.statSpeed(tokensPerSecond < 100 ? tokensPerSecond.toPrecision(3) : tokensPerSecond.toFixed(0)),
    words.statTokens(tokens),
    firstSeconds !== null && words.statFirst(firstSeconds.toFixed(2)),
    !!reusedTokens && words.statReused(reusedTokens),
    stateBytes !== null && words.statState((stateBytes / 1000).toFixed(1)),
  ];
  return (
    <span class="figures">
      {figures.filter(Boolean).map((figure) => (
        <span key={figure}>{figure}</span>
      ))}
    </span>
  );
}

function Editor({ message, done }: { message: Message; done: () => void }): JSX.Element {
  const { talk, words } = useContext(Context);
  const area = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    const { current } = area;
    current!.focus();
    current!.setSelectionRange(current!.value.length, current!.value.length);
  }, []);
  const save = (): void => {
    const text = area.current!.value;
    if (!text.trim()) return;
    done();
    if (text !== message.text) void talk.edit(message, text);
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.key === "Escape") done();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) save();
  };
  return (
    <div class="editor">
      <textarea ref={area} rows={4} aria-label={words.editing} defaultValue={message.text} onKeyDown={onKeyDown} />
      <div class="row">
        <button type="button" class="main" onClick={save}>
          {message.role === "user" ? words.saveEdit : words.saveText}
        </button>
        <button type="button" onClick={done}>
          {words.cancel}
        </button>
      </div>
    </div>
  );
}

function Markdown({ text, writing }: { text: string; writing: boolean }): JSX.Element {
  const place = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => place.current!.replaceChildren(render(text)), [text]);
  return <div class={writing ? "text markdown writing" : "text markdown"} ref={place} />;
}
