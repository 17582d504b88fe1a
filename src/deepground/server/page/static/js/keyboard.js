// Keys that work everywhere on the page.

const isMac = /mac|iphone|ipad/i.test(navigator.platform);
const MOD = isMac ? "⌘" : "Ctrl";
const SHIFT = isMac ? "⇧" : "Shift";

/** For the list of shortcuts. */
export const SHORTCUTS = [
  { keys: ["/"], label: "keysFocus" },
  { keys: [MOD, SHIFT, "O"], label: "keysNew" },
  { keys: [MOD, "K"], label: "keysSearch" },
  { keys: [MOD, "B"], label: "keysSidebar" },
  { keys: [MOD, ","], label: "keysSettings" },
  { keys: ["Esc"], label: "keysStop" },
  { keys: ["↑"], label: "keysEditLast" },
  { keys: [MOD, SHIFT, ";"], label: "keysCopyLast" },
  { keys: [MOD, SHIFT, "Y"], label: "keysRegenerate" },
  { keys: [SHIFT, "Enter"], label: "keysNewline" },
  { keys: ["?"], label: "keysHelp" },
];

/** Whether a key press in a text field means "send". An input method's Enter chooses a word and does not send. */
export function sends(event, how) {
  if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return false;
  if (event.ctrlKey || event.metaKey) return true;
  return how === "enter" && !event.shiftKey && !event.altKey;
}

/**
 * Listen.
 * @param {object} actions `focus`, `create`, `search`, `toggleSidebar`, `settings`, `stop` (returns whether there was
 *   something), `copyLast`, `regenerate`, `help`
 */
export function installKeys(actions) {
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const action = event.ctrlKey || event.metaKey ? withModifier(event) : alone(event);
    if (action && actions[action]() !== false) event.preventDefault();
  });
}

function withModifier({ key, code, shiftKey, altKey }) {
  if (altKey) return null;
  const letter = key.toLowerCase();
  if (shiftKey) return { KeyO: "create", Semicolon: "copyLast", KeyY: "regenerate" }[code] ?? null;
  return { k: "search", b: "toggleSidebar", ",": "settings" }[letter] ?? null;
}

function alone({ key, target, altKey }) {
  if (altKey) return null;
  if (key === "Escape") return "stop";
  if (target.closest?.("input, textarea, select, [contenteditable]")) return null;
  return { "/": "focus", "?": "help" }[key] ?? null;
}
