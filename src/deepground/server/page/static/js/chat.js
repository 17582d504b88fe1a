// What happens in conversations: asking, answering, stopping, branching. Knows no elements; views listen to its events:
//   "list"     the list of conversations changed
//   "thread"   another conversation is shown, or its path changed
//   "message"  one message changed (detail: the message)
//   "running"  a reply began or ended (detail: {thread, began})

import { ApiError, BROKEN, streamChat } from "./api.js";
import { emptyReply, ReplyWriter } from "./reply.js";
import { sanitized, toRequest } from "./settings.js";
import { newConversation, Thread } from "./thread.js";

const SAVE_EVERY_MS = 1000;
const JSON_REQUEST = "Answer with one JSON object.";

/** The conversations of this browser and the replies under way. */
export class Chat extends EventTarget {
  /**
   * @param {import("./store.js").Store} store
   * @param {object} hooks `settings()`, `model()`: what a new conversation starts with and which model answers;
   *   `askKey({wrong})`: the person's key, false if none was given; `failed(error)`: storage broke
   */
  constructor(store, hooks) {
    super();
    this.store = store;
    this.hooks = hooks;
    this.conversations = [];
    this.thread = new Thread(newConversation(hooks.settings()));
    this.runs = new Map();
    this.channel = new BroadcastChannel("deepground");
    this.channel.onmessage = () => this.loadList();
  }

  /** Read the list of conversations. */
  async loadList() {
    this.conversations = await this.store.conversations();
    this.#tell("list");
  }

  /** Show a conversation, or a new one if the id is unknown. */
  async open(id) {
    const running = this.runs.get(id);
    const conversation = running ? null : id && (await this.store.conversation(id));
    if (running) this.thread = running.thread;
    else if (conversation) {
      conversation.settings = sanitized(conversation.settings);
      this.thread = new Thread(conversation, (await this.store.messages(id)).map(settled));
    } else this.thread = new Thread(newConversation(this.hooks.settings()));
    this.#tell("thread");
    return this.thread.conversation.id === id;
  }

  /** The reply under way in the conversation that is shown, or undefined. */
  get run() {
    return this.runs.get(this.thread.conversation.id);
  }

  /** Whether the conversation that is shown is in the list. */
  get isKept() {
    return this.thread.messages.size > 0;
  }

  /**
   * Say something and get a reply.
   * @throws {import("./settings.js").SettingsError}
   */
  ask(text, files) {
    return this.#send(this.thread.conversation.leaf, { role: "user", content: text, files });
  }

  /** Say something else in the place of a message. */
  edit(message, text) {
    return this.#send(message.parent, { role: "user", content: text, files: message.files });
  }

  /** Hand the results of the open calls to the model. */
  answerCalls(results) {
    const fields = toRequest(this.thread.conversation.settings);
    const { thread } = this;
    const added = results.map(({ call, content }) =>
      thread.add(thread.conversation.leaf, { role: "tool", toolCallId: call.id, name: call.name, content }),
    );
    this.#save(thread, added);
    return this.#reply(thread, fields);
  }

  /** Another answer in the place of one. */
  regenerate(message) {
    const fields = toRequest(this.thread.conversation.settings);
    this.thread.conversation.leaf = message.parent;
    return this.#reply(this.thread, fields);
  }

  /** End the reply under way. */
  stop() {
    this.run?.controller.abort();
  }

  /** Show the version before or after. */
  step(message, by) {
    this.thread.step(message, by);
    this.#save(this.thread, []);
    this.#tell("thread");
  }

  /** Go on from a message in a copy. */
  async branch(message) {
    const copy = this.thread.copyUpTo(message);
    await this.#save(copy, [...copy.messages.values()]);
    await this.loadList();
    return copy.conversation.id;
  }

  /** The settings of the conversation that is shown have changed. */
  async changeSettings(changes) {
    Object.assign(this.thread.conversation.settings, changes);
    if (this.isKept) await this.#save(this.thread, []);
  }

  async rename(id, title) {
    const thread = await this.threadOf(id);
    thread.conversation.title = title;
    await this.#save(thread, []);
    this.#tell("list");
    if (thread === this.thread) this.#tell("thread");
  }

  async remove(id) {
    this.runs.get(id)?.controller.abort();
    this.runs.delete(id);
    await this.#stored(() => this.store.remove(id));
    await this.loadList();
    this.channel.postMessage("list");
  }

  async removeAll() {
    for (const run of this.runs.values()) run.controller.abort();
    this.runs.clear();
    await this.#stored(() => this.store.clear());
    await this.loadList();
    this.channel.postMessage("list");
  }

  /** Add conversations from a file. */
  async addAll(entries) {
    for (const { conversation, messages } of entries) await this.store.put([conversation], messages);
    await this.loadList();
    this.channel.postMessage("list");
  }

  /** A conversation with its messages: the live one if it is shown or running. */
  async threadOf(id) {
    if (id === this.thread.conversation.id) return this.thread;
    if (this.runs.has(id)) return this.runs.get(id).thread;
    const conversation = await this.store.conversation(id);
    conversation.settings = sanitized(conversation.settings);
    return new Thread(conversation, (await this.store.messages(id)).map(settled));
  }

  #send(parent, message) {
    const { thread } = this;
    const fields = toRequest(thread.conversation.settings);
    const added = thread.add(parent, message);
    this.#save(thread, [added]);
    return this.#reply(thread, fields);
  }

  async #reply(thread, fields) {
    const id = thread.conversation.id;
    if (this.runs.has(id)) return;
    const parent = thread.conversation.leaf;
    const body = { model: this.hooks.model(), messages: messagesFor(thread, parent, fields), ...fields };
    const message = thread.add(parent, emptyReply(body.model, fields.response_format ? "json" : "text"));
    const run = { thread, message, writer: new ReplyWriter(message), controller: new AbortController(), savedAt: Date.now() };
    this.runs.set(id, run);
    this.#tell("running", { thread, began: true });
    if (thread === this.thread) this.#tell("thread");
    const end = await this.#stream(run, body);
    if (this.runs.get(id) !== run) return; // The conversation was deleted meanwhile.
    this.runs.delete(id);
    run.writer.end(end);
    thread.conversation.updated = Date.now();
    await this.#save(thread, [message]);
    if (thread === this.thread) this.#tell("thread");
    this.#tell("running", { thread, began: false });
  }

  // How it ended, for `ReplyWriter.end`.
  async #stream(run, body) {
    for (;;) {
      try {
        for await (const chunk of streamChat(body, run.controller.signal)) {
          run.writer.add(chunk);
          this.#tell("message", run.message);
          if (Date.now() - run.savedAt > SAVE_EVERY_MS) {
            run.savedAt = Date.now();
            this.#save(run.thread, [run.message]);
          }
        }
        return {};
      } catch (error) {
        if (run.controller.signal.aborted) return { stopped: true };
        if (!(error instanceof ApiError)) throw error;
        if (error.status !== 401) return { error: describe(error) };
        if (!(await this.hooks.askKey())) return { error: { kind: "key", message: error.message } };
        run.writer = new ReplyWriter(run.message);
      }
    }
  }

  async #save(thread, messages) {
    const { conversation } = thread;
    const place = this.conversations.findIndex(({ id }) => id === conversation.id);
    if (place >= 0) this.conversations.splice(place, 1);
    this.conversations.push(conversation);
    this.conversations.sort((a, b) => b.updated - a.updated);
    this.#tell("list");
    await this.#stored(() => this.store.put([conversation], messages));
    this.channel.postMessage("list");
  }

  async #stored(action) {
    try {
      await action();
    } catch (error) {
      this.hooks.failed(error);
    }
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** A message from storage; one that was being written when the tab closed will not go on. */
function settled(message) {
  return message.state === "streaming" ? { ...message, state: "done", finish: "interrupted" } : message;
}

/** JSON mode wants the word in the conversation; where nobody has said it, the page does. */
function messagesFor(thread, leaf, fields) {
  const messages = thread.toRequest(leaf);
  if (fields.response_format?.type !== "json_object") return messages;
  const said = messages.some(({ role, content }) => (role === "system" || role === "user") && /json/i.test(content));
  if (said) return messages;
  if (messages[0]?.role !== "system") return [{ role: "system", content: JSON_REQUEST }, ...messages];
  return [{ role: "system", content: `${messages[0].content}\n\n${JSON_REQUEST}` }, ...messages.slice(1)];
}

function describe(error) {
  if (error.status === 0) return { kind: error.message === BROKEN ? "broken" : "noServer", message: error.message };
  if (error.retryAfter && (error.status === 429 || error.status === 503)) {
    return { kind: "busy", message: error.message, seconds: error.retryAfter };
  }
  return { kind: "words", message: error.message };
}
