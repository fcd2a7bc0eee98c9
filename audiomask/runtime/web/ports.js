// Ports: the named inputs and outputs on which a model, its file and a player agree, as audiomask/ports.py has
// them. A stream has `rate` frames per sample of the model's clock; a control holds one value until it is set
// anew. What a port carries is its `type`, an entry of `TYPES`.

import { zeros } from "./rows.js";

export const gcd = (a, b) => (b ? gcd(b, a % b) : a);

/** An exact ratio of whole numbers; compared and added up as a number it is rounded. */
export class Fraction {
  constructor(over, under = 1) {
    const divisor = gcd(Math.abs(over), under);
    this.over = over / divisor;
    this.under = under / divisor;
  }

  /** Return the fraction that a text like "1/320" or "3" says; NaN parts where it says none. */
  static parse(text) {
    const [over, under = 1] = String(text).split("/").map(Number);
    return new Fraction(...(Number.isInteger(over) && Number.isInteger(under) ? [over, under] : [NaN, NaN]));
  }

  times({ over, under }) {
    return new Fraction(this.over * over, this.under * under);
  }

  by({ over, under }) {
    return new Fraction(this.over * under, this.under * over);
  }

  valueOf() {
    return this.over / this.under;
  }

  toString() {
    return this.under === 1 ? `${this.over}` : `${this.over}/${this.under}`;
  }
}

export const whole = (n) => new Fraction(n);

/** How the values of a dtype lie in the graph, and in the rows of a stream. */
export const MEMORY = { float32: Float32Array, int64: BigInt64Array };
const ROWS = { float32: Float32Array, int64: Float64Array }; // whole numbers to 2^53, which are easier to use

const FLOAT = { dtype: "float32", neutral: 0 };
const INT = { dtype: "int64", neutral: 0 };
/** The kinds of values: their dtype, and what a stream of them holds where nothing is given; null: `gaussian`. */
export const TYPES = {
  pcm: FLOAT, // samples of sound, full scale 1
  lost: FLOAT, // 1 where a frame did not arrive, else 0
  noise: { dtype: "float32", neutral: null }, // Gaussian, of variance 1
  codes: { dtype: "int64", neutral: -1 }, // indices below `levels`; below 0 for none
  bits: INT, // 0 or 1
  probabilities: FLOAT,
  embedding: FLOAT,
  text: INT, // Unicode code points, 0 where nothing is said
  float: FLOAT,
  int: INT,
};
const RENAMED = { mask: "lost", constant: "control" }; // in artifacts of format 1
const DEFAULTS = {
  kind: "stream", rate: "1", channels: 1, reference: 0, labels: [], span: 0, levels: 0, added: false,
  default: null, minimum: null, maximum: null, unit: "", doc: "",
};

/** A named input or output of a model, from an entry of its document. Throws an Error that says what does not fit. */
export class Port {
  constructor(entry) {
    Object.assign(this, DEFAULTS, entry);
    this.kind = RENAMED[this.kind] ?? this.kind;
    this.type = RENAMED[this.type] ?? (this.type || (this.isStream ? "pcm" : "float"));
    this.rate = Fraction.parse(this.rate);
    const { channels, reference, labels } = this;
    const defaults = [this.default].flat().length;
    let wrong = "";
    if (!["stream", "control"].includes(this.kind)) wrong = `kind '${this.kind}' is neither stream nor control`;
    else if (!Object.hasOwn(TYPES, this.type)) {
      wrong = `type '${this.type}' is none of ${Object.keys(TYPES).join(" ")}; a newer audiomask may know it`;
    } else if (!(this.rate > 0) || !(channels >= 1)) wrong = "rate and channels must be positive";
    else if (!(reference >= 0 && reference < channels)) wrong = `reference ${reference} is none of its channels`;
    else if (labels.length && labels.length !== channels) wrong = `${labels.length} labels for ${channels} channels`;
    else if (defaults !== 1 && defaults !== channels) wrong = `${defaults} defaults for ${channels} channels`;
    if (wrong) throw new Error(`port ${this.name}: ${wrong}`);
    this.dtype = TYPES[this.type].dtype;
    this.Row = ROWS[this.dtype];
  }

  get isStream() {
    return this.kind === "stream";
  }

  /** Return the frames in `hop` samples of the clock. */
  perHop(hop) {
    const frames = Number(this.rate.times(whole(hop)));
    if (Number.isInteger(frames)) return frames;
    throw new Error(`port ${this.name}: rate ${this.rate} gives no whole frames in ${hop} samples`);
  }

  /** Return what the stream holds in `batch` rows of channels from frame `start` on if nobody fills it. */
  neutral(batch, frames, start = 0) {
    const { neutral } = TYPES[this.type];
    const rows = batch * this.channels;
    return neutral === null ? gaussian(rows, frames, start) : zeros(rows, frames, this.Row).map((r) => r.fill(neutral));
  }
}

/** Return rows of noise of variance 1 that is a function of row, frame and seed alone, so that it is the same at
 * any split into blocks, and in Python: see audiomask/ports.py. */
export function gaussian(rows, frames, start = 0, seed = 0) {
  return zeros(rows, frames).map((row, c) => {
    const key = hash(seed + Math.imul(c, 0x9e3779b9));
    for (let n = 0; n < frames; n++) {
      const base = hash(((start + n) >>> 0) ^ hash(Math.floor((start + n) / 2 ** 32) ^ key));
      const radius = (hash(base) + 0.5) / 2 ** 32;
      row[n] = Math.sqrt(-2 * Math.log(radius)) * Math.cos(2 * Math.PI * (base / 2 ** 32));
    }
    return row;
  });
}

/** Return a number from 0 to below 1 that looks drawn, and is always the same one for `n`. */
export const uniform = (n) => hash(n + 0x9e3779b9) / 2 ** 32;

function hash(x) {
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}
