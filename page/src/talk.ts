// What the page does: conversations, replies, and what went wrong. The components show it and call it.

import {
  add, forgetOldStates, newConversation, path, question, type Conversation, type KeptState, type Message,
} from "./conversation";
import { EngineError, type Engine, type Memory, type Model, type ReplyEnd } from "./engine";
import { FileError, fileName, fromFile, stateFile, toFile } from "./file";
import * as storage from "./storage";
import type { Words } from "./words";

// Milliseconds, while a reply is written.
const SAVE_EVERY = 500;
const SHOW_EVERY = 30;

/** What to tell the reader, in whatever language is chosen. */
export type Trouble = (words: Words) => string;

export class Talk {
  conversations: Conversation[] = [];
  current: Conversation = newConversation(null, "");
  models: Model[] = [];
  trouble: Trouble | null = null;
  /** The trouble that the engine made last: an engine that answers again takes it back, and no other. */
  private engineTrouble: Trouble | null = null;
  /** The last thing to read out to those who don't see the page. */
  announcement: Trouble = () => "";
  key = storage.loadKey();
  private readonly running = new Map<string, AbortController>();
  private timer: ReturnType<typeof setTimeout> | null = null;
  private pause = SHOW_EVERY;

  constructor(
    private readonly engine: Engine,
    private readonly changed: () => void,
  ) {
    engine.useKey(this.key.key);
    this.current.carried = engine.local;
  }

  /** Whether the model runs in this browser. */
  get local(): boolean {
    return this.engine.local;
  }

  async start(): Promise<void> {
    storage.onChange((id) => void this.reload(id));
    try {
      const kept = (await storage.loadAll()).map(withoutWriting);
      // The reader may have begun to write before.
      const begun = new Set(this.conversations.map((each) => each.id));
      this.conversations.push(...kept.filter((each) => !begun.has(each.id)));
    } catch {
      this.trouble = (words) => words.errorStorage;
    }
    this.current = this.conversations.find((each) => each.id === location.hash.slice(1)) ?? this.current;
    this.changed();
    await this.loadModels();
  }

  async loadModels(): Promise<void> {
    try {
      this.models = await this.engine.models();
      if (!this.models.length) this.engineFailed((words) => words.errorModels);
      else if (this.trouble === this.engineTrouble) this.trouble = null;
    } catch (error) {
      this.engineFailed(troubleOf(error));
    }
    this.changed();
  }

  private engineFailed(trouble: Trouble): void {
    this.trouble = this.engineTrouble = trouble;
  }

  /** The conversation's model, or the first one where that isn't there any more. */
  modelOf(conversation: Conversation): Model | undefined {
    return this.models.find((model) => model.id === conversation.model) ?? this.models[0];
  }

  async memoryOf(model: Model): Promise<Memory | null> {
    return this.engine.memory(model.id);
  }

  isWriting(conversation: Conversation = this.current): boolean {
    return this.running.has(conversation.id);
  }

  create(): void {
    this.show(newConversation(this.current, this.current.model));
  }

  open(id: string): void {
    const found = this.conversations.find((each) => each.id === id);
    if (found) this.show(found);
  }

  /** Changes the conversation that is shown, and keeps it. */
  async change(change: (conversation: Conversation) => void): Promise<void> {
    const conversation = this.current;
    change(conversation);
    await this.keep(conversation);
  }

  async remove(id: string): Promise<void> {
    this.running.get(id)?.abort();
    this.conversations = this.conversations.filter((each) => each.id !== id);
    if (this.current.id === id) this.create();
    await storage.remove(id).catch(() => undefined);
    this.changed();
  }

  async removeAll(): Promise<void> {
    for (const abort of this.running.values()) abort.abort();
    this.conversations = [];
    this.create();
    await storage.removeAll().catch(() => undefined);
    this.changed();
  }

  /** Says something at the end of what is shown. */
  async say(text: string): Promise<void> {
    const conversation = this.current;
    const parent = path(conversation).at(-1)?.id ?? null;
    const said = add(conversation, { parent, role: "user", text, status: "whole" });
    await this.answer(said.id);
  }

  /** Another version of a message. One of the user's is answered; the old version and its answers stay. */
  async edit(message: Message, text: string): Promise<void> {
    const { parent, role } = message;
    const edited = add(this.current, { parent, role, text, status: "whole" });
    if (role === "user") await this.answer(edited.id);
    else await this.keep(this.current);
  }

  async choose(message: Message): Promise<void> {
    await this.change((conversation) => {
      conversation.chosen[message.parent ?? ""] = message.id;
    });
  }

  /** Writes a reply to a message; another one where there are some. */
  async answer(parent: string | null): Promise<void> {
    const conversation = this.current;
    if (parent === null || this.isWriting(conversation)) return;
    const abort = new AbortController();
    this.running.set(conversation.id, abort);
    this.trouble = null;
    this.announcement = (words) => words.writing;
    try {
      await this.keep(conversation);
      // Who is quick writes before the models are known.
      if (!this.models.length) await this.loadModels();
      const model = this.modelOf(conversation);
      if (model) await this.write(conversation, parent, model, abort.signal);
    } finally {
      this.running.delete(conversation.id);
    }
    this.changed();
  }

  stop(): void {
    this.running.get(this.current.id)?.abort();
  }

  useKey(key: string, kept: boolean): void {
    this.key = { key, kept };
    storage.saveKey(key, kept);
    this.engine.useKey(key);
    void this.loadModels();
  }

  download(): void {
    save(toFile(this.current), fileName(this.current));
  }

  /** The newest memory on the way to what is shown, if there is one. */
  get kept(): KeptState | null {
    return path(this.current).findLast((message) => message.state)?.state ?? null;
  }

  /** What `sioconv chat --load` and another page's upload take. */
  downloadState(): void {
    const { kept } = this;
    if (kept) save(stateFile(kept.data), fileName(this.current).replace(/json$/, "state"));
  }

  async upload(file: File): Promise<void> {
    try {
      const made = await fromFile(file, this.current);
      this.show(made);
      await this.keep(made);
    } catch (error) {
      if (!(error instanceof FileError)) throw error;
      this.trouble = (words) => words.errorFile;
      this.changed();
    }
  }

  /** Shows what went wrong; null for nothing. */
  fail(trouble: Trouble | null): void {
    this.trouble = trouble;
    this.changed();
  }

  /** Reads something out to those who don't see the page. */
  tell(announcement: Trouble): void {
    this.announcement = announcement;
    this.changed();
  }

  private show(conversation: Conversation): void {
    this.current = conversation;
    history.replaceState(null, "", `#${conversation.id}`);
    this.changed();
  }

  private async write(conversation: Conversation, parent: string, model: Model, signal: AbortSignal): Promise<void> {
    const { turns, state, persona } = question(conversation, parent, model.fingerprint);
    const { system, sampling, carried } = conversation;
    const beginning = { persona: conversation.persona, system };
    const reply = add(conversation, { parent, role: "assistant", text: "", status: "writing", model: model.id });
    const clock = new Clock();
    let saved = -Infinity;
    this.changed();
    try {
      const request = { model: model.id, persona, turns, state, stored: !carried, sampling };
      for await (const event of this.engine.reply(request, signal)) {
        if (event.kind === "end") {
          finish(reply, event, clock, beginning);
          continue;
        }
        clock.tick();
        reply.text += event.text;
        if (performance.now() - saved > SAVE_EVERY) {
          saved = performance.now();
          void this.keep(conversation);
        }
        this.changedSoon();
      }
    } catch (error) {
      reply.status = signal.aborted ? "stopped" : "failed";
      reply.stats = clock.stats(null);
      if (!signal.aborted) this.engineFailed(troubleOf(error));
    }
    if (!reply.text && reply.status !== "whole") {
      // Nothing came: the message before it can be answered again.
      delete conversation.messages[reply.id];
      delete conversation.chosen[parent];
    }
    const { text } = reply;
    this.announcement = () => text;
    if (this.conversations.includes(conversation)) await this.keep(conversation);
  }

  /** Shows what a fast model writes as often as the page can, and leaves it most of its time. */
  private changedSoon(): void {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      const start = performance.now();
      this.changed();
      this.pause = Math.max(SHOW_EVERY, 4 * (performance.now() - start));
    }, this.pause);
  }

  private async keep(conversation: Conversation): Promise<void> {
    forgetOldStates(conversation);
    conversation.updated = Date.now();
    this.conversations = [conversation, ...this.conversations.filter((each) => each.id !== conversation.id)];
    if (this.current === conversation) history.replaceState(null, "", `#${conversation.id}`);
    this.changed();
    try {
      await storage.save(conversation);
    } catch {
      this.trouble = (words) => words.errorStorage;
      this.changed();
    }
  }

  /** Another tab changed a conversation; "" stands for all. */
  private async reload(id: string): Promise<void> {
    if (this.running.has(id)) return;
    if (!id) {
      this.conversations = [];
    } else {
      const stored = await storage.load(id);
      const others = this.conversations.filter((each) => each.id !== id);
      this.conversations = stored ? [stored, ...others].sort((a, b) => b.updated - a.updated) : others;
      if (stored && this.current.id === id) this.current = stored;
    }
    this.changed();
  }
}

function save(content: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** When a reply's parts came. */
class Clock {
  private readonly start = performance.now();
  private first: number | null = null;
  private last = 0;
  private parts = 0;

  tick(): void {
    this.last = performance.now();
    this.first ??= this.last;
    this.parts += 1;
  }

  /** What can be said of a reply; `end` is null for one that was broken off, whose parts are then counted. */
  stats(end: ReplyEnd | null): Message["stats"] {
    const tokens = end?.tokens ?? this.parts;
    const seconds = this.first === null ? 0 : (this.last - this.first) / 1000;
    const prompt = end?.promptTokens ?? null;
    return {
      tokens,
      tokensPerSecond: tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null,
      firstSeconds: this.first === null ? null : (this.first - this.start) / 1000,
      reusedTokens: end?.reusedTokens ?? null,
      contextTokens: prompt === null ? null : prompt + tokens,
      stateBytes: end?.stateBytes ?? null,
      seed: end?.seed ?? null,
    };
  }
}

function finish(reply: Message, end: ReplyEnd, clock: Clock, beginning: Pick<KeptState, "persona" | "system">): void {
  reply.status = end.finish === "length" ? "length" : "whole";
  reply.stats = clock.stats(end);
  if (end.state !== null) reply.state = { data: end.state, fingerprint: end.fingerprint, ...beginning };
}

/** A reply that the page's end has cut off isn't being written any more. */
function withoutWriting(conversation: Conversation): Conversation {
  for (const message of Object.values(conversation.messages)) {
    if (message.status === "writing") message.status = "stopped";
  }
  return conversation;
}

function troubleOf(error: unknown): Trouble {
  if (!(error instanceof EngineError)) throw error;
  const { message, retryAfter } = error;
  switch (error.trouble) {
    case "key":
      return (words) => words.errorKey;
    case "busy":
      return (words) => (retryAfter === null ? words.errorBusy : words.errorBusyAfter(retryAfter));
    case "unreachable":
      return (words) => words.errorUnreachable;
    case "cut":
      return (words) => words.errorCut;
    case "files":
      return (words) => words.errorFiles(message);
    case "browser":
      return (words) => words.errorBrowser;
    case "refused":
      return (words) => words.errorRefused(message);
  }
}
