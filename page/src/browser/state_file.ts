// State files (safetensors), as `sioconv chat --save` writes them and the server sends them.

import { stateShapes, tailWidth, type Manifest } from "./manifest";

/** A text's memory: the tensors of the ONNX graph by name, without `past_`. */
export interface State {
  tensors: Map<string, Float32Array>;
  tokens: number;
}

/** Why bytes aren't a state of this model. */
export class StateError extends Error {}

type Named = { name: string; shape: number[]; data: Float32Array | BigInt64Array };

const LAST_TOKEN = "last_token"; // in the file its id, -1 for none; in the graph the id + 1

export function emptyState(manifest: Manifest): State {
  const size = (shape: number[]): number => shape.reduce((a, b) => a * b);
  const shapes = [...stateShapes(manifest)];
  return { tensors: new Map(shapes.map(([name, shape]) => [name, new Float32Array(size(shape))])), tokens: 0 };
}

export async function packState(state: State, manifest: Manifest): Promise<Uint8Array> {
  const said: Record<string, string> = {
    format: "sioconv-state", version: "1", model: manifest.fingerprints.model, tokens_seen: String(state.tokens),
    pending_ids: "[]", pending_bytes: "", turn_ids: "[]", seed: "0", turns: "0",
    weights: manifest.fingerprints.weights, tokenizer: manifest.fingerprints.tokenizer,
  };
  const tensors = state.tokens ? toFile(state, manifest) : [];
  const sum = await checksum(said, tensors);
  if (sum !== null) said.sha256 = sum;
  const header: Record<string, unknown> = { __metadata__: said };
  let end = 0;
  for (const { name, shape, data } of tensors) {
    header[name] = { dtype: dtypeOf(data), shape, data_offsets: [end, (end += data.byteLength)] };
  }
  let text = new TextEncoder().encode(JSON.stringify(header));
  const padded = new Uint8Array(Math.ceil(text.length / 8) * 8).fill(0x20);
  padded.set(text);
  text = padded;
  const bytes = new Uint8Array(8 + text.length + end);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  let at = 8 + text.length;
  for (const { data } of tensors) {
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return bytes;
}

/** The memory, and the ids that come after it. Raises StateError for what isn't a state of this model. */
export async function unpackState(bytes: Uint8Array, manifest: Manifest): Promise<{ state: State; pending: number[] }> {
  const { said, tensors } = parse(bytes);
  if (said.format !== "sioconv-state") throw new StateError("it is not a state file");
  if (said.version !== "1") throw new StateError(`it is a state file of version ${said.version}, not 1`);
  const { model, weights, tokenizer } = manifest.fingerprints;
  if (said.model !== model || (said.weights ?? weights) !== weights) throw new StateError("it is another model's state");
  if ((said.tokenizer ?? tokenizer) !== tokenizer) throw new StateError("it is another tokenizer's state");
  const { sha256, ...rest } = said;
  const sum = await checksum(rest, tensors);
  if (sha256 !== undefined && sum !== null && sha256 !== sum) throw new StateError("it is damaged");
  const pending = ids(said.pending_ids, manifest);
  const tokens = Number(said.tokens_seen);
  if (!Number.isSafeInteger(tokens) || tokens < 0) throw new StateError("it is damaged");
  return { state: tokens ? fromFile(tensors, tokens, manifest) : emptyState(manifest), pending };
}

function ids(text: string | undefined, manifest: Manifest): number[] {
  const value: unknown = parseJson(text ?? "");
  const fits = (id: unknown): boolean => Number.isInteger(id) && (id as number) >= 0 && (id as number) < manifest.shape.vocabulary;
  if (!Array.isArray(value) || !value.every(fits)) throw new StateError("it is damaged");
  return value as number[];
}

function dtypeOf(data: Named["data"]): "F32" | "I64" {
  return data instanceof Float32Array ? "F32" : "I64";
}

/** As the file names the tensors: `layers.{i}.c`, `.conv` and `.z`, and `last_token`, sorted by name. */
function toFile({ tensors }: State, manifest: Manifest): Named[] {
  const { layers, heads, headDim, convWidth, trapezoid, bigrams } = manifest.shape;
  const width = tailWidth(manifest);
  const found: Named[] = [];
  for (let i = 0; i < layers; i++) {
    found.push({ name: `layers.${i}.c`, shape: [1, heads, headDim], data: tensors.get(`ssm.${i}`)! });
    const tail = tensors.get(`conv.${i}`);
    if (!tail) continue;
    const columns = (from: number, to: number): Float32Array => tail.filter((_, n) => n % width >= from && n % width < to);
    if (convWidth) {
      found.push({ name: `layers.${i}.conv`, shape: [1, heads * headDim, convWidth - 1], data: columns(0, convWidth - 1) });
    }
    if (trapezoid) found.push({ name: `layers.${i}.z`, shape: [1, heads, headDim], data: columns(width - 1, width) });
  }
  if (bigrams) {
    const last = BigInt64Array.of(BigInt(tensors.get("token")![0]!) - 1n);
    found.push({ name: LAST_TOKEN, shape: [1], data: last });
  }
  return found.sort((a, b) => (a.name < b.name ? -1 : 1));
}

function fromFile(found: Named[], tokens: number, manifest: Manifest): State {
  const state = { ...emptyState(manifest), tokens };
  const wanted = toFile(state, manifest);
  if (wanted.length !== found.length) throw new StateError("its tensors are not those of the model's layers");
  const given = new Map<string, Float32Array>();
  for (const { name, shape, data } of wanted) {
    const tensor = found.find((each) => each.name === name);
    if (!tensor || String(tensor.shape) !== String(shape) || dtypeOf(tensor.data) !== dtypeOf(data)) {
      throw new StateError("its tensors are not those of the model's layers");
    }
    if (tensor.data instanceof BigInt64Array) {
      const last = Number(tensor.data[0]);
      if (last < -1 || last >= manifest.shape.vocabulary) throw new StateError("its last token is none of the model's");
      state.tensors.set("token", Float32Array.of(last + 1));
      continue;
    }
    if (!tensor.data.every(Number.isFinite)) throw new StateError("it holds what is no number");
    given.set(name, tensor.data);
  }
  const width = tailWidth(manifest);
  for (let i = 0; i < manifest.shape.layers; i++) {
    state.tensors.set(`ssm.${i}`, given.get(`layers.${i}.c`)!);
    const tail = state.tensors.get(`conv.${i}`);
    const inputs = given.get(`layers.${i}.conv`);
    const z = given.get(`layers.${i}.z`);
    tail?.forEach((_, n) => {
      const [row, column] = [Math.floor(n / width), n % width];
      tail[n] = z && column === width - 1 ? z[row]! : inputs![row * (manifest.shape.convWidth - 1) + column]!;
    });
  }
  return state;
}

function parse(bytes: Uint8Array): { said: Record<string, string>; tensors: Named[] } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = bytes.length > 8 ? Number(view.getBigUint64(0, true)) : Infinity;
  if (size > bytes.length - 8) throw new StateError("it is not a state file");
  const header = parseJson(new TextDecoder().decode(bytes.subarray(8, 8 + size)));
  if (typeof header !== "object" || header === null) throw new StateError("it is not a state file");
  const { __metadata__: said, ...rest } = header as Record<string, any>;
  const tensors: Named[] = [];
  for (const [name, { dtype, shape, data_offsets: range }] of Object.entries(rest)) {
    if (dtype !== "F32" && dtype !== "I64") throw new StateError(`its numbers are ${dtype}, and not F32`);
    if (!Array.isArray(shape) || !Array.isArray(range)) throw new StateError("it is damaged");
    const data = bytes.slice(8 + size + range[0], 8 + size + range[1]);
    const bytesEach = dtype === "F32" ? 4 : 8;
    if (data.length !== shape.reduce((a: number, b: number) => a * b, bytesEach)) throw new StateError("it is damaged");
    tensors.push({ name, shape, data: dtype === "F32" ? new Float32Array(data.buffer) : new BigInt64Array(data.buffer) });
  }
  return { said: said ?? {}, tensors };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new StateError("it is damaged");
  }
}

/** SHA-256 of all that a file says; null where a page may not compute one (http, but not localhost). */
async function checksum(said: Record<string, string>, tensors: Named[]): Promise<string | null> {
  if (!globalThis.crypto?.subtle) return null;
  const pairs = Object.keys(said).sort().map((key) => `${python(key)}: ${python(said[key]!)}`);
  const parts: (string | Uint8Array)[] = [`{${pairs.join(", ")}}`];
  for (const { name, shape, data } of [...tensors].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const kind = data instanceof Float32Array ? "float32" : "int64";
    const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
    parts.push(`${name} torch.${kind} (${tuple})\n`, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  const digest = await crypto.subtle.digest("SHA-256", await new Blob(parts as BlobPart[]).arrayBuffer());
  return hex(new Uint8Array(digest));
}

/** Text as Python's json writes it. */
function python(text: string): string {
  return JSON.stringify(text).replace(/[^\x00-\x7f]/g, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function toBase64(bytes: Uint8Array): string {
  let binary = "";
  for (let i = 0; i < bytes.length; i += 0x8000) binary += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(binary);
}

export function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
}
