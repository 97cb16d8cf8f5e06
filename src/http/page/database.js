// One database: its facts, and its history with what can be done as of an instant.

import * as api from "./api.js";
import * as dialogs from "./dialogs.js";
import * as fleet from "./fleet.js";
import { ago, bytes, element, instant, local, notice, one, time } from "./text.js";

const POINTS = 50;

let shown = null;
let turn = 0;
let earlier = null;

const path = (name) => `databases/${encodeURIComponent(name)}`;

/** Opens a database, or closes the one that is open. */
export async function open(name, { moves = true } = {}) {
  const isOther = shown?.Name !== name;
  fleet.mark(name);
  one("#fleet").classList.toggle("open", name !== null);
  one("#database").hidden = name === null;
  if (name === null) {
    shown = null;
    turn += 1;
    return;
  }
  if (isOther) {
    shown = null;
    one("#database-heading").textContent = name;
    one("#database-marks").replaceChildren();
    one("#database-body").hidden = true;
    one("#restored").replaceChildren();
    one("#at").value = "";
    hint();
    one("#database").scrollTop = 0;
    if (moves) one("#database-heading").focus();
  }
  await show(name);
}

async function show(name) {
  const mine = ++turn;
  const failed = one("#database-error");
  failed.textContent = "";
  try {
    const { database } = await api.get(path(name));
    if (mine !== turn) return;
    shown = database;
    fleet.put(database);
    facts(database);
    one("#database-body").hidden = false;
    await Promise.all([size(name, mine), points(mine)]);
  } catch (error) {
    if (mine === turn) lost(name, error);
  }
}

/** Says why a database cannot be shown. One that is gone leaves the list too. */
function lost(name, error) {
  one("#database-error").textContent = error.message;
  if (error.status === 404) {
    shown = null;
    one("#database-body").hidden = true;
    one("#database-marks").replaceChildren();
    fleet.drop(name);
  }
}

/** Shows the database anew after something was done to it. */
export const again = () => shown && show(shown.Name);

function facts(database) {
  const isDraft = database.state === "draft";
  one("#database-marks").replaceChildren(...[fleet.marks(database)].filter(Boolean));
  const list = one("#facts");
  list.replaceChildren();
  const fact = (term, ...said) => list.append(element("dt", {}, term), element("dd", {}, ...said));
  fact("Group", database.group);
  if (!isDraft) list.append(element("dt", {}, "Size"), element("dd", { id: "size" }, "…"));
  fact("Size limit", database.size_limit === null ? "none" : bytes(database.size_limit));
  fact("Encryption", database.encryption_cipher ?? "none");
  fact("History", database.history_window === "off" ? "off" : `${database.history_window}${database.inherits_history_window ? ", as its group" : ""}`);
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

async function size(name, mine) {
  if (shown.state === "draft") return;
  const { database } = await api.get(`${path(name)}/usage`);
  if (mine !== turn) return;
  const count = database.usage.storage_bytes;
  one("#size").textContent = `${bytes(count)}`;
  one("#size").title = `${count.toLocaleString()} bytes`;
}

/** Loads the latest points, or those before what is there. */
async function points(mine, more = false) {
  if (shown.state === "draft") return;
  const failed = one("#history-error");
  failed.textContent = "";
  const query = new URLSearchParams({ limit: POINTS });
  if (more) query.set("to", earlier);
  try {
    const found = await api.get(`${path(shown.Name)}/points?${query}`);
    if (mine !== turn) return;
    earlier = found.pagination.next;
    const rows = found.points.reverse().map(point);
    if (more) one("#points").append(...rows);
    else one("#points").replaceChildren(...rows);
    windows(found.windows);
    pick();
  } catch (error) {
    if (error.status === 404) throw error;
    if (mine === turn) failed.textContent = error.message;
  }
  const isEmpty = one("#points").children.length === 0;
  one("#history table").hidden = isEmpty;
  one("#points-empty").hidden = !isEmpty || failed.textContent !== "";
  one("#earlier").hidden = earlier === null;
}

function windows(spans) {
  const said = spans.map(({ from, to }) => element("p", {}, "Any instant from ", time(from), to === null ? " until now." : " to ", to === null ? null : time(to)));
  one("#windows").replaceChildren(...(said.length > 0 ? said : [element("p", {}, "No instant can be restored.")]));
}

function point({ at, pages, bytes: logged, size: whole }) {
  const picked = element("button", { type: "button", title: at, "aria-label": `Pick ${local(at, true)}` }, time(at, { fraction: true }));
  const made = element("tr", {},
    element("td", {}, picked),
    element("td", { className: "number" }, pages.toLocaleString()),
    element("td", { className: "number" }, bytes(logged)),
    element("td", { className: "number" }, bytes(whole)),
  );
  made.dataset.at = at;
  made.addEventListener("click", () => {
    one("#at").value = at;
    hint();
  });
  return made;
}

/** Marks the point that stands in the field. */
function pick() {
  for (const row of one("#points").children) {
    if (row.dataset.at === one("#at").value) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

/** Says in words which instant stands in the field. */
function hint() {
  const said = one("#at-hint");
  try {
    const at = instant(one("#at").value);
    said.textContent = at === null ? "" : `${local(at, true)} local, ${ago(at)}`;
  } catch {
    said.textContent = "Such as 2026-01-31 12:00:05, or with a zone: 2026-01-31T12:00:05Z.";
  }
  pick();
}

/** Says what a restore came to, and offers to undo it. */
function told(database, { kind, commit, undo }, wasUndone) {
  if (shown?.Name !== database.Name) return notice(`${database.Name} is restored.`);
  const to = commit === null ? "before its first commit" : local(commit, true);
  const what = wasUndone ? "Undone: it is what it was before the restore" : `Restored to ${to}${kind === "between" ? ", the last commit before the instant" : ""}`;
  const made = element("div", { className: "notice" }, element("span", {}, `${what}.`));
  if (undo !== null) {
    made.firstChild.append(" The instant before that: ", time(undo, { fraction: true }));
    made.append(element("button", { type: "button", onclick: (event) => undone(database, undo, event.target, !wasUndone) }, wasUndone ? "Redo" : "Undo"));
  }
  one("#restored").replaceChildren(made);
}

async function undone(database, undo, button, wasUndone) {
  const done = (answer) => {
    told(database, answer, wasUndone);
    again();
  };
  if (database.encryption_cipher) return dialogs.restore({ database, at: undo, done });
  button.disabled = true;
  button.textContent = "Running…";
  try {
    done(await dialogs.restored(database.Name, undo));
  } catch (error) {
    button.disabled = false;
    button.textContent = "Try again";
    one("#history-error").textContent = error.message;
  }
}

/** Shows a database that was created, or what became of it. */
export function made(name) {
  if (shown?.Name === name) again();
  else location.hash = fleet.link(name);
}

export function begin() {
  one("#close").onclick = () => {
    const name = shown?.Name;
    location.hash = fleet.link(null);
    if (name) fleet.focusRow(name);
  };
  one("#upload").onclick = () => dialogs.upload({ database: shown, done: again });
  one("#fork").onclick = () => dialogs.create({ source: shown, done: made });
  one("#export").onclick = () => save(null);
  one("#settings").onclick = () => dialogs.settings({ database: shown, done: again });
  one("#destroy").onclick = () => {
    const { Name: name } = shown;
    dialogs.destroy({
      kind: "database",
      name,
      what: "Its data and its history go at once, and nothing brings them back.",
      path: path(name),
      done() {
        fleet.drop(name);
        location.hash = fleet.link(null);
        notice(`Database ${name} is destroyed.`);
      },
    });
  };
  one("#earlier").onclick = async ({ target }) => {
    target.disabled = true;
    await points(turn, true).catch((error) => lost(shown.Name, error));
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
    const database = shown;
    switch (event.submitter?.value) {
      case "restore":
        return dialogs.restore({ database, at, done: (answer) => { told(database, answer, false); again(); } });
      case "export":
        return save(at);
      default:
        return dialogs.create({ source: database, at, done: made });
    }
  };
}

function save(at) {
  const { Name: name } = shown;
  dialogs.save({ database: shown, at, done: (count) => notice(`${name}.db is saved, ${bytes(count)}.`) });
}
