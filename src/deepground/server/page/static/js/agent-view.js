// The agent's part of the page: a task to give, a run to watch, and what a run waits for.

import { listFiles } from "./agent-api.js";
import { askedForm } from "./agent-asked.js";
import { fileList, OUTPUTS, readable, saveRunFile } from "./agent-files.js";
import { BudgetPanel, outcomePanel, planPanel, statusBadge, statusText } from "./agent-panels.js";
import { Steps } from "./agent-steps.js";
import { ApiError } from "./api.js";
import { announce, say } from "./dialogs.js";
import { byId, button, h, icon } from "./dom.js";
import { t } from "./i18n.js";
import { markdownElement } from "./markdown.js";
import { TaskForm } from "./task-form.js";

const NEAR_END_PX = 80;

/** Shows the task form, or the run that is open. */
export class AgentView {
  /**
   * @param {import("./agents.js").Agents} agents
   * @param {{go: (id: string|null) => void, titled: () => void, sends: (event: KeyboardEvent) => boolean}} actions
   */
  constructor(agents, actions) {
    this.agents = agents;
    this.actions = actions;
    this.scroller = byId("agent");
    this.foot = byId("agent-foot");
    this.form = new TaskForm({ start: (fields) => this.#start(fields), sends: actions.sends });
    this.shown = null;
    agents.addEventListener("about", () => this.show());
    agents.addEventListener("run", () => this.#schedule());
    setInterval(() => this.#tick(), 1000);
  }

  /** To the task's field, as soon as there is one. */
  focus() {
    if (this.agents.run) return;
    this.wantsFocus = !this.form.element.isConnected;
    this.form.focus();
  }

  /** What the top bar and the tab say. */
  get title() {
    return titleOf(this.#entry()?.task) || t("newTask");
  }

  /** Draw everything; words included if `anew`. */
  show({ anew = false } = {}) {
    const { about, run } = this.agents;
    if (!this.agents.isWatched) return;
    if (!run) this.#showStart(about, anew);
    else if (anew || this.shown?.run !== run) this.#showRun(run);
    else this.#update();
    this.actions.titled();
  }

  #showStart(about, anew) {
    if (this.form.element.isConnected && !anew) return;
    this.shown = null;
    this.foot.replaceChildren();
    if (!about) this.scroller.replaceChildren();
    else if (!about.enabled) this.scroller.replaceChildren(offPanel());
    else {
      this.form.show(about.workspaces);
      this.scroller.replaceChildren(this.form.element);
      if (this.wantsFocus) this.focus();
    }
  }

  #showRun(run) {
    this.shown = {
      run, steps: new Steps(run.id), budget: new BudgetPanel(), follows: true, status: null, filesKey: null,
      task: h("div", { class: "run-task" }), plan: h("div", { class: "run-plan" }), files: h("div", { class: "run-files" }),
      end: h("div", { class: "run-end" }),
    };
    const { steps, budget, task, plan, files, end } = this.shown;
    const side = h("aside", { class: "run-side", "aria-label": t("runAside") }, plan, budget.element);
    this.scroller.replaceChildren(h("div", { class: "run" }, h("div", { class: "run-main" }, task, steps.element, end, files), side));
    this.foot.replaceChildren();
    this.#update();
  }

  // Once a frame, however fast the events come.
  #schedule() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.show();
    });
  }

  #update() {
    const { shown } = this;
    const { run, steps, budget } = shown;
    const { story } = run;
    if (run.isMissing) {
      say(t("runMissing"));
      this.actions.go(null);
      return;
    }
    const atEnd = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < NEAR_END_PX;
    steps.update(story.items);
    budget.update(story);
    this.#showTask(story);
    if (shown.todo !== story.todo) {
      shown.todo = story.todo;
      shown.plan.replaceChildren(...[planPanel(story.todo)].filter(Boolean));
    }
    this.#showStatus(story);
    const key = `${story.files} ${story.isUnderWay}`;
    if (shown.filesKey !== key) this.#showFiles(run, key);
    if (!story.isUnderWay && shown.isLive !== false) {
      shown.isLive = false;
      // Whoever followed, or opens a run that has ended, wants to know how.
      if (atEnd || !shown.wasSeen) shown.end.scrollIntoView({ block: "start" });
    } else if (atEnd && story.isUnderWay) this.scroller.scrollTop = this.scroller.scrollHeight;
    if (story.isUnderWay) shown.isLive = shown.wasSeen = true;
  }

  #showTask({ state }) {
    const { shown } = this;
    if (!state || shown.taskShown) return;
    shown.taskShown = true;
    shown.task.replaceChildren(
      h("div", { class: "bubble", dir: "auto", text: state.task }),
      h("p", { class: "run-about quiet" },
        state.workspace && h("span", { class: "run-place" }, icon("folder"), h("span", { text: state.workspace, dir: "ltr" })),
        state.ask_first && h("span", { text: t("asksFirst") })),
    );
    this.actions.titled();
  }

  // The end and the foot change only with the status: what a person is typing must not be drawn anew.
  #showStatus(story) {
    const { shown } = this;
    const { run } = shown;
    const key = JSON.stringify([story.status, story.state?.pending?.call_id, story.state?.changed, run.isCut, Boolean(story.ended)]);
    if (shown.status === key || !story.state) return;
    const before = shown.said;
    shown.status = key;
    shown.said = story.status;
    if (before && before !== story.status) announce(statusText(story.status));
    shown.end.replaceChildren(...(story.isUnderWay ? [] : [outcomePanel(story)]));
    const bar = h("div", { class: "run-bar" }, run.isCut ? h("span", { class: "note-warn", text: t("runCut") }) : statusBadge(story.status), h("span", { class: "spring" }), ...this.#buttons(story));
    this.asked = story.state.pending && story.isUnderWay ? askedForm(story.state.pending, (fields) => this.#trying(() => this.agents.reply(fields))) : null;
    this.foot.replaceChildren(...[this.asked, bar].filter(Boolean));
    this.actions.titled();
  }

  #buttons({ isUnderWay, state }) {
    const { id } = state;
    if (isUnderWay) return [button("stop", t("stop"), () => this.#trying(() => this.agents.stop()), { visible: true, className: "button-quiet" })];
    const again = button("refresh", t("giveAgain"), () => {
      this.form.fill(state);
      this.actions.go(null);
    }, { visible: true, className: "button-quiet" });
    if (!state.can_resume) return [again];
    const label = t(state.status === "budget" ? "resumeBudget" : "resume");
    return [again, button("play", label, () => this.#trying(() => this.agents.resume(id)), { visible: true, className: "button-main" })];
  }

  // At the end even if no tool told of files: the record may have put some there.
  async #showFiles(run, key) {
    const { shown } = this;
    shown.filesKey = key;
    if (!run.story.files && run.story.isUnderWay) return;
    try {
      const files = (await listFiles(run.id)).filter(({ name }) => !name.startsWith(OUTPUTS));
      const page = await readable(run.id, files);
      if (this.shown !== shown || shown.filesKey !== key || !files.length) return;
      shown.files.replaceChildren(
        h("section", { class: "panel" },
          h("h2", {}, t("filesMade"), button("download", t("saveAll"), () => saveRunFile(run.id), { visible: true })),
          fileList(run.id, files)),
        ...(page ? [h("section", { class: "panel", "aria-label": page.name }, markdownElement(page.text, "prose made-page"))] : []));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      shown.filesKey = null;
    }
  }

  #tick() {
    if (!this.shown || !this.agents.isWatched) return;
    const { story } = this.shown.run;
    if (story.isUnderWay) this.shown.budget.update(story);
    this.asked?.tick();
  }

  async #start(fields) {
    const id = await this.#trying(() => this.agents.start(fields));
    if (id) this.actions.go(id);
    return Boolean(id);
  }

  async #trying(action) {
    try {
      return await action();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      say(error.status === 0 ? t("errorNoServer") : t("errorWords", { message: error.message }));
      return null;
    }
  }

  #entry() {
    const { run, runs } = this.agents;
    return run && (run.story.state ?? runs.find(({ id }) => id === run.id));
  }
}

/** The first line of a task. */
export function titleOf(task) {
  return (task ?? "").trim().split("\n", 1)[0].slice(0, 120);
}

function offPanel() {
  return h("div", { class: "agent-off" },
    icon("wrench"), h("h2", { text: t("agentOff") }), h("p", { class: "quiet", text: t("agentOffHow") }),
    h("pre", { class: "output", tabindex: "0", text: "deepground serve --agent\ndeepground serve --agent --agent-workspace FOLDER" }));
}
