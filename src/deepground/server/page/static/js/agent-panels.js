// Beside the steps: the plan, what was spent, how it ended.

import { h, icon } from "./dom.js";
import { diffView } from "./diff-view.js";
import { t } from "./i18n.js";
import { markdownElement } from "./markdown.js";

const STATUS = {
  waiting: { label: "runWaiting", icon: "clock" },
  running: { label: "runRunning", icon: "spark" },
  asking: { label: "runAsking", icon: "question" },
  completed: { label: "runCompleted", icon: "check", about: "runCompletedAbout" },
  incomplete: { label: "runIncomplete", icon: "warn", about: "runIncompleteAbout" },
  stuck: { label: "runStuck", icon: "warn", about: "runStuckAbout" },
  budget: { label: "runBudget", icon: "clock", about: "runBudgetAbout" },
  cancelled: { label: "runCancelled", icon: "stop", about: "runCancelledAbout" },
  error: { label: "runError", icon: "warn", about: "runErrorAbout" },
  interrupted: { label: "runInterrupted", icon: "warn", about: "runInterruptedAbout" },
};

const SAID_ALL = new Set(["cancelled", "interrupted"]);

/** A status in plain words. */
export function statusText(status) {
  return t(STATUS[status]?.label ?? "runRunning");
}

/** A small label with the status. */
export function statusBadge(status) {
  return h("span", { class: "status", data: { status } }, icon(STATUS[status]?.icon ?? "spark"), h("span", { text: statusText(status) }));
}

/** The plan that the model keeps, or nothing. */
export function planPanel(todo) {
  if (!todo.length) return null;
  const done = todo.filter(({ status }) => status === "done").length;
  return h("section", { class: "panel" },
    h("h2", {}, t("plan"), h("span", { class: "quiet", text: t("planDone", { done, all: todo.length }) })),
    h("ul", { class: "plan" },
      ...todo.map(({ task, status }) =>
        h("li", { class: "plan-item", data: { status } },
          h("span", { class: "plan-mark", role: "img", "aria-label": t({ done: "planItemDone", doing: "planItemDoing" }[status] ?? "planItemOpen") }, status === "done" ? icon("check") : null),
          h("span", { text: String(task), dir: "auto" })))));
}

/** What the run has cost of what it may cost. */
export class BudgetPanel {
  constructor() {
    this.rows = new Map(["steps", "tool_calls", "tokens", "seconds"].map((name) => [name, this.#row(name)]));
    this.element = h("section", { class: "panel run-budget" }, h("h2", { text: t("budget") }), h("dl", { class: "budget" }, ...[...this.rows.values()].map(({ element }) => element)));
  }

  update(story) {
    const budget = story.state?.budget ?? {};
    const spent = { ...story.spent, seconds: story.seconds };
    for (const [name, row] of this.rows) {
      const [used, most] = [spent[name], budget[name]];
      const words = name === "seconds" ? span : (value) => value.toLocaleString();
      row.value.textContent = most ? t("ofBudget", { used: words(used), most: words(most) }) : words(used);
      row.bar.hidden = !most;
      row.bar.max = most || 1;
      row.bar.value = Math.min(used, most || 1);
    }
  }

  #row(name) {
    const label = t({ steps: "budgetSteps", tool_calls: "budgetCalls", tokens: "budgetTokens", seconds: "budgetTime" }[name]);
    const value = h("span", {});
    const bar = h("progress", { "aria-label": label });
    return { value, bar, element: h("div", {}, h("dt", { text: label }), h("dd", {}, value, bar)) };
  }
}

/** How a run ended: in plain words, with the answer and what was changed. */
export function outcomePanel(story) {
  const { status, ended, state } = story;
  const { about } = STATUS[status] ?? {};
  const parts = [
    h("div", { class: "outcome-head" }, icon(STATUS[status]?.icon ?? "flag"), h("h2", { text: statusText(status) })),
    about && h("p", { text: t(about) }),
    // The record speaks English; where the words above say it all, it is not needed.
    state.reason && !SAID_ALL.has(status) && h("p", { class: "quiet", text: state.reason, lang: "en", dir: "auto" }),
  ];
  const answer = ended && state.status !== "interrupted" ? answerOf(ended) : "";
  if (answer) parts.push(h("h3", { text: t("answer") }), markdownElement(answer, "prose"));
  if (ended?.diff) parts.push(h("h3", { text: t("changes") }), diffView(ended.diff));
  return h("section", { class: "outcome", data: { status } }, ...parts);
}

function answerOf({ answer, data }) {
  if (data !== null && data !== undefined) return `\`\`\`json\n${JSON.stringify(data, null, 2)}\n\`\`\``;
  return String(answer ?? "");
}

/** "40 s", "30 min", "1 min 20 s" */
function span(value) {
  const [minutes, rest] = [Math.floor(value / 60), Math.floor(value % 60)];
  if (!minutes) return t("seconds", { value: rest });
  return rest ? t("minutesSeconds", { minutes, seconds: rest }) : t("minutes", { minutes });
}
