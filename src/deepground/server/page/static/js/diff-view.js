// Changes to files, as a patch tells them: one part for each file, added and removed lines in colours and with signs.

import { h, icon } from "./dom.js";
import { t } from "./i18n.js";

const FIRST_LINES = 400;

/** The files of a unified diff: [{name, lines, added, removed}]. */
export function filesOf(patch) {
  const files = [];
  const begin = (name, isTold) => files.push({ name, isTold, lines: [], added: 0, removed: 0, left: 0 });
  for (const line of patch.replace(/\n$/, "").split("\n")) {
    const at = files.at(-1);
    if (at?.left > 0) readLine(at, line);
    else if (line.startsWith("diff --git ")) begin(/ b\/(.*)$/.exec(line)?.[1] ?? null, true);
    else if (line.startsWith("--- ")) {
      // Git says in a line before this one that a file begins; others do not.
      if (at?.isTold && !at.lines.length) at.name = nameIn(line) ?? at.name;
      else begin(nameIn(line), false);
    } else if (line.startsWith("+++ ") && at) at.name = nameIn(line) ?? at.name;
    else if (line.startsWith("@@") && at) {
      const [, old = "1", fresh = "1"] = /^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@/.exec(line) ?? [];
      at.left = Number(old) + Number(fresh);
      at.lines.push(line);
    } else if (line && !/^(index|new file mode|deleted file mode|old mode|new mode|\\) /.test(line)) {
      if (!at) begin(null, false);
      files.at(-1).lines.push(line);
    }
  }
  return files;
}

// `left` counts the lines that the hunk still has: those of the old file and of the new one.
function readLine(file, line) {
  file.lines.push(line);
  if (line[0] === "+") file.added += 1;
  if (line[0] === "-") file.removed += 1;
  file.left -= { "+": 1, "-": 1, "\\": 0 }[line[0]] ?? 2;
}

function nameIn(line) {
  const name = line.slice(4).split("\t", 1)[0];
  return name === "/dev/null" ? null : name.replace(/^[ab]\//, "");
}

/** The lines of a diff as an element. */
export function diffLines(lines) {
  const body = h("div", { class: "diff-lines" });
  const add = (from, to) => body.append(...lines.slice(from, to).map(lineElement));
  add(0, FIRST_LINES);
  const block = h("div", { class: "diff-body", tabindex: "0", dir: "ltr" }, body);
  if (lines.length > FIRST_LINES) {
    const more = h("button", { type: "button", class: "button show-all", text: t("showAllLines", { count: lines.length }), on: { click: () => {
      add(FIRST_LINES);
      more.remove();
    } } });
    block.append(more);
  }
  return block;
}

function lineElement(line) {
  const kind = { "+": "diff-add", "-": "diff-del", "@": "diff-hunk" }[line[0]] ?? "";
  return h("div", { class: `diff-line ${kind}`.trim(), text: line || " " });
}

/** The change that an edit makes, without the lines around it. */
export function editLines(before, after) {
  const lines = (text, sign) => (text === "" ? [] : text.replace(/\n$/, "").split("\n").map((line) => sign + line));
  return [...lines(before, "-"), ...lines(after, "+")];
}

/** A whole patch. */
export function diffView(patch) {
  const files = filesOf(patch);
  return h("div", { class: "diff" },
    ...files.map(({ name, lines, added, removed }) =>
      h("details", { class: "diff-file", open: files.length <= 6 },
        h("summary", {}, icon("file"), h("span", { class: "diff-name", text: name ?? t("changes"), dir: "ltr" }),
          added > 0 && h("span", { class: "diff-count diff-count-add", text: `+${added}` }), removed > 0 && h("span", { class: "diff-count diff-count-del", text: `−${removed}` })),
        diffLines(lines))));
}
