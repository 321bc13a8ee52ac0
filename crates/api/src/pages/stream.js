// The HTTP API as the chat page uses it. What goes wrong is an error whose message is one sentence for the user.

/** The API wants a key, or another one. */
export class Unauthorized extends Error {}

const AWAY = "The device does not answer. Is `sled device` still running?";

/** The models that are served, as `GET /v1/models` lists them. */
export async function models(key) {
  const response = await request("v1/models", { headers: headers(key) });
  return (await response.json()).data;
}

/** The chunks of a chat completion, as they come. */
export async function* chat(body, key, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { ...headers(key), "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    yield chunk;
  }
  throw new Error("The answer broke off: the connection to the device was lost.");
}

function headers(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(AWAY);
  }
  if (response.ok) return response;
  const message = await response.json().then((body) => body.error.message, () => `The device answered with status ${response.status}.`);
  throw response.status === 401 ? new Unauthorized(message) : new Error(message);
}

/** The data of a stream of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new Error("The answer broke off: the connection to the device was lost.");
      });
      if (done) return;
      text += value;
      const lines = text.split(/\r?\n/);
      text = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
