// A server that speaks OpenAI's API, with this project's additions where it has them.

import { EventSourceParserStream } from "eventsource-parser/stream";

import { EngineError, type Engine, type Memory, type Model, type ReplyEnd, type ReplyEvent, type ReplyRequest } from "./engine";

type Json = Record<string, any>;

export class HttpEngine implements Engine {
  readonly local = false;
  private key = "";

  /** `base` ends with a slash; the server's paths stand below it. */
  constructor(private readonly base: string) {}

  useKey(key: string): void {
    this.key = key;
  }

  async models(): Promise<Model[]> {
    const list = await this.json("v1/models");
    return (list.data as Json[]).map((model) => ({
      id: String(model.id),
      fingerprint: String(model.sioconv?.fingerprint ?? ""),
      parameters: number(model.sioconv?.parameters),
      stateBytes: number(model.sioconv?.state_bytes),
      personas: (model.sioconv?.personas ?? []).map(String),
    }));
  }

  async memory(model: string): Promise<Memory | null> {
    const response = await this.fetch(`memory?model=${encodeURIComponent(model)}`, {});
    if (response.status === 404) return null;
    const { layers } = await readJson(response);
    return { layers: (layers as Json[]).map((layer) => (layer.half_lives as unknown[]).map(number)) };
  }

  async *reply(request: ReplyRequest, signal: AbortSignal): AsyncGenerator<ReplyEvent> {
    const body: Json = {
      model: request.model,
      messages: request.turns,
      ...request.sampling,
      stream: true,
      stream_options: { include_usage: true },
      return_state: true,
      store: request.stored,
      persona: request.persona,
      state: request.state,
    };
    for (const name of Object.keys(body)) if (body[name] === null) delete body[name];
    const response = await this.fetch("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
    if (!response.ok) throw await problemOf(response);
    const end: ReplyEnd = {
      kind: "end", finish: "", state: null, fingerprint: "", tokens: null, promptTokens: null, reusedTokens: null,
      stateBytes: null, seed: null,
    };
    let done = false;
    for await (const chunk of chunksOf(response)) {
      if (chunk === null) {
        done = true;
        continue;
      }
      if (chunk.error) throw new EngineError("refused", String(chunk.error.message ?? ""));
      const text = note(end, chunk);
      if (text) yield { kind: "text", text };
    }
    if (!done && !end.finish) throw new EngineError("cut", "");
    yield end;
  }

  private async json(path: string): Promise<Json> {
    return readJson(await this.fetch(path, {}));
  }

  private async fetch(path: string, init: RequestInit): Promise<Response> {
    const headers = new Headers(init.headers);
    if (this.key) headers.set("Authorization", `Bearer ${this.key}`);
    try {
      return await fetch(this.base + path, { ...init, headers });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw new EngineError("unreachable", error instanceof Error ? error.message : "");
    }
  }
}

/** The JSON of each event; null for the one that says that there are no more. */
async function* chunksOf(response: Response): AsyncGenerator<Json | null> {
  // The types of DOM and of the parser differ in a detail of Uint8Array.
  const bytes = response.body as ReadableStream<BufferSource>;
  const reader = bytes.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        if (error instanceof DOMException && error.name === "AbortError") throw error;
        throw new EngineError("cut", error instanceof Error ? error.message : "");
      });
      if (done) return;
      yield value.data === "[DONE]" ? null : (JSON.parse(value.data) as Json);
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

/** Notes what a chunk says of the end, and returns its text. */
function note(end: ReplyEnd, chunk: Json): string {
  if (chunk.system_fingerprint) end.fingerprint = String(chunk.system_fingerprint);
  if (chunk.usage) {
    end.tokens = number(chunk.usage.completion_tokens);
    end.promptTokens = number(chunk.usage.prompt_tokens);
    end.reusedTokens = number(chunk.usage.prompt_tokens_details?.cached_tokens);
  }
  if (chunk.sioconv) {
    end.stateBytes = number(chunk.sioconv.state_bytes);
    end.seed = number(chunk.sioconv.seed);
  }
  const choice = chunk.choices?.[0];
  if (!choice) return "";
  if (choice.finish_reason) end.finish = String(choice.finish_reason);
  if (typeof choice.state === "string") end.state = choice.state;
  return String(choice.delta?.content ?? "");
}

async function readJson(response: Response): Promise<Json> {
  if (!response.ok) throw await problemOf(response);
  return (await response.json()) as Json;
}

async function problemOf(response: Response): Promise<EngineError> {
  const said = await response.json().then((body) => String(body.error?.message ?? ""), () => "");
  const message = said || `${response.status} ${response.statusText}`;
  if (response.status === 401) return new EngineError("key", message);
  if (response.status === 429 || response.status === 503) {
    return new EngineError("busy", message, number(Number(response.headers.get("Retry-After"))) || null);
  }
  return new EngineError("refused", message);
}

function number(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}
