// What a run waits for: an approval, or the answer to a question.

import { callInput, toolIcon, toolLabel } from "./agent-calls.js";
import { button, h, icon } from "./dom.js";
import { t } from "./i18n.js";

/**
 * A form for what is asked.
 * @param {object} pending as the server tells it
 * @param {(fields: object) => Promise<void>} reply sends {approve} or {answer}
 */
export function askedForm(pending, reply) {
  return pending.kind === "approval" ? approval(pending, reply) : question(pending, reply);
}

function approval(pending, reply) {
  const { tool, arguments: given } = pending;
  return frame(
    [toolIcon(tool), h("h2", { text: t("approvalAsked") }), h("span", { class: "tool-name", text: toolLabel(tool), dir: "auto" })],
    [h("div", { class: "asked-input", tabindex: "0", role: "group", "aria-label": t("callInput") }, callInput(tool, given))],
    pending, reply,
    [
      h("button", { type: "button", class: "button button-quiet", text: t("deny"), "data-deny": true }),
      h("button", { type: "submit", class: "button button-main", text: t("allow") }),
    ],
    () => ({ approve: true }),
  );
}

function question(pending, reply) {
  const { question: text, options } = pending;
  const field = h("textarea", { rows: "1", "aria-label": t("yourAnswer"), placeholder: t("yourAnswer"), dir: "auto" });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    field.form.requestSubmit();
  });
  const chosen = options.map((option) => button(null, option, null, { visible: true, className: "button-quiet", "data-answer": option }));
  return frame(
    [icon("question"), h("h2", { text: t("questionAsked") })],
    [h("p", { class: "asked-question", text, dir: "auto" }), chosen.length > 0 && h("div", { class: "row" }, ...chosen)],
    pending, reply,
    [field, h("button", { type: "submit", class: "button button-main", text: t("answerIt") })],
    () => (field.value.trim() ? { answer: field.value } : null),
  );
}

function frame(head, body, { until, kind }, reply, controls, read) {
  const silence = kind === "approval" ? "silenceDenies" : "silenceGoesOn";
  const send = async (fields) => {
    if (!fields || form.inert) return;
    form.inert = true;
    try {
      await reply(fields);
    } finally {
      form.inert = false;
    }
  };
  const left = h("span", { class: "quiet asked-left" });
  const form = h("form", { class: "asked", on: { submit: (event) => { event.preventDefault(); send(read()); } } },
    h("div", { class: "asked-head" }, ...head), ...body,
    h("div", { class: "asked-controls" }, left, ...controls));
  form.querySelector("[data-deny]")?.addEventListener("click", () => send({ approve: false }));
  for (const option of form.querySelectorAll("[data-answer]")) option.addEventListener("click", () => send({ answer: option.dataset.answer }));
  form.tick = () => {
    const minutes = Math.max(0, Math.ceil((until - Date.now() / 1000) / 60));
    left.textContent = t(silence, { count: minutes });
  };
  form.tick();
  return form;
}
