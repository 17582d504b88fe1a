// The settings of a conversation, at the side of the page.

import { openDialog, say } from "./dialogs.js";
import { button, h } from "./dom.js";
import { t } from "./i18n.js";
import { changedCount, NEUTRAL, NUMBERS, SettingsError, toRequest } from "./settings.js";

/**
 * Show the settings; each change holds at once.
 * @param {object} settings of the conversation
 * @param {{change: (changes: object) => void, useForNew: () => void}} actions
 * @param {SettingsError} [problem] what kept a question from being sent
 */
export function openSettings(settings, actions, problem) {
  const sheet = new Sheet(settings, actions);
  const dialog = openDialog(t("settings"), [sheet.form], { className: "sheet" });
  sheet.check();
  if (problem) dialog.querySelector(`[name="${problem.field}"]`)?.focus();
}

class Sheet {
  constructor(settings, actions) {
    this.settings = settings;
    this.actions = actions;
    this.form = h("form", { class: "stack", on: { submit: (event) => event.preventDefault(), input: (event) => this.#changed(event.target) } });
    this.#build();
  }

  /** Show which field cannot be sent, and which apply. */
  check() {
    for (const note of this.form.querySelectorAll(".field-problem")) note.textContent = "";
    for (const field of this.form.elements) field.removeAttribute("aria-invalid");
    try {
      toRequest(this.settings);
    } catch (error) {
      if (!(error instanceof SettingsError)) throw error;
      const field = this.form.elements[error.field];
      field.setAttribute("aria-invalid", "true");
      this.form.querySelector(`#problem-${error.field}`).textContent = t(error.reason, error.details);
    }
    this.form.querySelector("#for-schema").hidden = this.settings.format !== "schema";
    this.form.querySelector("#for-json").hidden = this.settings.format !== "json";
    this.form.elements.effort.disabled = this.settings.thinking === "off";
    const count = changedCount(this.settings);
    this.form.querySelector("#changed-count").textContent = count ? t("changedSettings", { count }) : "";
  }

  #build() {
    const numbers = Object.keys(NUMBERS).map((name) => this.#number(name));
    this.form.replaceChildren(
      this.#text("system", t("systemPrompt"), { rows: 5, placeholder: t("systemPlaceholder") }),
      h("div", { class: "pair" },
        this.#choice("thinking", t("thinkingSetting"), { default: "thinkingDefault", on: "thinkingOn", off: "thinkingOff" }),
        this.#choice("effort", t("effort"), { default: "effortDefault", low: "effortLow", medium: "effortMedium", high: "effortHigh", max: "effortMax" })),
      h("div", { class: "stack" },
        this.#choice("format", t("answerFormat"), { text: "formatText", json: "formatJson", schema: "formatSchema" }),
        h("p", { id: "for-json", class: "quiet", text: t("formatHint") }),
        h("div", { id: "for-schema" }, this.#text("schema", t("schema"), { rows: 7, code: true, placeholder: '{"type": "object", "properties": {...}}' }))),
      this.#text("tools", t("tools"), { rows: 6, code: true, hint: t("toolsHint"), placeholder: '[{"name": "get_weather", "parameters": {...}}]' }),
      h("fieldset", {}, h("legend", { text: t("sampling") }), h("p", { class: "quiet", text: t("samplingHint") }), h("div", { class: "numbers" }, ...numbers)),
      this.#text("stop", t("stopTexts"), { rows: 2, code: true, hint: t("stopHint") }),
      h("div", { class: "sheet-foot" },
        h("span", { id: "changed-count", class: "quiet", "aria-live": "polite" }),
        h("div", { class: "row" },
          button(null, t("reset"), () => this.#reset(), { visible: true }),
          button(null, t("useForNew"), () => {
            this.actions.useForNew();
            say(t("usedForNew"));
          }, { visible: true, className: "button-main" }))),
    );
  }

  #reset() {
    Object.assign(this.settings, NEUTRAL);
    this.actions.change({ ...NEUTRAL });
    this.#build();
    this.check();
  }

  #changed({ name, value }) {
    if (!(name in NEUTRAL)) return;
    this.settings[name] = value;
    this.actions.change({ [name]: value });
    this.check();
  }

  #labelled(name, label, control, hint) {
    const described = [hint ? `hint-${name}` : "", `problem-${name}`].filter(Boolean).join(" ");
    control.setAttribute("aria-describedby", described);
    return h("div", { class: "field" },
      h("label", { for: `set-${name}`, text: label }),
      control,
      hint && h("p", { id: `hint-${name}`, class: "quiet", text: hint }),
      h("p", { id: `problem-${name}`, class: "field-problem" }));
  }

  #text(name, label, { rows, code = false, hint, placeholder }) {
    const control = h("textarea", { id: `set-${name}`, name, rows, placeholder, class: code ? "code-field" : "", spellcheck: code ? "false" : null, dir: code ? "ltr" : "auto" });
    control.value = this.settings[name];
    return this.#labelled(name, label, control, hint);
  }

  #choice(name, label, options) {
    const control = h("select", { id: `set-${name}`, name }, ...Object.entries(options).map(([value, word]) => h("option", { value, text: t(word) })));
    control.value = this.settings[name];
    if (control.selectedIndex < 0) control.selectedIndex = 0;
    return this.#labelled(name, label, control);
  }

  #number(name) {
    const control = h("input", { id: `set-${name}`, name, type: "text", inputmode: NUMBERS[name].whole ? "numeric" : "decimal", autocomplete: "off" });
    control.value = this.settings[name];
    return this.#labelled(name, t(name), control);
  }
}
