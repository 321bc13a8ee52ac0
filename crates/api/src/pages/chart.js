// Charts on a canvas, drawn by hand: one scale each, labelled at its ends, sharp on any screen.

const probe = document.createElement("i");
probe.hidden = true;
document.documentElement.append(probe);

/** The value that a custom property has now, light or dark, as a colour that a canvas takes. */
export function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/** A number for an axis or a label: short, and with as many digits as it is sure of. */
export function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${trim((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${trim((value / 1e3).toPrecision(3))}k`;
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  if (size >= 1) return value.toFixed(1);
  return trim(value.toPrecision(2));
}

function trim(number) {
  return number.includes(".") ? number.replace(/\.?0+$/, "") : number;
}

/** The next round number that is not below `value`. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

/** A canvas, cleared, and as many pixels as the screen has for it; drawn again when its size or the colours change. */
export class Chart {
  #canvas;
  #draw;
  #width = 0;
  #height = 0;

  /** `draw(context, width, height)`, in CSS pixels. */
  constructor(canvas, draw) {
    this.#canvas = canvas;
    this.#draw = draw;
    new ResizeObserver(([entry]) => {
      this.#width = entry.contentRect.width;
      this.#height = entry.contentRect.height;
      this.draw();
    }).observe(canvas);
    addEventListener("themechange", () => this.draw());
  }

  draw() {
    if (this.#width === 0 || this.#height === 0) return;
    const ratio = devicePixelRatio;
    const [width, height] = [Math.round(this.#width * ratio), Math.round(this.#height * ratio)];
    if (this.#canvas.width !== width) this.#canvas.width = width;
    if (this.#canvas.height !== height) this.#canvas.height = height;
    const context = this.#canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.#width, this.#height);
    // To be read from where the screen is looked at: a wall is looked at from afar.
    const size = Math.round(Math.min(20, Math.max(13, 0.09 * this.#height)));
    context.font = `${size}px ${getComputedStyle(this.#canvas).fontFamily}`;
    this.#draw(context, this.#width, this.#height);
  }
}

/** The plot inside a canvas: linear scales, with a line at zero, half and top. */
export function plot(context, width, height, { left, right, top }) {
  const size = parseFloat(context.font);
  const box = { x: 0.5, y: size + 4.5, width: width - 1, height: height - 2 * size - 11 };
  const x = (value) => box.x + (box.width * (value - left)) / (right - left);
  const y = (value) => box.y + box.height * (1 - value / top);
  context.lineWidth = 1;
  for (const share of [0, 0.5, 1]) {
    const at = Math.round(y(share * top)) + 0.5;
    context.strokeStyle = colour(share === 0 ? "strong-line" : "line");
    line(context, [[box.x, at], [box.x + box.width, at]]);
  }
  return { box, x, y, top };
}

/** The numbers of a plot, over what is drawn: half and top with its unit; below it its left end, its right end and, if given, between. */
export function label(context, { box, y, top }, { unit = "", left, right, middle = null }) {
  context.fillStyle = colour("faint");
  context.strokeStyle = colour("raised");
  context.lineWidth = 4;
  context.lineJoin = "round";
  context.textAlign = "left";
  context.textBaseline = "bottom";
  for (const share of [0.5, 1]) {
    const text = `${short(share * top)}${share === 1 ? unit : ""}`;
    context.strokeText(text, box.x, y(share * top) - 2);
    context.fillText(text, box.x, y(share * top) - 2);
  }
  context.textBaseline = "top";
  const at = box.y + box.height + 5;
  for (const [text, align, x] of [[left, "left", box.x], [middle, "center", box.x + box.width / 2], [right, "right", box.x + box.width]]) {
    context.textAlign = align;
    if (text != null) context.fillText(text, x, at);
  }
}

export function line(context, points) {
  context.beginPath();
  points.forEach(([x, y], index) => (index === 0 ? context.moveTo(x, y) : context.lineTo(x, y)));
  context.stroke();
}

/** A line over time; where nothing was measured it is broken. `fill` shades what is below it. */
export function series(context, { box, x, y }, times, values, ink, fill) {
  context.strokeStyle = ink;
  context.lineWidth = 2.5;
  context.lineJoin = "round";
  const flush = (points) => {
    if (points.length === 1) points.push([points[0][0] + 1, points[0][1]]);
    if (points.length === 0) return;
    if (fill) {
      context.save();
      context.globalAlpha = 0.13;
      context.fillStyle = ink;
      context.beginPath();
      context.moveTo(points[0][0], box.y + box.height);
      for (const point of points) context.lineTo(...point);
      context.lineTo(points.at(-1)[0], box.y + box.height);
      context.fill();
      context.restore();
    }
    line(context, points);
  };
  let points = [];
  times.forEach((time, index) => {
    const gap = index > 0 && time - times[index - 1] > 3;
    if (gap || values[index] == null) {
      flush(points);
      points = [];
    }
    if (values[index] != null) points.push([x(time), y(values[index])]);
  });
  flush(points);
}
