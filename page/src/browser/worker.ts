// The model on a thread of its own, so that the page can be used while it writes.

import type { ReplyRequest } from "../engine";
import { LanguageModel, LoadError } from "./language_model";
import { Replies } from "./replies";
import { StateError } from "./state_file";

/** What the page asks: a reply, or its end. */
export type Asked = { id: number; reply: ReplyRequest } | { id: number; stop: true };
/** What it is told; `trouble` says what went wrong, and nothing comes after it. */
export type Told =
  | { id: number; text: string }
  | { id: number; end: Awaited<ReturnType<Replies["write"]>> }
  | { id: number; trouble: "unreachable" | "refused" | "stopped"; message: string };

interface Scope {
  postMessage(told: Told): void;
  onmessage: ((event: MessageEvent<Asked>) => void) | null;
}

const scope = self as unknown as Scope;
const model = LanguageModel.load(new URL(".", import.meta.url).href);
const replies = model.then((loaded) => new Replies(loaded));
replies.catch(() => undefined); // each reply says it
const stopped = new Set<number>();
let turn: Promise<void> = Promise.resolve(); // one reply after the other

class Stopped extends Error {}

scope.onmessage = ({ data }) => {
  if ("stop" in data) stopped.add(data.id);
  else turn = turn.then(() => answer(data.id, data.reply));
};

async function answer(id: number, request: ReplyRequest): Promise<void> {
  const pause = async (): Promise<void> => {
    await messages();
    if (stopped.has(id)) throw new Stopped();
  };
  try {
    await pause();
    const end = await (await replies).write(request, (text) => scope.postMessage({ id, text }), pause);
    scope.postMessage({ id, end });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    if (error instanceof Stopped) scope.postMessage({ id, trouble: "stopped", message });
    else if (error instanceof LoadError) scope.postMessage({ id, trouble: "unreachable", message });
    else if (error instanceof StateError) scope.postMessage({ id, trouble: "refused", message: `the state: ${message}` });
    else scope.postMessage({ id, trouble: "refused", message });
  } finally {
    stopped.delete(id);
  }
}

const { port1, port2 } = new MessageChannel();
let wake: (() => void) | null = null;
port1.onmessage = () => wake?.();

/** Lets the messages in that have come; a timer would wait for 4 ms. */
function messages(): Promise<void> {
  return new Promise((resolve) => {
    wake = resolve;
    port2.postMessage(null);
  });
}
