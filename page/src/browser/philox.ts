// Philox 4x64-10 (Salmon et al. 2011), as numpy draws from it: the same seed writes the same text as in Python.

const MASK = (1n << 64n) - 1n;
const M0 = 0xd2e7470ee14c6c93n;
const M1 = 0xca5a826395121157n;
const W0 = 0x9e3779b97f4a7c15n;
const W1 = 0xbb67ae8584caa73bn;

/** A random number in [0, 1) that is a pure function of the seed and the number of tokens before the one drawn. */
export function uniform(seed: bigint, position: number): number {
  let [a, b, c, d] = [(BigInt(position) + 1n) & MASK, 0n, 0n, 0n]; // numpy counts before it draws
  let [k0, k1] = [seed & MASK, 0n];
  for (let round = 0; round < 10; round++) {
    const [p, q] = [M0 * a, M1 * c];
    [a, b, c, d] = [(q >> 64n) ^ b ^ k0, q & MASK, (p >> 64n) ^ d ^ k1, p & MASK];
    [k0, k1] = [(k0 + W0) & MASK, (k1 + W1) & MASK];
  }
  return Number(a >> 11n) * 2 ** -53;
}
