// Sample-rate conversion block by block with a fixed, known lag: audiomask/runtime/polyphase.py in JavaScript,
// which derives the filter and its figures. Output n of a conversion by L/M lies at the input time n M / L and
// is emitted as soon as the input `half` samples past it is there, so the lag never wanders and the split into
// blocks does not change one sample.

import { gcd } from "./ports.js";
import { concat, zeros } from "./rows.js";

const ZEROS = 32;
const ATTENUATION_DB = 80;
const ROLLOFF = 0.937;
const MAX_PHASES = 1024;

/** The modified Bessel function of order 0, by its power series. */
function i0(x) {
  let sum = 1;
  for (let term = 1, k = 1; term > sum * 1e-17; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

const sinc = (t) => (t === 0 ? 1 : Math.sin(Math.PI * t) / (Math.PI * t));

/** `rateIn` to `rateOut` Hz on `channels` rows. `half`: input samples by which it lags. */
export class Polyphase {
  constructor(rateIn, rateOut, channels, table = null) {
    const divisor = gcd(rateIn, rateOut);
    this.up = rateOut / divisor;
    this.down = rateIn / divisor;
    this.channels = channels;
    const scale = Math.min(1, this.up / this.down);
    this.half = Math.ceil(ZEROS / scale);
    this.phases = Math.min(this.up, MAX_PHASES);
    this.taps = 2 * this.half;
    this.table = table ?? this.#design(scale);
    this.reset();
  }

  /** `phases + 1` rows of taps, so that the last one can be interpolated too. */
  #design(scale) {
    const { half, phases, taps } = this;
    const table = new Float32Array((phases + 1) * taps);
    const beta = 0.1102 * (ATTENUATION_DB - 8.7);
    const row = new Float64Array(taps);
    for (let phase = 0; phase <= phases; phase++) {
      let sum = 0;
      for (let k = 0; k < taps; k++) {
        const t = 1 - half + k - phase / phases;
        const inside = Math.max(0, 1 - (t / half) ** 2);
        row[k] = (sinc(ROLLOFF * scale * t) * i0(beta * Math.sqrt(inside))) / i0(beta);
        sum += row[k];
      }
      for (let k = 0; k < taps; k++) table[phase * taps + k] = row[k] / sum;
    }
    return table;
  }

  reset() {
    this.buffer = zeros(this.channels, this.half - 1);
    this.taken = this.given = 0;
  }

  /** Outputs that `taken` inputs allow in total. */
  ready(taken) {
    return Math.max(0, Math.ceil(((taken - this.half) * this.up) / this.down));
  }

  /** Inputs in total that allow n outputs. */
  after(n) {
    return this.half + Math.floor(((n - 1) * this.down) / this.up) + 1;
  }

  /** Return what rows `x` complete. */
  push(x) {
    this.buffer = this.buffer.map((past, c) => concat([past, x[c]]));
    this.taken += x[0].length;
    const stop = this.ready(this.taken);
    const first = this.taken - this.buffer[0].length; // the input index of buffer[0]
    const y = zeros(this.channels, stop - this.given);
    this.convert(y, first);
    this.given = stop;
    const keep = Math.max(0, this.left(stop) - first);
    this.buffer = this.buffer.map((row) => row.slice(keep));
    return y;
  }

  /** The input index at which the window of output n begins. */
  left(n) {
    return (n * this.down - ((n * this.down) % this.up)) / this.up - this.half + 1;
  }

  /** Fill rows `y` with the outputs from `given` on. */
  convert(y, first) {
    const { up, down, taps, table } = this;
    const few = up <= MAX_PHASES;
    for (let n = 0; n < y[0].length; n++) {
      const left = this.left(this.given + n) - first;
      const phase = ((this.given + n) * down) % up;
      const exact = few ? phase : phase * (this.phases / up);
      const low = Math.floor(exact) * taps;
      const share = exact - Math.floor(exact);
      for (let c = 0; c < y.length; c++) {
        const source = this.buffer[c];
        let sum = 0;
        if (few) for (let k = 0; k < taps; k++) sum += source[left + k] * table[low + k];
        else {
          for (let k = 0; k < taps; k++) {
            sum += source[left + k] * (table[low + k] * (1 - share) + table[low + taps + k] * share);
          }
        }
        y[c][n] = sum;
      }
    }
  }
}

/** Flags of samples, converted along with the sound by `like`: an output is flagged where its window holds a
 * flagged input. */
export class Spread extends Polyphase {
  constructor(like, rows) {
    super(like.down, like.up, rows, like.table);
  }

  convert(y, first) {
    y.forEach((row, c) => {
      const seen = new Float64Array(this.buffer[c].length + 1); // flags before each
      this.buffer[c].forEach((flag, i) => (seen[i + 1] = seen[i] + flag));
      for (let n = 0; n < row.length; n++) {
        const left = this.left(this.given + n) - first;
        row[n] = seen[left + this.taps] > seen[left] ? 1 : 0;
      }
    });
  }
}
