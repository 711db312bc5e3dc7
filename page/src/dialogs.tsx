// Native dialogs: the browser keeps the focus inside and closes them with Escape.

import type { ComponentChildren, JSX } from "preact";
import { useContext, useEffect, useId, useRef, useState } from "preact/hooks";

import { Context } from "./context";
import { Icon } from "./icons";

export function Dialog(props: { title: string; close: () => void; children: ComponentChildren }): JSX.Element {
  const { words } = useContext(Context);
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => dialog.current!.showModal(), []);
  const outside = (event: MouseEvent): void => {
    if (event.target === dialog.current) dialog.current!.close();
  };
  return (
    <dialog ref={dialog} aria-labelledby={id} onClose={props.close} onMouseDown={outside}>
      <div class="sheet">
        <div class="row">
          <h2 id={id}>{props.title}</h2>
          <button
            type="button"
            class="quiet"
            aria-label={words.close}
            title={words.close}
            onClick={() => dialog.current!.close()}
          >
            <Icon name="close" />
          </button>
        </div>
        {props.children}
      </div>
    </dialog>
  );
}

/** Asks for a yes, or for a line of text where one is given: the answer, or null for a no. */
export type Ask = (question: string, yes: string, text?: string) => Promise<string | null>;

interface Question {
  question: string;
  yes: string;
  text: string | undefined;
  answer: (text: string | null) => void;
}

/** `ask`, and the dialog that it shows. */
export function useAsk(): [Ask, JSX.Element | null] {
  const [asked, setAsked] = useState<Question | null>(null);
  const ask: Ask = (question, yes, text) =>
    new Promise((resolve) => {
      const answer = (given: string | null): void => {
        setAsked(null);
        resolve(given);
      };
      setAsked({ question, yes, text, answer });
    });
  return [ask, asked && <Asked {...asked} />];
}

function Asked({ question, yes, text, answer }: Question): JSX.Element {
  const { words } = useContext(Context);
  const line = useRef<HTMLInputElement>(null);
  return (
    <Dialog title={question} close={() => answer(null)}>
      <form
        class="row end"
        onSubmit={(event) => {
          event.preventDefault();
          answer(line.current?.value ?? "");
        }}
      >
        {text !== undefined && <input ref={line} class="wide" aria-label={question} defaultValue={text} />}
        <button type="button" onClick={() => answer(null)}>
          {words.cancel}
        </button>
        <button class="main">{yes}</button>
      </form>
    </Dialog>
  );
}
