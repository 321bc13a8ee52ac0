import { Answer, KINDS } from "./answer.js";
import { Markdown } from "./markdown.js";
import { change, edit, sampling, settings } from "./settings.js";
import { chat, models, Unauthorized } from "./stream.js";

const $ = (id) => document.getElementById(id);
const MODES = { device: "Device only", sled: "With server", server: "Server only" };
const EXAMPLES = [
  "A haiku about the sea",
  "Binary search, with code",
  "Three uses for a brick",
];

/** The texts so far, as the API takes them. */
let messages = [];
/** The model that is served. */
let model = null;
/** What stops the answer that is coming. */
let running = null;

// ---- the model, and the ways of answering ----

async function connect() {
  try {
    [model] = await models(settings.key);
  } catch (error) {
    model = null;
    showModel(error.message);
    if (error instanceof Unauthorized) return askForKey(error);
    setTimeout(connect, 2000);
    return;
  }
  showModel(null);
}

function showModel(problem) {
  const { drafter, drafter_description: about, description } = model?.sled ?? {};
  const name = model?.id;
  $("model").textContent = problem ? "Not connected" : drafter ? `${drafter} → ${name}` : name;
  $("model").title = problem ?? (drafter ? `${about} drafts, ${description} decides` : description);
  $("welcome-title").textContent = problem ? "Waiting for the device." : "What shall we write?";
  $("welcome-text").textContent = problem ?? (drafter
    ? `${drafter} drafts on this device, and ${name} on the server decides every token.`
    : `${name} answers.`);
  $("examples").hidden = Boolean(problem);
  showModes(model?.sled?.modes ?? []);
  showSend();
}

function showModes(offered) {
  const modes = Object.keys(MODES).filter((mode) => offered.includes(mode));
  $("modes").hidden = modes.length < 2;
  $("modes").querySelectorAll("label").forEach((label) => label.remove());
  const chosen = modes.includes(settings.mode) ? settings.mode : offered[0];
  for (const mode of modes) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "mode", value: mode, checked: mode === chosen });
    input.addEventListener("change", () => change({ mode }));
    const text = document.createElement("span");
    text.textContent = MODES[mode];
    label.append(input, text);
    $("modes").append(label);
  }
}

function mode() {
  return document.querySelector("input[name=mode]:checked")?.value ?? model?.sled?.modes?.[0];
}

// ---- the conversation ----

function add(template) {
  const node = $(template).content.firstElementChild.cloneNode(true);
  $("welcome").hidden = true;
  $("log").append(node);
  return node;
}

async function send(text) {
  // What was never answered is replaced: texts take turns.
  if (messages.at(-1)?.role === "user") messages.pop();
  messages.push({ role: "user", content: text });
  add("t-user").querySelector("p").textContent = text;
  await reply();
}

/** Lets the texts so far be answered. */
async function reply() {
  const node = add("t-answer");
  const answer = new Answer();
  const conversation = messages;
  const own = (running = new AbortController());
  const view = new View(node, answer);
  follow(true);
  showSend();
  say("Answering.");
  let problem = null;
  try {
    const request = {
      model: model.id,
      messages: settings.system ? [{ role: "system", content: settings.system }, ...messages] : messages,
      ...sampling(),
      stream: true,
      stream_options: { include_usage: true },
      sled: { mode: mode(), provenance: true },
    };
    for await (const chunk of chat(request, settings.key, own.signal)) {
      if (answer.add(chunk, performance.now())) say(answer.notices.at(-1));
      view.changed();
    }
  } catch (error) {
    problem = error;
  }
  if (own === running) running = null;
  // A new chat has begun meanwhile: nothing of this one counts.
  if (conversation !== messages) return;
  const stopped = problem?.name === "AbortError";
  if (answer.text) messages.push({ role: "assistant", content: answer.text });
  view.end(stopped ? "stopped" : answer.finish === "length" ? "length limit reached" : null, stopped ? null : problem?.message);
  say(problem && !stopped ? problem.message : stopped ? "Stopped." : "The answer is complete.");
  if (problem instanceof Unauthorized) askForKey(problem);
  showSend();
}

/** Takes the last answer back, and lets its question be answered again. */
function again(node) {
  if (running) return;
  node.remove();
  if (messages.at(-1)?.role === "assistant") messages.pop();
  reply();
}

/** Shows an answer and the live figures as it grows, at most once a frame. */
class View {
  #node;
  #answer;
  #markdown;
  #frame = 0;
  #notices = 0;

  constructor(node, answer) {
    this.#node = node;
    this.#answer = answer;
    this.#markdown = new Markdown(node.querySelector(".body"), (parent, from, to) => answer.write(parent, from, to));
    node.querySelector("footer").hidden = true;
    showFigures(answer);
  }

  changed() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#show(true);
    });
  }

  end(remark, problem) {
    cancelAnimationFrame(this.#frame);
    this.#show(false);
    const node = this.#node;
    node.ariaBusy = "false";
    node.querySelectorAll("figure.code").forEach(addCopy);
    for (const kind in KINDS) {
      const share = document.createElement("i");
      share.className = kind;
      share.style.flexGrow = this.#answer.counts[kind];
      if (this.#answer.counts[kind] > 0) node.querySelector(".shares").append(share);
    }
    if (problem) this.#line(problem, "problem");
    node.querySelector(".summary").textContent = summary(this.#answer, remark);
    const copy = node.querySelector(".copy");
    copy.hidden = !this.#answer.text;
    copy.addEventListener("click", () => copyText(copy, this.#answer.text));
    const button = node.querySelector(".again");
    button.addEventListener("click", () => again(node));
    for (const other of $("log").querySelectorAll(".again")) other.hidden = other !== button;
    node.querySelector("footer").hidden = false;
    follow(false);
  }

  #show(growing) {
    this.#markdown.render(this.#answer.text, growing);
    for (; this.#notices < this.#answer.notices.length; this.#notices += 1) this.#line(this.#answer.notices[this.#notices], "");
    showFigures(this.#answer);
    follow(false);
  }

  #line(text, className) {
    const line = document.createElement("li");
    line.className = className;
    line.textContent = text;
    this.#node.querySelector(".notices").append(line);
  }
}

function summary(answer, remark) {
  const { report, counts } = answer;
  const parts = [`${answer.tokens} tokens`];
  if (report.tokens_per_s != null) parts.push(`${figure(report.tokens_per_s)} a second`);
  const { share, exact } = answer.acceptance;
  if (share != null && exact) parts.push(`${Math.round(100 * share)} % of ${report.draft_tokens} drafts accepted`);
  if (report.rounds > 0) parts.push(`${figure((answer.tokens - counts.provisional) / report.rounds)} tokens a round`);
  if (report.ttft_s != null) parts.push(`first after ${figure(report.ttft_s)} s`);
  if (counts.provisional > 0) parts.push(`${counts.provisional} not checked by a server`);
  if (remark) parts.push(remark);
  return parts.join("  ·  ");
}

function addCopy(block) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", () => copyText(button, block.querySelector("code").textContent));
  block.append(button);
}

async function copyText(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser does not allow it";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

// ---- figures ----

function figure(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function showFigures(answer) {
  $("figures").hidden = false;
  const { report, counts } = answer;
  const rate = answer.rate(performance.now());
  $("rate").textContent = rate == null ? "–" : rate.toFixed(1);
  const { share, exact } = answer.acceptance;
  $("acceptance").textContent = share == null ? "–" : `${exact ? "" : "≈ "}${Math.round(100 * share)} %`;
  // The server tells these with the last chunk: until then they stay what they were.
  if (report.round_trip_ms != null) $("round-trip").textContent = `${report.round_trip_ms.toFixed(0)} ms`;
  if (report.load != null) {
    const { price, queue_ms, step_ms, sharing } = report.load;
    $("load").textContent = `${Math.round(100 * Math.min(price, 1))} %`;
    $("load").title = `A pass takes ${step_ms.toFixed(0)} ms, was waited for ${queue_ms.toFixed(0)} ms, and is shared by ${sharing}`;
  }
  for (const item of $("kinds").children) item.querySelector("b").textContent = counts[item.dataset.kind] || "";
}

// ---- the rest of the page ----

/** Reads a sentence aloud. */
function say(text) {
  $("status").textContent = text;
}

function atEnd() {
  const { scrollHeight, scrollTop, clientHeight } = $("scroll");
  return scrollHeight - scrollTop - clientHeight < 80;
}

let following = true;

/** Scrolls to the end, if `now` or if the reader was there. */
function follow(now) {
  following ||= now;
  if (following) $("scroll").scrollTop = $("scroll").scrollHeight;
  $("latest").hidden = following;
}

function showSend() {
  $("send").disabled = running != null || model == null || $("prompt").value.trim() === "";
  $("send").hidden = running != null;
  $("stop").hidden = running == null;
}

function newChat() {
  running?.abort();
  running = null;
  messages = [];
  $("log").replaceChildren();
  $("welcome").hidden = false;
  $("figures").hidden = true;
  $("latest").hidden = true;
  following = true;
  showSend();
  $("prompt").focus();
}

function askForKey(error) {
  $("key-note").textContent = error.message;
  openSettings();
  $("settings").querySelector("[name=key]").focus();
}

function openSettings() {
  if ($("settings").open) return;
  edit($("settings"), () => {
    if (model == null) connect();
    $("prompt").focus();
  });
}

function showProvenance() {
  document.body.classList.toggle("plain", !settings.provenance);
  $("provenance").ariaPressed = String(settings.provenance);
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || running || !model) return;
  $("prompt").value = "";
  send(text);
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});
$("prompt").addEventListener("input", showSend);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("settings").open) running?.abort();
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", newChat);
$("open-settings").addEventListener("click", openSettings);
$("provenance").addEventListener("click", () => {
  change({ provenance: !settings.provenance });
  showProvenance();
});
$("scroll").addEventListener("scroll", () => {
  following = atEnd();
  $("latest").hidden = following;
}, { passive: true });
$("latest").addEventListener("click", () => follow(true));
for (const example of EXAMPLES) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = example;
  button.addEventListener("click", () => !running && model && send(example));
  item.append(button);
  $("examples").append(item);
}

showProvenance();
connect();
