// What the page remembers: how to answer, and how to look.

const NAME = "sled.chat";
const DEFAULTS = { mode: null, provenance: true, system: "", temperature: "", top_p: "", max_tokens: "", seed: "", key: "" };
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

function load() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(NAME)) };
  } catch {
    return { ...DEFAULTS };
  }
}

export const settings = load();

export function change(values) {
  Object.assign(settings, values);
  try {
    localStorage.setItem(NAME, JSON.stringify(settings));
  } catch {
    // Without storage they hold until the page is left.
  }
}

/** The sampling settings that are set, as the API calls them. */
export function sampling() {
  return Object.fromEntries(NUMBERS.filter((name) => settings[name] !== "").map((name) => [name, Number(settings[name])]));
}

/** Shows the dialog; calls `done` when it is closed with values kept. */
export function edit(dialog, done) {
  const form = dialog.querySelector("form");
  const fields = ["system", ...NUMBERS, "key"].map((name) => form.elements.namedItem(name));
  for (const field of fields) field.value = settings[field.name];
  dialog.querySelector("#reset").onclick = () => {
    for (const field of fields) field.value = DEFAULTS[field.name];
  };
  dialog.onclose = () => {
    if (!form.checkValidity()) return;
    change(Object.fromEntries(fields.map((field) => [field.name, field.value.trim()])));
    done();
  };
  dialog.onclick = (event) => {
    if (event.target === dialog) dialog.close();
  };
  dialog.showModal();
}
