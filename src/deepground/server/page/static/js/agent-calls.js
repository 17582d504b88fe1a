// A call of a tool on the page: what it does in a few words, its input, its result.

import { codeBlock } from "./code.js";
import { diffLines, editLines } from "./diff-view.js";
import { h, icon } from "./dom.js";
import { openFile } from "./agent-files.js";
import { seconds, t } from "./i18n.js";
import { indented } from "./json-view.js";

const PREVIEW_LINES = 24;
const PREVIEW_LETTERS = 3000;
const LONGEST_DETAIL = 160;

const TOOLS = {
  shell: { label: "toolShell", icon: "terminal", detail: "command" },
  python: { label: "toolPython", icon: "code", detail: "code" },
  view_file: { label: "toolView", icon: "file", detail: "path" },
  write_file: { label: "toolWrite", icon: "pencil", detail: "path" },
  edit_file: { label: "toolEdit", icon: "pencil", detail: "path" },
  search: { label: "toolSearch", icon: "search", detail: "pattern" },
  run_tests: { label: "toolTests", icon: "check" },
  todo: { label: "toolTodo", icon: "list" },
  ask: { label: "toolAsk", icon: "question", detail: "question" },
  plan_trip: { label: "toolPlanTrip", icon: "calendar" },
  search_places: { label: "toolPlaces", icon: "search" },
  search_journeys: { label: "toolJourneys", icon: "search" },
  search_stays: { label: "toolStays", icon: "search" },
  finish: { label: "toolFinish", icon: "flag", detail: "answer" },
};
const STATES = { ready: "callReady", running: "callRunning", asked: "callAsked", done: "callDone", failed: "callFailed", denied: "callDenied" };

/** "Runs a command" for what is known, the tool's own name for the rest. */
export function toolLabel(name) {
  const known = Object.hasOwn(TOOLS, name) && TOOLS[name];
  return known ? t(known.label) : name;
}

/** A drawing for a tool. */
export function toolIcon(name) {
  return icon(Object.hasOwn(TOOLS, name) ? TOOLS[name].icon : "wrench");
}

/** One line that tells a call from others of its tool. */
export function callDetail(name, given) {
  if (typeof given !== "object" || given === null) return short(String(given ?? ""));
  const field = Object.hasOwn(TOOLS, name) ? TOOLS[name].detail : null;
  if (name === "todo" || name === "run_tests") return "";
  if (field && typeof given[field] === "string") return short(given[field]);
  const values = Object.values(given).map((value) => (typeof value === "string" ? value : JSON.stringify(value)));
  return short(values.join(" · "));
}

/** The input of a call, as what it is: a command, a program, a change, or JSON. */
export function callInput(name, given) {
  if (typeof given !== "object" || given === null) return codeBlock(String(given ?? ""), "");
  if (name === "shell" && typeof given.command === "string") return codeBlock(given.command, "bash");
  if (name === "python" && typeof given.code === "string") return codeBlock(given.code, "python");
  if (name === "write_file" && typeof given.content === "string") return codeBlock(given.content, endingOf(given.path));
  if (name === "edit_file" && typeof given.old === "string" && typeof given.new === "string") {
    return h("div", { class: "diff" }, diffLines(editLines(given.old, given.new)));
  }
  const text = JSON.stringify(given);
  return codeBlock(indented(text) ?? text, "json");
}

/** A text of any length: its beginning, and the rest when asked for. */
export function output(text, { isError = false } = {}) {
  const pretty = /^\s*[[{]/.test(text) ? indented(text) : null;
  const whole = pretty ?? text;
  const lines = whole.split("\n");
  const start = lines.slice(0, PREVIEW_LINES).join("\n").slice(0, PREVIEW_LETTERS);
  const pre = h("pre", { class: `output${isError ? " is-error" : ""}`, tabindex: "0", dir: "auto", text: start });
  const block = h("div", { class: "output-block" }, pre);
  if (start.length < whole.length) {
    pre.append("\n…");
    const more = h("button", { type: "button", class: "button show-all", text: t("showAllLines", { count: lines.length }), on: { click: () => {
      pre.textContent = whole;
      more.remove();
      pre.focus();
    } } });
    block.append(more);
  }
  return block;
}

/** One call of a run; it stays open or closed as the person left it. */
export class CallView {
  constructor(runId) {
    this.runId = runId;
    this.summary = h("summary", {});
    this.body = h("div", { class: "tool-body" });
    this.element = h("details", { class: "tool" }, this.summary, this.body);
    this.element.addEventListener("toggle", () => this.element.open && this.#fill());
  }

  update(call) {
    if (call === this.call) return;
    this.call = call;
    const state = t(STATES[call.state]);
    this.element.dataset.state = call.state;
    this.summary.replaceChildren(
      toolIcon(call.name),
      h("span", { class: "tool-name", text: toolLabel(call.name), dir: "auto" }),
      h("span", { class: "tool-detail", text: callDetail(call.name, call.arguments), dir: "ltr" }),
      h("span", { class: "tool-state" }, marker(call.state), h("span", { text: call.state === "done" && call.seconds >= 0.05 ? seconds(call.seconds) : state })),
    );
    this.filled = false;
    if (this.element.open) this.#fill();
  }

  // Only what is looked at is built: a long run has hundreds of calls.
  #fill() {
    if (this.filled) return;
    this.filled = true;
    const { call } = this;
    const parts = [h("h4", { text: t("callInput") }), callInput(call.name, call.arguments)];
    if (call.question !== undefined) parts.push(h("h4", { text: t("yourAnswer") }), output(call.answer ?? t("noAnswer")));
    if (call.content !== undefined) {
      parts.push(h("h4", { text: t("callResult") }), output(call.content, { isError: call.state !== "done" }));
    }
    if (call.spilled) {
      parts.push(h("button", { type: "button", class: "button show-all", text: t("wholeOutput"), on: { click: () => openFile(this.runId, call.spilled) } }));
    }
    this.body.replaceChildren(...parts);
  }
}

function marker(state) {
  if (state === "done") return icon("check");
  if (state === "failed") return icon("warn");
  if (state === "denied") return icon("close");
  if (state === "asked") return icon("question");
  return h("span", { class: "tool-dot", "aria-hidden": "true" });
}

function short(text) {
  const line = text.trim().split("\n", 1)[0].slice(0, LONGEST_DETAIL);
  return line.length < text.trim().length ? `${line} …` : line;
}

function endingOf(path) {
  const name = String(path ?? "");
  return name.includes(".") ? name.split(".").at(-1) : "";
}
