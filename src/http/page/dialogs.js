// Dialogs: each is a form that runs one call, shows that it runs, and keeps what was written when it fails.

import * as api from "./api.js";
import * as fleet from "./fleet.js";
import { bytes, element, instant, local, notice, one } from "./text.js";

const CIPHERS = [
  "aegis256x2", "aegis256", "aegis256x4", "aegis128l", "aegis128x2", "aegis128x4", "aes256gcm", "aes128gcm",
  "chacha20poly1305",
];

/** A part of a form that is not shown is not asked for either. */
function show(part, isShown) {
  part.hidden = !isShown;
  const inputs = part.matches("input") ? [part] : part.querySelectorAll("input, select, button");
  for (const input of inputs) input.disabled = !isShown;
}

/**
 * Opens a dialog. `run` gets what the form holds and a way to tell how far it is, and the dialog closes when it is done.
 * A call that cannot be taken back keeps the dialog open until it is over.
 */
function open(id, { fill = () => {}, run, stops = false }) {
  const dialog = one(id);
  const form = one("form", dialog);
  const [error, running, progress, said] = [".error", ".running", "progress", ".running span"].map((part) => one(part, dialog));
  const parts = form.elements;
  form.reset();
  error.textContent = "";
  fill(parts, dialog);
  let stop = null;

  const told = (text) => (count, total) => {
    progress.max = total || 1;
    progress.value = count;
    said.textContent = count < total ? `${bytes(count)} of ${bytes(total)}` : text;
    if (count >= total) progress.removeAttribute("value");
  };
  const cancel = (event) => {
    if (stop === null) return;
    event?.preventDefault();
    if (stops) stop.abort();
  };

  form.onsubmit = async (event) => {
    event.preventDefault();
    if (stop !== null) return;
    stop = new AbortController();
    error.textContent = "";
    const held = [...form.querySelectorAll("input, select, button")].filter((part) => !part.disabled);
    const focused = document.activeElement;
    for (const part of held) part.disabled = !(stops && part.name === "cancel");
    form.setAttribute("aria-busy", "true");
    progress.removeAttribute("value");
    said.textContent = "";
    const begun = Date.now();
    // A call that is over at once needs no word.
    const shown = setTimeout(() => { running.hidden = false; }, 150);
    const ticking = setInterval(() => {
      if (!progress.hasAttribute("value")) said.textContent = `running for ${Math.round((Date.now() - begun) / 1000)} s`;
    }, 1_000);
    const values = Object.fromEntries([...held].filter((part) => part.name && part.type !== "radio").map((part) => [part.name, valueOf(part)]));
    for (const part of held) if (part.type === "radio" && part.checked) values[part.name] = part.value;
    try {
      await run(values, { signal: stop.signal, told });
      stop = null;
      dialog.close();
    } catch (failure) {
      const why = failure.name === "AbortError" ? "Cancelled." : failure.message;
      error.textContent = why;
      // A browser lets nobody be kept in a dialog who really wants to leave it.
      if (!dialog.open) notice(why, { failed: true });
    } finally {
      clearTimeout(shown);
      clearInterval(ticking);
      stop = null;
      running.hidden = true;
      form.removeAttribute("aria-busy");
      for (const part of held) part.disabled = false;
      if (dialog.open && focused?.isConnected) focused.focus();
    }
  };
  parts.cancel.onclick = () => (stop === null ? dialog.close() : cancel());
  dialog.oncancel = cancel;
  // Keys stay in the form no longer than the dialog does.
  dialog.onclose = () => {
    form.reset();
    for (const part of form.querySelectorAll("input")) if (part.type === "text" && /key$/.test(part.name)) part.type = "password";
  };
  dialog.showModal();
}

function valueOf(part) {
  if (part.type === "checkbox") return part.checked;
  if (part.type === "file") return part.files[0];
  return part.type === "password" || part.name.endsWith("key") ? part.value.trim() : part.value;
}

const inDatabase = (name) => `databases/${encodeURIComponent(name)}`;

function generated(cipher) {
  const key = new Uint8Array(/^(aes128gcm|aegis128)/.test(cipher) ? 16 : 32);
  crypto.getRandomValues(key);
  return btoa(String.fromCharCode(...key));
}

/** Creates a database. `source` is the one to fork, `at` the instant; `done` hears the name. */
export function create({ source = null, at = null, done }) {
  let drafted = null;
  open("#create-dialog", {
    stops: true,
    fill(parts, dialog) {
      one("h2", dialog).textContent = source === null ? "New database" : `Fork ${source.Name}`;
      const names = fleet.groupNames();
      parts.group.replaceChildren(...names.map((name) => element("option", {}, name)));
      const wanted = source?.group ?? fleet.groupNow();
      if (names.includes(wanted)) parts.group.value = wanted;
      parts.cipher.replaceChildren(element("option", { value: "" }, "None"), ...CIPHERS.map((name) => element("option", {}, name)));
      // Where the source is known it is not asked for, nor what only other sources need.
      const isKnown = source !== null;
      const isSealed = Boolean(source?.encryption_cipher);
      one(".choice", dialog).hidden = isKnown;
      parts.source.closest("label").hidden = isKnown;
      parts["source-key"].closest("label").hidden = isKnown && !isSealed;
      parts["source-key"].required = isSealed;
      if (isKnown) {
        parts.seed.value = "fork";
        parts.source.value = source.Name;
        parts.at.value = at ?? "";
      }
      const follow = () => {
        for (const part of dialog.querySelectorAll("[data-seed]")) show(part, part.dataset.seed === parts.seed.value);
        parts.cipher.options[0].textContent = parts.seed.value === "fork" ? "As the source" : "None";
        show(one("[data-encrypted]", dialog), parts.cipher.value !== "");
        const type = parts.show.checked && parts.cipher.value !== "" ? "text" : "password";
        parts.key.type = type;
        parts["source-key"].type = type;
      };
      dialog.oninput = follow;
      parts.generate.onclick = () => {
        parts.key.value = generated(parts.cipher.value);
        parts.show.checked = true;
        follow();
        parts.key.select();
      };
      follow();
    },
    async run(values, { signal, told }) {
      const { name, cipher, key } = values;
      const body = { name, group: values.group };
      if (values.limit.trim()) body.size_limit = values.limit.trim();
      if (cipher) body.remote_encryption = { encryption_key: key, encryption_cipher: cipher };
      if (values.seed === "fork") {
        body.seed = { type: "database", name: values.source.trim() };
        const exact = instant(values.at);
        if (exact) body.seed.timestamp = exact;
        const sourceKey = values["source-key"];
        if (sourceKey && cipher) body.source_encryption_key = sourceKey;
        else if (sourceKey) body.remote_encryption = { encryption_key: sourceKey };
      }
      if (values.seed !== "file") {
        await api.post("databases", body);
        return done(name);
      }
      body.seed = { type: "database_upload" };
      if (drafted !== name) await api.post("databases", body);
      drafted = name;
      try {
        await api.upload(name, values.file, { key, cipher, signal, told: told("checking the file") });
      } catch (failure) {
        done(name);
        const why = failure.name === "AbortError" ? "Cancelled." : failure.message;
        throw new Error(`${why.replace(/\.?$/, ".")} The draft ${name} is kept: try again, or destroy it.`);
      }
      done(name);
    },
  });
}

export function createGroup(done) {
  open("#group-dialog", {
    async run({ name }) {
      await api.post("groups", { name });
      done(name);
    },
  });
}

/** Destroys what `path` leads to, once its name was written. */
export function destroy({ kind, name, what, path, done }) {
  open("#destroy-dialog", {
    fill(_, dialog) {
      one("h2", dialog).textContent = `Destroy ${kind} ${name}`;
      one(".what", dialog).textContent = what;
      one(".name", dialog).textContent = name;
    },
    async run(values) {
      if (values.name.trim() !== name) throw new Error(`That is not ${name}: nothing was destroyed.`);
      await api.destroy(path);
      done();
    },
  });
}

export function restore({ database, at, done }) {
  open("#restore-dialog", {
    fill(_, dialog) {
      one("h2", dialog).textContent = `Restore ${database.Name} in place`;
      one(".what", dialog).replaceChildren("It becomes what it was at ", element("time", { dateTime: at, title: at }, local(at, true)), ". What was written since then is no longer in it.");
      show(one("[data-encrypted]", dialog), Boolean(database.encryption_cipher));
    },
    run: async ({ key }) => done(await restored(database.Name, at, key)),
  });
}

/** Restores a database in place, and says what that came to. */
export function restored(name, at, key) {
  const body = { timestamp: at };
  if (key) body.remote_encryption = { encryption_key: key };
  return api.post(`${inDatabase(name)}/restore`, body);
}

export function save({ database, at = null, done }) {
  open("#export-dialog", {
    stops: true,
    fill(parts, dialog) {
      one("h2", dialog).textContent = `Export ${database.Name}`;
      parts.at.value = at ?? "";
      const isEncrypted = Boolean(database.encryption_cipher);
      show(one("[data-encrypted]", dialog), isEncrypted);
      dialog.oninput = () => {
        if (isEncrypted) show(parts.key, parts.form.value === "plain");
        parts.key.closest("label").hidden = parts.key.hidden;
      };
      dialog.oninput();
    },
    async run({ at: written, form, key }, { signal, told }) {
      const decrypt = form === "plain";
      const blob = await api.download(database.Name, { at: instant(written), decrypt, key, signal, told: told("saving") });
      const url = URL.createObjectURL(blob);
      const anchor = element("a", { href: url, download: `${database.Name}.db` });
      anchor.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
      done(blob.size);
    },
  });
}

export function upload({ database, done }) {
  const cipher = database.encryption_cipher;
  open("#upload-dialog", {
    stops: true,
    fill(_, dialog) {
      one("h2", dialog).textContent = `Upload to ${database.Name}`;
      show(one("[data-encrypted]", dialog), Boolean(cipher));
    },
    async run({ file, key }, { signal, told }) {
      await api.upload(database.Name, file, { key, cipher, signal, told: told("checking the file") });
      done();
    },
  });
}

export function settings({ database, done }) {
  open("#settings-dialog", {
    fill(parts, dialog) {
      one("h2", dialog).textContent = `Settings of ${database.Name}`;
      parts.size_limit.value = database.size_limit ?? "";
      parts.history_window.value = database.inherits_history_window ? "" : database.history_window;
      for (const name of ["block_reads", "block_writes", "delete_protection"]) parts[name].checked = database[name];
    },
    async run(values) {
      const limit = values.size_limit.trim() || "none";
      const window = values.history_window.trim() || "default";
      await api.patch(`${inDatabase(database.Name)}/configuration`, { ...values, size_limit: limit, history_window: window });
      done();
    },
  });
}
