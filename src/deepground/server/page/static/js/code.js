// Code blocks: a header with the language and a copy button, colours by highlight.js.

import hljs from "../vendor/highlight/core.min.js";
import { button, copyText, h, icon } from "./dom.js";
import { t } from "./i18n.js";

const LONGEST = 50_000;
const ALIASES = {
  sh: "bash", shell: "bash", zsh: "bash", console: "bash", "c++": "cpp", cc: "cpp", hpp: "cpp", h: "c", cs: "csharp",
  "c#": "csharp", docker: "dockerfile", golang: "go", toml: "ini", js: "javascript", jsx: "javascript",
  mjs: "javascript", jsonc: "json", json5: "json", kt: "kotlin", tex: "latex", make: "makefile", md: "markdown",
  py: "python", python3: "python", rb: "ruby", rs: "rust", ts: "typescript", tsx: "typescript", html: "xml",
  svg: "xml", yml: "yaml", patch: "diff", postgresql: "sql", sqlite: "sql",
};
const LANGUAGES = new Set([
  "bash", "c", "cpp", "csharp", "css", "diff", "dockerfile", "go", "ini", "java", "javascript", "json", "kotlin",
  "latex", "lua", "makefile", "markdown", "php", "python", "r", "ruby", "rust", "sql", "swift", "typescript", "xml",
  "yaml",
]);

/** Builds elements where highlight.js would write HTML. */
class ElementEmitter {
  constructor(options) {
    this.prefix = options.classPrefix;
    this.root = document.createDocumentFragment();
    this.stack = [this.root];
  }

  addText(text) {
    if (text) this.stack.at(-1).append(text);
  }

  startScope(scope) {
    const span = h("span", { class: this.prefix + scope.split(".")[0] });
    this.stack.at(-1).append(span);
    this.stack.push(span);
  }

  endScope() {
    this.stack.pop();
  }

  openNode(scope) {
    this.startScope(scope);
  }

  closeNode() {
    this.endScope();
  }

  __addSublanguage(emitter, name) {
    const span = h("span", { class: name ? `language-${name}` : "" }, emitter.root);
    this.stack.at(-1).append(span);
  }

  finalize() {}

  // highlight.js asks for this; nobody reads it.
  toHTML() {
    return "";
  }
}

hljs.configure({ __emitter: ElementEmitter, classPrefix: "hl-" });

async function loadLanguage(name) {
  if (hljs.getLanguage(name)) return;
  const grammar = await import(`../vendor/highlight/languages/${name}.min.js`);
  hljs.registerLanguage(name, grammar.default);
}

/** The highlighter's name of a fence's language, or null. */
function known(language) {
  const lower = language.toLowerCase();
  const name = ALIASES[lower] ?? lower;
  return LANGUAGES.has(name) ? name : null;
}

/** Colour the text of `code`, when the grammar is there; the text never changes. */
export async function highlight(code, language) {
  const name = known(language);
  const text = code.textContent;
  if (!name || text.length > LONGEST) return;
  try {
    await loadLanguage(name);
    const result = hljs.highlight(text, { language: name, ignoreIllegals: true });
    if (code.textContent === text && result._emitter.root.textContent === text) {
      code.replaceChildren(result._emitter.root);
    }
  } catch {
    // Without colours, then.
  }
}

/** A button that copies what `text()` gives and says so for a moment. */
export function copyButton(text, label = t("copy"), options = {}) {
  const copy = button("copy", label, async () => {
    const done = await copyText(text());
    copy.replaceChildren(icon(done ? "check" : "warn"), ...(options.visible ? [h("span", { text: t(done ? "copied" : "copyFailed") })] : []));
    copy.setAttribute("aria-label", t(done ? "copied" : "copyFailed"));
    setTimeout(() => {
      copy.replaceChildren(icon("copy"), ...(options.visible ? [h("span", { text: label })] : []));
      copy.setAttribute("aria-label", label);
    }, 1500);
  }, options);
  return copy;
}

/**
 * A code block.
 * @param {string} text
 * @param {string} language as the fence names it, or ""
 * @param {{colours?: boolean}} [options] colours are left until a block is complete
 */
export function codeBlock(text, language, { colours = true } = {}) {
  const code = h("code", { text });
  const block = h(
    "div",
    { class: "code" },
    h("div", { class: "code-head" }, h("span", { text: language || t("codeBlock") }), copyButton(() => code.textContent, t("copyCode"))),
    h("pre", { tabindex: "0" }, code),
  );
  block.dataset.language = language;
  if (colours) highlight(code, language);
  return block;
}
