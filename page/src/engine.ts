// The seam between the page and whatever runs the model: a server, or the browser itself.

export type Role = "system" | "user" | "assistant";

export interface Turn {
  role: Role;
  content: string;
}

export interface Model {
  id: string;
  /** Names the weights: a state belongs to one of them. Empty where the engine doesn't say. */
  fingerprint: string;
  parameters: number | null;
  /** Size of one conversation's memory. */
  stateBytes: number | null;
  personas: string[];
}

/** How tokens are drawn. What is null is the engine's own choice. */
export interface Sampling {
  temperature: number | null;
  top_p: number | null;
  top_k: number | null;
  min_p: number | null;
  repetition_penalty: number | null;
  max_tokens: number | null;
  seed: number | null;
}

export interface ReplyRequest {
  model: string;
  persona: string | null;
  /** The whole conversation; with `state`, only what came after it. */
  turns: Turn[];
  /** What the conversation had become: a state file in base64. */
  state: string | null;
  /** Whether the engine may keep what the conversation becomes. */
  stored: boolean;
  sampling: Sampling;
}

/** What is known at a reply's end. What the engine doesn't say is null. */
export interface ReplyEnd {
  kind: "end";
  /** Why it ended: "stop" by itself, "length" at the limit of tokens. */
  finish: string;
  /** What the conversation has become: a state file in base64. */
  state: string | null;
  fingerprint: string;
  tokens: number | null;
  promptTokens: number | null;
  /** Tokens of the prompt that weren't read again. */
  reusedTokens: number | null;
  stateBytes: number | null;
  seed: number | null;
}

export type ReplyEvent = { kind: "text"; text: string } | ReplyEnd;

/** How many tokens it takes until half of what a head remembers has faded; null for one that forgets nothing. */
export interface Memory {
  layers: (number | null)[][];
}

export interface Engine {
  /** Whether the model runs in this browser: nobody else is asked, and nothing is stored elsewhere. */
  readonly local: boolean;
  /** Which models can be talked to. */
  models(): Promise<Model[]>;
  /** Writes the next message: its text as it comes, then its end. Aborting the signal stops the model. */
  reply(request: ReplyRequest, signal: AbortSignal): AsyncGenerator<ReplyEvent>;
  /** The half-lives of a model's memory; null where the engine doesn't know them. */
  memory(model: string): Promise<Memory | null>;
  /** Who asks, where the engine wants to know. */
  useKey(key: string): void;
}

export type Trouble = "key" | "busy" | "unreachable" | "cut" | "refused" | "files" | "browser";

/** What went wrong, and what the engine itself says about it. */
export class EngineError extends Error {
  constructor(
    readonly trouble: Trouble,
    message: string,
    /** Seconds after which another try may succeed. */
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }
}
