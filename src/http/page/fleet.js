// The groups, and the databases of one of them or of all: a page at a time, sizes only for the rows on the screen.

import * as api from "./api.js";
import { bytes, element, one, plural, time } from "./text.js";

const PAGE = 100;
const SIZES_AT_ONCE = 4;

let groups = [];
let group = "";
let next = null;
let turn = 0;
let current = null;
const rows = new Map();

export const groupNames = () => groups.map((known) => known.name);
export const groupNow = () => group;

export function link(name) {
  return `#${new URLSearchParams({ ...(group && { group }), ...(name && { database: name }) })}`;
}

/** The marks of a database: what is not as usual about it. */
export function marks(database) {
  const found = [];
  const mark = (text, kind = "") => found.push(element("span", { className: `mark ${kind}` }, text));
  if (database.state === "draft") mark("draft", "draft");
  if (database.encryption_cipher) mark(database.encryption_cipher);
  if (database.delete_protection) mark("protected");
  if (database.block_reads) mark("reads refused", "blocked");
  if (database.block_writes) mark("writes refused", "blocked");
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

/** Lists the databases of a group, or of all; `anew` if they are listed already. */
export async function choose(name, anew = false) {
  if (name === group && rows.size > 0 && !anew) return;
  group = name;
  showGroups();
  await load();
}

/** Below which every name begins otherwise: names are of a–z, 0–9 and hyphens, which all come before a tilde. */
function before(prefix) {
  const last = prefix.charCodeAt(prefix.length - 1);
  return `${prefix.slice(0, -1)}${String.fromCharCode(last - 1)}~`;
}

const prefix = () => one("#filter").value.trim().toLowerCase();

/** Loads the first page, or the one after what is there. */
export async function load(more = false) {
  const mine = ++turn;
  const begins = prefix();
  const query = new URLSearchParams({ limit: PAGE });
  if (group) query.set("group", group);
  if (more) query.set("cursor", next);
  else if (begins) query.set("cursor", before(begins));
  one("#list").setAttribute("aria-busy", "true");
  one("#list-error").textContent = "";
  try {
    const { databases, pagination } = await api.get(`databases?${query}`);
    // Who asked later has another list in mind.
    if (mine !== turn) return;
    const fitting = databases.filter((database) => database.Name.startsWith(begins));
    next = fitting.length === databases.length ? pagination.next : null;
    if (!more) {
      rows.clear();
      sizes.forget();
      one("#databases").replaceChildren();
    }
    for (const database of fitting) append(database);
  } catch (error) {
    if (mine !== turn) return;
    one("#list-error").textContent = error.message;
    if (!more) {
      rows.clear();
      next = null;
      one("#databases").replaceChildren();
    }
  } finally {
    if (mine === turn) {
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
  const begins = prefix();
  empty.textContent = begins ? `No database here has a name that begins with “${begins}”.` : "No databases here yet.";
  one("#list table").hidden = rows.size === 0;
}

function row(database) {
  const size = element("td", { className: "number quiet" }, database.state === "draft" ? "–" : "…");
  const made = element("tr", {},
    element("td", {}, element("a", { href: link(database.Name) }, database.Name), marks(database)),
    element("td", { className: "quiet" }, database.group),
    size,
    element("td", { className: "wide quiet" }, database.parent?.name ?? ""),
    element("td", { className: "wide quiet" }, time(database.created_at)),
  );
  made.addEventListener("click", (event) => {
    if (event.target.closest("a") === null) location.hash = link(database.Name);
  });
  if (database.Name === current) made.setAttribute("aria-current", "true");
  if (database.state !== "draft") sizes.want(size, database.Name);
  return made;
}

function append(database) {
  const made = row(database);
  rows.set(database.Name, made);
  one("#databases").append(made);
}

/** Shows a database as it is now, if it belongs to what is shown. */
export function put(database) {
  const { Name: name } = database;
  const made = row(database);
  if (rows.has(name)) {
    rows.get(name).replaceWith(made);
    rows.set(name, made);
    return;
  }
  if ((group && database.group !== group) || !name.startsWith(prefix())) return;
  const after = [...rows.keys()].filter((known) => known > name).sort()[0];
  if (after === undefined && next !== null) return;
  rows.set(name, made);
  one("#databases").insertBefore(made, after === undefined ? null : rows.get(after));
  showCount();
}

/** Takes a database that is gone out of the list. */
export function drop(name) {
  rows.get(name)?.remove();
  rows.delete(name);
  showCount();
}

/** Marks the row of the database that is open. */
export function mark(name) {
  rows.get(current)?.removeAttribute("aria-current");
  current = name;
  rows.get(name)?.setAttribute("aria-current", "true");
}

export const focusRow = (name) => one("a", rows.get(name) ?? document.body)?.focus();

/** Sizes are asked for one database at a time: only for what is seen, and few at once. */
const sizes = (() => {
  const names = new WeakMap();
  let waiting = [];
  let asking = 0;
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) waiting.push(target);
      else waiting = waiting.filter((cell) => cell !== target);
    }
    ask();
  });
  async function ask() {
    while (asking < SIZES_AT_ONCE && waiting.length > 0) {
      const cell = waiting.shift();
      seen.unobserve(cell);
      if (!cell.isConnected) continue;
      asking += 1;
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
          asking -= 1;
          ask();
        });
    }
  }
  return {
    want(cell, name) {
      names.set(cell, name);
      seen.observe(cell);
    },
    forget() {
      seen.disconnect();
      waiting = [];
    },
  };
})();
