// Where the person writes: the text, its files, and the switches that matter most.

import { byId, button, h, icon } from "./dom.js";
import { FileError, readTextFile, sizeText } from "./files.js";
import { t } from "./i18n.js";

const DRAFT = "deepground.draft";

/** The form at the foot of the page. */
export class Composer {
  /**
   * @param {object} actions `ask(text, files)` -> a promise of whether it was sent; `stop()`; `changeSettings(changes)`;
   *   `editLast()`; `sends(event)`; `say(words)`
   */
  constructor(actions) {
    this.actions = actions;
    this.form = byId("composer");
    this.field = byId("question");
    this.fileList = byId("question-files");
    this.picker = byId("file-picker");
    this.sendButton = byId("send");
    this.files = [];
    this.busy = false;
    this.sending = false;
    this.field.value = sessionStorage.getItem(DRAFT) ?? "";
    this.#listen();
    this.#showSend();
  }

  focus() {
    this.field.focus();
  }

  /** Put a text into the field. */
  fill(text) {
    this.field.value = text;
    this.#changed();
    this.focus();
  }

  /** A reply is under way, or has ended. */
  setBusy(busy) {
    this.busy = busy;
    this.#showSend();
  }

  /** The two switches, from the conversation's settings. */
  showSettings(settings) {
    byId("quick-thinking").value = settings.thinking;
    byId("quick-format").value = settings.format;
    for (const id of ["quick-thinking", "quick-format"]) {
      byId(id).classList.toggle("is-changed", byId(id).selectedIndex > 0);
    }
  }

  /** Words in another language. */
  translate() {
    this.#showSend();
    this.#showFiles();
  }

  #listen() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.field.addEventListener("input", () => this.#changed());
    this.field.addEventListener("keydown", (event) => this.#key(event));
    this.field.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (!files.length) return;
      event.preventDefault();
      this.#attach(files);
    });
    byId("attach").addEventListener("click", () => this.picker.click());
    this.picker.addEventListener("change", async () => {
      await this.#attach([...this.picker.files]);
      this.picker.value = "";
      this.focus();
    });
    byId("quick-thinking").addEventListener("change", ({ target }) => this.actions.changeSettings({ thinking: target.value }));
    byId("quick-format").addEventListener("change", ({ target }) => this.actions.changeSettings({ format: target.value }));
    this.#listenToDrops();
  }

  #listenToDrops() {
    const drop = byId("drop");
    const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragenter", (event) => holdsFiles(event) && (drop.hidden = false));
    addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
    addEventListener("dragleave", (event) => event.relatedTarget === null && (drop.hidden = true));
    addEventListener("drop", (event) => {
      drop.hidden = true;
      if (!holdsFiles(event)) return;
      event.preventDefault();
      this.#attach([...event.dataTransfer.files]);
    });
  }

  #key(event) {
    if (this.actions.sends(event)) {
      event.preventDefault();
      if (!this.busy) this.#send();
    } else if (event.key === "ArrowUp" && this.field.value === "" && !this.busy) {
      if (this.actions.editLast()) event.preventDefault();
    }
  }

  async #send() {
    if (this.busy) {
      this.actions.stop();
      return;
    }
    const text = this.field.value;
    if (this.sending || (!text.trim() && !this.files.length)) return;
    const { files } = this;
    this.sending = true;
    const sent = await this.actions.ask(text, files).finally(() => (this.sending = false));
    if (!sent) return;
    this.files = [];
    this.#showFiles();
    this.field.value = "";
    this.#changed();
  }

  async #attach(files) {
    for (const file of files) {
      try {
        this.files.push(await readTextFile(file));
      } catch (error) {
        this.actions.say(t(error instanceof FileError ? error.reason : "fileUnreadable", { name: file.name }));
      }
    }
    this.#showFiles();
    this.#showSend();
  }

  #changed() {
    try {
      sessionStorage.setItem(DRAFT, this.field.value);
    } catch {
      // Too long to be kept over a reload.
    }
    this.#showSend();
  }

  #showSend() {
    const label = t(this.busy ? "stop" : "send");
    this.sendButton.replaceChildren(icon(this.busy ? "stop" : "send"));
    this.sendButton.setAttribute("aria-label", label);
    this.sendButton.title = label;
    this.sendButton.disabled = !this.busy && !this.field.value.trim() && !this.files.length;
    this.sendButton.classList.toggle("is-stop", this.busy);
  }

  #showFiles() {
    this.fileList.replaceChildren(
      ...this.files.map((file) =>
        h("li", { class: "chip" }, icon("file"), h("span", { class: "file-name", text: file.name }), h("span", { class: "quiet", text: sizeText(file.size) }),
          button("close", t("removeFile", { name: file.name }), () => {
            this.files = this.files.filter((other) => other !== file);
            this.#showFiles();
            this.#showSend();
            this.focus();
          })),
      ),
    );
    this.fileList.hidden = !this.files.length;
  }
}
