// The conversation that is shown: its messages in order, kept at the end while the person is there.

import { byId, h } from "./dom.js";
import { t } from "./i18n.js";
import { viewOf } from "./message-view.js";

const NEAR_END_PX = 60;

/** Shows the path of the chat's thread. */
export class Transcript {
  /**
   * @param {import("./chat.js").Chat} chat
   * @param {object} actions what message buttons do; see `message-view.js`
   */
  constructor(chat, actions) {
    this.chat = chat;
    this.actions = { ...actions, refresh: () => this.show() };
    this.scroller = byId("transcript");
    this.list = byId("messages");
    this.toLatest = byId("to-latest");
    this.views = new Map();
    this.threadId = null;
    this.follows = true;
    this.top = 0;
    this.scroller.addEventListener("scroll", () => this.#noticeScroll(), { passive: true });
    // Upward is a wish to read; waiting for the scroll event would fight the next piece of text.
    this.scroller.addEventListener("wheel", (event) => event.deltaY < 0 && this.#let(), { passive: true });
    this.scroller.addEventListener("touchmove", () => this.#let(), { passive: true });
    this.toLatest.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.follows && this.#pin()).observe(this.list);
    chat.addEventListener("thread", () => this.show());
    chat.addEventListener("message", (event) => this.#schedule(event.detail));
    setInterval(() => this.#tick(), 100);
  }

  /** Bring everything up to date; words included if `anew`. */
  show({ anew = false } = {}) {
    const { thread, run } = this.chat;
    const changed = thread.conversation.id !== this.threadId;
    if (changed || anew) {
      this.views.clear();
      this.list.replaceChildren();
      this.threadId = thread.conversation.id;
    }
    const path = thread.path();
    const wanted = new Set(path.map(({ id }) => id));
    for (const [id, view] of this.views) {
      if (!wanted.has(id)) {
        view.element.remove();
        this.views.delete(id);
      }
    }
    let before = null;
    for (const message of path) {
      const view = this.views.get(message.id) ?? viewOf(message, this.actions);
      this.views.set(message.id, view);
      view.message = message;
      view.update(this.#context(message, run));
      const place = before ? before.nextSibling : this.list.firstChild;
      if (view.element !== place) this.list.insertBefore(view.element, place);
      before = view.element;
    }
    this.#showCallForm();
    document.body.classList.toggle("is-empty", path.length === 0);
    if (changed) this.toEnd();
  }

  /** The view of a message of the path. */
  viewOf(message) {
    return this.views.get(message?.id);
  }

  /** Go to the end, and stay there while it moves. */
  toEnd() {
    this.follows = true;
    this.#pin();
    this.#noticeScroll();
  }

  #context(message, run) {
    const mine = run?.message === message;
    return { siblings: this.chat.thread.siblings(message), run: mine ? run : null, busy: Boolean(run) };
  }

  // Once a frame at most, and less often when a long text takes long to lay out.
  #schedule(message) {
    if (this.waiting || this.chat.run?.message !== message) return;
    this.waiting = true;
    const later = () =>
      requestAnimationFrame(() => {
        this.waiting = false;
        const { run } = this.chat;
        const view = run && this.views.get(run.message.id);
        if (!view) return;
        const start = performance.now();
        view.update(this.#context(run.message, run));
        this.cost = performance.now() - start;
      });
    if (this.cost > 8) setTimeout(later, 4 * this.cost);
    else later();
  }

  #tick() {
    const { run } = this.chat;
    if (run) this.views.get(run.message.id)?.tick?.(run.writer);
  }

  #pin() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.top = this.scroller.scrollTop;
  }

  #let() {
    if (this.scroller.scrollHeight > this.scroller.clientHeight) this.follows = false;
  }

  #noticeScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    // The text may have grown since the move that is told here: only a move upward leaves the end.
    if (scrollHeight - clientHeight - scrollTop < NEAR_END_PX) this.follows = true;
    else if (scrollTop < this.top) this.follows = false;
    this.top = scrollTop;
    this.toLatest.hidden = this.follows;
  }

  // The person plays the functions: one field for each call that waits.
  #showCallForm() {
    const calls = this.chat.run ? [] : this.chat.thread.openCalls();
    const key = calls.map(({ id }) => id).join() + document.documentElement.lang;
    if (this.callForm?.dataset.key === key && this.callForm.isConnected === calls.length > 0) return;
    this.callForm?.remove();
    this.callForm = null;
    if (!calls.length) return;
    const fields = calls.map((call) => ({ call, field: h("textarea", { "aria-label": t("resultOf", { name: call.name }), placeholder: t("resultPlaceholder"), rows: "3" }) }));
    const send = (event) => {
      event.preventDefault();
      this.actions.answerCalls(fields.map(({ call, field }) => ({ call, content: field.value })));
    };
    this.callForm = h("form", { class: "call-form", data: { key }, on: { submit: send } },
      h("p", { text: t("toolsWait", { count: calls.length }) }),
      ...fields.map(({ call, field }) => h("label", { class: "field" }, h("span", { text: t("resultOf", { name: call.name }) }), field)),
      h("div", { class: "row" }, h("button", { type: "submit", class: "button button-main", text: t("sendResults") })));
    this.list.append(this.callForm);
  }
}
