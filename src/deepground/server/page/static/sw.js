// Keeps the page's own files, so that it opens while the server is down. The server is always asked first, and what
// people say to the model never passes through here.

const CACHE = "deepground-{{version}}";
const FILES = ["{{shell}}"];
const PAGE = new URL("../", self.location).href;
const FOLDER = new URL("./", self.location).href;

self.addEventListener("install", (event) => {
  event.waitUntil(fill().then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(forgetOthers().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = request.url.split(/[?#]/, 1)[0];
  if (request.method === "GET" && (url === PAGE || url.startsWith(FOLDER))) event.respondWith(serve(request, url));
});

async function fill() {
  const cache = await caches.open(CACHE);
  await cache.addAll([PAGE, ...FILES.map((name) => FOLDER + name)].map((url) => new Request(url, { cache: "no-cache" })));
}

async function forgetOthers() {
  for (const name of await caches.keys()) {
    if (name.startsWith("deepground-") && name !== CACHE) await caches.delete(name);
  }
}

async function serve(request, url) {
  try {
    return await fetch(request);
  } catch (error) {
    const kept = await (await caches.open(CACHE)).match(url);
    if (kept) return kept;
    throw error;
  }
}
