// What a conversation sends besides its messages: kept as it was typed, checked when it is sent.

/** Numeric fields: range, and whether only whole numbers are allowed. The server's ranges. */
export const NUMBERS = {
  temperature: { min: 0, max: 2, step: 0.1 },
  top_p: { min: 0.01, max: 1, step: 0.01 },
  max_tokens: { min: 1, max: 2 ** 31 - 1, step: 1, whole: true },
  seed: { min: -Number.MAX_SAFE_INTEGER, max: Number.MAX_SAFE_INTEGER, step: 1, whole: true },
  top_k: { min: 0, max: 2 ** 31 - 1, step: 1, whole: true },
  min_p: { min: 0, max: 1, step: 0.01 },
  frequency_penalty: { min: -2, max: 2, step: 0.1 },
  presence_penalty: { min: -2, max: 2, step: 0.1 },
  repetition_penalty: { min: 0.01, max: 2, step: 0.01 },
};

/** Settings that leave everything to the model. */
export const NEUTRAL = Object.freeze({
  system: "",
  thinking: "default",
  effort: "default",
  format: "text",
  schema: "",
  tools: "",
  stop: "",
  ...Object.fromEntries(Object.keys(NUMBERS).map((name) => [name, ""])),
});

/** A setting that cannot be sent. */
export class SettingsError extends Error {
  /**
   * @param {string} field
   * @param {string} reason a word of the language table
   * @param {object} [details] what the sentence is filled with
   */
  constructor(field, reason, details = {}) {
    super(`${field}: ${reason}`);
    this.field = field;
    this.reason = reason;
    this.details = details;
  }
}

/** Only known fields, all of them there: for settings from storage or a file. */
export function sanitized(settings) {
  const known = { ...NEUTRAL };
  for (const name of Object.keys(known)) if (typeof settings?.[name] === "string") known[name] = settings[name];
  return known;
}

/** How many settings differ from neutral. */
export function changedCount(settings) {
  return Object.keys(NEUTRAL).filter((name) => settings[name] !== NEUTRAL[name]).length;
}

/**
 * The request's fields.
 * @throws {SettingsError}
 */
export function toRequest(settings) {
  const fields = {};
  for (const name of Object.keys(NUMBERS)) {
    const value = numberOf(name, settings[name]);
    if (value !== null) fields[name] = value;
  }
  if (settings.thinking !== "default") {
    fields.thinking = { type: settings.thinking === "on" ? "enabled" : "disabled" };
  }
  if (settings.effort !== "default" && settings.thinking !== "off") fields.reasoning_effort = settings.effort;
  const stop = settings.stop.split("\n").filter((line) => line !== "");
  if (stop.length > 16) throw new SettingsError("stop", "stopTooMany");
  if (stop.length) fields.stop = stop;
  const format = responseFormat(settings);
  if (format) fields.response_format = format;
  const tools = toolsOf(settings.tools);
  if (tools.length) fields.tools = tools;
  return fields;
}

function numberOf(name, text) {
  const { min, max, whole } = NUMBERS[name];
  if (text.trim() === "") return null;
  const value = Number(text);
  if (!Number.isFinite(value) || value < min || value > max || (whole && !Number.isSafeInteger(value))) {
    throw new SettingsError(name, whole ? "notWhole" : "notInRange", { min, max });
  }
  return value;
}

function responseFormat(settings) {
  if (settings.format === "json") return { type: "json_object" };
  if (settings.format !== "schema") return null;
  const schema = parse("schema", settings.schema);
  if (!isObject(schema)) throw new SettingsError("schema", "schemaNotObject");
  return { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
}

/** Functions as the API has them; bare function objects are taken too. */
function toolsOf(text) {
  if (text.trim() === "") return [];
  const parsed = parse("tools", text);
  const list = Array.isArray(parsed) ? parsed : [parsed];
  return list.map((entry) => {
    const tool = isObject(entry) && entry.type === "function" ? entry : { type: "function", function: entry };
    if (!isObject(tool.function) || typeof tool.function.name !== "string") {
      throw new SettingsError("tools", "toolWithoutName");
    }
    return tool;
  });
}

function parse(field, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SettingsError(field, "notJson", { why: error.message });
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
