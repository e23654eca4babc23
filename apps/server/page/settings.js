/* SPDX-License-Identifier: MIT
 * The settings: what each request carries, the system prompt of the conversation, the key. Whatever is wrong is marked,
 * and is not sent.
 */
import { apiKey, setApiKey } from "./api.js";
import { byId, setText } from "./dom.js";

const SAMPLING = ["temperature", "top_p", "top_k", "min_p", "repeat_penalty", "max_tokens", "seed"];

export class Settings {
  /* host: {settings, keep(), system(), setSystem(text), keyChanged()}; settings gets {sampling, schema, schemaText}. */
  constructor(host) {
    this.host = host;
    this.dialog = byId("settings");
    const { settings } = host;
    for (const name of SAMPLING) {
      const value = settings.sampling && settings.sampling[name];
      byId(`s-${name}`).value = Number.isFinite(value) ? value : "";
      byId(`s-${name}`).addEventListener("input", () => this.readSampling());
    }
    byId("s-schema").value = typeof settings.schemaText === "string" ? settings.schemaText : "";
    byId("s-schema").addEventListener("input", () => this.readSchema());
    byId("s-system").addEventListener("input", () => host.setSystem(byId("s-system").value));
    byId("sampling-reset").addEventListener("click", () => this.reset());
    byId("settings-open").addEventListener("click", () => this.open());
    this.dialog.addEventListener("close", () => this.closed());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.close());
    this.readSampling();
    this.readSchema();
  }

  get isOpen() {
    return this.dialog.open;
  }

  open(focus = null) {
    byId("s-system").value = this.host.system();
    byId("s-key").value = apiKey();
    if (!this.isOpen)
      this.dialog.showModal();
    if (focus)
      byId(focus).focus();
  }

  close() {
    this.dialog.close();
  }

  closed() {
    if (byId("s-key").value.trim() !== apiKey()) {
      setApiKey(byId("s-key").value);
      this.host.keyChanged();
    }
  }

  /* Shows what is wrong, if anything is. */
  areGood() {
    const wrong = byId("sampling-wrong").textContent ? "s-temperature"
      : byId("schema-wrong").textContent ? "s-schema" : "";
    if (wrong)
      this.open(wrong);
    return !wrong;
  }

  reset() {
    for (const name of SAMPLING)
      byId(`s-${name}`).value = "";
    this.readSampling();
  }

  readSampling() {
    const { settings } = this.host, wrong = [];
    settings.sampling = {};
    for (const name of SAMPLING) {
      const box = byId(`s-${name}`);
      if (!box.validity.valid)
        wrong.push(`${box.labels[0].textContent}: ${box.validationMessage}`);
      else if (box.value !== "")
        settings.sampling[name] = Number(box.value);
    }
    setText(byId("sampling-wrong"), wrong.join(" "));
    this.host.keep();
  }

  readSchema() {
    const { settings } = this.host, text = byId("s-schema").value.trim();
    let wrong = "";
    settings.schema = null;
    settings.schemaText = text;
    try {
      const schema = text ? JSON.parse(text) : null;
      if (text && (!schema || typeof schema !== "object" || Array.isArray(schema)))
        wrong = "A schema is an object.";
      else
        settings.schema = schema;
    } catch (error) {
      wrong = `This is no JSON: ${error.message}`;
    }
    setText(byId("schema-wrong"), wrong);
    this.host.keep();
  }
}
