// Talks to the server this page came from; knows no elements of the page.

let key = sessionStorage.getItem("repair-key") ?? "";

/** An error that the server explained. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export const hasKey = () => key !== "";

export function useKey(value) {
  key = value.trim();
  sessionStorage.setItem("repair-key", key);
}

async function ask(path, body, method) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, {
    method: method ?? (body ? "POST" : "GET"),
    headers,
    body: body ? JSON.stringify(body) : undefined,
  });
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Refused(told.error?.message ?? `The server said ${response.status}.`, response.status);
}

export const get = async (path) => (await ask(path)).json();
export const text = async (path) => (await ask(path)).text();
export const post = async (path, body = {}) => (await ask(path, body, "POST")).json();

/** Every delta of a streamed reply, in order. */
export async function* chat(messages, extras) {
  const response = await ask("/v1/chat/completions", { messages, stream: true, repair: extras });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const told = JSON.parse(data);
      if (told.error) throw new Refused(told.error.message, 400);
      if (told.choices.length) yield told.choices[0].delta;
    }
  }
}
