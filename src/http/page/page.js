// The page: signing in, and what leads to the groups, the databases and the dialogs.

import * as api from "./api.js";
import * as database from "./database.js";
import * as dialogs from "./dialogs.js";
import * as fleet from "./fleet.js";
import { notice, one } from "./text.js";

let isIn = false;

/** Shows the fleet if the token is good, or none is needed. */
async function enter() {
  const organization = await api.whoAmI();
  one("#organization").textContent = organization;
  one("#sign-out").hidden = !api.hasToken();
  one("#sign-in").hidden = true;
  one("#fleet").hidden = false;
  isIn = true;
  await refresh();
}

function leave(why) {
  isIn = false;
  api.signOut();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  one("#fleet").hidden = true;
  one("#sign-in").hidden = false;
  one("#sign-in .error").textContent = why;
  one("#sign-in input").focus();
}

async function refresh() {
  try {
    await fleet.loadGroups();
  } catch (error) {
    return notice(error.message, { failed: true, again: ["Try again", refresh] });
  }
  const { group, name } = place();
  await fleet.choose(group, true);
  await database.open(name, { moves: false });
}

function groupsChanged() {
  fleet.loadGroups().catch((error) => notice(error.message, { failed: true }));
}

/** What the address names: a group, a database, or neither. */
function place() {
  const named = new URLSearchParams(location.hash.slice(1));
  return { group: named.get("group") ?? "", name: named.get("database") };
}

async function go() {
  if (!isIn) return;
  const { group, name } = place();
  await Promise.all([fleet.choose(group), database.open(name)]);
}

one("#sign-in form").onsubmit = async (event) => {
  event.preventDefault();
  const form = event.target;
  const { token, keep } = form.elements;
  const button = one("button", form);
  one(".error", form).textContent = "";
  button.disabled = true;
  api.signIn(token.value.trim(), keep.checked);
  try {
    await enter();
    form.reset();
  } catch (error) {
    leave(error.message);
  }
  button.disabled = false;
};

one("#refresh").onclick = refresh;
one("#sign-out").onclick = () => leave("");
one("#more").onclick = () => fleet.load(true);
one("#new-database").onclick = () => dialogs.create({ done: database.made });
one("#new-group").onclick = () => dialogs.createGroup((name) => {
  groupsChanged();
  location.hash = `#${new URLSearchParams({ group: name })}`;
});
one("#destroy-group").onclick = () => {
  const name = fleet.groupNow();
  dialogs.destroy({
    kind: "group",
    name,
    what: "Every database in it goes with it, with its history, and nothing brings them back.",
    path: `groups/${encodeURIComponent(name)}`,
    done() {
      notice(`Group ${name} is destroyed.`);
      location.hash = "#";
      groupsChanged();
    },
  });
};

let typing;
one("#filter").oninput = () => {
  clearTimeout(typing);
  typing = setTimeout(() => fleet.load(), 150);
};

database.begin();
addEventListener("hashchange", go);
document.addEventListener("token-refused", ({ detail }) => isIn && leave(detail));

// Whether a token is needed is known once the server was asked without one, or with the one that was kept.
enter().catch((error) => leave(error.status === 401 && !api.hasToken() ? "" : error.message));
