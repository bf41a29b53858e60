// Talking to the service this page came from.

import { readEvents } from "./events.js";

const STORED = "imagine-key";
let key = sessionStorage.getItem(STORED) ?? "";

/** An answer in the service's error envelope, or what comes nearest to it. */
export class ServiceError extends Error {
  constructor(message, { status = 0, param = null, code = "", retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, param, code, retryAfter });
  }
}

/** The API key of all that is asked from now on: in memory alone, unless it is kept. */
export function setKey(text) {
  key = text.trim();
  keepKey(keyIsKept());
}

/** Whether the key outlives a reload, in this tab alone. */
export function keepKey(kept) {
  if (kept) sessionStorage.setItem(STORED, key);
  else sessionStorage.removeItem(STORED);
}

export function keyIsKept() {
  return sessionStorage.getItem(STORED) !== null;
}

export function hasKey() {
  return key !== "";
}

/** An address of the service as others would write it. */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

export async function getJson(path, signal) {
  return (await ask(path, { signal })).json();
}

/**
 * Paints, telling of every event of the stream: `told(name, data)`, `commented(text)`.
 * Returns what the event `done` holds.
 */
export async function paint(fields, { signal, told, commented }) {
  const response = await ask("imagine", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...fields, stream: true }),
    signal,
  });
  for await (const { name, data, comment } of readEvents(response.body)) {
    if (comment !== undefined) {
      commented(comment);
      continue;
    }
    const value = JSON.parse(data);
    if (name === "done") return value;
    if (name === "error") throw fromEnvelope(value, {});
    told(name, value);
  }
  throw new ServiceError("the service hung up before the picture was done; try again");
}

async function ask(path, options) {
  const headers = { Accept: "application/json", ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("the service cannot be reached; is it running?");
  }
  if (response.ok) return response;
  const again = Number(response.headers.get("retry-after"));
  const about = { status: response.status, retryAfter: again > 0 ? again : null };
  let body = null;
  try {
    body = await response.json();
  } catch {
    // Something in between answered: a proxy's page holds nothing that people could use.
  }
  throw fromEnvelope(body, about);
}

function fromEnvelope(body, about) {
  const { message, param, code } = body?.error ?? {};
  const text = message ?? `the service answered ${about.status} without saying why`;
  return new ServiceError(text, { ...about, param: param ?? null, code: code ?? "" });
}
