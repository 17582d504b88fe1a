// Formulas, drawn by KaTeX, which is loaded when the first one appears.

import { h } from "./dom.js";

const LONGEST = 8000;

let katex = null;
let loading = null;

async function load() {
  const sheet = h("link", { rel: "stylesheet", href: new URL("../vendor/katex/katex.min.css", import.meta.url).href });
  document.head.append(sheet);
  // The file is written for <script>: as a module it leaves its name on the window.
  await import("../vendor/katex/katex.min.js");
  katex = globalThis.katex;
}

/** An element for a formula: its source at first, drawn as soon as KaTeX is there. */
export function mathElement(source, { display, closed }) {
  const element = h(display ? "div" : "span", { class: display ? "math math-display" : "math", text: source.trim() });
  if (display) element.tabIndex = 0;
  if (!closed || source.length > LONGEST) return element;
  if (katex) draw(element, source, display);
  else {
    loading ??= load();
    loading.then(() => draw(element, source, display)).catch(() => (loading = null));
  }
  return element;
}

function refuse({ command }) {
  throw new Error(`${command} is not drawn`);
}

function draw(element, source, display) {
  try {
    katex.render(source, element, {
      displayMode: display,
      throwOnError: true,
      strict: "ignore",
      // No links, images, classes or styles from a formula, which is then shown as its source; bounded sizes and
      // macro expansions.
      trust: refuse,
      maxSize: 8,
      maxExpand: 500,
    });
  } catch {
    element.textContent = source.trim();
    element.classList.add("math-unread");
  }
}
