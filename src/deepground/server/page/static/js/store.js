// Conversations in the browser's own database; nothing of them is kept on the server.

const NAME = "deepground";
const VERSION = 1;

/**
 * Open the database; where the browser has none (some private windows), conversations live as long as the tab.
 * @returns {Promise<Store|MemoryStore>}
 */
export async function openStore() {
  try {
    return new Store(await openDatabase());
  } catch {
    return new MemoryStore();
  }
}

function openDatabase() {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open(NAME, VERSION);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("conversations", { keyPath: "id" });
      opening.result.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
    };
    opening.onsuccess = () => {
      // A tab with a newer version must not wait for this one.
      opening.result.onversionchange = () => opening.result.close();
      resolve(opening.result);
    };
    opening.onerror = () => reject(opening.error);
  });
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function completion(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** Conversations and messages in IndexedDB. */
export class Store {
  isLasting = true;

  constructor(database) {
    this.database = database;
  }

  /** All conversations, without messages, newest first. */
  async conversations() {
    const all = await result(this.#read("conversations").getAll());
    return all.sort((a, b) => b.updated - a.updated);
  }

  /** One conversation, or undefined. */
  conversation(id) {
    return result(this.#read("conversations").get(id));
  }

  /** The messages of one conversation, in no order. */
  messages(id) {
    return result(this.#read("messages").index("conversation").getAll(id));
  }

  /** Write conversations and messages, all or none. */
  async put(conversations, messages) {
    const transaction = this.database.transaction(["conversations", "messages"], "readwrite");
    for (const conversation of conversations) transaction.objectStore("conversations").put(conversation);
    for (const message of messages) transaction.objectStore("messages").put(message);
    await completion(transaction);
  }

  /** Delete a conversation with its messages. */
  async remove(id) {
    const transaction = this.database.transaction(["conversations", "messages"], "readwrite");
    transaction.objectStore("conversations").delete(id);
    const messages = transaction.objectStore("messages");
    const keys = messages.index("conversation").getAllKeys(id);
    keys.onsuccess = () => keys.result.forEach((key) => messages.delete(key));
    await completion(transaction);
  }

  /** Delete everything. */
  async clear() {
    const transaction = this.database.transaction(["conversations", "messages"], "readwrite");
    transaction.objectStore("conversations").clear();
    transaction.objectStore("messages").clear();
    await completion(transaction);
  }

  /**
   * Hand each message to `visit` until it returns false.
   * @param {(message: object) => boolean} visit
   */
  async eachMessage(visit) {
    const request = this.#read("messages").openCursor();
    await new Promise((resolve, reject) => {
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (cursor && visit(cursor.value) !== false) cursor.continue();
        else resolve();
      };
    });
  }

  #read(name) {
    return this.database.transaction(name, "readonly").objectStore(name);
  }
}

/** The same for browsers without a database. */
export class MemoryStore {
  isLasting = false;
  #conversations = new Map();
  #messages = new Map();

  async conversations() {
    return [...this.#conversations.values()].sort((a, b) => b.updated - a.updated);
  }

  async conversation(id) {
    return this.#conversations.get(id);
  }

  async messages(id) {
    return [...this.#messages.values()].filter((message) => message.conversation === id);
  }

  async put(conversations, messages) {
    for (const conversation of conversations) this.#conversations.set(conversation.id, structuredClone(conversation));
    for (const message of messages) this.#messages.set(message.id, structuredClone(message));
  }

  async remove(id) {
    this.#conversations.delete(id);
    for (const message of this.#messages.values()) if (message.conversation === id) this.#messages.delete(message.id);
  }

  async clear() {
    this.#conversations.clear();
    this.#messages.clear();
  }

  async eachMessage(visit) {
    for (const message of this.#messages.values()) if (visit(message) === false) return;
  }
}

/**
 * Conversations in which every word of `query` stands in the title or in one message.
 * @returns {Promise<Map<string, string>>} id -> the text around the first hit ("" for the title)
 */
export async function search(store, conversations, query, { isStale = () => false } = {}) {
  const words = query.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const has = (text) => {
    const lower = text.toLocaleLowerCase();
    return words.every((word) => lower.includes(word));
  };
  const hits = new Map();
  for (const { id, title } of conversations) if (has(title)) hits.set(id, "");
  await store.eachMessage((message) => {
    if (isStale()) return false;
    if (!hits.has(message.conversation)) {
      const text = [message.content, message.reasoning, ...(message.files ?? []).map((file) => `${file.name} ${file.text}`)];
      const hit = text.find((part) => part && has(part));
      if (hit) hits.set(message.conversation, around(hit, words[0]));
    }
    return true;
  });
  return hits;
}

function around(text, word) {
  const flat = text.replace(/\s+/g, " ");
  const at = Math.max(0, flat.toLocaleLowerCase().indexOf(word) - 24);
  return `${at > 0 ? "…" : ""}${flat.slice(at, at + 90)}`;
}
