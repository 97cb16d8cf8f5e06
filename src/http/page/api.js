// The API: what is asked of the server, and how it refuses. The token goes in a header, and never in a URL.

const KEPT = "litefleet-token";

let token = sessionStorage.getItem(KEPT);
let organization = "me";

/** What the server says when it does not do what it was asked for. */
export class Refused extends Error {
  constructor(status, body) {
    super(body?.error || `The server answered with status ${status} and no sentence.`);
    this.status = status;
    this.code = body?.code;
  }
}

export function hasToken() {
  return token !== null;
}

export function signIn(text, keep) {
  token = text;
  if (keep) sessionStorage.setItem(KEPT, text);
}

export function signOut() {
  token = null;
  sessionStorage.removeItem(KEPT);
}

/** The name of the organization, which also says whether the token is good, or none is needed. */
export async function whoAmI() {
  const { organizations } = await ask("GET", "v1/organizations");
  organization = organizations[0].slug;
  return organization;
}

const below = (path) => `v1/organizations/${encodeURIComponent(organization)}/${path}`;

export const get = (path) => ask("GET", below(path));
export const post = (path, body) => ask("POST", below(path), body);
export const patch = (path, body) => ask("PATCH", below(path), body);
export const destroy = (path) => ask("DELETE", below(path));

function head(more) {
  const headers = { ...more };
  // A header is bytes: what is no token and no key is told as the server would tell it.
  if (token !== null) headers.Authorization = `Bearer ${token.replace(/[^\x21-\x7e]/g, "?")}`;
  return headers;
}

async function send(method, path, more, body, signal) {
  try {
    return await fetch(path, { method, body, signal, headers: head(more), cache: "no-store", redirect: "error" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("The server did not answer. It may have ended, or the connection is gone.");
  }
}

async function ask(method, path, body) {
  const more = body === undefined ? {} : { "Content-Type": "application/json" };
  const answer = await send(method, path, more, body && JSON.stringify(body));
  const value = await answer.json().catch(() => null);
  if (!answer.ok) throw refused(answer.status, value);
  return value;
}

function refused(status, body) {
  const error = new Refused(status, body);
  if (status === 401) document.dispatchEvent(new CustomEvent("token-refused", { detail: error.message }));
  return error;
}

function keyed(key, cipher) {
  const headers = {};
  if (key) headers["x-turso-encryption-key"] = key.replace(/[^\x21-\x7e]/g, "?");
  if (cipher) headers["x-turso-encryption-cipher"] = cipher;
  return headers;
}

/** Sends a file to a draft. `told` hears how many bytes have left. */
export function upload(name, file, { key, cipher, signal, told }) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", `databases/${encodeURIComponent(name)}/v1/upload`);
    for (const [header, value] of Object.entries(head(keyed(key, cipher)))) request.setRequestHeader(header, value);
    request.upload.addEventListener("progress", (event) => told(event.loaded, event.total));
    request.addEventListener("load", () => {
      if (request.status === 200) return done();
      let body = null;
      try {
        body = JSON.parse(request.responseText);
      } catch { /* It is told by its status. */ }
      failed(refused(request.status, body));
    });
    request.addEventListener("error", () => failed(new Error("The upload broke off before the server answered.")));
    request.addEventListener("abort", () => failed(new DOMException("", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

/** The exported file of a database. `told` hears how many bytes have come. */
export async function download(name, { at, decrypt, key, signal, told }) {
  const query = new URLSearchParams();
  if (at) query.set("timestamp", at);
  if (decrypt) query.set("decrypt", "true");
  const path = below(`databases/${encodeURIComponent(name)}/export?${query}`);
  const answer = await send("GET", path, keyed(key), undefined, signal);
  if (!answer.ok) throw refused(answer.status, await answer.json().catch(() => null));
  const total = Number(answer.headers.get("content-length"));
  const parts = [];
  let come = 0;
  const reader = answer.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    come += value.length;
    told(come, total);
  }
  return new Blob(parts, { type: answer.headers.get("content-type") });
}
