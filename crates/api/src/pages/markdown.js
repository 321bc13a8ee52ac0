// Markdown to DOM nodes, for text that grows. Text only ever becomes text nodes, so nothing in it can act; every leaf is named by
// its offsets in the source, so that the caller can style it by where it came from.

const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+/;
const RULE = /^ {0,3}([-*_])([ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])([ \t]+|$)/;
const DIVIDER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const BLANK = /^[ \t]*$/;
const ESCAPED = /[\\`*_~[\](){}#+.!|<>-]/;
const MARKS = { "**": "strong", "__": "strong", "~~": "del", "*": "em", "_": "em" };

/** Keeps the nodes of a text in a container up to date. */
export class Markdown {
  #container;
  #leaf;
  #settled = 0;
  #kept = 0;

  /** `leaf(parent, from, to)` appends the text between two offsets of the source to `parent`. */
  constructor(container, leaf) {
    this.#container = container;
    this.#leaf = leaf;
  }

  /** Shows `text`, which starts with what was shown before; `growing` says that more is to come. */
  render(text, growing) {
    while (this.#container.childNodes.length > this.#kept) this.#container.lastChild.remove();
    const writer = new Writer(text, this.#leaf, growing);
    for (const { node, end } of writer.blocks(linesOf(text, this.#settled))) {
      this.#container.append(node);
      // A block is settled when the line behind it is complete: until then that line may turn out to belong to it.
      if (text.indexOf("\n", end) >= 0 && this.#kept === this.#container.childNodes.length - 1) {
        this.#settled = end;
        this.#kept += 1;
      }
    }
  }
}

/** The lines of `text` from an offset on, as offsets without the line's end. */
function linesOf(text, from) {
  const lines = [];
  for (let start = from; start < text.length;) {
    const newline = text.indexOf("\n", start);
    const end = newline < 0 ? text.length : newline;
    lines.push({ start, end });
    start = end + 1;
  }
  return lines;
}

class Writer {
  constructor(text, leaf, growing) {
    this.text = text;
    this.leaf = leaf;
    this.growing = growing;
  }

  of(line) {
    return this.text.slice(line.start, line.end);
  }

  /** The nodes of some lines, each with the offset where the next block starts. */
  blocks(lines) {
    const blocks = [];
    let at = 0;
    while (at < lines.length) {
      if (BLANK.test(this.of(lines[at]))) {
        at += 1;
        continue;
      }
      const [node, next] = this.block(lines, at);
      blocks.push({ node, end: lines[next]?.start ?? this.text.length });
      at = next;
    }
    return blocks;
  }

  /** The block that starts at a line, and the line after it. */
  block(lines, at) {
    const line = this.of(lines[at]);
    let match = FENCE.exec(line);
    if (match) return this.fence(lines, at, match);
    match = HEADING.exec(line);
    if (match) {
      const node = document.createElement(`h${Math.min(match[1].length + 2, 6)}`);
      const closing = /[ \t]*#*[ \t]*$/.exec(line).index;
      this.inline(node, [{ start: lines[at].start + match[0].length, end: Math.max(lines[at].start + closing, lines[at].start + match[0].length) }]);
      return [node, at + 1];
    }
    if (RULE.test(line)) return [document.createElement("hr"), at + 1];
    if (QUOTE.test(line)) return this.quote(lines, at);
    if (ITEM.test(line)) return this.list(lines, at);
    if (this.isTable(lines, at)) return this.table(lines, at);
    return this.paragraph(lines, at);
  }

  fence(lines, at, [, indent, mark, language]) {
    const figure = document.createElement("figure");
    const pre = document.createElement("pre");
    const code = document.createElement("code");
    figure.className = "code";
    figure.dataset.language = language;
    let next = at + 1;
    for (; next < lines.length; next += 1) {
      const line = this.of(lines[next]);
      const closing = /^ {0,3}(`{3,}|~{3,})[ \t]*$/.exec(line);
      if (closing && closing[1].startsWith(mark)) break;
      const strip = Math.min(/^ */.exec(line)[0].length, indent.length);
      this.leaf(code, lines[next].start + strip, Math.min(lines[next].end + 1, this.text.length));
    }
    pre.append(code);
    figure.append(pre);
    return [figure, Math.min(next + 1, lines.length)];
  }

  quote(lines, at) {
    const node = document.createElement("blockquote");
    const inner = [];
    let next = at;
    for (; next < lines.length; next += 1) {
      const line = this.of(lines[next]);
      const match = QUOTE.exec(line);
      if (!match && (BLANK.test(line) || this.startsBlock(lines, next))) break;
      inner.push({ start: lines[next].start + (match?.[0].length ?? 0), end: lines[next].end });
    }
    node.append(...this.blocks(inner).map((block) => block.node));
    return [node, next];
  }

  list(lines, at) {
    const first = ITEM.exec(this.of(lines[at]));
    const ordered = /\d/.test(first[2]);
    const node = document.createElement(ordered ? "ol" : "ul");
    if (ordered && parseInt(first[2], 10) !== 1) node.start = parseInt(first[2], 10);
    const base = first[1].length;
    let loose = false;
    let next = at;
    while (next < lines.length) {
      const match = ITEM.exec(this.of(lines[next]));
      // Models indent by two as often as by the width of the marker: two are enough to be inside.
      if (!match || Math.abs(match[1].length - base) > 1 || /\d/.test(match[2]) !== ordered) break;
      const width = match[0].length;
      const inner = [{ start: lines[next].start + width, end: lines[next].end }];
      let blank = false;
      next += 1;
      for (; next < lines.length; next += 1) {
        const line = this.of(lines[next]);
        const indent = /^ */.exec(line)[0].length;
        const inside = indent >= base + 2;
        if (BLANK.test(line)) blank = true;
        else if (!inside && (blank || this.startsBlock(lines, next))) break;
        else {
          loose ||= blank && inside && !ITEM.test(line);
          blank = false;
        }
        inner.push({ start: lines[next].start + Math.min(indent, width), end: lines[next].end });
      }
      const item = document.createElement("li");
      item.append(...this.blocks(inner).map((block) => block.node));
      node.append(item);
    }
    node.classList.toggle("loose", loose);
    return [node, next];
  }

  isTable(lines, at) {
    return at + 1 < lines.length && this.of(lines[at]).includes("|")
      && this.of(lines[at + 1]).includes("-") && this.of(lines[at + 1]).includes("|") && DIVIDER.test(this.of(lines[at + 1]));
  }

  table(lines, at) {
    const table = document.createElement("table");
    const alignments = this.cells(lines[at + 1]).map((cell) => {
      const mark = this.text.slice(cell.start, cell.end);
      return mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : "left";
    });
    const row = (line, tag) => {
      const node = document.createElement("tr");
      this.cells(line).forEach((cell, index) => {
        const box = document.createElement(tag);
        box.className = alignments[index] ?? "left";
        this.inline(box, [cell]);
        node.append(box);
      });
      return node;
    };
    const head = document.createElement("thead");
    const body = document.createElement("tbody");
    head.append(row(lines[at], "th"));
    let next = at + 2;
    for (; next < lines.length && this.of(lines[next]).includes("|"); next += 1) body.append(row(lines[next], "td"));
    table.append(head, body);
    const frame = document.createElement("div");
    frame.className = "table";
    frame.append(table);
    return [frame, next];
  }

  cells(line) {
    const cells = [];
    let start = line.start;
    let end = line.end;
    while (start < end && /\s/.test(this.text[start])) start += 1;
    while (end > start && /\s/.test(this.text[end - 1])) end -= 1;
    if (this.text[start] === "|") start += 1;
    if (end > start && this.text[end - 1] === "|" && this.text[end - 2] !== "\\") end -= 1;
    for (let at = start; at <= end; at += 1) {
      if (at < end && (this.text[at] !== "|" || this.text[at - 1] === "\\")) continue;
      let [from, to] = [start, at];
      while (from < to && /\s/.test(this.text[from])) from += 1;
      while (to > from && /\s/.test(this.text[to - 1])) to -= 1;
      cells.push({ start: from, end: to });
      start = at + 1;
    }
    return cells;
  }

  paragraph(lines, at) {
    const node = document.createElement("p");
    const inner = [];
    let next = at;
    for (; next < lines.length; next += 1) {
      const line = this.of(lines[next]);
      if (BLANK.test(line) || (next > at && this.startsBlock(lines, next))) break;
      inner.push({ start: lines[next].start + /^ */.exec(line)[0].length, end: lines[next].end });
    }
    this.inline(node, inner);
    return [node, next];
  }

  /** Whether a line ends a paragraph without a blank line before it. */
  startsBlock(lines, at) {
    const line = this.of(lines[at]);
    return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || /^ *([-*+]|1[.)]|\d{1,2}\.) +\S/.test(line)
      || this.isTable(lines, at);
  }

  /** The text of some pieces of lines, with what is marked up inside them. */
  inline(parent, pieces) {
    let text = "";
    const offsets = [];
    pieces.forEach((piece, index) => {
      const end = index < pieces.length - 1 ? piece.end + 1 : piece.end;
      for (let at = piece.start; at < end; at += 1) offsets.push(at);
      text += this.text.slice(piece.start, end);
    });
    this.spans(parent, text, offsets, 0, text.length);
  }

  spans(parent, text, offsets, from, to) {
    let plain = from;
    for (let at = from; at < to;) {
      if (text[at] === "\\" && at + 1 < to && ESCAPED.test(text[at + 1])) {
        this.leaves(parent, offsets, plain, at);
        plain = at + 1;
        at += 2;
        continue;
      }
      const span = this.span(text, at, to);
      if (!span) {
        at += 1;
        continue;
      }
      this.leaves(parent, offsets, plain, at);
      if (span.node.localName === "code") this.leaves(span.node, offsets, span.from, span.to);
      else this.spans(span.node, text, offsets, span.from, span.to);
      parent.append(span.node);
      plain = at = span.next;
    }
    this.leaves(parent, offsets, plain, to);
  }

  /** Text without markup; what stands apart in the source is a leaf of its own. */
  leaves(parent, offsets, from, to) {
    for (let at = from; at < to;) {
      let end = at + 1;
      while (end < to && offsets[end] === offsets[end - 1] + 1) end += 1;
      this.leaf(parent, offsets[at], offsets[end - 1] + 1);
      at = end;
    }
  }

  /** What is marked up at `at`: a node for the text from `from` to `to`, after which the text goes on at `next`. */
  span(text, at, to) {
    const char = text[at];
    if (char === "`") {
      const mark = /^`+/.exec(text.slice(at, to))[0];
      const from = at + mark.length;
      let end = from;
      while ((end = text.indexOf(mark, end)) >= 0 && end < to && text[end + mark.length] === "`") {
        end += /^`+/.exec(text.slice(end))[0].length;
      }
      if (end < 0 || end >= to) {
        if (!this.growing || from >= to) return null;
        end = to;
      }
      return { node: document.createElement("code"), from, to: end, next: Math.min(end + mark.length, to) };
    }
    if (char === "[") {
      const match = /^\[([^\][]+)\]\(\s*(https?:\/\/[^\s()<>]+(?:\([^\s()<>]*\)[^\s()<>]*)*|mailto:[^\s()<>]+)\s*\)/.exec(text.slice(at, to));
      if (!match) return null;
      const node = document.createElement("a");
      node.href = match[2];
      node.target = "_blank";
      node.rel = "noopener noreferrer";
      return { node, from: at + 1, to: at + 1 + match[1].length, next: at + match[0].length };
    }
    const mark = [text.slice(at, at + 2), char].find((candidate) => candidate in MARKS);
    return mark ? this.emphasis(text, at, to, mark) : null;
  }

  emphasis(text, at, to, mark) {
    const from = at + mark.length;
    if (from >= to || /\s/.test(text[from]) || (mark.length === 1 && text[from] === mark)) return null;
    if (mark[0] === "_" && /\w/.test(text[at - 1] ?? "")) return null;
    for (let end = text.indexOf(mark, from + 1); end >= 0 && end + mark.length <= to; end = text.indexOf(mark, end + 1)) {
      const doubled = mark.length === 1 && (text[end + 1] === mark || text[end - 1] === mark);
      const inWord = mark[0] === "_" && /\w/.test(text[end + mark.length] ?? "");
      if (!/\s/.test(text[end - 1]) && !doubled && !inWord) {
        return { node: document.createElement(MARKS[mark]), from, to: end, next: end + mark.length };
      }
    }
    // While a text grows, bold that was opened is about to be closed.
    const opened = this.growing && mark === "**" && !/\w/.test(text[at - 1] ?? "");
    return opened ? { node: document.createElement("strong"), from, to, next: to } : null;
  }
}
