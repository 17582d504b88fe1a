// Dialogs, the menu, and short messages at the foot of the page.

import { byId, button, h, icon } from "./dom.js";
import { t } from "./i18n.js";

/**
 * Show a dialog; it is taken away when it closes.
 * @param {string} title
 * @param {Node[]} content
 * @param {{className?: string}} [options]
 * @returns {HTMLDialogElement}
 */
export function openDialog(title, content, { className = "" } = {}) {
  const heading = h("h2", { id: "dialog-title", text: title });
  const dialog = h(
    "dialog",
    { class: `dialog ${className}`.trim(), "aria-labelledby": "dialog-title" },
    h("header", { class: "dialog-head" }, heading, button("close", t("close"), () => dialog.close())),
    h("div", { class: "dialog-body" }, ...content),
  );
  dialog.addEventListener("close", () => dialog.remove());
  // A press on the backdrop is one on the dialog itself.
  dialog.addEventListener("pointerdown", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Ask whether to go on with something that cannot be undone. */
export function confirmed(title, question, action) {
  return answered(title, [h("p", { text: question })], h("button", { class: "button button-danger", type: "submit", text: action }), () => true);
}

/** Ask for a line of text; null if there is none. */
export function askText(title, label, value) {
  const field = h("input", { type: "text", value, maxlength: "200" });
  const content = [h("label", { class: "field" }, h("span", { text: label }), field)];
  const save = h("button", { class: "button button-main", type: "submit", text: t("save") });
  const answer = answered(title, content, save, () => field.value.trim() || null);
  field.select();
  return answer;
}

/** A dialog with a form; what `read()` gives once it is sent, otherwise null. */
export function answered(title, content, submit, read) {
  return new Promise((resolve) => {
    let answer = null;
    const form = h(
      "form",
      { class: "stack", on: { submit: (event) => {
        event.preventDefault();
        answer = read();
        dialog.close();
      } } },
      ...content,
      h("div", { class: "row row-end" }, button(null, t("cancel"), () => dialog.close(), { visible: true }), submit),
    );
    const dialog = openDialog(title, [form]);
    dialog.addEventListener("close", () => resolve(answer));
    (form.querySelector("input:not([type=checkbox])") ?? submit).focus();
  });
}

let menuOwner = null;

/**
 * Show a menu below a button, or close it if it is the one that is open.
 * @param {HTMLElement} owner
 * @param {{icon: string, label: string, run: () => void, danger?: boolean}[]} items
 */
export function toggleMenu(owner, items) {
  const menu = byId("menu");
  if (menu.matches(":popover-open") && menuOwner === owner) {
    menu.hidePopover();
    return;
  }
  menuOwner = owner;
  menu.replaceChildren(
    ...items.map((item) =>
      h("button", { type: "button", role: "menuitem", tabindex: "-1", class: item.danger ? "menu-item is-danger" : "menu-item", on: { click: () => {
        menu.hidePopover();
        item.run();
      } } }, icon(item.icon), h("span", { text: item.label }))),
  );
  menu.setAttribute("aria-label", owner.getAttribute("aria-label") ?? owner.textContent);
  owner.setAttribute("aria-expanded", "true");
  menu.showPopover();
  const at = owner.getBoundingClientRect();
  const [width, height] = [menu.offsetWidth, menu.offsetHeight];
  const below = at.bottom + 4 + height <= innerHeight;
  menu.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
  menu.style.top = `${Math.max(8, below ? at.bottom + 4 : at.top - height - 4)}px`;
  menu.firstChild.focus();
}

/** Keys of the menu, once for the page. */
export function installMenu() {
  const menu = byId("menu");
  menu.addEventListener("keydown", (event) => {
    const items = [...menu.children];
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: (at + 1) % items.length, ArrowUp: (at - 1 + items.length) % items.length, Home: 0, End: items.length - 1 }[event.key];
    if (event.key === "Tab") menu.hidePopover();
    if (to === undefined) return;
    event.preventDefault();
    items[to].focus();
  });
  menu.addEventListener("toggle", (event) => {
    if (event.newState !== "closed" || !menuOwner) return;
    menuOwner.setAttribute("aria-expanded", "false");
    if (menu.contains(document.activeElement) || document.activeElement === document.body) menuOwner.focus();
    menuOwner = null;
  });
}

/** A short message that goes by itself. */
export function say(words) {
  const toast = h("div", { class: "toast", text: words });
  const toasts = byId("toasts");
  toasts.append(toast);
  // Shown anew, so that it lies above a dialog that was opened since.
  if (toasts.matches(":popover-open")) toasts.hidePopover();
  toasts.showPopover();
  setTimeout(() => toast.remove(), 4000);
}

/** Tell screen readers. */
export function announce(words) {
  byId("announcer").textContent = words;
}
