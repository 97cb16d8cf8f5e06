// Dialogs: each is a form that runs one call, shows its progress, and keeps its input if the call fails.

import * as api from "./api.js";
import * as fleet from "./fleet.js";
import { bytes, element, instant, local, notice, one } from "./text.js";

const CIPHERS = [
  "aegis256x2", "aegis256", "aegis256x4", "aegis128l", "aegis128x2", "aegis128x4", "aes256gcm", "aes128gcm",
  "chacha20poly1305",
];

/** Shows or hides a part of a form. Hidden inputs are disabled, so that they are not validated. */
function show(part, isShown) {
  part.hidden = !isShown;
  const inputs = part.matches("input") ? [part] : part.querySelectorAll("input, select, button");
  for (const input of inputs) input.disabled = !isShown;
}

/**
 * Opens a dialog. `run` receives the values of the form, and the dialog closes when it completes. `stops` tells whether the call
 * can be cancelled; otherwise the dialog stays open until it completes.
 */
function open(id, { fill = () => {}, run, stops = false }) {
  const dialog = one(id);
  const form = one("form", dialog);
  const [error, running, progress, status] = [".error", ".running", "progress", ".running span"].map((part) => one(part, dialog));
  const parts = form.elements;
  form.reset();
  error.textContent = "";
  fill(parts, dialog);
  let stop = null;

  const onProgress = (text) => (count, total) => {
    progress.max = total || 1;
    progress.value = count;
    status.textContent = count < total ? `${bytes(count)} of ${bytes(total)}` : text;
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
    const inputs = [...form.querySelectorAll("input, select, button")].filter((part) => !part.disabled);
    const focused = document.activeElement;
    for (const part of inputs) part.disabled = !(stops && part.name === "cancel");
    form.setAttribute("aria-busy", "true");
    progress.removeAttribute("value");
    status.textContent = "";
    const started = Date.now();
    // A short call shows no progress.
    const delay = setTimeout(() => { running.hidden = false; }, 150);
    const ticking = setInterval(() => {
      if (!progress.hasAttribute("value")) status.textContent = `running for ${Math.round((Date.now() - started) / 1000)} s`;
    }, 1_000);
    const values = Object.fromEntries([...inputs].filter((part) => part.name && part.type !== "radio").map((part) => [part.name, valueOf(part)]));
    for (const part of inputs) if (part.type === "radio" && part.checked) values[part.name] = part.value;
    try {
      await run(values, { signal: stop.signal, onProgress });
      stop = null;
      dialog.close();
    } catch (failure) {
      const reason = failure.name === "AbortError" ? "Cancelled." : failure.message;
      error.textContent = reason;
      // Browsers let users force a dialog to close.
      if (!dialog.open) notice(reason, { failed: true });
    } finally {
      clearTimeout(delay);
      clearInterval(ticking);
      stop = null;
      running.hidden = true;
      form.removeAttribute("aria-busy");
      for (const part of inputs) part.disabled = false;
      if (dialog.open && focused?.isConnected) focused.focus();
    }
  };
  parts.cancel.onclick = () => (stop === null ? dialog.close() : cancel());
  dialog.oncancel = cancel;
  // Keys are removed from the form when the dialog closes.
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

const databasePath = (name) => `databases/${encodeURIComponent(name)}`;

function generateKey(cipher) {
  const key = new Uint8Array(/^(aes128gcm|aegis128)/.test(cipher) ? 16 : 32);
  crypto.getRandomValues(key);
  return btoa(String.fromCharCode(...key));
}

/** Creates a database. `source` is the database to fork, and `at` the instant. `onDone` receives the name. */
export function create({ source = null, at = null, onDone }) {
  let draft = null;
  open("#create-dialog", {
    stops: true,
    fill(parts, dialog) {
      one("h2", dialog).textContent = source === null ? "New database" : `Fork ${source.Name}`;
      const names = fleet.groupNames();
      parts.group.replaceChildren(...names.map((name) => element("option", {}, name)));
      const selected = source?.group ?? fleet.currentGroup();
      if (names.includes(selected)) parts.group.value = selected;
      parts.cipher.replaceChildren(element("option", { value: "" }, "None"), ...CIPHERS.map((name) => element("option", {}, name)));
      // A given source hides the inputs that select one.
      const hasSource = source !== null;
      const isSealed = Boolean(source?.encryption_cipher);
      one(".choice", dialog).hidden = hasSource;
      parts.source.closest("label").hidden = hasSource;
      parts["source-key"].closest("label").hidden = hasSource && !isSealed;
      parts["source-key"].required = isSealed;
      if (hasSource) {
        parts.seed.value = "fork";
        parts.source.value = source.Name;
        parts.at.value = at ?? "";
      }
      const update = () => {
        for (const part of dialog.querySelectorAll("[data-seed]")) show(part, part.dataset.seed === parts.seed.value);
        parts.cipher.options[0].textContent = parts.seed.value === "fork" ? "Same as the source" : "None";
        show(one("[data-encrypted]", dialog), parts.cipher.value !== "");
        const type = parts.show.checked && parts.cipher.value !== "" ? "text" : "password";
        parts.key.type = type;
        parts["source-key"].type = type;
      };
      dialog.oninput = update;
      parts.generate.onclick = () => {
        parts.key.value = generateKey(parts.cipher.value);
        parts.show.checked = true;
        update();
        parts.key.select();
      };
      update();
    },
    async run(values, { signal, onProgress }) {
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
        return onDone(name);
      }
      body.seed = { type: "database_upload" };
      if (draft !== name) await api.post("databases", body);
      draft = name;
      try {
        await api.upload(name, values.file, { key, cipher, signal, onProgress: onProgress("checking the file") });
      } catch (failure) {
        onDone(name);
        const reason = failure.name === "AbortError" ? "Cancelled." : failure.message;
        throw new Error(`${reason.replace(/\.?$/, ".")} The draft ${name} is kept; try again or destroy it.`);
      }
      onDone(name);
    },
  });
}

export function createGroup(onDone) {
  open("#group-dialog", {
    async run({ name }) {
      await api.post("groups", { name });
      onDone(name);
    },
  });
}

/** Destroys the resource at `path` after the user has entered its name. */
export function destroy({ kind, name, consequence, path, onDone }) {
  open("#destroy-dialog", {
    fill(_, dialog) {
      one("h2", dialog).textContent = `Destroy ${kind} ${name}`;
      one(".what", dialog).textContent = consequence;
      one(".name", dialog).textContent = name;
    },
    async run(values) {
      if (values.name.trim() !== name) throw new Error(`The name does not match ${name}; nothing was destroyed.`);
      await api.destroy(path);
      onDone();
    },
  });
}

export function restore({ database, at, onDone }) {
  open("#restore-dialog", {
    fill(_, dialog) {
      one("h2", dialog).textContent = `Restore ${database.Name} in place`;
      one(".what", dialog).replaceChildren("The database returns to its state at ", element("time", { dateTime: at, title: at }, local(at, true)), ". Later changes are removed from it.");
      show(one("[data-encrypted]", dialog), Boolean(database.encryption_cipher));
    },
    run: async ({ key }) => onDone(await sendRestore(database.Name, at, key)),
  });
}

/** Restores a database in place, and returns the result. */
export function sendRestore(name, at, key) {
  const body = { timestamp: at };
  if (key) body.remote_encryption = { encryption_key: key };
  return api.post(`${databasePath(name)}/restore`, body);
}

export function save({ database, at = null, onDone }) {
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
    async run({ at: input, form, key }, { signal, onProgress }) {
      const decrypt = form === "plain";
      const blob = await api.download(database.Name, { at: instant(input), decrypt, key, signal, onProgress: onProgress("saving") });
      const url = URL.createObjectURL(blob);
      const anchor = element("a", { href: url, download: `${database.Name}.db` });
      anchor.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
      onDone(blob.size);
    },
  });
}

export function upload({ database, onDone }) {
  const cipher = database.encryption_cipher;
  open("#upload-dialog", {
    stops: true,
    fill(_, dialog) {
      one("h2", dialog).textContent = `Upload to ${database.Name}`;
      show(one("[data-encrypted]", dialog), Boolean(cipher));
    },
    async run({ file, key }, { signal, onProgress }) {
      await api.upload(database.Name, file, { key, cipher, signal, onProgress: onProgress("checking the file") });
      onDone();
    },
  });
}

export function settings({ database, onDone }) {
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
      await api.patch(`${databasePath(database.Name)}/configuration`, { ...values, size_limit: limit, history_window: window });
      onDone();
    },
  });
}
