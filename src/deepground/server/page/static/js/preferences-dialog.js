// Preferences, the API key, and the list of keyboard shortcuts.

import { apiKey, forgetApiKey, keyIsRemembered, setApiKey } from "./api.js";
import { answered, openDialog, say } from "./dialogs.js";
import { byId, button, h } from "./dom.js";
import { LANGUAGES, t } from "./i18n.js";

/**
 * Show the preferences.
 * @param {object} preferences changed in place
 * @param {object} actions `changed(name)`, `exportAll()`, `removeAll()`, `enterKey()`, `install` (null if it cannot be)
 */
export function openPreferences(preferences, actions) {
  const choice = (name, label, options) => {
    const control = h("select", { name }, ...options.map(([value, text]) => h("option", { value, text })));
    control.value = preferences[name];
    control.addEventListener("change", () => {
      preferences[name] = control.value;
      actions.changed(name);
    });
    return h("label", { class: "field field-row" }, h("span", { text: label }), control);
  };
  const then = (action) => () => {
    dialog.close();
    action();
  };
  const dialog = openDialog(t("preferences"), [
    h("div", { class: "stack" },
      choice("language", t("language"), [["auto", t("languageAuto")], ...LANGUAGES.map(({ code, name }) => [code, name])]),
      choice("theme", t("theme"), [["auto", t("themeAuto")], ["light", t("themeLight")], ["dark", t("themeDark")]]),
      choice("sendWith", t("sendWith"), [["enter", t("sendEnter")], ["mod", t("sendModEnter")]]),
      h("section", { class: "stack" },
        h("h3", { text: t("key") }),
        h("p", { class: "quiet", text: t(!apiKey() ? "keyNone" : keyIsRemembered() ? "keySavedDevice" : "keySaved") }),
        h("div", { class: "row" },
          button(null, t("keyEnter"), then(actions.enterKey), { visible: true }),
          apiKey() && button(null, t("keyForget"), then(() => {
            forgetApiKey();
            say(t("keyForgotten"));
          }), { visible: true }))),
      h("section", { class: "stack" },
        h("h3", { text: t("data") }),
        h("p", { class: "quiet", text: t("dataWhere") }),
        h("div", { class: "row" },
          button("download", t("exportAll"), then(actions.exportAll), { visible: true }),
          button("file", t("import"), then(() => byId("import-picker").click()), { visible: true }),
          button("trash", t("removeAll"), then(actions.removeAll), { visible: true, className: "button-quiet-danger" }))),
      actions.install && button("download", t("install"), then(actions.install), { visible: true, className: "button-main" })),
  ]);
}

/**
 * Ask for the key.
 * @returns {Promise<boolean>} whether one was given
 */
export async function askKey({ wrong }) {
  const field = h("input", { type: "password", autocomplete: "current-password", required: true, spellcheck: "false" });
  const remember = h("input", { type: "checkbox", checked: keyIsRemembered() });
  const content = [
    h("p", { class: wrong ? "field-problem" : "", text: t(wrong ? "keyWrong" : "keyNeeded") }),
    h("label", { class: "field" }, h("span", { text: t("key") }), field),
    h("label", { class: "check" }, remember, h("span", { text: t("keyRemember") })),
  ];
  const submit = h("button", { class: "button button-main", type: "submit", text: t("continue") });
  const key = await answered(t("keyTitle"), content, submit, () => field.value.trim());
  if (!key) return false;
  setApiKey(key, { remember: remember.checked });
  return true;
}

/** Show what the keyboard can do. */
export function openShortcuts(shortcuts) {
  openDialog(t("shortcuts"), [
    h("dl", { class: "keys" },
      ...shortcuts.map(({ keys, label }) => h("div", {}, h("dt", { text: t(label) }), h("dd", {}, ...keys.map((key) => h("kbd", { text: key })))))),
  ]);
}
