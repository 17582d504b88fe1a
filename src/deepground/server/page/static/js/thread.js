// One conversation: a tree of messages, of which one path is shown.
//
// An edited question or a regenerated answer is a sibling of the first one; nothing is overwritten. The conversation
// names the last message of the path that is shown (`leaf`).

import { newId } from "./dom.js";
import { withFiles } from "./files.js";

const TITLE_LENGTH = 60;

/** A new, empty conversation. */
export function newConversation(settings) {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, leaf: null, settings: structuredClone(settings) };
}

/** A title made from a question. */
export function titleFrom(text) {
  const line = text.trim().split("\n", 1)[0].replace(/\s+/g, " ");
  const letters = Array.from(line);
  return letters.length > TITLE_LENGTH ? `${letters.slice(0, TITLE_LENGTH - 1).join("")}…` : line;
}

/** A conversation with its messages. */
export class Thread {
  /**
   * @param {object} conversation
   * @param {object[]} messages all of them, in any order
   */
  constructor(conversation, messages = []) {
    this.conversation = conversation;
    this.messages = new Map(messages.map((message) => [message.id, message]));
  }

  /** The messages that are shown, first to last. */
  path(leaf = this.conversation.leaf) {
    const found = [];
    const seen = new Set();
    for (let message = this.messages.get(leaf); message && !seen.has(message.id); ) {
      seen.add(message.id);
      found.unshift(message);
      message = this.messages.get(message.parent);
    }
    return found;
  }

  /** The last message that is shown, or undefined. */
  get last() {
    return this.messages.get(this.conversation.leaf);
  }

  /** A message and the others that stand at the same place, oldest first. */
  siblings(message) {
    return [...this.messages.values()]
      .filter((other) => other.parent === message.parent)
      .sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
  }

  /** Add a message below `parent` and show it. */
  add(parent, fields) {
    let created = Date.now();
    for (const other of this.messages.values()) created = Math.max(created, other.created + 1);
    const message = { id: newId(), conversation: this.conversation.id, parent: parent ?? null, created, ...fields };
    this.messages.set(message.id, message);
    this.conversation.leaf = message.id;
    this.conversation.updated = Date.now();
    if (!this.conversation.title && message.role === "user") {
      this.conversation.title = titleFrom(message.content || message.files?.[0]?.name || "");
    }
    return message;
  }

  /** Show the sibling `step` places on, with the newest continuation below it. */
  step(message, step) {
    const all = this.siblings(message);
    const next = all[all.indexOf(message) + step];
    if (next) this.show(next);
  }

  /** Show the newest continuation of a message. */
  show(message) {
    let leaf = message;
    for (;;) {
      const below = [...this.messages.values()].filter((other) => other.parent === leaf.id);
      if (!below.length) break;
      leaf = below.reduce((a, b) => (b.created > a.created ? b : a));
    }
    this.conversation.leaf = leaf.id;
  }

  /** The calls of the last message that wait for results, or []. */
  openCalls() {
    const last = this.last;
    return last?.role === "assistant" && last.state === "done" && last.finish === "tool_calls" ? last.toolCalls : [];
  }

  /**
   * The `messages` field of a request that continues after `leaf`.
   * Thinking goes along: what the model sees of it is its chat format's decision.
   */
  toRequest(leaf) {
    const system = this.conversation.settings.system.trim();
    const messages = system ? [{ role: "system", content: system }] : [];
    for (const message of this.path(leaf)) {
      if (message.role === "user") {
        messages.push({ role: "user", content: withFiles(message.content, message.files) });
      } else if (message.role === "tool") {
        messages.push({ role: "tool", content: message.content, tool_call_id: message.toolCallId });
      } else if (message.content || message.toolCalls.length || message.reasoning) {
        messages.push(assistantToRequest(message));
      }
    }
    return messages;
  }

  /** A new thread with a copy of the path up to a message. */
  copyUpTo(message) {
    const copy = new Thread({
      ...newConversation(this.conversation.settings),
      title: this.conversation.title,
    });
    for (const { id, conversation, parent, created, ...fields } of this.path(message.id)) {
      copy.add(copy.conversation.leaf, structuredClone(fields));
    }
    return copy;
  }
}

function assistantToRequest(message) {
  const entry = { role: "assistant", content: message.content, reasoning_content: message.reasoning };
  if (message.toolCalls.length) {
    entry.tool_calls = message.toolCalls.map((call) => ({
      id: call.id,
      type: "function",
      function: { name: call.name, arguments: call.arguments },
    }));
  }
  return entry;
}
