import { ceiling, Chart, colour, label, line, plot, series, short } from "./chart.js";
import { History, listen } from "./feed.js";
import { age, Sessions } from "./sessions.js";

const $ = (id) => document.getElementById(id);
/** Over how many seconds the big numbers that are ratios are taken. */
const RECENT = 10;

const history = new History();
const sessions = new Sessions(document.querySelector("#devices table"));
/** The last figures that came. */
let latest = null;
/** Where the pointer is in a chart over time, as a share of its width. */
let pointer = null;

// ---- charts ----

const milliseconds = (value) => (value >= 1000 ? `${(value / 1000).toFixed(2)} s` : `${value.toFixed(value < 10 ? 1 : 0)} ms`);

/** A chart over the last minutes, up to `top`, or to what was seen but at least to `least`. */
function overTime({ lines, unit, top, least = 0 }) {
  return (context, width, height) => {
    const times = history.column("time");
    const columns = lines.map(({ column }) => history.column(column));
    const most = top?.() ?? ceiling(Math.max(least, 1.04 * Math.max(0, ...columns.flat())));
    const scales = plot(context, width, height, { left: history.now - history.span, right: history.now, top: most });
    lines.forEach(({ ink, fill }, index) => series(context, scales, times, columns[index], colour(ink), fill));
    const at = pointed();
    const middle = at < 0 ? null : `${age(history.now - times[at])} ago`;
    label(context, scales, { unit, left: since(), right: "now", middle });
    if (at < 0) return;
    const x = Math.round(scales.x(times[at])) + 0.5;
    context.strokeStyle = colour("faint");
    context.lineWidth = 1;
    line(context, [[x, scales.box.y], [x, scales.box.y + scales.box.height]]);
    lines.forEach(({ ink }, index) => {
      if (columns[index][at] != null) dot(context, x, scales.y(columns[index][at]), 3.5, colour(ink));
    });
  };
}

/** Where the charts over time begin. */
function since() {
  return `−${history.span / 60} min`;
}

function dot(context, x, y, radius, ink) {
  context.fillStyle = ink;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

/** Each pass of the last minutes, and the line that the scheduler counts with. */
function cost(context, width, height) {
  const points = history.samples.flatMap((each) => each.points.map(([rows, ms]) => [rows, ms, each.time]));
  const right = ceiling(1.02 * points.reduce((most, [rows]) => Math.max(most, rows), 4));
  // One slow pass in a hundred is not to flatten the others.
  const sorted = points.map(([, ms]) => ms).sort((a, b) => a - b);
  const top = ceiling(1.1 * Math.max(sorted[Math.floor(0.99 * (sorted.length - 1))] ?? 0, latest ? latest.cost.fixed_ms + 0.6 * right * latest.cost.row_ms : 0));
  const scales = plot(context, width, height, { left: 0, right, top });
  context.save();
  context.beginPath();
  context.rect(scales.box.x, scales.box.y - 4, scales.box.width, scales.box.height + 4);
  context.clip();
  const ink = colour("accepted");
  for (const [rows, ms, time] of points) {
    context.globalAlpha = 0.12 + 0.5 * Math.max(0, 1 - (history.now - time) / history.span) ** 3;
    dot(context, scales.x(rows), scales.y(ms), 3, ink);
  }
  context.globalAlpha = 1;
  if (latest) {
    context.strokeStyle = colour("corrected");
    context.lineWidth = 2.5;
    line(context, [0, right].map((rows) => [scales.x(rows), scales.y(latest.cost.fixed_ms + rows * latest.cost.row_ms)]));
  }
  context.restore();
  label(context, scales, { unit: " ms", left: "0", right: `${short(right)} rows` });
}

/** How many passes had one session, two, and so on, since the start. */
function sizes(context, width, height) {
  const counts = latest?.batch_sizes ?? [];
  const most = Math.max(8, counts.length);
  // A place is left free for the numbers of the axis.
  const scales = plot(context, width, height, { left: -0.5, right: most + 0.5, top: ceiling(Math.max(1, ...counts)) });
  const gap = Math.min(3, (0.2 * scales.box.width) / most);
  context.fillStyle = colour("accepted");
  for (let size = 1; size <= most; size += 1) {
    const [left, right, y] = [scales.x(size - 0.5) + gap / 2, scales.x(size + 0.5) - gap / 2, scales.y(counts[size - 1] ?? 0)];
    context.fillRect(left, y, right - left, scales.box.y + scales.box.height - y);
  }
  label(context, scales, { left: "1 session", right: String(most) });
}

/** What was evicted and who was refused, second by second, side by side. */
function pressure(context, width, height) {
  const top = ceiling(Math.max(4, ...history.column("evicted"), ...history.column("refused")));
  const scales = plot(context, width, height, { left: history.now - history.span, right: history.now, top });
  const each = Math.max(2, scales.box.width / history.span);
  const inks = [colour("accepted"), colour("corrected")];
  for (const { time, evicted, refused } of history.samples) {
    for (const [count, ink, shift] of [[evicted, inks[0], 0], [refused, inks[1], each]]) {
      if (count === 0) continue;
      context.fillStyle = ink;
      context.fillRect(scales.x(time) - each + shift, scales.y(count), each, scales.box.y + scales.box.height - scales.y(count));
    }
  }
  label(context, scales, { left: since(), right: "now" });
}

const key = (ink, text) => ({ ink, text });
const CHARTS = {
  rate: {
    draw: overTime({ lines: [{ column: "rate", ink: "accepted", fill: true }] }),
    caption: (each) => [key(null, short(each.rate))],
  },
  batch: {
    draw: overTime({ lines: [{ column: "rows", ink: "accepted", fill: true }, { column: "sessions", ink: "corrected" }] }),
    caption: (each) => each.rows == null ? [] : [key("corrected", `${each.sessions.toFixed(1)} sessions`), key("accepted", `${each.rows.toFixed(1)} rows`)],
  },
  queue: {
    draw: overTime({ lines: [{ column: "queue", ink: "accepted", fill: true }], unit: " ms", least: 1 }),
    caption: (each) => each.queue == null ? [] : [key(null, milliseconds(each.queue))],
  },
  step: {
    draw: overTime({ lines: [{ column: "step", ink: "accepted", fill: true }], unit: " ms", least: 1 }),
    caption: (each) => each.step == null ? [] : [key(null, milliseconds(each.step))],
  },
  cost: {
    draw: cost,
    caption: () => [key("corrected", `${short(latest.cost.fixed_ms)} + ${short(latest.cost.row_ms)} n ms`)],
  },
  sizes: {
    draw: sizes,
    caption: () => [key(null, `${short(latest.totals.steps)} passes`)],
  },
  cells: {
    draw: overTime({ lines: [{ column: "cells", ink: "accepted", fill: true }], top: () => latest?.cells.total }),
    caption: (each) => [key(null, `${short(each.cells)} of ${short(latest.cells.total)}`)],
  },
  pressure: {
    draw: pressure,
    caption: () => [key("accepted", `${latest.totals.evictions} evicted`), key("corrected", `${latest.totals.refused} refused`)],
  },
};

const charts = Object.entries(CHARTS).map(([name, { draw, caption }]) => {
  const figure = document.querySelector(`[data-chart=${name}]`);
  const canvas = figure.querySelector("canvas");
  const title = figure.querySelector("h3").textContent;
  const text = figure.querySelector("p");
  const chart = new Chart(canvas, draw);
  if (draw !== cost && draw !== sizes) {
    canvas.addEventListener("pointermove", (event) => point(event.offsetX / canvas.clientWidth));
    canvas.addEventListener("pointerleave", () => point(null));
  }
  const show = () => {
    chart.draw();
    const each = history.samples[pointed()] ?? history.samples.at(-1);
    const parts = each ? caption(each) : [];
    text.replaceChildren(...parts.map(({ ink, text: words }) => {
      const part = document.createElement("span");
      if (ink) part.className = ink;
      part.textContent = words;
      return part;
    }));
    canvas.setAttribute("aria-label", `${title}: ${parts.map((part) => part.text).join(", ")}`);
  };
  return { show };
});

let frame = 0;

/** Marks a moment in all charts, at most once a frame. */
function point(share) {
  pointer = share;
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    for (const { show } of charts) show();
  });
}

/** The second under the pointer; -1 if there is none. */
function pointed() {
  if (pointer == null || history.samples.length === 0) return -1;
  const time = history.now - history.span * (1 - pointer);
  const at = history.samples.findIndex((each) => each.time >= time);
  return at >= 0 && Math.abs(history.samples[at].time - time) < 3 ? at : -1;
}

// ---- the rest ----

function facts({ server, time_s: time }) {
  return [
    `up ${age(time)}`,
    `${server.batching} batching`,
    `assist ${server.assist}`,
    server.rate_goal == null ? null : `goal ${short(server.rate_goal)} tokens/s each`,
    `${server.sequences} sequences`,
    `${server.context} tokens`,
    `${server.threads} ${server.threads === 1 ? "thread" : "threads"}`,
    `version ${server.version}`,
  ].filter(Boolean);
}

function show(data) {
  latest = data;
  history.add(data);
  const each = history.samples.at(-1);
  // What the server says of it has its size in brackets.
  const [model] = data.server.model.split(" (");
  $("model").textContent = model;
  $("model").title = data.server.model;
  document.title = `${short(each.rate)} tokens/s · ${model}`;
  list($("facts"), facts(data));
  $("n-rate").textContent = each.rate >= 10 ? each.rate.toFixed(0) : each.rate.toFixed(1);
  $("n-sessions").textContent = data.sessions_total;
  const acceptance = history.acceptance(RECENT);
  quantity($("n-acceptance"), acceptance == null ? null : Math.round(100 * acceptance), "%");
  quantity($("n-rows"), history.rowsPerToken(RECENT)?.toFixed(2), "");
  const slow = each.queue >= 1000;
  quantity($("n-queue"), each.queue == null ? null : slow ? (each.queue / 1000).toFixed(1) : each.queue.toFixed(0), slow ? "s" : "ms");
  quantity($("n-cells"), Math.round((100 * data.cells.used) / data.cells.total), "%");
  for (const chart of charts) chart.show();
  sessions.show(data.sessions, data.server.context);
  const hidden = data.sessions_total - data.sessions.length;
  $("more").textContent = data.sessions_total === 0 ? "No device is connected." : hidden > 0 ? `and ${hidden} that are less active` : "";
}

/** A number with its unit in smaller type; a dash if there is none. */
function quantity(node, value, unit) {
  node.replaceChildren(value ?? "–");
  if (value == null || !unit) return;
  const small = document.createElement("small");
  small.textContent = unit;
  node.append(small);
}

function list(node, texts) {
  while (node.children.length > texts.length) node.lastChild.remove();
  while (node.children.length < texts.length) node.append(document.createElement("li"));
  texts.forEach((text, index) => {
    if (node.children[index].textContent !== text) node.children[index].textContent = text;
  });
}

listen(
  (data) => {
    $("link").textContent = "Live";
    document.body.dataset.link = "live";
    show(data);
  },
  (seconds) => {
    document.body.dataset.link = "away";
    $("link").textContent = `No word from the server for ${age(seconds)}; trying again`;
  },
);
