// What a person prefers on this device: language, appearance, and the settings of new conversations.

import { NEUTRAL, sanitized } from "./settings.js";

const KEY = "deepground.preferences";
const DEFAULTS = { language: "auto", theme: "auto", sidebar: true, sendWith: "enter", model: "", settings: NEUTRAL };

/** Preferences as they are kept, with the defaults for what is missing or strange. */
export function readPreferences() {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    // Unreadable: as if nothing was kept.
  }
  const found = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS)) if (typeof kept[name] === typeof DEFAULTS[name]) found[name] = kept[name];
  found.settings = sanitized(found.settings);
  return found;
}

/** Keep changed preferences. */
export function writePreferences(preferences) {
  try {
    localStorage.setItem(KEY, JSON.stringify(preferences));
  } catch {
    // No room or no storage: they hold for this visit.
  }
}

/** Show the chosen appearance. */
export function applyTheme(theme) {
  const root = document.documentElement;
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  else delete root.dataset.theme;
  for (const meta of document.querySelectorAll('meta[name="theme-color"]')) {
    const dark = theme === "auto" ? meta.media.includes("dark") : theme === "dark";
    meta.content = dark ? "#15181a" : "#faf9f6";
  }
}
