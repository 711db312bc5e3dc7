// Where a message is written.

import type { JSX } from "preact";
import { useContext, useEffect, useRef, useState } from "preact/hooks";

import { Context } from "./context";
import { Icon } from "./icons";

/** A key that belongs to an input method isn't ours: Enter there takes a conversion. Safari says 229 only. */
function composing(event: KeyboardEvent): boolean {
  return event.isComposing || event.keyCode === 229;
}

export function Composer(): JSX.Element {
  const { talk, words } = useContext(Context);
  const [text, setText] = useState("");
  const area = useRef<HTMLTextAreaElement>(null);
  const writing = talk.isWriting();
  useEffect(() => {
    const box = area.current!;
    box.style.height = "auto"; // so that it becomes smaller too
    box.style.height = `${box.scrollHeight + box.offsetHeight - box.clientHeight}px`;
  }, [text]);
  useEffect(() => area.current!.focus(), [talk.current.id]);
  const send = (): void => {
    if (!text.trim() || writing) return;
    setText("");
    void talk.say(text.trim());
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (composing(event)) return;
    if (event.key === "Escape" && writing) talk.stop();
    // On a touch screen Enter is the only way to a new line.
    const touch = matchMedia("(pointer: coarse)").matches;
    if (event.key !== "Enter" || event.shiftKey || (touch && !event.ctrlKey && !event.metaKey)) return;
    event.preventDefault();
    send();
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <textarea
        ref={area}
        rows={1}
        value={text}
        aria-label={words.message}
        placeholder={words.placeholder}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      {writing ? (
        <button key="stop" type="button" class="round" title={words.stop} aria-label={words.stop} onClick={() => talk.stop()}>
          <Icon name="stop" />
        </button>
      ) : (
        <button key="send" class="round" title={words.send} aria-label={words.send} aria-disabled={!text.trim()}>
          <Icon name="send" />
        </button>
      )}
    </form>
  );
}
