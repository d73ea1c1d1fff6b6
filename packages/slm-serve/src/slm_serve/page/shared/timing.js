/** What is shown about a text: counts, speed, and why it ended. Updated with each piece of the text. */
export class Timing {
  /** The last argument is what was shown about the text that this one continues. */
  constructor(seed, { tokens = 0, seconds = 0 }) {
    Object.assign(this, { seed, since: performance.now() });
    this.before = { tokens, seconds: Number(seconds) };
    this.values = {};
  }

  /** Take the counts of a piece of the text; the server's times replace those measured here. */
  update({ tokens, promptTokens, seconds, rate, finishReason }) {
    const elapsed = seconds ?? (performance.now() - this.since) / 1000;
    this.values.seconds = this.before.seconds + elapsed;
    if (tokens !== undefined) {
      this.values.tokens = this.before.tokens + tokens;
      this.values.rate = rate ?? tokens / elapsed;
    }
    this.values.promptTokens = promptTokens ?? this.values.promptTokens;
    if (finishReason) this.end(finishReason);
  }

  end(reason) {
    this.values.reason = reason;
  }

  /** The known values under the names that the page shows, in order. */
  get shown() {
    const { tokens, rate, seconds, promptTokens, reason } = this.values;
    const entries = [
      ["tokens", tokens],
      ["tokens/s", rate?.toFixed(1)],
      ["seconds", seconds?.toFixed(2)],
      ["prompt tokens", promptTokens],
      ["finish reason", reason],
      ["seed", reason && this.seed],
    ];
    return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
  }
}
