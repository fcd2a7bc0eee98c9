// A fader for each stem of a model that separates, with solo and mute.

import { element, title } from "./controls.js";

const [LOW_DB, HIGH_DB] = [-40, 12]; // at the low end a stem is off

/** Faders in `box`; `onchange()` on each change. What is set of a stem outlives a change of the model. */
export class Faders {
  #box; #onchange; #stems = []; #set = new Map();

  constructor(box, onchange) {
    [this.#box, this.#onchange] = [box, onchange];
  }

  show(stems) {
    this.#stems = stems;
    for (const name of stems) if (!this.#set.has(name)) this.#set.set(name, { db: 0, solo: false, mute: false });
    this.#box.replaceChildren(...stems.map((name, n) => this.#fader(name, `fader-${n}`)));
    this.#box.hidden = !stems.length;
  }

  /** Decibels by stem as they are heard: -Infinity of what is off, muted, or not among those that are solo. */
  get gains() {
    const solo = this.#stems.some((name) => this.#set.get(name).solo);
    return Object.fromEntries(this.#stems.map((name) => {
      const one = this.#set.get(name);
      const off = one.mute || (solo && !one.solo) || one.db <= LOW_DB;
      return [name, off ? -Infinity : one.db];
    }));
  }

  #fader(name, id) {
    const one = this.#set.get(name);
    const input = element("input", { id, type: "range", name, min: LOW_DB, max: HIGH_DB, step: 0.5, value: one.db });
    input.title = "Double-click: back to 0 dB";
    const shown = element("output", { htmlFor: id });
    const show = () => {
      shown.textContent = one.db <= LOW_DB ? "off" : `${one.db > 0 ? "+" : ""}${one.db} dB`;
      input.setAttribute("aria-valuetext", shown.textContent);
    };
    const turn = (db) => {
      one.db = input.value = db;
      show();
      this.#onchange();
    };
    input.addEventListener("input", () => turn(Number(input.value)));
    input.addEventListener("dblclick", () => turn(0));
    const switches = ["solo", "mute"].map((what) => {
      const button = element("button", { textContent: title(what) });
      button.setAttribute("aria-label", `${button.textContent} ${name.replaceAll("_", " ")}`);
      const press = () => button.setAttribute("aria-pressed", one[what]);
      button.addEventListener("click", () => {
        one[what] = !one[what];
        press();
        this.#onchange();
      });
      press();
      return button;
    });
    show();
    const label = element("label", { htmlFor: id, textContent: title(name) });
    return element("div", { className: "fader" }, label, shown, ...switches, input);
  }
}
