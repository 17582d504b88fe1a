// Before the first paint: the appearance that the person chose, so that nothing flashes. A plain script, not a module.

(() => {
  try {
    const kept = JSON.parse(localStorage.getItem("deepground.preferences") ?? "{}");
    const root = document.documentElement;
    if (kept.theme === "light" || kept.theme === "dark") root.dataset.theme = kept.theme;
    if (kept.sidebar === false) root.dataset.sidebar = "closed";
  } catch {
    // The defaults, then.
  }
})();
