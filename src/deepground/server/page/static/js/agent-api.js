// The agent's part of the server's API.

import { ApiError, BROKEN, request } from "./api.js";
import { eventData } from "./sse.js";

const RUNS = "agent/runs";

/** Whether the server runs agents: {enabled, workspaces}. */
export async function aboutAgent() {
  return (await request("agent")).json();
}

/** The runs, the newest first. */
export async function listRuns() {
  return (await (await request(RUNS)).json()).data;
}

/** Begin a run: {task, workspace, ask_first}. */
export async function startRun(fields) {
  return (await post(RUNS, fields)).json();
}

/** Go on with a run. */
export async function resumeRun(id) {
  return (await post(`${RUNS}/${id}/resume`, {})).json();
}

/** End a run. */
export async function stopRun(id) {
  return (await post(`${RUNS}/${id}/stop`, {})).json();
}

/** Allow, deny or answer: {call_id, approve} or {call_id, answer}. */
export async function replyToRun(id, fields) {
  await post(`${RUNS}/${id}/replies`, fields);
}

/** Remove a run. */
export async function deleteRun(id) {
  await request(`${RUNS}/${id}`, { method: "DELETE" });
}

/** What a run made: [{name, size}]. */
export async function listFiles(id) {
  return (await (await request(`${RUNS}/${id}/files`)).json()).data;
}

/** A file of a run, or all of them as an archive if no name is given. */
export async function fetchFile(id, name) {
  const path = name === undefined ? "archive" : `files/${name.split("/").map(encodeURIComponent).join("/")}`;
  return (await request(`${RUNS}/${id}/${path}`)).blob();
}

/** An address at which a frame can show a file; it holds for two minutes. */
export async function previewAddress(id, name) {
  return (await (await post(`${RUNS}/${id}/previews`, { name })).json()).url;
}

/**
 * Follow a run.
 * @param {string} id
 * @param {number} after the last event that is known; -1: none
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<object>} events, "delta" and "state" frames
 * @throws {ApiError}
 */
export async function* followRun(id, after, signal) {
  const headers = after >= 0 ? { "last-event-id": String(after) } : {};
  const response = await request(`${RUNS}/${id}/events`, { headers, signal });
  try {
    for await (const data of eventData(response.body)) yield JSON.parse(data);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, BROKEN);
  }
}

function post(path, body) {
  return request(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
}
