// The files that a run made: listed, looked at, saved.

import { fetchFile, previewAddress } from "./agent-api.js";
import { ApiError } from "./api.js";
import { codeBlock } from "./code.js";
import { openDialog, say } from "./dialogs.js";
import { button, h, icon, saveBlob } from "./dom.js";
import { sizeText } from "./files.js";
import { t } from "./i18n.js";
import { indented } from "./json-view.js";
import { markdownElement } from "./markdown.js";

const LONGEST = 200_000;
const IN_FRAME = new Set(["html", "svg", "png"]);

/** Files too long for the transcript are kept below this folder. */
export const OUTPUTS = "outputs/";

/** A list of files with what can be done with each. */
export function fileList(runId, files) {
  return h("ul", { class: "made-files" },
    ...files.map(({ name, size }) =>
      h("li", { class: "made-file" },
        h("button", { type: "button", class: "made-open", on: { click: () => openFile(runId, name) } },
          icon("file"), h("span", { class: "file-name", text: name, dir: "auto" }), h("span", { class: "quiet", text: sizeText(size) })),
        button("download", t("saveNamed", { name }), () => saveRunFile(runId, name)))));
}

/** The text of the first Markdown file among them, which is made for reading; null: there is none. */
export async function readable(runId, files) {
  const file = files.find(({ name, size }) => name.endsWith(".md") && size < LONGEST);
  return file ? { name: file.name, text: await (await fetchFile(runId, file.name)).text() } : null;
}

/** Offer a file for saving, or all of them. */
export async function saveRunFile(runId, name) {
  await telling(async () => saveBlob(name?.split("/").at(-1) ?? `${runId}.zip`, await fetchFile(runId, name)));
}

/** Show a file. What a model had a hand in is drawn in a frame that can run and load nothing. */
export async function openFile(runId, name) {
  const place = h("div", { class: "preview" }, h("p", { class: "quiet", text: t("loading") }));
  const foot = h("div", { class: "row row-end" }, button("download", t("saveFile"), () => saveRunFile(runId, name), { visible: true }));
  openDialog(name, [place, foot], { className: "dialog-wide" });
  await telling(async () => place.replaceChildren(...(await contentOf(runId, name))));
}

async function contentOf(runId, name) {
  const kind = name.includes(".") ? name.split(".").at(-1).toLowerCase() : "";
  if (IN_FRAME.has(kind)) {
    const src = await previewAddress(runId, name);
    return [h("iframe", { class: "preview-frame", src, sandbox: "", referrerpolicy: "no-referrer", title: name })];
  }
  const bytes = new Uint8Array(await (await fetchFile(runId, name)).arrayBuffer());
  if (bytes.subarray(0, 8192).includes(0)) return [h("p", { class: "quiet", text: t("fileNotText", { name }) })];
  const text = new TextDecoder().decode(bytes.subarray(0, LONGEST));
  const cut = bytes.length > LONGEST ? [h("p", { class: "note note-warn", text: t("previewCut") })] : [];
  if (kind === "md") return [markdownElement(text, "prose"), ...cut];
  return [codeBlock(kind === "json" ? (indented(text) ?? text) : text, kind), ...cut];
}

async function telling(action) {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    say(t("errorWords", { message: error.message }));
  }
}
