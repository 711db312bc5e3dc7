// What stands in model/model.json, which `sioconv export page` writes.

export interface Manifest {
  name: string;
  /** What a state file must say to belong to this model. */
  fingerprints: { model: string; weights: string; tokenizer: string };
  /** The ONNX file in parts. */
  parts: { file: string; bytes: number; sha256: string }[];
  shape: {
    layers: number; heads: number; headDim: number; convWidth: number; trapezoid: boolean; bigrams: boolean;
    vocabulary: number;
  };
  parameters: number;
  stateBytes: number;
  halfLives: (number | null)[][];
  sampling: { temperature: number; top_p: number; top_k: number; min_p: number; repetition_penalty: number; max_tokens: number };
  ids: { bos: number; eos: number; endOfTurn: number; roles: Record<"system" | "user" | "assistant", number> };
  special: number[];
  /** Ids that are never written. */
  banned: number[];
}

/** Columns of `past_conv`: the convolution's last inputs, and the last z where it is mixed in. */
export function tailWidth({ shape }: Manifest): number {
  return Math.max(shape.convWidth - 1, 0) + Number(shape.trapezoid);
}

/** The shapes of the graph's states, of one text, by name without `past_`. */
export function stateShapes(manifest: Manifest): Map<string, number[]> {
  const { layers, heads, headDim, bigrams } = manifest.shape;
  const width = tailWidth(manifest);
  const shapes = new Map<string, number[]>();
  for (let i = 0; i < layers; i++) {
    shapes.set(`ssm.${i}`, [1, heads, headDim]);
    if (width) shapes.set(`conv.${i}`, [1, heads * headDim, width]);
  }
  if (bigrams) shapes.set("token", [1, 1]);
  return shapes;
}

/** As the server names the weights. */
export function fingerprintOf({ fingerprints }: Manifest): string {
  return `fp_${fingerprints.weights.slice(0, 16)}`;
}
