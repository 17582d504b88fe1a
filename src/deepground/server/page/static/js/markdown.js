// Markdown to elements. markdown-it gives tokens; every element is made here from a closed list, so nothing that a
// model writes can become markup: HTML stays text, pictures are not loaded, links are http(s) and mailto only.

import MarkdownIt from "../vendor/markdown-it/markdown-it.esm.min.mjs";
import { cjkEmphasis } from "./cjk-emphasis.js";
import { codeBlock, highlight } from "./code.js";
import { h } from "./dom.js";
import { t } from "./i18n.js";
import { mathElement } from "./math.js";
import { mathRules } from "./math-rules.js";

// Nesting is bounded well below what would exhaust the stack or the layout.
const md = new MarkdownIt({ html: false, linkify: true, breaks: true, maxNesting: 40 }).use(mathRules).use(cjkEmphasis);
md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
md.validateLink = (url) => safeUrl(url) !== null;

const PLAIN = new Set([
  "p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "table", "thead", "tbody", "tr", "th", "td",
  "em", "strong", "s",
]);

/** The URL if a link may lead there, otherwise null. */
export function safeUrl(text) {
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** Text that is shown as Markdown and may grow. */
export class MarkdownView {
  constructor(className = "prose") {
    this.element = h("div", { class: className });
    this.blocks = [];
    this.text = null;
    this.done = false;
  }

  /** Show `text`; blocks that did not change keep their elements. */
  update(text, { done = true } = {}) {
    if (text === this.text && done === this.done) return;
    this.text = text;
    this.done = done;
    const blocks = parseBlocks(text, !done);
    let kept = 0;
    while (kept < blocks.length && kept < this.blocks.length && same(blocks[kept], this.blocks[kept])) {
      blocks[kept].element = this.blocks[kept].element;
      kept += 1;
    }
    if (kept < blocks.length && kept === this.blocks.length - 1 && this.#growCode(blocks[kept], this.blocks[kept])) {
      kept += 1;
    }
    for (const block of this.blocks.slice(kept)) block.element.remove();
    for (const block of blocks.slice(kept)) {
      block.element = buildBlock(block);
      this.element.append(block.element);
    }
    this.blocks = blocks;
  }

  // The block that is being written is mostly code that gets longer: its text is changed in place.
  #growCode(block, before) {
    const [fence, old] = [block.tokens[0], before.tokens[0]];
    if (fence.type !== "fence" || old.type !== "fence" || fence.info !== old.info) return false;
    block.element = before.element;
    const code = block.element.querySelector("code");
    code.textContent = fence.content;
    if (!block.growing) highlight(code, languageOf(fence));
    return true;
  }
}

/** A view that will not change, as an element. */
export function markdownElement(text, className) {
  const view = new MarkdownView(className);
  view.update(text);
  return view.element;
}

function same(a, b) {
  return a.source === b.source && a.growing === b.growing;
}

/** Top-level blocks with their tokens and source lines; the last one is `growing` while more may come. */
function parseBlocks(text, streaming) {
  let tokens;
  try {
    tokens = md.parse(text, { streaming });
  } catch {
    return [{ tokens: [], source: text, growing: streaming }];
  }
  const lines = text.split("\n");
  const blocks = [];
  let depth = 0;
  let current = [];
  for (const token of tokens) {
    current.push(token);
    depth += token.nesting;
    if (depth === 0) {
      const map = current[0].map;
      blocks.push({ tokens: current, source: map ? lines.slice(...map).join("\n") : "", growing: false });
      current = [];
    }
  }
  if (streaming && blocks.length) blocks.at(-1).growing = true;
  return blocks;
}

function buildBlock(block) {
  if (!block.tokens.length) return h("p", { text: block.source });
  const fragment = build(block.tokens, block.growing);
  // One element for each block, so that it can be kept or replaced as one.
  return fragment.childNodes.length === 1 && fragment.firstChild instanceof Element
    ? fragment.firstChild
    : h("div", {}, fragment);
}

function build(tokens, growing = false) {
  const root = document.createDocumentFragment();
  const stack = [root];
  for (const token of tokens) {
    const parent = stack.at(-1);
    if (token.nesting === 1) {
      const element = opened(token);
      parent.append(element);
      // A wide table scrolls by itself.
      stack.push(token.tag === "table" ? element.firstChild : element);
    } else if (token.nesting === -1) {
      stack.pop();
    } else {
      parent.append(...leaf(token, growing));
    }
  }
  return root;
}

function opened(token) {
  if (token.type === "link_open") return link(token.attrGet("href"));
  if (token.hidden) return h("span", { class: "tight" });
  if (!PLAIN.has(token.tag)) return h("span");
  if (token.tag === "table") return h("div", { class: "table", tabindex: "0" }, h("table"));
  if (/^h[1-6]$/.test(token.tag)) {
    // The page has its own first and second level.
    return h(`h${Math.min(6, Number(token.tag[1]) + 2)}`, { class: `as-${token.tag}`, dir: "auto" });
  }
  const element = h(token.tag, { dir: token.tag === "p" || token.tag === "li" ? "auto" : null });
  if (token.tag === "ol" && token.attrGet("start")) element.start = Number(token.attrGet("start"));
  const align = /text-align:(left|center|right)/.exec(token.attrGet("style") ?? "");
  if (align) element.classList.add(`align-${align[1]}`);
  return element;
}

function link(href) {
  const url = safeUrl(href);
  if (!url) return h("span");
  return h("a", { href: url, title: url, target: "_blank", rel: "noopener noreferrer nofollow" });
}

function leaf(token, growing) {
  switch (token.type) {
    case "inline":
      return [build(withTasks(token.children))];
    case "text":
    case "text_special":
      return [token.content];
    case "softbreak":
    case "hardbreak":
      return [h("br")];
    case "code_inline":
      return [h("code", { text: token.content })];
    case "code_block":
    case "fence":
      return [codeBlock(token.content, languageOf(token), { colours: !growing })];
    case "hr":
      return [h("hr")];
    case "math":
      return [mathElement(token.content, token.meta)];
    case "image":
      return [picture(token)];
    default:
      return [token.content];
  }
}

function languageOf(token) {
  return token.info.trim().split(/\s+/, 1)[0].slice(0, 40);
}

/** A picture is named, and linked if it may be, but never fetched. */
function picture(token) {
  const url = safeUrl(token.attrGet("src"));
  const name = t("pictureNotLoaded", { name: token.content || "…" });
  const element = url ? link(url) : h("span");
  element.textContent = name;
  element.classList.add("picture");
  return element;
}

/** "[ ] " and "[x] " at the start of an item become boxes. */
function withTasks(children) {
  const first = children[0];
  const task = first?.type === "text" && /^\[([ xX])\] /.exec(first.content);
  if (task) first.content = `${task[1] === " " ? "☐" : "☑"} ${first.content.slice(4)}`;
  return children;
}
