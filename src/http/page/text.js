// What a person reads: elements made of text, sizes, and instants in the person's own time.

export const one = (selector, within = document) => within.querySelector(selector);

/** An element. Children that are text stay text, whoever wrote it. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
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

/** An instant in local time. The exact one is its title. */
export function time(exact, { fraction = false } = {}) {
  return element("time", { dateTime: exact, title: exact, className: fraction ? "exact" : "" }, local(exact, fraction));
}

// Making one of these takes longer than a thousand uses of it.
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

/** What a person wrote as an instant, in RFC 3339: with a zone as it is, without one in local time. */
export function instant(written) {
  const text = written.trim();
  if (text === "") return null;
  const parts = /^(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(\.\d+)?)?)?\s*(Z|[+-]\d\d:\d\d)?$/i.exec(text);
  if (parts === null) throw new Error("Write an instant such as 2026-01-31 12:00:05, or with a zone: 2026-01-31T12:00:05Z.");
  const [, year, month, day, hour = "00", minute = "00", second = "00", fraction = "", zone] = parts;
  if (zone) return `${year}-${month}-${day}T${hour}:${minute}:${second}${fraction}${zone}`;
  const at = new Date(year, month - 1, day, hour, minute, second);
  return `${at.toISOString().slice(0, 19)}${fraction}Z`;
}

/** Says something that is to be heard wherever the person is. */
export function notice(text, { failed = false, again } = {}) {
  const made = element("div", { className: failed ? "notice failed" : "notice" }, element("span", {}, text));
  const gone = () => made.remove();
  if (again) {
    const [label, act] = again;
    made.append(element("button", { type: "button", onclick: () => { gone(); act(); } }, label));
  }
  made.append(element("button", { type: "button", onclick: gone, "aria-label": "Dismiss" }, "×"));
  one("#notices").append(made);
  if (!failed && !again) setTimeout(gone, 8_000);
}
