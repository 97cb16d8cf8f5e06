// The lists of groups and databases. Databases load a page at a time, and sizes only for visible rows.

import * as api from "./api.js";
import { bytes, element, one, plural, time } from "./text.js";

const PAGE_LEN = 100;
const SIZE_REQUESTS_MAX = 4;

let groups = [];
let group = "";
let next = null;
let latestCall = 0;
let current = null;
const rows = new Map();

export const groupNames = () => groups.map((known) => known.name);
export const currentGroup = () => group;

export function link(name) {
  return `#${new URLSearchParams({ ...(group && { group }), ...(name && { database: name }) })}`;
}

/** The marks of a database, one for each property that differs from the default. */
export function marks(database) {
  const found = [];
  const mark = (text, kind = "") => found.push(element("span", { className: `mark ${kind}` }, text));
  if (database.state === "draft") mark("draft", "draft");
  if (database.encryption_cipher) mark(database.encryption_cipher);
  if (database.delete_protection) mark("protected");
  if (database.block_reads) mark("reads blocked", "blocked");
  if (database.block_writes) mark("writes blocked", "blocked");
  return found.length > 0 ? element("span", { className: "marks" }, ...found) : null;
}

export async function loadGroups() {
  groups = (await api.get("groups")).groups;
  showGroups();
}

function showGroups() {
  const item = (name, label, isProtected) => {
    const to = element("a", { href: `#${name ? new URLSearchParams({ group: name }) : ""}` }, element("span", {}, label));
    if (isProtected) to.append(element("span", { className: "mark" }, "protected"));
    if (name === group) to.setAttribute("aria-current", "true");
    return element("li", {}, to);
  };
  one("#groups").replaceChildren(
    item("", "All", false), ...groups.map((known) => item(known.name, known.name, known.delete_protection)),
  );
  one("#list-heading").textContent = group || "All databases";
  one("#destroy-group").hidden = group === "";
}

/** Lists the databases of a group, or of all. `reload` lists them again if they are shown already. */
export async function choose(name, reload = false) {
  if (name === group && rows.size > 0 && !reload) return;
  group = name;
  showGroups();
  await load();
}

/** A cursor before the first name with this prefix. Names contain a–z, 0–9 and hyphens, which sort before a tilde. */
function before(prefix) {
  const last = prefix.charCodeAt(prefix.length - 1);
  return `${prefix.slice(0, -1)}${String.fromCharCode(last - 1)}~`;
}

const prefix = () => one("#filter").value.trim().toLowerCase();

/** Loads the first page, or the next one if `more`. */
export async function load(more = false) {
  const call = ++latestCall;
  const start = prefix();
  const query = new URLSearchParams({ limit: PAGE_LEN });
  if (group) query.set("group", group);
  if (more) query.set("cursor", next);
  else if (start) query.set("cursor", before(start));
  one("#list").setAttribute("aria-busy", "true");
  one("#list-error").textContent = "";
  try {
    const { databases, pagination } = await api.get(`databases?${query}`);
    // A later call has superseded this one.
    if (call !== latestCall) return;
    const matching = databases.filter((database) => database.Name.startsWith(start));
    next = matching.length === databases.length ? pagination.next : null;
    if (!more) {
      rows.clear();
      sizes.clear();
      one("#databases").replaceChildren();
    }
    for (const database of matching) append(database);
  } catch (error) {
    if (call !== latestCall) return;
    one("#list-error").textContent = error.message;
    if (!more) {
      rows.clear();
      next = null;
      one("#databases").replaceChildren();
    }
  } finally {
    if (call === latestCall) {
      one("#list").removeAttribute("aria-busy");
      showCount();
    }
  }
}

function showCount() {
  const isFailed = one("#list-error").textContent !== "";
  one("#more").hidden = next === null;
  one("#list-count").textContent = rows.size === 0 ? "" : `${next === null ? "" : "The first "}${plural(rows.size, "database")}`;
  const empty = one("#list-empty");
  empty.hidden = rows.size > 0 || isFailed;
  const start = prefix();
  empty.textContent = start ? `No database has a name that begins with “${start}”.` : "No databases yet.";
  one("#list table").hidden = rows.size === 0;
}

function row(database) {
  const size = element("td", { className: "number quiet" }, database.state === "draft" ? "–" : "…");
  const row = element("tr", {},
    element("td", {}, element("a", { href: link(database.Name) }, database.Name), marks(database)),
    element("td", { className: "quiet" }, database.group),
    size,
    element("td", { className: "wide quiet" }, database.parent?.name ?? ""),
    element("td", { className: "wide quiet" }, time(database.created_at)),
  );
  row.addEventListener("click", (event) => {
    if (event.target.closest("a") === null) location.hash = link(database.Name);
  });
  if (database.Name === current) row.setAttribute("aria-current", "true");
  if (database.state !== "draft") sizes.request(size, database.Name);
  return row;
}

function append(database) {
  const created = row(database);
  rows.set(database.Name, created);
  one("#databases").append(created);
}

/** Updates the row of a database, or inserts one if it belongs to the list. */
export function put(database) {
  const { Name: name } = database;
  const created = row(database);
  if (rows.has(name)) {
    rows.get(name).replaceWith(created);
    rows.set(name, created);
    return;
  }
  if ((group && database.group !== group) || !name.startsWith(prefix())) return;
  const after = [...rows.keys()].filter((known) => known > name).sort()[0];
  if (after === undefined && next !== null) return;
  rows.set(name, created);
  one("#databases").insertBefore(created, after === undefined ? null : rows.get(after));
  showCount();
}

/** Removes a destroyed database from the list. */
export function drop(name) {
  rows.get(name)?.remove();
  rows.delete(name);
  showCount();
}

/** Highlights the row of the open database. */
export function mark(name) {
  rows.get(current)?.removeAttribute("aria-current");
  current = name;
  rows.get(name)?.setAttribute("aria-current", "true");
}

export const focusRow = (name) => one("a", rows.get(name) ?? document.body)?.focus();

/** Loads sizes, one request for each database: for visible rows only, and a few at a time. */
const sizes = (() => {
  const names = new WeakMap();
  let waiting = [];
  let running = 0;
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) waiting.push(target);
      else waiting = waiting.filter((cell) => cell !== target);
    }
    loadNext();
  });
  async function loadNext() {
    while (running < SIZE_REQUESTS_MAX && waiting.length > 0) {
      const cell = waiting.shift();
      observer.unobserve(cell);
      if (!cell.isConnected) continue;
      running += 1;
      api.get(`databases/${encodeURIComponent(names.get(cell))}/usage`)
        .then(({ database }) => {
          cell.textContent = bytes(database.usage.storage_bytes);
          cell.title = `${database.usage.storage_bytes.toLocaleString()} bytes`;
        })
        .catch((error) => {
          cell.textContent = "?";
          cell.title = error.message;
        })
        .finally(() => {
          running -= 1;
          loadNext();
        });
    }
  }
  return {
    request(cell, name) {
      names.set(cell, name);
      observer.observe(cell);
    },
    clear() {
      observer.disconnect();
      waiting = [];
    },
  };
})();
