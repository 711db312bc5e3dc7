// The model in the browser itself: onnxruntime-web on a worker's thread (browser/).

import { fingerprintOf, type Manifest } from "./browser/manifest";
import type { Asked, Told } from "./browser/worker";
import { EngineError, type Engine, type Memory, type Model, type ReplyEvent, type ReplyRequest } from "./engine";

/** The smallest module that has a vector in it: (func (result v128) i32.const 0 i8x16.splat). */
const VECTORS = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11,
]);

export class OnnxEngine implements Engine {
  readonly local = true;
  private worker: Worker | null = null;
  private manifest: Manifest | null = null;
  private readonly listeners = new Map<number, (told: Told) => void>();
  private last = 0;

  /** `base` ends with a slash; the page's files stand below it. */
  constructor(private readonly base: string) {}

  useKey(): void {
    // Nobody asks for one.
  }

  async models(): Promise<Model[]> {
    if (typeof WebAssembly === "undefined" || !WebAssembly.validate(VECTORS)) throw new EngineError("browser", "");
    if (!this.manifest) {
      const response = await fetch(new URL("model/model.json", this.base)).catch(() => null);
      if (!response?.ok) throw new EngineError("files", "model/model.json");
      this.manifest = (await response.json()) as Manifest;
    }
    this.start(); // loads the model while the first message is written
    const { name, parameters, stateBytes } = this.manifest;
    return [{ id: name, fingerprint: fingerprintOf(this.manifest), parameters, stateBytes, personas: [] }];
  }

  async memory(): Promise<Memory | null> {
    return this.manifest && { layers: this.manifest.halfLives };
  }

  async *reply(request: ReplyRequest, signal: AbortSignal): AsyncGenerator<ReplyEvent> {
    const worker = this.start();
    const id = ++this.last;
    const queue: Told[] = [];
    let wake = (): void => undefined;
    this.listeners.set(id, (told) => {
      queue.push(told);
      wake();
    });
    const stop = (): void => worker.postMessage({ id, stop: true } satisfies Asked);
    signal.addEventListener("abort", stop);
    worker.postMessage({ id, reply: request } satisfies Asked);
    try {
      for (;;) {
        while (!queue.length) await new Promise<void>((resolve) => (wake = resolve));
        const told = queue.shift()!;
        if ("text" in told) yield { kind: "text", text: told.text };
        else if ("end" in told) return yield told.end;
        else if (told.trouble === "unreachable") {
          this.forget(); // the next reply tries again
          throw new EngineError("files", told.message);
        } else throw new EngineError("refused", told.message);
      }
    } finally {
      signal.removeEventListener("abort", stop);
      this.listeners.delete(id);
    }
  }

  private start(): Worker {
    if (this.worker) return this.worker;
    const worker = new Worker(new URL("worker.js", this.base), { type: "module" });
    worker.onmessage = ({ data }: MessageEvent<Told>) => this.listeners.get(data.id)?.(data);
    worker.onerror = (event) => {
      this.forget();
      for (const [id, tell] of this.listeners) tell({ id, trouble: "unreachable", message: event.message || "worker.js" });
    };
    this.worker = worker;
    return worker;
  }

  private forget(): void {
    this.worker?.terminate();
    this.worker = null;
  }
}
