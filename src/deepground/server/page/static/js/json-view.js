// JSON for people: indented and coloured if it is whole, as it came if it is not yet.

import { codeBlock } from "./code.js";
import { h } from "./dom.js";
import { t } from "./i18n.js";

/** Indented JSON, or null if the text is no JSON. Numbers keep their digits. */
export function indented(text) {
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  return reindent(text.trim());
}

// Over the text and not over parsed values: 1.0 and 12345678901234567890 must stay what they are.
function reindent(text) {
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g) ?? [];
  const out = [];
  let depth = 0;
  const line = () => out.push("\n", "  ".repeat(Math.min(depth, 60)));
  tokens.forEach((token, at) => {
    const empty = (token === "{" && tokens[at + 1] === "}") || (token === "[" && tokens[at + 1] === "]");
    if (token === "{" || token === "[") {
      depth += 1;
      out.push(token);
      if (!empty) line();
    } else if (token === "}" || token === "]") {
      depth -= 1;
      if (!["{", "["].includes(tokens[at - 1])) line();
      out.push(token);
    } else if (token === ",") {
      out.push(",");
      line();
    } else out.push(token === ":" ? ": " : token);
  });
  return out.join("");
}

/** A JSON answer; while it is written, as it came. */
export function jsonView(text, { done }) {
  const pretty = done ? indented(text) : null;
  const view = h("div", { class: "json" }, codeBlock(pretty ?? text, "json", { colours: pretty !== null }));
  if (done && pretty === null) view.append(h("p", { class: "note note-warn", text: t("jsonInvalid") }));
  return view;
}
