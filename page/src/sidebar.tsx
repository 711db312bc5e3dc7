// The conversations that this browser keeps.

import type { JSX } from "preact";
import { useContext, useRef } from "preact/hooks";

import { Context } from "./context";
import type { Ask } from "./dialogs";
import { Icon } from "./icons";

export function Sidebar({ ask, close }: { ask: Ask; close: () => void }): JSX.Element {
  const { talk, words } = useContext(Context);
  const files = useRef<HTMLInputElement>(null);
  const { current } = talk;
  const kept = talk.conversations.some((each) => each.id === current.id);
  const rename = async (): Promise<void> => {
    const title = await ask(words.newTitle, words.saveText, current.title);
    if (title?.trim()) await talk.change((conversation) => (conversation.title = title.trim()));
  };
  const remove = async (): Promise<void> => {
    const { id, title } = current;
    if ((await ask(words.removeQuestion(title || words.untitled), words.remove)) !== null) await talk.remove(id);
  };
  const open = (input: HTMLInputElement): void => {
    const file = input.files?.[0];
    input.value = "";
    if (file) void talk.upload(file).then(close);
  };
  return (
    <nav class="sidebar" aria-label={words.conversations}>
      <div class="row">
        <button
          type="button"
          class="main wide"
          onClick={() => {
            talk.create();
            close();
          }}
        >
          <Icon name="plus" />
          {words.newConversation}
        </button>
        <button type="button" class="quiet phone" aria-label={words.closeMenu} title={words.closeMenu} onClick={close}>
          <Icon name="close" />
        </button>
      </div>
      <ul>
        {talk.conversations.map((conversation) => (
          <li key={conversation.id}>
            <button
              type="button"
              class="entry"
              aria-current={conversation.id === current.id ? "true" : undefined}
              onClick={() => {
                talk.open(conversation.id);
                close();
              }}
            >
              {conversation.title || words.untitled}
            </button>
          </li>
        ))}
      </ul>
      <div class="tools">
        <button type="button" disabled={!kept} title={words.downloadHint} onClick={() => talk.download()}>
          <Icon name="down" />
          {words.download}
        </button>
        <button type="button" title={words.uploadHint} onClick={() => files.current!.click()}>
          <Icon name="up" />
          {words.upload}
        </button>
        <button type="button" disabled={!kept} onClick={() => void rename()}>
          <Icon name="edit" />
          {words.rename}
        </button>
        <button type="button" disabled={!kept} onClick={() => void remove()}>
          <Icon name="trash" />
          {words.remove}
        </button>
        <input ref={files} type="file" hidden onChange={(event) => open(event.currentTarget)} />
      </div>
    </nav>
  );
}
