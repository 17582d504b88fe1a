// The page as an installed app: a service worker keeps the page's own files, nothing else.

let prompt = null;

/** Register the worker where the browser has them: on https and on this machine. */
export function registerWorker() {
  addEventListener("beforeinstallprompt", (event) => {
    event.preventDefault();
    prompt = event;
  });
  if (!("serviceWorker" in navigator)) return;
  let url = new URL("../sw.js", import.meta.url).href;
  // The policy's only use: it lets exactly this address through.
  if (globalThis.trustedTypes) {
    const own = url;
    url = trustedTypes.createPolicy("deepground-worker", { createScriptURL: () => own }).createScriptURL("");
  }
  navigator.serviceWorker.register(url, { scope: new URL("../../", import.meta.url).pathname }).catch(() => {
    // The page works without it.
  });
}

/** A function that installs the page, or null if the browser does not offer it. */
export function installer() {
  if (!prompt) return null;
  return () => {
    prompt.prompt();
    prompt = null;
  };
}
