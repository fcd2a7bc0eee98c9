// Codes of packets of an .amk to bytes and back, as in runtime/codes/coders.py and probabilities.py.
//
//   const likely = new Likely(1024, Probabilities.parse(bytes));     // of gist_prob.safetensors
//   const codes = likely.decode(payload, [streams, books, frames]);  // codes[stream][book][frame]
//
// All numbers are whole and below 2^53, so they are those of Python.

const CEILING = 255;
const LEAST = 16; // codes of a byte
const TENSORS = ["embed", "start", "past", "past_bias", "into", "into_bias", "score", "score_bias", "table"];

const product = (shape) => shape.reduce((all, n) => all * n, 1);
const filled = ([streams, books, frames]) =>
  Array.from({ length: streams }, () => Array.from({ length: books }, () => new Int32Array(frames)));
const length = (number) => number.toString(2).length; // in bits, of a BigInt above 0
const refused = (data, shape) => new Error(`${data.length} bytes are no ${shape.join(" x ")} codes`);

/** Give the places [stream, book, frame] of codes in their order. */
function* places([streams, books, frames]) {
  for (let stream = 0; stream < streams; stream++)
    for (let frame = 0; frame < frames; frame++) for (let book = 0; book < books; book++) yield [stream, book, frame];
}

export class Plain {
  constructor(levels) {
    this.levels = levels;
    this.bits = Math.max(1, 32 - Math.clz32(levels - 1));
  }

  least(shape) {
    return this.most(shape);
  }

  most(shape) {
    return Math.ceil((product(shape) * this.bits) / 8);
  }

  encode(codes, shape) {
    const data = new Uint8Array(this.most(shape));
    let at = 0;
    for (const [stream, book, frame] of places(shape))
      for (let bit = 0; bit < this.bits; bit++, at++)
        data[at >> 3] |= ((codes[stream][book][frame] >> bit) & 1) << (at & 7);
    return data;
  }

  decode(data, shape) {
    if (data.length !== this.most(shape)) throw refused(data, shape);
    const codes = filled(shape);
    let at = 0;
    for (const [stream, book, frame] of places(shape)) {
      let code = 0;
      for (let bit = 0; bit < this.bits; bit++, at++) code |= ((data[at >> 3] >> (at & 7)) & 1) << bit;
      if (code >= this.levels) throw new Error(`code ${code} is none of ${this.levels}`);
      codes[stream][book][frame] = code;
    }
    return codes;
  }
}

/** A network that weighs codes; see probabilities.py. */
export class Probabilities {
  constructor(facts, tensors) {
    Object.assign(this, facts, tensors);
    [this.books, this.levels, this.width] = tensors.embed.shape;
    [this.reach, this.wide] = tensors.start.shape;
    this.hidden = tensors.past.shape[0];
    this.inner = tensors.score.shape[2];
  }

  /** Read a file of safetensors. */
  static parse(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const size = Number(view.getBigUint64(0, true));
    const { __metadata__: meta, ...entries } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + size)));
    const start = bytes.byteOffset + 8 + size;
    const tensors = {};
    for (const name of TENSORS) {
      const { dtype, shape, data_offsets: [first, last] } = entries[name];
      const data = bytes.buffer.slice(start + first, start + last); // a copy, which is aligned
      tensors[name] = Object.assign(dtype === "I8" ? new Int8Array(data) : new Int32Array(data), { shape });
    }
    return new Probabilities(JSON.parse(meta.probabilities), tensors);
  }

  /** Give the frames of a packet, each of which takes its codes before the next one comes. */
  *frames() {
    let before = Array.from({ length: this.reach }, (_, n) => this.start.slice(n * this.wide, (n + 1) * this.wide));
    for (;;) {
      const frame = new Frame(this, Int32Array.from(before.flatMap((vector) => [...vector])));
      yield frame;
      before = [frame.vector(), ...before.slice(0, -1)];
    }
  }
}

/** Add to `sums` how much the rows of a matrix have of x: each has `size` numbers, of which x begins at `from`.
 * Whole numbers below 2^23, see probabilities.py. Four rows at once take half the time; those beyond the last count
 * for nothing. */
function rows(matrix, first, size, from, x, sums) {
  for (let row = 0; row < sums.length; row += 4) {
    const at = (first + row) * size + from;
    const [at1, at2, at3] = [at + size, at + 2 * size, at + 3 * size];
    let [sum, sum1, sum2, sum3] = [0, 0, 0, 0];
    for (let n = 0; n < x.length; n++) {
      sum = (sum + Math.imul(matrix[at + n], x[n])) | 0;
      sum1 = (sum1 + Math.imul(matrix[at1 + n], x[n])) | 0;
      sum2 = (sum2 + Math.imul(matrix[at2 + n], x[n])) | 0;
      sum3 = (sum3 + Math.imul(matrix[at3 + n], x[n])) | 0;
    }
    sums[row] += sum;
    sums[row + 1] += sum1;
    sums[row + 2] += sum2;
    sums[row + 3] += sum3;
  }
  return sums;
}

function held(sums, bias, first, shift) {
  const half = 2 ** shift >> 1;
  return sums.map((sum, n) => Math.min(CEILING, Math.max(0, (sum + bias[first + n] + half) >> shift)));
}

class Frame {
  #sums;
  #book = 0;

  constructor(of, before) {
    this.of = of;
    const sums = rows(of.past, 0, before.length, 0, before, new Int32Array(of.hidden));
    this.y = held(sums, of.past_bias, 0, of.past_shift);
    this.#sums = new Int32Array(of.wide);
  }

  vector() {
    return this.#sums.map((sum) => Math.min(CEILING, Math.max(-CEILING, sum)));
  }

  /** Return the weights of the next book's codes. */
  weights() {
    const { of } = this;
    const [book, size] = [this.#book, of.hidden + of.wide];
    const sums = rows(of.into, book * of.inner, size, 0, this.y, new Int32Array(of.inner));
    rows(of.into, book * of.inner, size, of.hidden, this.vector(), sums);
    const x = held(sums, of.into_bias, book * of.inner, of.into_shift);
    const codes = [book * of.levels, (book + 1) * of.levels];
    const scores = rows(of.score, codes[0], of.inner, 0, x, of.score_bias.slice(...codes));
    let most = scores[0];
    for (let code = 1; code < scores.length; code++) if (scores[code] > most) most = scores[code];
    const [{ table, score_shift: shift }, last] = [of, of.table.length - 1];
    for (let code = 0; code < scores.length; code++) {
      scores[code] = table[Math.min(last, (most - scores[code]) >> shift)];
    }
    return scores;
  }

  take(code) {
    const { of } = this;
    const [to, from] = [(this.#book % of.groups) * of.width, (this.#book * of.levels + code) * of.width];
    for (let n = 0; n < of.width; n++) this.#sums[to + n] += of.embed[from + n];
    this.#book++;
  }
}

export class Likely {
  constructor(levels, probabilities) {
    this.plain = new Plain(levels);
    this.probabilities = probabilities;
  }

  least(shape) {
    return Math.min(this.most(shape), Math.ceil(product(shape) / LEAST));
  }

  most(shape) {
    return this.plain.most(shape);
  }

  encode(codes, shape) {
    const found = codes.flatMap((rows) => {
      const weigh = this.weighing();
      return Array.from(rows[0], (_, t) => weigh(rows.map((row) => row[t]))).flat();
    });
    return this.write(found, codes, shape);
  }

  /** Return a function for the frames of a stream one after the other: it takes the codes of a frame, and says of
   * each its weight, the sum before it, and the sum of all. */
  weighing() {
    const reading = this.probabilities.frames();
    return (codes) => {
      const frame = reading.next().value;
      return codes.map((code) => {
        const weights = frame.weights();
        let [before, total] = [0, 0];
        for (let n = 0; n < code; n++) before += weights[n];
        for (let n = 0; n < weights.length; n++) total += weights[n];
        frame.take(code);
        return [weights[code], before, total].map(BigInt);
      });
    };
  }

  /** Return the bytes of codes, of which `weighing` has found so much, stream after stream. */
  write(found, codes, shape) {
    let [low, width, whole] = [0n, 1n, 1n];
    for (const [weight, before, total] of found)
      [low, width, whole] = [low * total + before * width, width * weight, whole * total];
    let size = Math.max(this.least(shape), (length(whole) - length(width)) >> 3);
    for (; size < this.most(shape); size++) {
      const scale = 1n << BigInt(8 * size);
      const first = (low * scale + whole - 1n) / whole;
      if (first * whole >= (low + width) * scale) continue;
      const text = first.toString(16).padStart(2 * size, "0");
      return Uint8Array.from({ length: size }, (_, n) => parseInt(text.slice(2 * n, 2 * n + 2), 16));
    }
    return this.plain.encode(codes, shape);
  }

  decode(data, shape) {
    if (data.length < this.least(shape) || data.length >= this.most(shape)) return this.plain.decode(data, shape);
    const [streams, books, frames] = shape;
    const codes = filled(shape);
    let above = BigInt(`0x${Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("")}`);
    let below = 1n << BigInt(8 * data.length);
    for (let stream = 0; stream < streams; stream++) {
      const reading = this.probabilities.frames();
      for (let t = 0; t < frames; t++) {
        const frame = reading.next().value;
        for (let book = 0; book < books; book++) {
          const weights = frame.weights();
          above *= BigInt(weights.reduce((all, weight) => all + weight, 0));
          const place = Number(above / below);
          let [code, end] = [0, weights[0]];
          while (place >= end) end += weights[++code];
          above -= BigInt(end - weights[code]) * below;
          below *= BigInt(weights[code]);
          codes[stream][book][t] = code;
          frame.take(code);
        }
      }
    }
    return codes;
  }
}
