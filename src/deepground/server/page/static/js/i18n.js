// The page's words in each language.

import en from "./words/en.js";
import zhTW from "./words/zh-TW.js";

const TABLES = { en, "zh-TW": zhTW };

/** Language codes with their own names. */
export const LANGUAGES = Object.entries(TABLES).map(([code, words]) => ({ code, name: words.languageName }));

let current = "en";

/** The language in use. */
export function language() {
  return current;
}

/** Use a language; "auto" is the first of the browser's that the page has. */
export function setLanguage(wanted) {
  current = wanted in TABLES ? wanted : fromBrowser();
  document.documentElement.lang = current;
}

function fromBrowser() {
  for (const wish of navigator.languages ?? []) {
    if (/^zh\b/i.test(wish)) return "zh-TW";
    if (/^en\b/i.test(wish)) return "en";
  }
  return "en";
}

/**
 * A phrase in the current language.
 * @param {string} key
 * @param {object} [details] fills {places}; a `count` chooses between forms
 */
export function t(key, details = {}) {
  const words = TABLES[current];
  let phrase = words[key];
  if (phrase === undefined && "count" in details) {
    phrase = words[`${key}_${new Intl.PluralRules(current).select(details.count)}`] ?? words[`${key}_other`];
  }
  phrase ??= en[key] ?? key;
  return phrase.replace(/\{(\w+)\}/g, (place, name) => (name in details ? format(details[name]) : place));
}

function format(value) {
  return typeof value === "number" ? value.toLocaleString(current, { maximumFractionDigits: 20 }) : String(value);
}

/** A number with a few digits: 0.07, 3.4, 120. */
export function rounded(value) {
  const digits = value < 0.1 ? 2 : value < 100 ? 1 : 0;
  return value.toLocaleString(current, { maximumFractionDigits: digits, minimumFractionDigits: digits === 1 ? 1 : 0 });
}

/** A time span: "3.4 s". */
export function seconds(value) {
  return t("seconds", { value: value < 0.01 ? `<${rounded(0.01)}` : rounded(value) });
}

/** Put words into the elements that name them: data-t, data-t-label, data-t-placeholder. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of root.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
    if (element.matches("button, a")) element.title = t(element.dataset.tLabel);
  }
  for (const element of root.querySelectorAll("[data-t-placeholder]")) element.placeholder = t(element.dataset.tPlaceholder);
}
