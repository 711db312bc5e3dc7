// A conversation as a file, with its state: what one browser downloads, another goes on with.

import { DEFAULT_SAMPLING, newConversation, newId, type Conversation, type KeptState, type Message } from "./conversation";
import type { Sampling } from "./engine";

const FORMAT = "sioconv-conversation";
const VERSION = 1;
const STATUS = ["whole", "stopped", "length", "failed"] as const;

export class FileError extends Error {}

type Json = Record<string, unknown>;

export function toFile(conversation: Conversation): Blob {
  const { id: _, ...rest } = conversation;
  const messages = Object.values(conversation.messages);
  return new Blob([JSON.stringify({ format: FORMAT, version: VERSION, ...rest, messages }, null, 1)], {
    type: "application/json",
  });
}

/** A state in base64 as the file that it was. */
export function stateFile(data: string): Blob {
  return new Blob([Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0))], { type: "application/octet-stream" });
}

export function fileName(conversation: Conversation): string {
  const title = conversation.title.replace(/[\p{Cc}\p{Cf}\\/:*?"<>|.]/gu, " ").trim().slice(0, 40);
  return `${title || "sioconv"}.json`;
}

/** Reads what `toFile` wrote, OpenAI's list of messages, or a state file. Raises FileError where it is none of them. */
export async function fromFile(file: File, like: Conversation): Promise<Conversation> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[8] === 0x7b && bytes[0] !== 0x7b && bytes[0] !== 0x5b) return fromState(file.name, bytes, like);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new FileError();
  }
  if (isObject(value) && value.format === FORMAT) return fromConversation(value);
  const list = isObject(value) ? value.messages : value;
  if (Array.isArray(list)) return fromList(list, file.name, like);
  throw new FileError();
}

/** A safetensors file begins with eight bytes of length and an opening brace. */
function fromState(name: string, bytes: Uint8Array, like: Conversation): Conversation {
  const made = newConversation(like, like.model);
  let binary = "";
  for (let i = 0; i < bytes.length; i += 0x8000) binary += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return { ...made, title: name, system: "", carried: true, base: { data: btoa(binary), name } };
}

function fromList(list: unknown[], name: string, like: Conversation): Conversation {
  const made = { ...newConversation(like, like.model), title: name.replace(/\.json$/, ""), system: "" };
  let parent: string | null = null;
  list.forEach((each, i) => {
    const { role, content } = checked(each, isObject);
    if (role === "system" && i === 0) {
      made.system = checked(content, isText);
      return;
    }
    const message: Message = {
      id: newId(), parent, role: checked(role, isRole), text: checked(content, isText), created: made.created + i,
      status: "whole",
    };
    made.messages[message.id] = message;
    parent = message.id;
  });
  return made;
}

function fromConversation(value: Json): Conversation {
  if (value.version !== VERSION) throw new FileError();
  const messages = checked(value.messages, Array.isArray).map((each) => toMessage(checked(each, isObject)));
  const byId = Object.fromEntries(messages.map((message) => [message.id, message]));
  for (const message of messages) {
    if (message.parent !== null && !Object.hasOwn(byId, message.parent)) throw new FileError();
    checkAncestors(byId, message);
  }
  const chosen = Object.entries(checked(value.chosen, isObject)).filter(([, child]) => isText(child));
  const base = isObject(value.base) ? { data: checked(value.base.data, isText), name: checked(value.base.name, isText) } : null;
  return {
    id: newId(), title: checked(value.title, isText), created: checked(value.created, isNumber), updated: Date.now(),
    messages: byId, chosen: Object.fromEntries(chosen) as Record<string, string>, model: checked(value.model, isText),
    persona: value.persona === null ? null : checked(value.persona, isText), system: checked(value.system, isText),
    sampling: toSampling(value.sampling), carried: true, base,
  };
}

function toMessage(value: Json): Message {
  const message: Message = {
    id: checked(value.id, (id): id is string => isText(id) && /^[0-9a-f]{32}$/.test(id)),
    parent: value.parent === null ? null : checked(value.parent, isText),
    role: checked(value.role, isRole),
    text: checked(value.text, isText),
    created: checked(value.created, isNumber),
    status: STATUS.find((each) => each === value.status) ?? "stopped",
  };
  if (isText(value.model)) message.model = value.model;
  if (isObject(value.state)) message.state = toState(value.state);
  return message;
}

function toState(value: Json): KeptState {
  return {
    data: checked(value.data, isText),
    fingerprint: checked(value.fingerprint, isText),
    persona: value.persona === null ? null : checked(value.persona, isText),
    system: checked(value.system, isText),
  };
}

function toSampling(value: unknown): Sampling {
  const sampling = { ...DEFAULT_SAMPLING };
  if (!isObject(value)) return sampling;
  for (const name of Object.keys(sampling) as (keyof Sampling)[]) {
    const one = value[name];
    if (isNumber(one)) sampling[name] = one;
  }
  return sampling;
}

/** No message may come after itself: its path would never end. */
function checkAncestors(byId: Record<string, Message>, message: Message): void {
  const seen = new Set<string>();
  for (let next: Message | undefined = message; next; next = next.parent === null ? undefined : byId[next.parent]) {
    if (seen.has(next.id)) throw new FileError();
    seen.add(next.id);
  }
}

function checked<T>(value: unknown, is: (value: unknown) => value is T): T {
  if (!is(value)) throw new FileError();
  return value;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isText(value: unknown): value is string {
  return typeof value === "string";
}

function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

function isRole(value: unknown): value is "user" | "assistant" {
  return value === "user" || value === "assistant";
}
