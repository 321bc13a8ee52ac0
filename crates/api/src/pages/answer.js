// One answer while it comes: its text, where each piece of it comes from, and the figures that follow from when it arrived.

export const KINDS = {
  accepted: "drafted on this device, accepted by the server",
  corrected: "the server's choice instead of the draft",
  bonus: "the server's choice where there was no draft",
  provisional: "the draft's choice: no server has checked it",
};

/** How far back the live rate looks, in milliseconds. */
const WINDOW = 4000;

export class Answer {
  text = "";
  counts = { accepted: 0, corrected: 0, bonus: 0, provisional: 0 };
  notices = [];
  /** Why it ended, once it has. */
  finish = null;
  /** What the `sled` objects said last, by key. */
  report = {};

  #tokens = 0;
  #first = null;
  #recent = [];
  /** The end of each token in the text, and its kind. */
  #ends = [];
  #kinds = [];

  /** Takes a chunk that came at `now` (milliseconds); whether it said that the server is lost or back. */
  add(chunk, now) {
    const [choice] = chunk.choices ?? [];
    const { tokens, notice, ...report } = chunk.sled ?? {};
    const content = choice?.delta?.content ?? "";
    this.text += content;
    this.finish = choice?.finish_reason ?? this.finish;
    if (notice) this.notices.push(notice);
    Object.assign(this.report, report);
    for (const { text, provenance } of tokens ?? []) {
      const end = (this.#ends.at(-1) ?? 0) + text.length;
      this.#ends.push(end);
      this.#kinds.push(provenance in KINDS ? provenance : null);
      if (provenance in KINDS) this.counts[provenance] += 1;
    }
    const count = tokens ? tokens.length : Number(content !== "");
    if (count > 0) {
      this.#tokens += count;
      this.#first ??= now;
      this.#recent.push([now, count]);
    }
    return Boolean(notice);
  }

  /** Appends the text between two offsets to `parent`; neighbours of one kind share a span, which has the kind as class. */
  write(parent, from, to) {
    // The first token that ends behind `from`.
    let [low, high] = [0, this.#ends.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#ends[middle] > from) high = middle;
      else low = middle + 1;
    }
    for (let at = from; at < to; low += 1) {
      const kind = this.#kinds[low];
      while (kind && this.#kinds[low + 1] === kind && this.#ends[low] < to) low += 1;
      const end = Math.min(to, this.#ends[low] ?? to);
      // An indent, or a blank that stands alone, is nobody's choice to speak of.
      const blank = /^\s{2,}|^\s$/.exec(this.text.slice(at, end))?.[0].length ?? 0;
      if (blank > 0) parent.append(this.text.slice(at, at + blank));
      if (at + blank < end) parent.append(piece(this.text.slice(at + blank, end), kind));
      at = end;
    }
  }

  get tokens() {
    return this.#tokens;
  }

  /** Tokens a second over the last moments, or as reported once the answer is complete; null before there are any. */
  rate(now) {
    if (this.report.tokens_per_s != null) return this.report.tokens_per_s;
    if (this.#first == null || now - this.#first < 300) return null;
    while (this.#recent.length > 0 && this.#recent[0][0] < now - WINDOW) this.#recent.shift();
    const tokens = this.#recent.reduce((sum, [, count]) => sum + count, 0);
    return (1000 * tokens) / Math.min(WINDOW, now - this.#first);
  }

  /** The share of draft tokens that were accepted: as reported, or else of those that the server came to look at. */
  get acceptance() {
    const { draft_tokens: drafted, accepted_tokens: accepted } = this.report;
    if (drafted != null) return { share: drafted > 0 ? accepted / drafted : null, exact: true };
    const seen = this.counts.accepted + this.counts.corrected;
    return { share: seen > 0 ? this.counts.accepted / seen : null, exact: false };
  }
}

function piece(text, kind) {
  if (!kind) return text;
  const span = document.createElement("span");
  span.className = `token ${kind}`;
  span.title = KINDS[kind];
  span.textContent = text;
  return span;
}
