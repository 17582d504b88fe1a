// Conversations as files: JSON that comes back unchanged, Markdown for people.

import { newId } from "./dom.js";
import { sanitized } from "./settings.js";

const FORMAT = "deepground-conversations";

/** A file that holds no conversations; `reason` is a word of the language table. */
export class ImportError extends Error {
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

/**
 * Threads as JSON text.
 * @param {{conversation: object, messages: Map<string, object>}[]} threads
 */
export function toJson(threads) {
  const conversations = threads.map(({ conversation, messages }) => ({
    ...conversation,
    messages: [...messages.values()].map(({ conversation: _, ...message }) => message),
  }));
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 2);
}

/**
 * Conversations and messages of a JSON file, with new ids, so that nothing there is overwritten.
 * @throws {ImportError}
 */
export function fromJson(text) {
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new ImportError("importNotJson");
  }
  if (data?.format !== FORMAT || data.version !== 1 || !Array.isArray(data.conversations)) {
    throw new ImportError("importOther");
  }
  return data.conversations.map(readConversation);
}

function readConversation(entry) {
  if (!Array.isArray(entry?.messages)) throw new ImportError("importOther");
  const id = newId();
  const ids = new Map(entry.messages.map((message) => [message?.id, newId()]));
  const conversation = {
    id,
    title: text(entry.title),
    created: number(entry.created),
    updated: number(entry.updated),
    leaf: ids.get(entry.leaf) ?? ids.get(entry.messages.at(-1)?.id) ?? null,
    settings: sanitized(entry.settings),
  };
  return { conversation, messages: entry.messages.map((message) => readMessage(message, id, ids)) };
}

// Field by field: a file from elsewhere may hold anything.
function readMessage(message, conversation, ids) {
  if (!["user", "assistant", "tool"].includes(message?.role)) throw new ImportError("importOther");
  const common = {
    id: ids.get(message.id),
    conversation,
    parent: ids.get(message.parent) ?? null,
    created: number(message.created),
    role: message.role,
    content: text(message.content),
  };
  if (message.role === "tool") return { ...common, toolCallId: text(message.toolCallId), name: text(message.name) };
  if (message.role === "user") {
    const files = list(message.files).map((file) => ({
      name: text(file?.name),
      size: number(file?.size),
      text: text(file?.text),
    }));
    return { ...common, files };
  }
  return {
    ...common,
    model: text(message.model),
    format: text(message.format),
    reasoning: text(message.reasoning),
    toolCalls: list(message.toolCalls).map((call) => ({
      id: text(call?.id),
      name: text(call?.name),
      arguments: text(call?.arguments),
    })),
    finish: text(message.finish) || null,
    error: readError(message.error),
    state: "done",
    stats: readStats(message.stats),
  };
}

function readError(error) {
  if (typeof error !== "object" || error === null) return null;
  return { kind: text(error.kind), message: text(error.message), seconds: number(error.seconds) };
}

function readStats(stats) {
  if (typeof stats !== "object" || stats === null) return null;
  return Object.fromEntries(
    Object.entries(stats)
      .filter(([, value]) => value === null || Number.isFinite(value))
      .slice(0, 20),
  );
}

const text = (value) => (typeof value === "string" ? value : "");
const number = (value) => (Number.isFinite(value) ? value : 0);
const list = (value) => (Array.isArray(value) ? value : []);

/**
 * The path that is shown, as Markdown.
 * @param {import("./thread.js").Thread} thread
 * @param {(key: string, details?: object) => string} t
 */
export function toMarkdown(thread, t) {
  const { title, settings } = thread.conversation;
  const parts = [`# ${title || t("untitled")}`];
  if (settings.system.trim()) parts.push(`## ${t("systemPrompt")}`, settings.system.trim());
  for (const message of thread.path()) parts.push(...messageToMarkdown(message, t));
  return `${parts.join("\n\n")}\n`;
}

function messageToMarkdown(message, t) {
  if (message.role === "user") {
    const files = (message.files ?? []).map((file) => `**${file.name}**\n\n${fenced(file.text, "")}`);
    return [`## ${t("you")}`, ...files, message.content].filter(Boolean);
  }
  if (message.role === "tool") return [`## ${t("resultOf", { name: message.name })}`, fenced(message.content, "")];
  const parts = [`## ${message.model}`];
  if (message.reasoning) {
    parts.push(`<details>\n<summary>${t("thinking")}</summary>\n\n${message.reasoning.trim()}\n\n</details>`);
  }
  if (message.content) parts.push(message.format === "text" ? message.content : fenced(message.content, "json"));
  for (const call of message.toolCalls) parts.push(`**${t("calls", { name: call.name })}**`, fenced(call.arguments, "json"));
  if (message.error) parts.push(`> ${message.error.message}`);
  return parts;
}

/** A code block whose fence is longer than any in the text. */
export function fenced(content, language) {
  let longest = 2;
  for (const [run] of content.matchAll(/`+/g)) longest = Math.max(longest, run.length);
  const fence = "`".repeat(longest + 1);
  return `${fence}${language}\n${content.replace(/\n$/, "")}\n${fence}`;
}

/** A file name made from a title. */
export function fileName(title, extension) {
  const plain = title.replace(/[\p{Cc}\\/:*?"<>|.]+/gu, " ").trim().slice(0, 60).trim();
  return `${plain || "deepground"}.${extension}`;
}
