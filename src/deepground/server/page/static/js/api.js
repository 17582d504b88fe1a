// The server's API as the page uses it. Every path is relative, so that a reverse proxy may add a prefix.

import { eventData } from "./sse.js";

const KEY = "deepground.key";

/** The message of an error for a stream that ended too early. */
export const BROKEN = "the stream broke off";

/** A reply that is not a success, or a failure told within a stream. */
export class ApiError extends Error {
  /** @param {number} status 0 if the server did not answer. */
  constructor(status, message, { code = null, param = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
  }
}

/** The key that the person gave, or "". */
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "";
}

/** Keep a key for this tab, or on this device. */
export function setApiKey(key, { remember }) {
  forgetApiKey();
  if (key) (remember ? localStorage : sessionStorage).setItem(KEY, key);
}

/** Whether the key outlives the tab. */
export function keyIsRemembered() {
  return localStorage.getItem(KEY) !== null;
}

/** Drop the key everywhere. */
export function forgetApiKey() {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
}

/**
 * Ask the server.
 * @throws {ApiError}
 */
export async function request(path, options = {}) {
  const headers = { ...options.headers };
  const key = apiKey();
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, error.message);
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

/** The models, the served one first. */
export async function listModels() {
  const reply = await (await request("v1/models")).json();
  return reply.data;
}

/**
 * Stream one reply.
 * @param {object} body the request's fields
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<object>} the chunks
 * @throws {ApiError}
 */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let finished = false;
  try {
    for await (const data of eventData(response.body)) {
      if (data === "[DONE]") {
        finished = true;
        return;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(response.status, chunk.error.message, chunk.error);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError(0, BROKEN);
  }
  if (!finished) throw new ApiError(0, BROKEN);
}

async function problemOf(response) {
  const retryAfter = Number(response.headers.get("retry-after")) || null;
  try {
    const { error } = await response.json();
    return new ApiError(response.status, error.message, { ...error, retryAfter });
  } catch {
    return new ApiError(response.status, `HTTP ${response.status}`, { retryAfter });
  }
}
