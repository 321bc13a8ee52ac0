// The table of sessions: rows stay what they are and only their texts change, so that hundreds of them cost little.

const COLUMNS = ["device", "drafter", "tokens_per_s", "acceptance", "committed", "cache", "activity", "age"];

export class Sessions {
  #body;
  #rows = new Map();
  #latest = [];
  #by = "tokens_per_s";
  #down = true;

  constructor(table) {
    this.#body = table.tBodies[0];
    for (const head of table.querySelectorAll("th")) {
      head.querySelector("button").addEventListener("click", () => {
        const text = ["device", "drafter", "activity"].includes(head.dataset.sort);
        this.#down = this.#by === head.dataset.sort ? !this.#down : !text;
        this.#by = head.dataset.sort;
        this.#mark(table);
        this.#order();
      });
    }
    this.#mark(table);
  }

  #mark(table) {
    for (const head of table.querySelectorAll("th")) {
      head.ariaSort = head.dataset.sort === this.#by ? (this.#down ? "descending" : "ascending") : null;
    }
  }

  show(sessions, context) {
    const longest = Math.max(256, ...sessions.map((session) => session.tokens));
    const scale = Math.min(context, longest);
    this.#latest = sessions.map((session) => {
      const [, device, drafter] = /^(.*?)(?: \(([^()]*)\))?$/.exec(session.device);
      return { ...session, device, drafter: drafter ?? "", acceptance: session.drafted > 0 ? session.accepted / session.drafted : null };
    });
    const present = new Set();
    for (const session of this.#latest) {
      present.add(session.id);
      let row = this.#rows.get(session.id);
      if (!row) {
        row = new Row();
        this.#body.append(row.node);
        this.#rows.set(session.id, row);
      }
      row.show(session, scale);
    }
    for (const [id, row] of this.#rows) {
      if (present.has(id)) continue;
      row.node.remove();
      this.#rows.delete(id);
    }
    // What is pointed at does not move away.
    if (!this.#body.matches(":hover")) this.#order();
  }

  #order() {
    const by = this.#by;
    const sign = this.#down ? -1 : 1;
    const compare = (a, b) => (typeof a[by] === "string" ? a[by].localeCompare(b[by], undefined, { numeric: true }) : (a[by] ?? -1) - (b[by] ?? -1));
    const sorted = this.#latest.toSorted((a, b) => sign * compare(a, b) || a.id - b.id);
    let at = this.#body.firstChild;
    for (const { id } of sorted) {
      const { node } = this.#rows.get(id);
      if (node === at) at = at.nextSibling;
      else this.#body.insertBefore(node, at);
    }
  }
}

class Row {
  node = document.createElement("tr");
  #cells = {};

  constructor() {
    for (const column of COLUMNS) {
      const cell = document.createElement("td");
      cell.className = column;
      this.node.append(cell);
      this.#cells[column] = cell;
    }
    const bar = document.createElement("i");
    const filled = document.createElement("i");
    const text = document.createElement("span");
    bar.append(filled);
    this.#cells.cache.append(bar, text);
    this.#cells.cache = { bar, filled, text };
  }

  show(session, scale) {
    const { cache, ...cells } = this.#cells;
    set(cells.device, session.device || `session ${session.id}`);
    set(cells.drafter, session.drafter || "–");
    set(cells.tokens_per_s, session.tokens_per_s.toFixed(1));
    set(cells.acceptance, session.acceptance == null ? "–" : `${Math.round(100 * session.acceptance)} %`);
    set(cells.committed, String(session.committed));
    cache.bar.style.width = `${(100 * Math.min(session.tokens / scale, 1)).toFixed(1)}%`;
    cache.filled.style.width = `${session.tokens > 0 ? ((100 * session.cached) / session.tokens).toFixed(1) : 0}%`;
    set(cache.text, session.cached < session.tokens ? `${session.cached} of ${session.tokens}` : String(session.tokens));
    set(cells.activity, session.activity === "idle" ? `idle ${age(session.since_s)}` : session.activity);
    this.node.dataset.activity = session.activity;
    set(cells.age, age(session.age_s));
  }
}

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A length of time as a person would say it. */
export function age(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}
