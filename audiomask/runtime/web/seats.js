// Channels of a recording in pairs, for models of stereo sound: audiomask/runtime/seats.py in JavaScript.

/** Speakers by their bits, in the order of WAV. */
export const SPEAKERS = "FL FR FC LFE BL BR FLC FRC BC SL SR TC TFL TFC TFR TBL TBC TBR".split(" ");
const LEFT_RIGHT = ["FL FR", "FLC FRC", "SL SR", "BL BR", "TFL TFR", "TBL TBR"].map((pair) => pair.split(" "));

/** The bits of speakers, such as "FL FR FC". */
export const maskOf = (names) => names.split(" ").reduce((bits, name) => bits + 2 ** SPEAKERS.indexOf(name), 0);

/** The speakers of a layout, in the order of WAV. */
export const namesOf = (mask) => SPEAKERS.filter((_, bit) => (mask >> bit) & 1);

/**
 * Which channel sits where, in rows of `width` channels (1 or 2) of a model.
 *
 * Left and right, sides and backs are pairs, the centre is by itself; channels whose speakers nobody names are pairs as
 * they come. `rows`: channels that the model plays in all, and `order`, which they are; `low`: those that no model
 * hears; `plain`: whether everything stays where it is.
 */
export class Seats {
  #places;

  constructor(channels, mask, width) {
    const said = channels > 1 ? namesOf(mask) : [];
    const names = said.length === channels ? said : [];
    const all = Array.from({ length: channels }, (_, n) => n);
    this.channels = channels;
    this.low = all.filter((n) => names[n] === "LFE");
    const heard = all.filter((n) => !this.low.includes(n));
    let groups;
    if (width === 1) groups = heard.map((n) => [n]);
    else if (names.length) {
      const pairs = LEFT_RIGHT.filter((pair) => pair.every((name) => names.includes(name)));
      const found = pairs.map((pair) => pair.map((name) => names.indexOf(name)));
      groups = [...found, ...heard.filter((n) => !found.flat().includes(n)).map((n) => [n, n])];
    } else groups = all.filter((n) => n % 2 === 0).map((n) => [n, Math.min(n + 1, channels - 1)]);
    this.order = groups.flat();
    this.rows = this.order.length;
    this.#places = all.map((n) => [this.order.indexOf(n), this.order.lastIndexOf(n)]);
    this.plain = this.rows === channels && this.order.every((n, row) => n === row);
  }

  /** What the model hears of channels. */
  seated(x) {
    return this.order.map((n) => x[n]);
  }

  /** The channels of what the model makes; those that are `low` are silent. */
  gathered(y) {
    return this.#places.map(([first, last]) => {
      if (first < 0) return new y[0].constructor(y[0].length);
      return first === last ? y[first] : y[first].map((value, n) => 0.5 * (value + y[last][n]));
    });
  }
}
