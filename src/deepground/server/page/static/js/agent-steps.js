// The steps of a run on the page. A view keeps its elements; `update` brings them up to the item.

import { CallView, output } from "./agent-calls.js";
import { h, icon } from "./dom.js";
import { seconds, t } from "./i18n.js";
import { MarkdownView } from "./markdown.js";

const NOTES = {
  instructions: { label: "noteInstructions", icon: "file" },
  told: { label: "noteTold", icon: "arrow-down" },
  compacted: { label: "noteCompacted", icon: "list" },
  attempt: { label: "noteAttempt", icon: "refresh" },
  resumed: { label: "noteResumed", icon: "play" },
  passed: { label: "notePassed", icon: "check" },
  failed: { label: "noteFailed", icon: "warn" },
};

/** Shows the items of a story in order. */
export class Steps {
  constructor(runId) {
    this.runId = runId;
    this.element = h("ol", { class: "steps" });
    this.views = [];
  }

  update(items) {
    items.forEach((item, at) => {
      let view = this.views[at];
      if (!view) {
        view = item.kind === "step" ? new StepView(this.runId) : new NoteView();
        this.views.push(view);
        this.element.append(view.element);
      }
      if (view.version !== item.version) view.update(item);
      view.version = item.version;
    });
  }
}

class StepView {
  constructor(runId) {
    this.runId = runId;
    this.thinking = null;
    this.text = null;
    this.calls = [];
    this.head = h("div", { class: "step-head" });
    this.body = h("div", { class: "step-text" });
    this.list = h("div", { class: "step-calls" });
    this.waiting = h("p", { class: "waiting" });
    this.element = h("li", { class: "step" }, this.head, this.body, this.list, this.waiting);
  }

  update(step) {
    const asking = step.state === "asking";
    const about = step.remembered ? t("stepRemembered") : Number.isFinite(step.seconds) ? seconds(step.seconds) : "";
    this.element.classList.toggle("is-now", asking);
    this.head.replaceChildren(h("h3", { text: t("stepNumber", { number: step.number }) }), h("span", { class: "quiet", text: about }));
    this.#showThinking(step, asking);
    if (step.text) {
      if (!this.text) {
        this.text = new MarkdownView();
        this.body.append(this.text.element);
      }
      this.text.update(step.text, { done: !asking });
    } else if (this.text) {
      this.text.element.remove();
      this.text = null;
    }
    step.calls.forEach((call, at) => {
      if (!this.calls[at]) {
        this.calls.push(new CallView(this.runId));
        this.list.append(this.calls[at].element);
      }
      this.calls[at].update(call);
    });
    this.waiting.hidden = !asking || step.phase === "text";
    this.waiting.textContent = t({ reasoning: "stepThinking", call: "stepCalling" }[step.phase] ?? "waiting");
  }

  #showThinking({ reasoning }, asking) {
    if (!reasoning) return;
    if (!this.thinking) {
      const view = new MarkdownView("prose thinking-text");
      const title = h("span", { text: t("thinking") });
      const element = h("details", { class: "thinking" }, h("summary", {}, icon("spark"), title, icon("down")), view.element);
      element.addEventListener("toggle", () => this.#fillThinking());
      this.thinking = { view, element };
      this.body.before(element);
    }
    Object.assign(this.thinking, { reasoning, done: !asking });
    this.thinking.element.classList.toggle("is-now", asking);
    this.#fillThinking();
  }

  // Folded, it costs nothing.
  #fillThinking() {
    const { view, element, reasoning, done } = this.thinking;
    if (element.open) view.update(reasoning, { done });
  }
}

class NoteView {
  constructor() {
    this.element = h("li", { class: "step-note" });
  }

  update({ what, text, number }) {
    const { label, icon: drawing } = NOTES[what];
    const words = [icon(drawing), h("span", { text: t(label, { number }) })];
    this.element.dataset.what = what;
    if (!text) this.element.replaceChildren(h("p", {}, ...words));
    else if (what === "passed") this.element.replaceChildren(h("p", {}, ...words), output(text));
    else this.element.replaceChildren(h("details", { open: what === "failed" }, h("summary", {}, ...words), output(text, { isError: what === "failed" })));
  }
}
