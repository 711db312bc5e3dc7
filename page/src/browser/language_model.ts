// The ONNX graph in onnxruntime-web, on one thread, and the tokenizer: text ↔ ids → logits.

import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-web/wasm";

import { fromBase64, hex, type State } from "./state_file";
import { stateShapes, type Manifest } from "./manifest";

const PIECE = 256; // tokens that are read at once, between which a reply can be stopped
const RUNTIME = "ort-wasm-simd-threaded.wasm";

/** A file of the page isn't there or isn't what was written. */
export class LoadError extends Error {}

export class LanguageModel {
  private constructor(
    readonly manifest: Manifest,
    private readonly session: ort.InferenceSession,
    private readonly tokenizer: Tokenizer,
    /** What each token stands for. */
    readonly bytes: Uint8Array[],
  ) {}

  /** Loads everything below `base`. Raises LoadError. */
  static async load(base: string): Promise<LanguageModel> {
    const file = (name: string): string => new URL(name, base).href;
    const manifest = (await json(file("model/model.json"))) as Manifest;
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = { wasm: file(RUNTIME) };
    ort.env.logLevel = "error";
    const [parts, tokenizer, tokens] = await Promise.all([
      Promise.all(manifest.parts.map(async (part) => checked(await download(file(`model/${part.file}`)), part))),
      json(file("model/tokenizer.json")),
      json(file("model/tokens.json")),
    ]);
    const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    const session = await ort.InferenceSession.create(whole, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
    return new LanguageModel(
      manifest, session, new Tokenizer(tokenizer as object, {}), (tokens as string[]).map(fromBase64),
    );
  }

  /** The ids of a text, none of them special. */
  encode(text: string): number[] {
    return text ? this.tokenizer.encode(text.toWellFormed(), { add_special_tokens: false }).ids : [];
  }

  /** Reads ids, at least one: the state after them and the logits of the last one. `between` is called between pieces. */
  async read(ids: readonly number[], state: State, between: () => Promise<void>): Promise<{ state: State; logits: Float32Array }> {
    let logits = new Float32Array();
    for (let i = 0; i < ids.length; i += PIECE) {
      if (i) await between();
      ({ state, logits } = await this.readPiece(ids.slice(i, i + PIECE), state));
    }
    return { state, logits };
  }

  private async readPiece(ids: readonly number[], state: State): Promise<{ state: State; logits: Float32Array<ArrayBuffer> }> {
    const feeds: Record<string, ort.Tensor> = {
      input_ids: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]),
      num_logits_to_keep: new ort.Tensor("int64", [1n], []),
    };
    for (const [name, shape] of stateShapes(this.manifest)) {
      feeds[`past_${name}`] = new ort.Tensor("float32", state.tensors.get(name)!, shape);
    }
    const found = await this.session.run(feeds);
    const tensors = new Map<string, Float32Array>();
    for (const name of state.tensors.keys()) tensors.set(name, found[`present_${name}`]!.data as Float32Array);
    return {
      state: { tensors, tokens: state.tokens + ids.length },
      logits: found.logits!.data as Float32Array<ArrayBuffer>,
    };
  }
}

async function download(url: string): Promise<Response> {
  const response = await fetch(url).catch((error: unknown) => {
    throw new LoadError(error instanceof Error ? error.message : "");
  });
  if (!response.ok) throw new LoadError(`${response.status}: ${url}`);
  return response;
}

async function json(url: string): Promise<unknown> {
  return (await download(url)).json();
}

async function checked(response: Response, part: { file: string; sha256: string }): Promise<Uint8Array> {
  const bytes = await response.arrayBuffer();
  if (globalThis.crypto?.subtle) {
    const sum = hex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));
    if (sum !== part.sha256) throw new LoadError(`${part.file} is damaged`);
  }
  return new Uint8Array(bytes);
}
