// Elements are built here and nowhere from strings: the page has no sink that parses HTML.

/**
 * Create an element.
 * @param {string} tag
 * @param {object} [props] `class`, `text`, `on` (event -> listener), `data` (dataset), anything else an attribute;
 *   `false` and `null` leave an attribute out, `true` sets it empty.
 * @param {...(Node|string|null|false)} children
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== false && child !== undefined));
  return element;
}

/** The element with an id; a missing one is a mistake of ours. */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

const PATHS = {
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM20 20l-4-4",
  menu: "M4 7h16M4 12h16M4 17h16",
  sidebar: "M4 5h16v14H4zM9.5 5v14",
  sliders: "M4 8h9M17 8h3M4 16h3M11 16h9M15 6v4M9 14v4",
  gear: "M12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM12 3v3M12 18v3M3 12h3M18 12h3M5.6 5.6l2.2 2.2M16.2 16.2l2.2 2.2M5.6 18.4l2.2-2.2M16.2 7.8l2.2-2.2",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "M5 12.5l4.5 4.5L19 7.5",
  refresh: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  pencil: "M4 20l1-4L16 5l3 3L8 19z",
  branch: "M7 5v14M7 13c0-4 10-2 10-8M14.5 7.5L17 5l2.5 2.5",
  "arrow-down": "M12 5v14M6 13l6 6 6-6",
  keyboard: "M3 6h18v12H3zM7 10h.01M11 10h.01M15 10h.01M17 10h.01M8 14h8",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  down: "M6 10l6 6 6-6",
  clip: "M18 11l-6.5 6.5a4 4 0 0 1-5.6-5.6L13 4.8a2.7 2.7 0 0 1 3.8 3.8l-7 7a1.3 1.3 0 0 1-1.9-1.9L14 7.6",
  close: "M6 6l12 12M18 6L6 18",
  download: "M12 4v11M7 10.5l5 5 5-5M5 20h14",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  wrench: "M14.5 6.5a4 4 0 0 0-5 5L4 17l3 3 5.5-5.5a4 4 0 0 0 5-5L15 12l-3-3z",
  spark: "M12 4l1.8 6.2L20 12l-6.2 1.8L12 20l-1.8-6.2L4 12l6.2-1.8z",
  file: "M6 3h8l4 4v14H6zM14 3v4h4",
  code: "M9 7l-5 5 5 5M15 7l5 5-5 5",
  warn: "M12 4l9 16H3zM12 10v4M12 17h.01",
  play: "M8 5l11 7-11 7z",
  list: "M9 7h11M9 12h11M9 17h11M4.5 7h.01M4.5 12h.01M4.5 17h.01",
  question: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 17.5h.01M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z",
  flag: "M6 21V4M6 4h11l-2 4 2 4H6",
  clock: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 7v5l3 2",
  calendar: "M5 6h14v14H5zM5 10h14M9 3.5V8M15 3.5V8",
  folder: "M4 6h5l2 2h9v10H4z",
  terminal: "M4 5h16v14H4zM7.5 9.5L10 12l-2.5 2.5M12.5 15H16",
};

/** A drawn icon, hidden from screen readers: the button that holds it has a name. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon and a name; `label` is shown too if `visible`. */
export function button(name, label, onClick, { visible = false, className = "", ...rest } = {}) {
  const props = { type: "button", class: `button ${className}`.trim(), on: { click: onClick }, ...rest };
  if (!visible) Object.assign(props, { "aria-label": label, title: label });
  return h("button", props, name ? icon(name) : null, visible ? h("span", { text: label }) : null);
}

/** Put text on the clipboard; pages on plain http have no clipboard API and take the old way. */
export async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Refused, for example without focus: the old way may still do.
    }
  }
  const area = h("textarea", { class: "offscreen", readonly: true });
  area.value = text;
  const before = document.activeElement;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus?.();
  return done;
}

/** Offer a text for saving. */
export function saveFile(name, text, type) {
  saveBlob(name, new Blob([text], { type }));
}

/** Offer a file for saving. */
export function saveBlob(name, blob) {
  const url = URL.createObjectURL(blob);
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A random id; `crypto.randomUUID` is missing on plain http. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
