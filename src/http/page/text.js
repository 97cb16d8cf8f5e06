// Formatting: elements made of text, sizes, and instants in local time.

export const one = (selector, within = document) => within.querySelector(selector);

/** Creates an element. String children become text nodes, never HTML. */
export function element(tag, properties = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) created.setAttribute(name, value);
    else created[name] = value;
  }
  created.append(...children.filter((child) => child !== null && child !== undefined));
  return created;
}

export function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let size = Number(count);
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit === 0 || size >= 100 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`;
}

export function plural(count, noun) {
  return `${count.toLocaleString()} ${noun}${count === 1 ? "" : "s"}`;
}

/** Formats an instant in local time. The exact instant is the title of the element. */
export function time(exact, { fraction = false } = {}) {
  return element("time", { dateTime: exact, title: exact, className: fraction ? "exact" : "" }, local(exact, fraction));
}

// Cached: creating a format takes longer than a thousand uses.
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const dayOfYear = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

export function local(exact, fraction = false) {
  const at = new Date(exact);
  if (Number.isNaN(at.getTime())) return exact;
  const date = at.getFullYear() === new Date().getFullYear() ? day : dayOfYear;
  const rest = fraction ? /\.\d+/.exec(exact)?.[0] ?? "" : "";
  return `${date.format(at)}, ${clock.format(at)}${rest}`;
}

export function ago(exact) {
  const seconds = (new Date(exact) - Date.now()) / 1000;
  const format = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
  for (const [unit, length] of [["day", 86_400], ["hour", 3_600], ["minute", 60]]) {
    if (Math.abs(seconds) >= length) return format.format(Math.round(seconds / length), unit);
  }
  return format.format(Math.round(seconds), "second");
}

/** Parses an instant that the user entered, in local time unless it has a zone, and returns it in RFC 3339. */
export function instant(input) {
  const text = input.trim();
  if (text === "") return null;
  const parts = /^(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(\.\d+)?)?)?\s*(Z|[+-]\d\d:\d\d)?$/i.exec(text);
  if (parts === null) throw new Error("Invalid instant. Use a format such as 2026-01-31 12:00:05, or with a zone, 2026-01-31T12:00:05Z.");
  const [, year, month, day, hour = "00", minute = "00", second = "00", fraction = "", zone] = parts;
  if (zone) return `${year}-${month}-${day}T${hour}:${minute}:${second}${fraction}${zone}`;
  const at = new Date(year, month - 1, day, hour, minute, second);
  return `${at.toISOString().slice(0, 19)}${fraction}Z`;
}

/** Shows a notification. `action` is a label and a callback for a button. */
export function notice(text, { failed = false, action } = {}) {
  const box = element("div", { className: failed ? "notice failed" : "notice" }, element("span", {}, text));
  const dismiss = () => box.remove();
  if (action) {
    const [label, run] = action;
    box.append(element("button", { type: "button", onclick: () => { dismiss(); run(); } }, label));
  }
  box.append(element("button", { type: "button", onclick: dismiss, "aria-label": "Dismiss" }, "×"));
  one("#notices").append(box);
  if (!failed && !action) setTimeout(dismiss, 8_000);
}
