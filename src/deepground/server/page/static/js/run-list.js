// The list of runs at the side.

import { statusText } from "./agent-panels.js";
import { titleOf } from "./agent-view.js";
import { ApiError } from "./api.js";
import { confirmed, say, toggleMenu } from "./dialogs.js";
import { byId, button, h } from "./dom.js";
import { language, t } from "./i18n.js";

/** Shows the runs, and removes them. */
export class RunList {
  /**
   * @param {import("./agents.js").Agents} agents
   * @param {{go: (id: string|null) => void}} actions
   */
  constructor(agents, actions) {
    this.agents = agents;
    this.actions = actions;
    this.list = byId("runs");
    agents.addEventListener("runs", () => this.show());
    this.list.addEventListener("keydown", (event) => this.#walk(event));
  }

  /** Draw the list anew. */
  show() {
    const { runs } = this.agents;
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    if (runs.length) this.list.replaceChildren(h("ul", {}, ...runs.map((run) => this.#item(run))));
    else this.list.replaceChildren(h("p", { class: "quiet empty", text: t("noRuns") }));
    if (focused) this.list.querySelector(`[data-focus="${focused}"]`)?.focus();
  }

  #item({ id, task, status, pending, created }) {
    const name = titleOf(task);
    const current = id === this.agents.run?.id;
    const state = pending ? "asking" : status;
    const more = button("more", t("moreFor", { name }), () => this.#menu(more, id, name), { "aria-haspopup": "menu", "aria-expanded": "false", "data-focus": `more-${id}` });
    const when = new Date(created * 1000).toLocaleString(language(), { dateStyle: "medium", timeStyle: "short" });
    return h("li", { class: `item run-item${current ? " is-current" : ""}`, data: { status: state } },
      h("a", { href: `#/agent/${id}`, "aria-current": current ? "page" : null, "data-focus": id, title: when },
        h("span", { class: "item-title", text: name, dir: "auto" }), h("span", { class: "item-hit", text: statusText(state) })),
      more);
  }

  #menu(owner, id, name) {
    toggleMenu(owner, [{ icon: "trash", label: t("remove"), danger: true, run: () => this.#remove(id, name) }]);
  }

  async #remove(id, name) {
    if (!(await confirmed(t("remove"), t("removeRunAsk", { name }), t("remove")))) return;
    try {
      await this.agents.remove(id);
      if (id === this.agents.run?.id) this.actions.go(null);
      say(t("removed"));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      say(t("errorWords", { message: error.message }));
    }
  }

  #walk(event) {
    const links = [...this.list.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 }[event.key];
    if (at >= 0 && links[to]) {
      event.preventDefault();
      links[to].focus();
    } else if (at >= 0 && event.key === "Delete") {
      const { id, task } = this.agents.runs[at];
      this.#remove(id, titleOf(task));
    }
  }
}
