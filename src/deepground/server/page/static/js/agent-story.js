// What a run's events come to: steps with their calls, notes between them, the plan, what was spent. Knows no elements.
//
// Items change as events come; `version` counts the changes, so that views know what to draw anew.

const UNDER_WAY = new Set(["waiting", "running"]);

/** The story of one run. */
export class Story {
  constructor() {
    this.items = [];
    this.todo = [];
    this.checks = [];
    this.spent = { steps: 0, tokens: 0, tool_calls: 0, seconds: 0 };
    this.ended = null;
    this.state = null;
    this.last = -1;
    this.files = 0;
    this.clock = null;
    this.heardAt = performance.now();
  }

  /** The status, with "asking" for a run that waits for the person. */
  get status() {
    if (this.state?.pending) return "asking";
    return this.state?.status ?? "waiting";
  }

  /** Whether more will come. */
  get isUnderWay() {
    return !this.state || UNDER_WAY.has(this.state.status);
  }

  /** Seconds of work so far; time that a person took does not count. */
  get seconds() {
    const now = this.status === "running" ? (performance.now() - this.heardAt) / 1000 : 0;
    return this.spent.seconds + now;
  }

  /** Take in one frame of the feed. */
  take(frame) {
    if (frame.type === "state") this.state = frame;
    else if (frame.type === "delta") this.#delta(frame);
    else if (frame.seq > this.last) {
      this.last = frame.seq;
      this.#time(frame);
      this[`_${frame.type}`]?.(frame);
    }
  }

  _run_started(event) {
    this.checked = event.checks?.length > 0;
  }

  _run_resumed(event) {
    this.ended = null;
    this.#stopOpenCalls();
    this.#note("resumed", event.said ?? "");
  }

  _message(event) {
    const { role, content } = event.message;
    // The first two are the instructions and the task itself.
    if (role === "user" && event.seq > 2) this.#note("told", content);
    else if (role === "system") this.#note("instructions", content);
  }

  _model_call(event) {
    this.spent.steps += 1;
    this.#add({ kind: "step", number: this.spent.steps, state: "asking", phase: "", reasoning: "", text: "", calls: [], began: event.time, seconds: null });
  }

  _model_reply(event) {
    const step = this.#step();
    if (!step) return;
    const { message, usage } = event;
    this.spent.tokens += (usage?.prompt_tokens ?? 0) + (usage?.completion_tokens ?? 0);
    if (event.remembered) this.spent.steps -= 1;
    const calls = (message.tool_calls ?? []).map(({ id, function: { name, arguments: given } }) => ({ id, name, given, arguments: parsed(given), state: "ready" }));
    this.#change(step, {
      state: "done", phase: "", reasoning: message.reasoning_content ?? "", text: message.content ?? "", calls,
      seconds: event.seconds, remembered: Boolean(event.remembered), finish: event.finish_reason,
    });
  }

  _tool_call(event) {
    this.spent.tool_calls += 1;
    this.#changeCall(event.call_id, { state: "running", arguments: event.arguments });
  }

  _approval_request(event) {
    this.#changeCall(event.call_id, { state: "asked", arguments: event.arguments });
  }

  _approval(event) {
    this.#changeCall(event.call_id, { state: event.approved ? "running" : "denied", approved: event.approved });
  }

  _question(event) {
    this.#changeCall(event.call_id, { state: "asked", question: event.question });
  }

  _answer(event) {
    this.#changeCall(event.call_id, { state: "running", answer: event.answer });
  }

  _tool_result(event) {
    // Tests that were run and did not pass are no error of the tool.
    const failed = event.is_error || event.data?.passed === false;
    const state = event.error_kind === "denied" ? "denied" : failed ? "failed" : "done";
    const files = event.files ?? [];
    this.files += files.length;
    this.#changeCall(event.call_id, { state, content: event.content, seconds: event.seconds, spilled: event.spilled, files });
    if (event.name === "todo" && Array.isArray(event.data?.todo)) this.todo = event.data.todo;
  }

  _check(event) {
    this.#note(event.passed ? "passed" : "failed", event.report, { name: event.name });
  }

  _attempt(event) {
    this.todo = [];
    this.#stopOpenCalls();
    this.#note("attempt", event.why ?? "", { number: event.number });
  }

  _compaction() {
    this.#note("compacted", "");
  }

  _run_ended(event) {
    this.ended = event;
    this.#stopOpenCalls();
    const step = this.#step();
    if (step?.state === "asking") this.#change(step, { state: "broken" });
    Object.assign(this.spent, event.spent ?? {});
  }

  #delta({ kind, text, at }) {
    const step = this.#step();
    if (step?.state !== "asking") return;
    const field = { reasoning: "reasoning", text: "text" }[kind];
    const before = at === 0 ? "" : (step[field] ?? "");
    this.#change(step, field ? { phase: kind, [field]: before + text } : { phase: kind });
  }

  #time({ type, time }) {
    this.heardAt = performance.now();
    if (type === "run_started" || type === "run_resumed" || this.clock === null) this.clock = time;
    if (type !== "approval" && type !== "answer") this.spent.seconds += Math.max(0, time - this.clock);
    this.clock = time;
  }

  // The model's words come first, so the last step is the one that calls belong to; ids may come again in later steps.
  #step() {
    return this.items.findLast(({ kind }) => kind === "step");
  }

  #changeCall(id, changes) {
    const step = this.items.findLast((item) => item.kind === "step" && item.calls.some((call) => call.id === id));
    if (!step) return;
    this.#change(step, { calls: step.calls.map((call) => (call.id === id ? { ...call, ...changes } : call)) });
  }

  #stopOpenCalls() {
    for (const item of this.items) {
      if (item.kind !== "step" || !item.calls.some(isOpen)) continue;
      this.#change(item, { calls: item.calls.map((call) => (isOpen(call) ? { ...call, state: "ready" } : call)) });
    }
  }

  #note(kind, text, more = {}) {
    this.#add({ kind: "note", what: kind, text, ...more });
  }

  #add(item) {
    this.items.push({ ...item, id: this.items.length, version: 0 });
  }

  #change(item, changes) {
    Object.assign(item, changes);
    item.version += 1;
  }
}

function isOpen(call) {
  return call.state === "running" || call.state === "asked";
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
