// The client of the API. The token is sent in a header, never in a URL.

const TOKEN_KEY = "litefleet-token";

let token = sessionStorage.getItem(TOKEN_KEY);
let organization = "me";

/** An error response of the server. */
export class ApiError extends Error {
  constructor(status, body) {
    super(body?.error || `The server responded with status ${status} and no message.`);
    this.status = status;
    this.code = body?.code;
  }
}

export function hasToken() {
  return token !== null;
}

export function signIn(text, keep) {
  token = text;
  if (keep) sessionStorage.setItem(TOKEN_KEY, text);
}

export function signOut() {
  token = null;
  sessionStorage.removeItem(TOKEN_KEY);
}

/** Returns the name of the organization. Fails if a token is required and this one is not valid. */
export async function loadOrganization() {
  const { organizations } = await request("GET", "v1/organizations");
  organization = organizations[0].slug;
  return organization;
}

const below = (path) => `v1/organizations/${encodeURIComponent(organization)}/${path}`;

export const get = (path) => request("GET", below(path));
export const post = (path, body) => request("POST", below(path), body);
export const patch = (path, body) => request("PATCH", below(path), body);
export const destroy = (path) => request("DELETE", below(path));

function withToken(more) {
  const headers = { ...more };
  // Other characters are not allowed in a header. Replacing them lets the server report an invalid token.
  if (token !== null) headers.Authorization = `Bearer ${token.replace(/[^\x21-\x7e]/g, "?")}`;
  return headers;
}

async function send(method, path, more, body, signal) {
  try {
    return await fetch(path, { method, body, signal, headers: withToken(more), cache: "no-store", redirect: "error" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("The server did not respond. It may have stopped, or the connection failed.");
  }
}

async function request(method, path, body) {
  const more = body === undefined ? {} : { "Content-Type": "application/json" };
  const response = await send(method, path, more, body && JSON.stringify(body));
  const value = await response.json().catch(() => null);
  if (!response.ok) throw errorOf(response.status, value);
  return value;
}

function errorOf(status, body) {
  const error = new ApiError(status, body);
  if (status === 401) document.dispatchEvent(new CustomEvent("token-rejected", { detail: error.message }));
  return error;
}

function keyHeaders(key, cipher) {
  const headers = {};
  if (key) headers["x-turso-encryption-key"] = key.replace(/[^\x21-\x7e]/g, "?");
  if (cipher) headers["x-turso-encryption-cipher"] = cipher;
  return headers;
}

/** Uploads a file to a draft. `onProgress` is called with the bytes sent and the total. */
export function upload(name, file, { key, cipher, signal, onProgress }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `databases/${encodeURIComponent(name)}/v1/upload`);
    for (const [header, value] of Object.entries(withToken(keyHeaders(key, cipher)))) request.setRequestHeader(header, value);
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded, event.total));
    request.addEventListener("load", () => {
      if (request.status === 200) return resolve();
      let body = null;
      try {
        body = JSON.parse(request.responseText);
      } catch { /* The status describes the error. */ }
      reject(errorOf(request.status, body));
    });
    request.addEventListener("error", () => reject(new Error("The connection failed before the server responded.")));
    request.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

/** Downloads the exported file of a database. `onProgress` is called with the bytes received and the total. */
export async function download(name, { at, decrypt, key, signal, onProgress }) {
  const query = new URLSearchParams();
  if (at) query.set("timestamp", at);
  if (decrypt) query.set("decrypt", "true");
  const path = below(`databases/${encodeURIComponent(name)}/export?${query}`);
  const response = await send("GET", path, keyHeaders(key), undefined, signal);
  if (!response.ok) throw errorOf(response.status, await response.json().catch(() => null));
  const total = Number(response.headers.get("content-length"));
  const parts = [];
  let received = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    received += value.length;
    onProgress(received, total);
  }
  return new Blob(parts, { type: response.headers.get("content-type") });
}
