// The stream of live figures, and the last five minutes of it.

/** How much is kept, in seconds. */
const WINDOW = 300;
/** Without figures for so long, in milliseconds, the server is away. */
const SILENCE = 4000;

/** Calls `figures(data)` once a second, and while there are none, `away(seconds)` since there were. */
export function listen(figures, away) {
  let source = null;
  let heard = Date.now();
  let delay = 1000;
  const open = () => {
    source = new EventSource("events");
    source.onmessage = (event) => {
      heard = Date.now();
      delay = 1000;
      figures(JSON.parse(event.data));
    };
    source.onerror = () => {
      // What was refused is not tried again by itself.
      if (source.readyState !== EventSource.CLOSED) return;
      setTimeout(open, delay);
      delay = Math.min(2 * delay, 8000);
    };
  };
  open();
  setInterval(() => {
    if (Date.now() - heard > SILENCE) away((Date.now() - heard) / 1000);
  }, 1000);
}

/** One second as it is kept: no sessions, and only the totals that are compared. */
function sample(data, before) {
  const { rates, totals, step, cells } = data;
  const passes = rates.steps_per_s > 0;
  const since = (name) => (before ? Math.max(0, totals[name] - before.totals[name]) : 0);
  return {
    time: data.time_s,
    totals,
    rate: rates.tokens_per_s,
    rows_per_s: rates.rows_per_s,
    sessions: passes ? step.sessions_mean : null,
    rows: passes ? step.rows_mean : null,
    queue: passes ? step.queue_ms_mean : null,
    step: passes ? step.ms_mean : null,
    points: step.points,
    cells: cells.used,
    evicted: since("evictions"),
    refused: since("refused"),
  };
}

/** The seconds of the last five minutes, oldest first. */
export class History {
  samples = [];

  add(data) {
    const last = this.samples.at(-1);
    // The server has started again: its clock and its totals begin anew.
    if (last && data.time_s < last.time) this.samples = [];
    this.samples.push(sample(data, this.samples.at(-1)));
    while (this.samples[0].time < data.time_s - WINDOW) this.samples.shift();
  }

  get now() {
    return this.samples.at(-1)?.time ?? 0;
  }

  /** Over how many seconds charts go: a minute or two at first, five in the end. */
  get span() {
    const seen = this.now - (this.samples[0]?.time ?? 0);
    return [60, 120].find((span) => span >= seen) ?? WINDOW;
  }

  column(name) {
    return this.samples.map((each) => each[name]);
  }

  /** The share of drafts that were accepted in the last `seconds`; null if there were none. */
  acceptance(seconds) {
    const last = this.samples.at(-1);
    const first = this.samples.find((each) => each.time >= last.time - seconds);
    const drafted = last.totals.drafted - first.totals.drafted;
    return drafted > 0 ? (last.totals.accepted - first.totals.accepted) / drafted : null;
  }

  /** Rows for each committed token in the last `seconds`; null if there were none. */
  rowsPerToken(seconds) {
    const recent = this.samples.filter((each) => each.time > this.now - seconds);
    const tokens = recent.reduce((sum, each) => sum + each.rate, 0);
    return tokens > 0 ? recent.reduce((sum, each) => sum + each.rows_per_s, 0) / tokens : null;
  }
}
