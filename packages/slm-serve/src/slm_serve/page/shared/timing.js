/** What is shown about a text: counts, speed, and why it ended. Updated with each piece of the text. */
export class Timing {
  constructor(seed, { tokens = 0, seconds = 0 } = {}) {
    this.seed = seed;
    this.before = { tokens, seconds }; // of the text that this one continues
    this.since = performance.now();
    this.shown = {};
  }

  /** Take the counts of a piece of the text; the server's times replace those measured here. */
  update({ tokens, promptTokens, seconds, rate, finishReason }) {
    const elapsed = seconds ?? (performance.now() - this.since) / 1000;
    if (tokens !== undefined) {
      this.shown.tokens = this.before.tokens + tokens;
      this.shown["tokens/s"] = (rate ?? tokens / elapsed).toFixed(1);
    }
    this.shown.seconds = (this.before.seconds + elapsed).toFixed(2);
    if (promptTokens !== undefined) this.shown["prompt tokens"] = promptTokens;
    if (finishReason) this.end(finishReason);
  }

  end(reason) {
    Object.assign(this.shown, { "finish reason": reason, seed: this.seed });
  }
}
