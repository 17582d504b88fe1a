// The agent's runs: what there are, and the one that is shown. Knows no elements; views listen to its events:
//   "about"  whether the server runs agents became known
//   "runs"   the list of runs changed
//   "run"    the run that is shown changed

import { aboutAgent, deleteRun, followRun, listRuns, replyToRun, resumeRun, startRun, stopRun } from "./agent-api.js";
import { Story } from "./agent-story.js";
import { ApiError } from "./api.js";

const LIST_EVERY_MS = 4000;
const RETRY_MS = [500, 1000, 2000, 4000];

/** The runs of whoever holds the key. */
export class Agents extends EventTarget {
  /** @param {{askKey: () => Promise<boolean>}} hooks asks for the key when the server wants another */
  constructor(hooks) {
    super();
    this.hooks = hooks;
    this.about = null;
    this.runs = [];
    this.run = null;
    this.isWatched = false;
    setInterval(() => this.#refresh(), LIST_EVERY_MS);
  }

  /** Ask the server whether it runs agents. */
  async load() {
    this.about = await this.#asking(aboutAgent);
    this.#tell("about");
    if (this.about.enabled) await this.loadRuns();
  }

  async loadRuns() {
    this.runs = await this.#asking(listRuns);
    this.#tell("runs");
  }

  /** Begin a run; its id. */
  async start(fields) {
    const { id } = await this.#asking(() => startRun(fields));
    await this.loadRuns();
    return id;
  }

  /** Show a run and follow it, or none. */
  open(id) {
    if (this.run?.id === id) return;
    this.run?.controller.abort();
    this.run = id ? newRun(id) : null;
    this.#tell("run");
    this.#tell("runs");
    if (this.run) this.#follow(this.run);
  }

  /** Say yes, no, or something to what the run waits for. */
  async reply(fields) {
    const { id, story } = this.run;
    const { call_id } = story.state.pending;
    await this.#asking(() => replyToRun(id, { call_id, ...fields }));
  }

  async stop() {
    const { id } = this.run;
    await this.#asking(() => stopRun(id));
    await this.loadRuns();
  }

  async resume() {
    const { run } = this;
    await this.#asking(() => resumeRun(run.id));
    await this.loadRuns();
    run.story.state = null;
    if (run === this.run) this.#follow(run);
  }

  async remove(id) {
    await this.#asking(() => deleteRun(id));
    await this.loadRuns();
  }

  async #follow(run) {
    const { signal } = run.controller;
    for (let failures = 0; !signal.aborted; ) {
      try {
        for await (const frame of followRun(run.id, run.story.last, signal)) {
          failures = 0;
          run.isCut = false;
          run.story.take(frame);
          if (frame.type === "state") this.#noticeState(frame);
          this.#tell("run");
        }
        if (!run.story.isUnderWay) return;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof ApiError)) throw error;
        if (error.status === 401 && (await this.hooks.askKey())) continue;
        if (error.status !== 0 && error.status < 500) {
          run.isMissing = true;
          this.#tell("run");
          return;
        }
      }
      run.isCut = true;
      this.#tell("run");
      await pause(RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]);
    }
  }

  #noticeState({ id, status, reason, pending }) {
    const entry = this.runs.find((run) => run.id === id);
    if (entry) Object.assign(entry, { status, reason, pending });
    this.#tell("runs");
  }

  async #refresh() {
    const others = this.runs.some((run) => run.id !== this.run?.id && ["waiting", "running"].includes(run.status));
    if (!this.isWatched || !others || document.hidden) return;
    try {
      this.runs = await listRuns();
      this.#tell("runs");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
    }
  }

  async #asking(action) {
    for (;;) {
      try {
        return await action();
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 401 || !(await this.hooks.askKey())) throw error;
      }
    }
  }

  #tell(type) {
    this.dispatchEvent(new CustomEvent(type));
  }
}

function newRun(id) {
  return { id, story: new Story(), controller: new AbortController(), isCut: false, isMissing: false };
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
