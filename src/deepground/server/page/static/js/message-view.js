// One message on the page. A view keeps its elements; `update` brings them up to the message.

import { codeBlock, copyButton } from "./code.js";
import { button, h, icon } from "./dom.js";
import { sizeText } from "./files.js";
import { rounded, seconds, t } from "./i18n.js";
import { indented, jsonView } from "./json-view.js";
import { MarkdownView } from "./markdown.js";

/** What the buttons do: `edit`, `regenerate`, `branch`, `step`, each with the message. */
export function viewOf(message, actions) {
  if (message.role === "user") return new UserView(message, actions);
  if (message.role === "tool") return new ResultView(message);
  return new ReplyView(message, actions);
}

function frame(kind, who) {
  return h("article", { class: `message message-${kind}`, "aria-label": who });
}

/** "‹ 2 / 3 ›" for a message that has other versions. */
function versions(message, siblings, actions) {
  const at = siblings.indexOf(message);
  if (siblings.length < 2) return null;
  const step = (by, name, label) =>
    button(name, t(label), () => actions.step(message, by), { disabled: !siblings[at + by] && "" });
  return h(
    "span",
    { class: "versions", role: "group", "aria-label": t("versionOf", { at: at + 1, all: siblings.length }) },
    step(-1, "left", "earlierVersion"),
    h("span", { class: "versions-count", "aria-hidden": "true", text: `${at + 1}/${siblings.length}` }),
    step(1, "right", "laterVersion"),
  );
}

class UserView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.element = frame("user", t("saidYou"));
    this.element.dataset.id = message.id;
  }

  update({ siblings, busy }) {
    const { message, actions } = this;
    if (this.editing) return;
    const files = (message.files ?? []).map((file) => fileView(file));
    this.element.replaceChildren(
      ...(files.length ? [h("div", { class: "files" }, ...files)] : []),
      ...(message.content ? [h("div", { class: "bubble", dir: "auto", text: message.content })] : []),
      h(
        "footer",
        { class: "message-foot" },
        versions(message, siblings, actions),
        copyButton(() => message.content),
        button("pencil", t("edit"), () => this.edit(), { disabled: busy, className: "edit" }),
      ),
    );
  }

  /** Put the text into a field; sending it makes another version. */
  edit() {
    const field = h("textarea", { class: "edit-field", "aria-label": t("editMessage"), dir: "auto" });
    field.value = this.message.content;
    const end = () => {
      this.editing = false;
      this.actions.refresh();
      this.element.querySelector(".edit")?.focus();
    };
    const send = async () => {
      if (!field.value.trim() && !this.message.files?.length) return;
      this.editing = false;
      if (!(await this.actions.edit(this.message, field.value))) this.editing = true;
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") end();
      else if (this.actions.sends(event)) send();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.editing = true;
    this.element.replaceChildren(
      h(
        "form",
        { class: "edit-form", on: { submit: (event) => { event.preventDefault(); send(); } } },
        field,
        h("div", { class: "row" },
          button(null, t("cancel"), end, { visible: true }),
          h("button", { type: "submit", class: "button button-main", text: t("sendAgain") })),
      ),
    );
    field.focus();
  }
}

function fileView(file) {
  return h(
    "details",
    { class: "file" },
    h("summary", {}, icon("file"), h("span", { class: "file-name", text: file.name }), h("span", { class: "quiet", text: sizeText(file.size) })),
    h("pre", { tabindex: "0", text: file.text }),
  );
}

class ResultView {
  constructor(message) {
    this.message = message;
    this.element = frame("result", t("resultOf", { name: message.name }));
    this.element.dataset.id = message.id;
  }

  update() {
    const { name, content } = this.message;
    const pretty = indented(content);
    this.element.replaceChildren(
      h("div", { class: "call" },
        h("div", { class: "call-head" }, icon("terminal"), h("span", { text: t("resultOf", { name }) })),
        codeBlock(pretty ?? content, pretty === null ? "" : "json")),
    );
  }
}

class ReplyView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.element = frame("reply", t("saidModel", { name: message.model }));
    this.element.dataset.id = message.id;
    this.thinking = null;
    this.body = h("div", { class: "reply-body" });
    this.markdown = null;
    this.calls = h("div", { class: "calls" });
    this.notes = h("div", { class: "notes" });
    this.foot = h("footer", { class: "message-foot" });
    this.element.append(this.body, this.calls, this.notes, this.foot);
  }

  /** @param {{siblings: object[], run: object?, busy: boolean}} context `run` while this message is being written */
  update({ siblings, run, busy }) {
    const streaming = this.message.state === "streaming";
    this.element.classList.toggle("is-streaming", streaming);
    this.#showThinking(run?.writer);
    this.#showBody(streaming);
    this.#showCalls(streaming);
    this.#showNotes(streaming, busy);
    if (!streaming) this.#showFoot(siblings, busy);
    else if (this.foot.childNodes.length) this.foot.replaceChildren();
  }

  /** Only the clock of the thinking. */
  tick(writer) {
    if (this.thinking && writer.isThinking) this.#titleOfThinking(writer);
  }

  #showThinking(writer) {
    const { reasoning } = this.message;
    if (!reasoning) {
      this.thinking?.element.remove();
      this.thinking = null;
      return;
    }
    if (!this.thinking) {
      const title = h("span", { class: "thinking-title" });
      const text = new MarkdownView("prose thinking-text");
      const element = h("details", { class: "thinking" }, h("summary", {}, icon("spark"), title, icon("down")), text.element);
      element.open = Boolean(writer?.isThinking);
      // The person's choice holds; until there is one, thinking is open while it goes on.
      element.firstChild.addEventListener("click", () => (this.thinking.chosen = true));
      this.thinking = { element, title, text, chosen: false };
      this.element.prepend(element);
    }
    const now = Boolean(writer?.isThinking);
    this.thinking.element.classList.toggle("is-now", now);
    if (!this.thinking.chosen) this.thinking.element.open = now;
    this.thinking.text.update(reasoning, { done: !now });
    this.#titleOfThinking(writer);
  }

  #titleOfThinking(writer) {
    const spent = writer ? writer.thinkingSeconds : this.message.stats?.thinkingSeconds;
    const words = Number.isFinite(spent) ? seconds(spent) : "";
    const title = writer?.isThinking ? t("thinkingNow", { seconds: words }) : words ? t("thoughtFor", { seconds: words }) : t("thinking");
    if (this.thinking.title.textContent !== title) this.thinking.title.textContent = title;
  }

  #showBody(streaming) {
    const { content, format, reasoning, toolCalls } = this.message;
    if (!content) {
      const waits = streaming && !reasoning && !toolCalls.length;
      this.markdown = null;
      this.body.replaceChildren(...(waits ? [h("p", { class: "waiting", text: t("waiting") })] : []));
    } else if (format === "json") {
      if (this.shown === content && this.shownDone === !streaming) return;
      this.body.replaceChildren(jsonView(content, { done: !streaming }));
    } else {
      if (!this.markdown) {
        this.markdown = new MarkdownView();
        this.body.replaceChildren(this.markdown.element);
      }
      this.markdown.update(content, { done: !streaming });
    }
    this.shown = content;
    this.shownDone = !streaming;
  }

  #showCalls(streaming) {
    const state = JSON.stringify([this.message.toolCalls, streaming]);
    if (state === this.callsShown) return;
    this.callsShown = state;
    this.calls.replaceChildren(
      ...this.message.toolCalls.map((call) => {
        const pretty = streaming ? null : indented(call.arguments);
        return h("div", { class: "call" },
          h("div", { class: "call-head" }, icon("wrench"), h("span", { text: t("calls", { name: call.name }) })),
          codeBlock(pretty ?? call.arguments, pretty === null ? "" : "json"));
      }),
    );
  }

  #showNotes(streaming, busy) {
    const { error, finish, toolCalls, content } = this.message;
    const notes = [];
    if (error) {
      notes.push(h("div", { class: "note note-error", role: "alert" },
        icon("warn"), h("span", { text: errorText(error) }),
        button("refresh", t("tryAgain"), () => this.actions.regenerate(this.message), { visible: true, disabled: busy })));
    }
    const known = { length: "finishLength", repetition: "finishRepetition", stopped: "finishStopped", interrupted: "finishInterrupted", content_filter: "finishFilter" };
    if (!streaming && finish in known) notes.push(h("p", { class: "note", text: t(known[finish]) }));
    if (!streaming && !notes.length && !content && !toolCalls.length) notes.push(h("p", { class: "note", text: "∅" }));
    this.notes.replaceChildren(...notes);
  }

  #showFoot(siblings, busy) {
    const { message, actions } = this;
    this.foot.replaceChildren(
      ...[
        versions(message, siblings, actions),
        message.content ? copyButton(() => message.content) : null,
        button("refresh", t("regenerate"), () => actions.regenerate(message), { disabled: busy }),
        button("branch", t("branch"), () => actions.branch(message), { disabled: busy }),
        statsView(message),
      ].filter(Boolean),
    );
  }
}

/** "pilot · 43 tokens/s · first token after 0.1 s · 57 tokens", with the rest in its title. */
function statsView(message) {
  const stats = message.stats ?? {};
  const parts = [h("span", { class: "stat-model", text: message.model })];
  const add = (text, title) => parts.push(h("span", { text, title }));
  if (stats.tokensPerSecond) add(t("tokensPerSecond", { value: rounded(stats.tokensPerSecond) }));
  if (Number.isFinite(stats.timeToFirstToken)) add(t("firstToken", { seconds: seconds(stats.timeToFirstToken) }));
  if (stats.completionTokens) {
    const more = [
      stats.reasoningTokens ? t("tokensThinking", { count: stats.reasoningTokens }) : "",
      stats.promptTokens ? t("promptTokens", { count: stats.promptTokens, cached: stats.cachedTokens ?? 0 }) : "",
      Number.isFinite(stats.seconds) ? seconds(stats.seconds) : "",
    ];
    add(t("tokens", { count: stats.completionTokens }), more.filter(Boolean).join(" · "));
  }
  return h("span", { class: "stats" }, ...parts);
}

function errorText(error) {
  switch (error.kind) {
    case "broken":
      return t("errorBroken");
    case "noServer":
      return t("errorNoServer");
    case "busy":
      return t("errorBusy", { seconds: seconds(error.seconds) });
    case "key":
      return t("errorKey");
    default:
      return t("errorWords", { message: error.message });
  }
}
