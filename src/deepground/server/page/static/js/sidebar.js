// The list of conversations: by day, searched, renamed, exported, deleted.

import { byId, button, h, saveFile } from "./dom.js";
import { announce, askText, confirmed, say, toggleMenu } from "./dialogs.js";
import { fileName, fromJson, ImportError, toJson, toMarkdown } from "./exchange.js";
import { t } from "./i18n.js";
import { search } from "./store.js";

const DAY_MS = 86_400_000;
const SEARCH_PAUSE_MS = 120;

/** Shows and searches the chat's conversations. */
export class Sidebar {
  /**
   * @param {import("./chat.js").Chat} chat
   * @param {{go: (id: string|null) => void}} actions
   */
  constructor(chat, actions) {
    this.chat = chat;
    this.actions = actions;
    this.list = byId("history");
    this.field = byId("search");
    this.hits = null;
    this.turn = 0;
    this.field.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.#search(), SEARCH_PAUSE_MS);
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.field.value) {
        this.field.value = "";
        this.#search();
        event.stopPropagation();
      } else if (event.key === "ArrowDown") this.#focusItem(0, event);
    });
    this.list.addEventListener("keydown", (event) => this.#walk(event));
    byId("import-picker").addEventListener("change", (event) => this.#import(event.target));
    for (const type of ["list", "thread", "running"]) chat.addEventListener(type, () => this.show());
  }

  /** Draw the list anew. */
  show() {
    const { conversations } = this.chat;
    const shown = this.hits ? conversations.filter(({ id }) => this.hits.has(id)) : conversations;
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    const groups = new Map();
    for (const conversation of shown) {
      const group = this.hits ? "" : ageOf(conversation.updated);
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(this.#item(conversation));
    }
    const content = [...groups].map(([group, items]) =>
      h("section", {}, group && h("h3", { text: t(group) }), h("ul", {}, ...items)));
    if (!content.length) content.push(h("p", { class: "quiet empty", text: t(this.hits ? "searchEmpty" : "noConversations") }));
    this.list.replaceChildren(...content);
    if (focused) this.list.querySelector(`[data-focus="${focused}"]`)?.focus();
  }

  /** The menu of a conversation. */
  menu(owner, id) {
    toggleMenu(owner, [
      { icon: "pencil", label: t("rename"), run: () => this.rename(id) },
      { icon: "file", label: t("exportMarkdown"), run: () => this.#exportMarkdown(id) },
      { icon: "code", label: t("exportJson"), run: () => this.#exportJson([id]) },
      { icon: "trash", label: t("remove"), danger: true, run: () => this.#remove(id) },
    ]);
  }

  async rename(id) {
    const { title } = (await this.chat.threadOf(id)).conversation;
    const wanted = await askText(t("rename"), t("newTitle"), title);
    if (wanted) await this.chat.rename(id, wanted);
  }

  exportAll() {
    return this.#exportJson(this.chat.conversations.map(({ id }) => id));
  }

  async removeAll() {
    const count = this.chat.conversations.length;
    if (!count || !(await confirmed(t("removeAll"), t("removeAllAsk", { count }), t("remove")))) return;
    await this.chat.removeAll();
    this.actions.go(null);
    say(t("removed"));
  }

  #item({ id, title }) {
    const name = title || t("untitled");
    const current = id === this.chat.thread.conversation.id;
    const hit = this.hits?.get(id);
    const more = button("more", t("moreFor", { name }), () => this.menu(more, id), { "aria-haspopup": "menu", "aria-expanded": "false", "data-focus": `more-${id}` });
    return h(
      "li",
      { class: `item${current ? " is-current" : ""}${this.chat.runs.has(id) ? " is-running" : ""}` },
      h("a", { href: `#/c/${id}`, "aria-current": current ? "page" : null, "data-focus": id, dir: "auto" },
        h("span", { class: "item-title", text: name }), hit && h("span", { class: "item-hit", text: hit })),
      more,
    );
  }

  async #search() {
    const query = this.field.value.trim();
    const turn = ++this.turn;
    const hits = query ? await search(this.chat.store, this.chat.conversations, query, { isStale: () => turn !== this.turn }) : null;
    if (turn !== this.turn) return;
    this.hits = hits;
    this.show();
    if (hits) announce(hits.size ? t("searchHits", { count: hits.size }) : t("searchEmpty"));
  }

  #walk(event) {
    const links = [...this.list.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    if (at < 0) return;
    if (event.key === "ArrowDown") this.#focusItem(at + 1, event);
    else if (event.key === "ArrowUp" && at === 0) {
      event.preventDefault();
      this.field.focus();
    } else if (event.key === "ArrowUp") this.#focusItem(at - 1, event);
    else if (event.key === "Delete") this.#remove(links[at].dataset.focus);
    else if (event.key === "F2") this.rename(links[at].dataset.focus);
  }

  #focusItem(at, event) {
    const link = this.list.querySelectorAll("a")[at];
    if (!link) return;
    event.preventDefault();
    link.focus();
  }

  async #remove(id) {
    const { title } = (await this.chat.threadOf(id)).conversation;
    if (!(await confirmed(t("remove"), t("removeAsk", { name: title || t("untitled") }), t("remove")))) return;
    const wasShown = id === this.chat.thread.conversation.id;
    await this.chat.remove(id);
    if (wasShown) this.actions.go(null);
    say(t("removed"));
  }

  async #exportMarkdown(id) {
    const thread = await this.chat.threadOf(id);
    saveFile(fileName(thread.conversation.title, "md"), toMarkdown(thread, t), "text/markdown");
  }

  async #exportJson(ids) {
    const threads = [];
    for (const id of ids) threads.push(await this.chat.threadOf(id));
    const name = ids.length === 1 ? threads[0].conversation.title : `deepground ${new Date().toISOString().slice(0, 10)}`;
    saveFile(fileName(name, "json"), toJson(threads), "application/json");
  }

  async #import(picker) {
    const [file] = picker.files;
    if (!file) return;
    try {
      const entries = fromJson(await file.text());
      await this.chat.addAll(entries);
      say(t("imported", { count: entries.length }));
    } catch (error) {
      say(error instanceof ImportError ? t(error.reason) : t("fileUnreadable", { name: file.name }));
    }
    picker.value = "";
  }
}

function ageOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "today";
  if (time >= midnight - DAY_MS) return "yesterday";
  return time >= midnight - 7 * DAY_MS ? "lastWeek" : "older";
}
