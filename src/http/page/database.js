// The open database: its properties, its history, and actions as of an instant.

import * as api from "./api.js";
import * as dialogs from "./dialogs.js";
import * as fleet from "./fleet.js";
import { ago, bytes, element, instant, local, notice, one, time } from "./text.js";

const POINTS_LEN = 50;

let current = null;
let latestCall = 0;
let earlier = null;

const path = (name) => `databases/${encodeURIComponent(name)}`;

/** Opens a database, or closes the open one if `name` is null. */
export async function open(name, { focus = true } = {}) {
  const isOther = current?.Name !== name;
  fleet.mark(name);
  one("#fleet").classList.toggle("open", name !== null);
  one("#database").hidden = name === null;
  if (name === null) {
    current = null;
    latestCall += 1;
    return;
  }
  if (isOther) {
    current = null;
    one("#database-heading").textContent = name;
    one("#database-marks").replaceChildren();
    one("#database-body").hidden = true;
    one("#restored").replaceChildren();
    one("#at").value = "";
    hint();
    one("#database").scrollTop = 0;
    if (focus) one("#database-heading").focus();
  }
  await load(name);
}

async function load(name) {
  const call = ++latestCall;
  const message = one("#database-error");
  message.textContent = "";
  try {
    const { database } = await api.get(path(name));
    if (call !== latestCall) return;
    current = database;
    fleet.put(database);
    showFacts(database);
    one("#database-body").hidden = false;
    await Promise.all([loadSize(name, call), loadPoints(call)]);
  } catch (error) {
    if (call === latestCall) showError(name, error);
  }
}

/** Shows why a database cannot be loaded. If it does not exist, it is removed from the list. */
function showError(name, error) {
  one("#database-error").textContent = error.message;
  if (error.status === 404) {
    current = null;
    one("#database-body").hidden = true;
    one("#database-marks").replaceChildren();
    fleet.drop(name);
  }
}

/** Reloads the open database. */
export const reload = () => current && load(current.Name);

function showFacts(database) {
  const isDraft = database.state === "draft";
  one("#database-marks").replaceChildren(...[fleet.marks(database)].filter(Boolean));
  const list = one("#facts");
  list.replaceChildren();
  const fact = (term, ...value) => list.append(element("dt", {}, term), element("dd", {}, ...value));
  fact("Group", database.group);
  if (!isDraft) list.append(element("dt", {}, "Size"), element("dd", { id: "size" }, "…"));
  fact("Size limit", database.size_limit === null ? "none" : bytes(database.size_limit));
  fact("Encryption", database.encryption_cipher ?? "none");
  fact("History", database.history_window === "off" ? "off" : `${database.history_window}${database.inherits_history_window ? " (from its group)" : ""}`);
  if (database.parent) {
    const { name, branched_at: at } = database.parent;
    fact("Fork of", element("a", { href: fleet.link(name) }, name), " as of ", time(at));
  }
  fact("Created", time(database.created_at));
  fact("Host name", database.Hostname);
  fact("Id", element("span", { className: "exact" }, database.DbId));
  one("#upload").hidden = !isDraft;
  for (const id of ["#fork", "#export", "#history"]) one(id).hidden = isDraft;
}

async function loadSize(name, call) {
  if (current.state === "draft") return;
  const { database } = await api.get(`${path(name)}/usage`);
  if (call !== latestCall) return;
  const count = database.usage.storage_bytes;
  one("#size").textContent = `${bytes(count)}`;
  one("#size").title = `${count.toLocaleString()} bytes`;
}

/** Loads the latest recovery points, or those before the oldest one shown if `more`. */
async function loadPoints(call, more = false) {
  if (current.state === "draft") return;
  const message = one("#history-error");
  message.textContent = "";
  const query = new URLSearchParams({ limit: POINTS_LEN });
  if (more) query.set("to", earlier);
  try {
    const found = await api.get(`${path(current.Name)}/points?${query}`);
    if (call !== latestCall) return;
    earlier = found.pagination.next;
    const rows = found.points.reverse().map(pointRow);
    if (more) one("#points").append(...rows);
    else one("#points").replaceChildren(...rows);
    showWindows(found.windows);
    highlightPoint();
  } catch (error) {
    if (error.status === 404) throw error;
    if (call === latestCall) message.textContent = error.message;
  }
  const isEmpty = one("#points").children.length === 0;
  one("#history table").hidden = isEmpty;
  one("#points-empty").hidden = !isEmpty || message.textContent !== "";
  one("#earlier").hidden = earlier === null;
}

function showWindows(windows) {
  const lines = windows.map(({ from, to }) => element("p", {}, "Can be restored to any instant from ", time(from), to === null ? " until now." : " to ", to === null ? null : time(to)));
  one("#windows").replaceChildren(...(lines.length > 0 ? lines : [element("p", {}, "Cannot be restored to any instant.")]));
}

function pointRow({ at, pages, bytes: logged, size: whole }) {
  const button = element("button", { type: "button", title: at, "aria-label": `Select ${local(at, true)}` }, time(at, { fraction: true }));
  const row = element("tr", {},
    element("td", {}, button),
    element("td", { className: "number" }, pages.toLocaleString()),
    element("td", { className: "number" }, bytes(logged)),
    element("td", { className: "number" }, bytes(whole)),
  );
  row.dataset.at = at;
  row.addEventListener("click", () => {
    one("#at").value = at;
    hint();
  });
  return row;
}

/** Highlights the recovery point in the field. */
function highlightPoint() {
  for (const row of one("#points").children) {
    if (row.dataset.at === one("#at").value) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

/** Describes the instant in the field. */
function hint() {
  const text = one("#at-hint");
  try {
    const at = instant(one("#at").value);
    text.textContent = at === null ? "" : `${local(at, true)} local, ${ago(at)}`;
  } catch {
    text.textContent = "For example 2026-01-31 12:00:05, or with a zone, 2026-01-31T12:00:05Z.";
  }
  highlightPoint();
}

/** Shows the result of a restore, with a button that undoes it. */
function showRestored(database, { kind, commit, undo }, isUndo) {
  if (current?.Name !== database.Name) return notice(`Database ${database.Name} was restored.`);
  const to = commit === null ? "before its first commit" : local(commit, true);
  const what = isUndo ? "Undone: the database is in its state before the restore" : `Restored to ${to}${kind === "between" ? ", the last commit before the instant" : ""}`;
  const box = element("div", { className: "notice" }, element("span", {}, `${what}.`));
  if (undo !== null) {
    box.firstChild.append(" To undo, restore to ", time(undo, { fraction: true }));
    box.append(element("button", { type: "button", onclick: (event) => undoRestore(database, undo, event.target, !isUndo) }, isUndo ? "Redo" : "Undo"));
  }
  one("#restored").replaceChildren(box);
}

async function undoRestore(database, undo, button, isUndo) {
  const done = (result) => {
    showRestored(database, result, isUndo);
    reload();
  };
  if (database.encryption_cipher) return dialogs.restore({ database, at: undo, onDone: done });
  button.disabled = true;
  button.textContent = "Running…";
  try {
    done(await dialogs.sendRestore(database.Name, undo));
  } catch (error) {
    button.disabled = false;
    button.textContent = "Try again";
    one("#history-error").textContent = error.message;
  }
}

/** Opens a database that was created. */
export function show(name) {
  if (current?.Name === name) reload();
  else location.hash = fleet.link(name);
}

export function init() {
  one("#close").onclick = () => {
    const name = current?.Name;
    location.hash = fleet.link(null);
    if (name) fleet.focusRow(name);
  };
  one("#upload").onclick = () => dialogs.upload({ database: current, onDone: reload });
  one("#fork").onclick = () => dialogs.create({ source: current, onDone: show });
  one("#export").onclick = () => save(null);
  one("#settings").onclick = () => dialogs.settings({ database: current, onDone: reload });
  one("#destroy").onclick = () => {
    const { Name: name } = current;
    dialogs.destroy({
      kind: "database",
      name,
      consequence: "Its data and its history are deleted. This cannot be undone.",
      path: path(name),
      onDone() {
        fleet.drop(name);
        location.hash = fleet.link(null);
        notice(`Database ${name} was destroyed.`);
      },
    });
  };
  one("#earlier").onclick = async ({ target }) => {
    target.disabled = true;
    await loadPoints(latestCall, true).catch((error) => showError(current.Name, error));
    target.disabled = false;
  };
  one("#at").oninput = hint;
  one("#instant").onsubmit = (event) => {
    event.preventDefault();
    let at;
    try {
      at = instant(one("#at").value);
    } catch (error) {
      one("#history-error").textContent = error.message;
      return;
    }
    one("#history-error").textContent = "";
    const database = current;
    switch (event.submitter?.value) {
      case "restore":
        return dialogs.restore({ database, at, onDone: (result) => { showRestored(database, result, false); reload(); } });
      case "export":
        return save(at);
      default:
        return dialogs.create({ source: database, at, onDone: show });
    }
  };
}

function save(at) {
  const { Name: name } = current;
  dialogs.save({ database: current, at, onDone: (count) => notice(`Saved ${name}.db, ${bytes(count)}.`) });
}
