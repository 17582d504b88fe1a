// The form for a new task.

import { byId, h, icon } from "./dom.js";
import { t } from "./i18n.js";

const DRAFT = "deepground.task";
const EXAMPLES = ["taskTrip", "taskTripShort"];
const WORKSPACE_EXAMPLES = ["taskTests", "taskReadme"];
// What the bundled model has learned.
const PILOT_EXAMPLES = ["taskTests"];

/** Where a person says what should be done. */
export class TaskForm {
  /** @param {{start: (fields: object) => Promise<boolean>, sends: (event: KeyboardEvent) => boolean}} actions */
  constructor(actions) {
    this.actions = actions;
    this.workspaces = [];
    this.element = h("div", { class: "task-start" });
    this.draft = { task: sessionStorage.getItem(DRAFT) ?? "", workspace: null, ask_first: false };
  }

  focus() {
    this.field?.focus();
  }

  /** Draw the form. */
  show(workspaces) {
    this.workspaces = workspaces;
    if (!workspaces.includes(this.draft.workspace)) this.draft.workspace = null;
    this.field = h("textarea", { id: "task", rows: "3", dir: "auto", autocomplete: "off", "aria-label": t("task"), placeholder: t("taskPlaceholder"), maxlength: "20000" });
    this.field.value = this.draft.task;
    this.place = h("select", { class: "pill", "aria-label": t("workspace") },
      h("option", { value: "", text: t("workspaceNone") }), ...workspaces.map((path) => h("option", { value: path, text: nameOf(path, workspaces), title: path })));
    this.place.value = this.draft.workspace ?? "";
    this.place.hidden = !workspaces.length;
    this.asks = h("input", { type: "checkbox", checked: this.draft.ask_first });
    this.send = h("button", { type: "submit", class: "button button-main", text: t("startTask") });
    const form = h("form", { class: "composer task-form", on: { submit: (event) => { event.preventDefault(); this.#start(); }, input: () => this.#changed() } },
      this.field,
      h("div", { class: "composer-row" },
        this.place, h("label", { class: "check task-check" }, this.asks, h("span", { text: t("askFirst") })),
        h("span", { class: "spring" }), this.send));
    this.field.addEventListener("keydown", (event) => {
      if (!this.actions.sends(event)) return;
      event.preventDefault();
      this.#start();
    });
    this.element.replaceChildren(
      h("div", { class: "task-welcome" }, icon("list"), h("h2", { text: t("agentWelcome") }), h("p", { class: "quiet", text: t("agentWelcomeAbout") })),
      form,
      h("ul", { class: "examples" }, ...this.#examples()));
    this.#changed();
  }

  /** Take over the task of a run. */
  fill({ task, workspace, ask_first }) {
    this.draft = { task, workspace, ask_first };
    this.#keep();
  }

  #examples() {
    const forFolders = byId("model-name").textContent === "pilot" ? PILOT_EXAMPLES : WORKSPACE_EXAMPLES;
    const shown = [...EXAMPLES, ...(this.workspaces.length ? forFolders : [])];
    return shown.map((key) =>
      h("li", {}, h("button", { type: "button", class: "example", text: t(key), on: { click: () => {
        this.field.value = t(key);
        if (WORKSPACE_EXAMPLES.includes(key) && !this.place.value) this.place.value = this.workspaces[0];
        if (!WORKSPACE_EXAMPLES.includes(key)) this.place.value = "";
        this.#changed();
        this.focus();
      } } })));
  }

  #changed() {
    this.draft = { task: this.field.value, workspace: this.place.value || null, ask_first: this.asks.checked };
    this.place.classList.toggle("is-changed", Boolean(this.draft.workspace));
    this.send.disabled = !this.draft.task.trim() || Boolean(this.isSending);
    this.#keep();
  }

  #keep() {
    try {
      sessionStorage.setItem(DRAFT, this.draft.task);
    } catch {
      // Too long to be kept over a reload.
    }
  }

  async #start() {
    if (!this.draft.task.trim() || this.isSending) return;
    this.isSending = true;
    this.#changed();
    const { task, workspace, ask_first } = this.draft;
    const sent = await this.actions.start({ task, ask_first, ...(workspace ? { workspace } : {}) }).finally(() => (this.isSending = false));
    if (sent) this.field.value = "";
    this.#changed();
  }
}

// The folder's name; its whole path where two have the same.
function nameOf(path, all) {
  const name = path.split("/").at(-1);
  return all.filter((other) => other.split("/").at(-1) === name).length > 1 ? path : name;
}
