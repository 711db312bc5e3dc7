// The choice of the next token: the same filters, in the same order, as `sioconv.generate.sampling`.

import { uniform } from "./philox";

export interface Settings {
  temperature: number;
  top_p: number;
  top_k: number;
  min_p: number;
  repetition_penalty: number;
}

/** Raises RangeError where there is no number among the logits: the weights are broken. */
export function choose(
  logits: Float32Array,
  settings: Settings,
  banned: readonly number[],
  history: ReadonlySet<number>,
  seed: bigint,
  position: number,
): number {
  const scores = Float32Array.from(logits);
  if (scores.some(Number.isNaN)) throw new RangeError("the model's output is not a number");
  for (const id of banned) scores[id] = -Infinity;
  if (settings.repetition_penalty !== 1) {
    const penalty = Math.fround(settings.repetition_penalty);
    for (const id of history) scores[id] = scores[id]! > 0 ? scores[id]! / penalty : scores[id]! * penalty;
  }
  return settings.temperature === 0 ? largest(scores) : draw(scores, settings, uniform(seed, position));
}

function largest(scores: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i]! > scores[best]!) best = i;
  return best;
}

/** The token at `chance` of the cumulative probability of what the filters leave. */
function draw(logits: Float32Array, settings: Settings, chance: number): number {
  const scores = Float64Array.from(logits, (logit) => logit / settings.temperature);
  if (settings.top_k && settings.top_k < scores.length) {
    const lowest = Float64Array.from(scores).sort()[scores.length - settings.top_k]!;
    drop(scores, (score) => score < lowest);
  }
  if (settings.top_p < 1) keepNucleus(scores, settings.top_p);
  if (settings.min_p) {
    const least = scores[largest(scores)]! + Math.log(settings.min_p);
    drop(scores, (score) => score < least);
  }
  const mass = softmax(scores);
  for (let i = 1; i < mass.length; i++) mass[i]! += mass[i - 1]!;
  const wanted = chance * mass[mass.length - 1]!;
  let last = 0;
  for (let i = 0; i < mass.length; i++) {
    if (mass[i]! > wanted) return i;
    if (scores[i]! > -Infinity) last = i;
  }
  return last; // rounding may leave the last sum below the chance that was drawn
}

/** Leaves the smallest set of likeliest tokens whose mass is at least `most`; of equally likely ones the first. */
function keepNucleus(scores: Float64Array, most: number): void {
  const probability = softmax(scores);
  // Those below have less than 1 - most in all: the set's end isn't among them.
  const least = (1 - most) / (2 * scores.length);
  const likely = [...probability.keys()].filter((id) => probability[id]! >= least);
  likely.sort((a, b) => scores[b]! - scores[a]! || a - b);
  let mass = 0;
  const kept = new Set<number>();
  for (const id of likely) {
    if (mass >= most) break;
    kept.add(id);
    mass += probability[id]!;
  }
  for (let id = 0; id < scores.length; id++) if (!kept.has(id)) scores[id] = -Infinity;
}

function drop(scores: Float64Array, out: (score: number) => boolean): void {
  for (let i = 0; i < scores.length; i++) if (out(scores[i]!)) scores[i] = -Infinity;
}

function softmax(scores: Float64Array): Float64Array {
  const most = scores[largest(scores)]!;
  const weights = scores.map((score) => Math.exp(score - most));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}
