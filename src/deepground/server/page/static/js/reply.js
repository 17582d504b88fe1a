// A reply while it arrives: the chunks of a stream gathered into one message, with its times.

/** Fields of an assistant message that has not begun. */
export function emptyReply(model, format) {
  return {
    role: "assistant",
    model,
    format,
    content: "",
    reasoning: "",
    toolCalls: [],
    finish: null,
    error: null,
    state: "streaming",
    stats: null,
  };
}

/** Gathers chunks into a message. */
export class ReplyWriter {
  /**
   * @param {object} message as `emptyReply` made it; changed in place
   * @param {() => number} now milliseconds
   */
  constructor(message, now = () => performance.now()) {
    this.message = message;
    this.now = now;
    this.start = now();
    this.first = null;
    this.last = null;
    this.thinkingStart = null;
    this.thinkingEnd = null;
    this.usage = null;
  }

  /** Take in one chunk. */
  add(chunk) {
    this.usage = chunk.usage ?? this.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const { delta } = choice;
    if (delta.reasoning_content) {
      this.#mark();
      this.thinkingStart ??= this.now();
      this.message.reasoning += delta.reasoning_content;
    }
    if (delta.content) {
      this.#answer();
      this.message.content += delta.content;
    }
    for (const call of delta.tool_calls ?? []) this.#call(call);
    // "length" may have a reason of its own, such as a reply that went round in circles.
    this.message.finish = choice.stop_reason === "repetition" ? "repetition" : (choice.finish_reason ?? this.message.finish);
  }

  /** Seconds of thinking so far, or null before any. */
  get thinkingSeconds() {
    if (this.thinkingStart === null) return null;
    return ((this.thinkingEnd ?? this.now()) - this.thinkingStart) / 1000;
  }

  /** Whether the model thinks at this moment. */
  get isThinking() {
    return this.thinkingStart !== null && this.thinkingEnd === null;
  }

  /** The stream has ended, however it did. */
  end({ error = null, stopped = false } = {}) {
    const { message } = this;
    if (this.thinkingStart !== null) this.thinkingEnd ??= this.now();
    message.state = "done";
    message.error = error;
    if (stopped) message.finish = "stopped";
    message.stats = this.#stats();
  }

  #stats() {
    const seconds = (from, to) => (from === null || to === null ? null : (to - from) / 1000);
    const tokens = this.usage?.completion_tokens ?? null;
    const span = seconds(this.first, this.last);
    return {
      timeToFirstToken: seconds(this.start, this.first),
      seconds: seconds(this.start, this.now()),
      thinkingSeconds: this.thinkingSeconds,
      promptTokens: this.usage?.prompt_tokens ?? null,
      cachedTokens: this.usage?.prompt_cache_hit_tokens ?? null,
      completionTokens: tokens,
      reasoningTokens: this.usage?.completion_tokens_details?.reasoning_tokens ?? null,
      // The first token's time is the prompt's, not the decoder's.
      tokensPerSecond: tokens > 1 && span > 0 ? (tokens - 1) / span : null,
    };
  }

  #mark() {
    this.first ??= this.now();
    this.last = this.now();
  }

  #answer() {
    this.#mark();
    if (this.thinkingStart !== null) this.thinkingEnd ??= this.now();
  }

  #call(piece) {
    this.#answer();
    const calls = this.message.toolCalls;
    while (calls.length <= piece.index) calls.push({ id: "", name: "", arguments: "" });
    const call = calls[piece.index];
    call.id ||= piece.id ?? "";
    call.name ||= piece.function?.name ?? "";
    call.arguments += piece.function?.arguments ?? "";
  }
}
