// Replies as the server writes them (`sioconv.serve.writing`): the same ids are read, drawn and remembered.

import type { ReplyEnd, ReplyRequest, Turn } from "../engine";
import type { LanguageModel } from "./language_model";
import { fingerprintOf } from "./manifest";
import { choose } from "./sampler";
import { emptyState, fromBase64, packState, toBase64, unpackState, type State } from "./state_file";

const KEPT = 16; // texts whose states are kept, so that what follows them isn't read with them again

interface Snapshot {
  ids: number[];
  state: State;
}

export class Replies {
  private snapshots: Snapshot[] = [];

  constructor(private readonly model: LanguageModel) {}

  /** Writes a reply; `write` gets its text as it comes, `pause` lets messages in and throws where it is to stop. */
  async write(request: ReplyRequest, write: (text: string) => void, pause: () => Promise<void>): Promise<ReplyEnd> {
    const { model } = this;
    const { ids: special, banned, sampling: own } = model.manifest;
    const settings = { ...own };
    for (const name of Object.keys(own) as (keyof typeof own)[]) settings[name] = request.sampling[name] ?? own[name];
    const seed = request.sampling.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!;
    const prompt = await this.prompt(request);
    const { history } = prompt;
    let { state, logits } = await model.read(prompt.ids, prompt.state, pause);
    const read = state;
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const written: number[] = [];
    let [text, tokens, finish, ended] = ["", 0, "", false];
    while (!finish) {
      await pause();
      const token = choose(logits, settings, banned, history, BigInt(seed), state.tokens);
      tokens += 1;
      if (token === special.eos || token === special.endOfTurn) {
        finish = "stop";
        ended = token === special.endOfTurn;
        break;
      }
      written.push(token);
      history.add(token);
      const piece = decoder.decode(model.bytes[token], { stream: true });
      text += piece;
      if (piece) write(piece);
      if (tokens >= settings.max_tokens) finish = "length";
      else ({ state, logits } = await model.read([token], state, pause));
    }
    // As though the reply, and its end, had been read as a message.
    const spelt = model.encode(text);
    const asWritten = ended && String(spelt) === String(written);
    const closing = asWritten ? [special.endOfTurn] : [...spelt, special.endOfTurn];
    const { state: closed } = await model.read(closing, asWritten ? state : read, pause);
    if (prompt.whole !== null) this.keep({ ids: [...prompt.whole, ...spelt, special.endOfTurn], state: closed });
    return {
      kind: "end", finish, state: toBase64(await packState(closed, model.manifest)), fingerprint: fingerprintOf(model.manifest),
      tokens, promptTokens: read.tokens, reusedTokens: prompt.state.tokens, stateBytes: model.manifest.stateBytes, seed,
    };
  }

  /** What is read, and what it goes on from; `whole` is all of the text's ids, null where they aren't known. */
  private async prompt(request: ReplyRequest): Promise<Snapshot & { whole: number[] | null; history: Set<number> }> {
    const { ids, history } = this.conversation(request.turns);
    if (request.state !== null) {
      const { state, pending } = await unpackState(fromBase64(request.state), this.model.manifest);
      if (state.tokens || pending.length) return { ids: [...pending, ...ids.slice(1)], state, whole: null, history };
    }
    const found = this.snapshots.find((kept) => kept.ids.length < ids.length && kept.ids.every((id, i) => id === ids[i]));
    if (!found) return { ids, state: emptyState(this.model.manifest), whole: ids, history };
    return { ids: ids.slice(found.ids.length), state: found.state, whole: ids, history };
  }

  /** Turns as `sioconv.data.chat.encode` makes ids of them: no text becomes a special token. */
  private conversation(turns: Turn[]): { ids: number[]; history: Set<number> } {
    const { bos, endOfTurn, roles } = this.model.manifest.ids;
    const ids = [bos];
    let turn = 0; // where the current turn begins, for the repetition penalty
    for (const { role, content } of turns) {
      ids.push(roles[role], ...this.model.encode(content), endOfTurn);
      if (role === "assistant") turn = ids.length;
    }
    ids.push(roles.assistant);
    const special = new Set(this.model.manifest.special);
    return { ids, history: new Set(ids.slice(turn).filter((id) => !special.has(id))) };
  }

  /** The longest are looked at first. */
  private keep(snapshot: Snapshot): void {
    const same = String(snapshot.ids);
    const others = this.snapshots.filter((kept) => String(kept.ids) !== same);
    this.snapshots = [snapshot, ...others].slice(0, KEPT).sort((a, b) => b.ids.length - a.ids.length);
  }
}
