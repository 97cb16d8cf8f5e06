// The page: signing in, navigation, and the actions of its buttons.

import * as api from "./api.js";
import * as database from "./database.js";
import * as dialogs from "./dialogs.js";
import * as fleet from "./fleet.js";
import { notice, one } from "./text.js";

let isSignedIn = false;

/** Shows the fleet. Fails if a token is required and this one is not valid. */
async function enter() {
  const organization = await api.loadOrganization();
  one("#organization").textContent = organization;
  one("#sign-out").hidden = !api.hasToken();
  one("#sign-in").hidden = true;
  one("#fleet").hidden = false;
  isSignedIn = true;
  await refresh();
}

function leave(reason) {
  isSignedIn = false;
  api.signOut();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  one("#fleet").hidden = true;
  one("#sign-in").hidden = false;
  one("#sign-in .error").textContent = reason;
  one("#sign-in input").focus();
}

async function refresh() {
  try {
    await fleet.loadGroups();
  } catch (error) {
    return notice(error.message, { failed: true, action: ["Try again", refresh] });
  }
  const { group, name } = selection();
  await fleet.choose(group, true);
  await database.open(name, { focus: false });
}

function groupsChanged() {
  fleet.loadGroups().catch((error) => notice(error.message, { failed: true }));
}

/** Returns the group and the database that the fragment of the URL names. */
function selection() {
  const params = new URLSearchParams(location.hash.slice(1));
  return { group: params.get("group") ?? "", name: params.get("database") };
}

async function navigate() {
  if (!isSignedIn) return;
  const { group, name } = selection();
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
one("#new-database").onclick = () => dialogs.create({ onDone: database.show });
one("#new-group").onclick = () => dialogs.createGroup((name) => {
  groupsChanged();
  location.hash = `#${new URLSearchParams({ group: name })}`;
});
one("#destroy-group").onclick = () => {
  const name = fleet.currentGroup();
  dialogs.destroy({
    kind: "group",
    name,
    consequence: "Every database in the group is destroyed with its history. This cannot be undone.",
    path: `groups/${encodeURIComponent(name)}`,
    onDone() {
      notice(`Group ${name} was destroyed.`);
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

database.init();
addEventListener("hashchange", navigate);
document.addEventListener("token-rejected", ({ detail }) => isSignedIn && leave(detail));

// The first request finds out whether a token is required, or the stored one is still valid.
enter().catch((error) => leave(error.status === 401 && !api.hasToken() ? "" : error.message));
