// A conversation as a tree: an edited or repeated message is another branch, and nothing is lost.

import type { Role, Sampling, Turn } from "./engine";

export interface Stats {
  tokens: number;
  /** Without the first token, whose time is the prompt's. */
  tokensPerSecond: number | null;
  firstSeconds: number | null;
  reusedTokens: number | null;
  /** Length of the conversation with this reply. */
  contextTokens: number | null;
  stateBytes: number | null;
  seed: number | null;
}

/** What a conversation had become after a message. It stands for the text before it only where these are the same. */
export interface KeptState {
  data: string;
  fingerprint: string;
  persona: string | null;
  system: string;
}

export type Status = "whole" | "writing" | "stopped" | "length" | "failed";

export interface Message {
  id: string;
  parent: string | null;
  role: Exclude<Role, "system">;
  text: string;
  /** Milliseconds; the order of branches. */
  created: number;
  status: Status;
  model?: string;
  stats?: Stats;
  state?: KeptState;
}

export interface Conversation {
  id: string;
  title: string;
  created: number;
  updated: number;
  messages: Record<string, Message>;
  /** Which branch is shown below a message; "" for the first message. */
  chosen: Record<string, string>;
  model: string;
  persona: string | null;
  system: string;
  sampling: Sampling;
  /** Whether the conversation's memory travels with it, and the server keeps nothing. */
  carried: boolean;
  /** The memory that it begins from. */
  base: { data: string; name: string } | null;
}

export const DEFAULT_SAMPLING: Sampling = {
  temperature: null, top_p: null, top_k: null, min_p: null, repetition_penalty: null, max_tokens: null, seed: null,
};

const KEPT_STATES = 4;

export function newId(): string {
  // randomUUID is there on https and localhost only.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation(like: Conversation | null, model: string): Conversation {
  const now = Date.now();
  return {
    id: newId(), title: "", created: now, updated: now, messages: {}, chosen: {}, model: like?.model ?? model,
    persona: null, system: like?.system ?? "", sampling: { ...(like?.sampling ?? DEFAULT_SAMPLING) },
    carried: like?.carried ?? false, base: null,
  };
}

/** The messages that follow a message directly, oldest first. */
export function branches(conversation: Conversation, parent: string | null): Message[] {
  const found = Object.values(conversation.messages).filter((message) => message.parent === parent);
  return found.sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
}

/** The messages that are shown, from the first to the last. */
export function path(conversation: Conversation): Message[] {
  const shown: Message[] = [];
  for (let parent: string | null = null; ; ) {
    const all = branches(conversation, parent);
    if (!all.length) return shown;
    const next: Message = all.find((message) => message.id === conversation.chosen[parent ?? ""]) ?? all[all.length - 1]!;
    shown.push(next);
    parent = next.id;
  }
}

/** The messages before and including one. */
export function pathTo(conversation: Conversation, id: string | null): Message[] {
  const before: Message[] = [];
  for (let next = id; next !== null; next = before[0]!.parent) before.unshift(conversation.messages[next]!);
  return before;
}

/** Adds a message and shows it. */
export function add(conversation: Conversation, message: Omit<Message, "id" | "created">): Message {
  const siblings = branches(conversation, message.parent);
  const after = siblings.length ? siblings[siblings.length - 1]!.created + 1 : 0;
  const added: Message = { ...message, id: newId(), created: Math.max(Date.now(), after) };
  conversation.messages[added.id] = added;
  conversation.chosen[added.parent ?? ""] = added.id;
  if (!conversation.title && added.role === "user") conversation.title = titleOf(added.text);
  return added;
}

function titleOf(text: string): string {
  const line = text.trim().split("\n", 1)[0] ?? "";
  return Array.from(line).slice(0, 60).join("");
}

/** What is asked of the engine to answer the message `id`: from the nearest state where the memory travels along. */
export function question(
  conversation: Conversation,
  id: string,
  fingerprint: string,
): { turns: Turn[]; state: string | null; persona: string | null } {
  const before = pathTo(conversation, id);
  const turns = before.map(({ role, text }): Turn => ({ role, content: text }));
  if (conversation.carried) {
    for (let i = before.length - 1; i >= 0; i--) {
      const state = before[i]!.state;
      if (state && fits(state, conversation, fingerprint)) {
        return { turns: turns.slice(i + 1), state: state.data, persona: null };
      }
    }
  }
  if (conversation.system) turns.unshift({ role: "system", content: conversation.system });
  if (conversation.base) return { turns, state: conversation.base.data, persona: null };
  return { turns, state: null, persona: conversation.persona };
}

function fits(state: KeptState, conversation: Conversation, fingerprint: string): boolean {
  return (
    state.fingerprint === fingerprint && state.system === conversation.system && state.persona === conversation.persona
  );
}

/** Keeps the states of the newest replies: from an older one the text is read again. */
export function forgetOldStates(conversation: Conversation): void {
  const kept = Object.values(conversation.messages).filter((message) => message.state);
  kept.sort((a, b) => b.created - a.created);
  for (const message of kept.slice(KEPT_STATES)) delete message.state;
}

/** Both, where two tabs wrote: every message of each, and what `ours` shows. */
export function merged(stored: Conversation | undefined, ours: Conversation): Conversation {
  if (!stored) return ours;
  return { ...ours, messages: { ...stored.messages, ...ours.messages }, chosen: { ...stored.chosen, ...ours.chosen } };
}
