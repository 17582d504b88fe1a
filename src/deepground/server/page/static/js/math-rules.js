// Mathematics in Markdown: $...$, $$...$$, \(...\) and \[...\] as rules of markdown-it.

const FORMS = [
  { open: "$$", close: "$$", display: true },
  { open: "\\[", close: "\\]", display: true },
  { open: "\\(", close: "\\)", display: false },
  { open: "$", close: "$", display: false },
];

/** Add the rules to a parser; tokens are of type `math` with `meta: {display, closed}`. */
export function mathRules(md) {
  // Before `escape`, which would take the backslash of \( away.
  md.inline.ruler.before("escape", "math", inlineMath);
  md.block.ruler.before("fence", "math", blockMath, { alt: ["paragraph", "reference", "blockquote", "list"] });
}

function inlineMath(state, silent) {
  const { src, pos } = state;
  const first = src.charCodeAt(pos);
  if (first !== 0x24 && first !== 0x5c) return false;
  const form = FORMS.find(({ open }) => src.startsWith(open, pos));
  if (!form) return false;
  const start = pos + form.open.length;
  const end = closing(src, start, state.posMax, form);
  if (end < 0) return false;
  if (!silent) push(state, src.slice(start, end), form.display);
  state.pos = end + form.close.length;
  return true;
}

function push(state, content, display) {
  const token = state.push("math", "", 0);
  token.content = content;
  token.meta = { display, closed: true };
}

/** Where the formula ends, or -1. */
function closing(src, start, limit, { close, display, open }) {
  const missed = missedOf(src);
  // One scan that found no end holds for every later start: without this, many openings cost a square.
  if (missed.has(open) && missed.get(open) <= start) return -1;
  for (let at = src.indexOf(close, start); at >= 0 && at + close.length <= limit; at = src.indexOf(close, at + 1)) {
    if (escaped(src, at)) continue;
    const content = src.slice(start, at);
    if (content.trim() === "") return -1;
    if (display || close !== "$") return at;
    // "$5 and $10" is money: no space inside the dollars, no digit after the last.
    if (/^\s|\s$|\n\s*\n/.test(content)) return -1;
    return /\d/.test(src[at + 1] ?? "") ? -1 : at;
  }
  missed.set(open, Math.min(start, missed.get(open) ?? Infinity));
  return -1;
}

let missedIn = "";
let missedStarts = new Map();

function missedOf(src) {
  if (src !== missedIn) {
    missedIn = src;
    missedStarts = new Map();
  }
  return missedStarts;
}

function escaped(src, at) {
  let count = 0;
  while (src[at - 1 - count] === "\\") count += 1;
  return count % 2 === 1;
}

function blockMath(state, startLine, endLine, silent) {
  const from = state.bMarks[startLine] + state.tShift[startLine];
  if (state.sCount[startLine] - state.blkIndent >= 4) return false;
  const form = FORMS.find(({ open, display }) => display && state.src.startsWith(open, from));
  if (!form) return false;
  const lines = [];
  let closed = false;
  let line = startLine;
  for (; line < endLine && !closed; line += 1) {
    const begin = line === startLine ? from + form.open.length : state.bMarks[line] + state.tShift[line];
    if (line > startLine && begin < state.eMarks[line] && state.sCount[line] < state.blkIndent) break;
    const text = state.src.slice(begin, state.eMarks[line]);
    const end = text.indexOf(form.close);
    if (end >= 0) {
      // Words after the formula make it part of a paragraph.
      if (text.slice(end + form.close.length).trim() !== "") return false;
      closed = true;
    }
    lines.push(closed ? text.slice(0, end) : text);
  }
  // An open formula is one only while more of it may come.
  if (!closed && !(state.env.streaming && line >= state.lineMax)) return false;
  if (lines.join("").trim() === "" && closed) return false;
  if (silent) return true;
  state.line = line;
  const token = state.push("math", "", 0);
  token.block = true;
  token.content = lines.join("\n");
  token.map = [startLine, line];
  token.meta = { display: true, closed };
  return true;
}
