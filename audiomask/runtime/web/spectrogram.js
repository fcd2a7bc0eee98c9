// A spectrogram that is drawn column by column as sound comes, on the mel scale; once the canvas is full it
// scrolls.

const LOW_DB = -95; // of full scale: black
const HIGH_DB = -25; // white
const WINDOW_S = 0.032;
// The colours between black and white, by rising level.
const STOPS = [[13, 17, 26], [28, 39, 84], [52, 76, 150], [32, 136, 158], [94, 190, 140], [226, 222, 140], [255, 250, 230]];

const mel = (hz) => 2595 * Math.log10(1 + hz / 700);
const hertz = (m) => 700 * (10 ** (m / 2595) - 1);

const PALETTE = Array.from({ length: 256 }, (_, i) => {
  const place = (i / 255) * (STOPS.length - 1);
  const low = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[low].map((value, k) => value + (place - low) * (STOPS[low + 1][k] - value));
});

/** Magnitudes of the bins of a real signal: radix 2, in place. */
class Fourier {
  constructor(size) {
    this.size = size;
    this.re = new Float64Array(size);
    this.im = new Float64Array(size);
    this.window = Float64Array.from({ length: size }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / size));
    this.cos = Float64Array.from({ length: size / 2 }, (_, n) => Math.cos((2 * Math.PI * n) / size));
    this.sin = Float64Array.from({ length: size / 2 }, (_, n) => -Math.sin((2 * Math.PI * n) / size));
    const bits = Math.log2(size);
    this.order = Uint32Array.from({ length: size }, (_, n) => {
      let turned = 0;
      for (let b = 0; b < bits; b++) turned |= ((n >> b) & 1) << (bits - 1 - b);
      return turned;
    });
  }

  /** `at(n)`, n from 0 to size - 1, to the level of bin k in dB of full scale. */
  levels(at) {
    const { size, re, im, cos, sin, order, window } = this;
    for (let n = 0; n < size; n++) {
      re[order[n]] = at(n) * window[n];
      im[order[n]] = 0;
    }
    for (let half = 1; half < size; half *= 2) {
      const step = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let k = 0; k < half; k++) {
          const a = start + k;
          const b = a + half;
          const c = cos[k * step];
          const s = sin[k * step];
          const x = re[b] * c - im[b] * s;
          const y = re[b] * s + im[b] * c;
          re[b] = re[a] - x;
          im[b] = im[a] - y;
          re[a] += x;
          im[a] += y;
        }
      }
    }
    return (k) => 10 * Math.log10((re[k] ** 2 + im[k] ** 2) * (4 / size) ** 2 + 1e-20);
  }
}

export class Spectrogram {
  #canvas; #context; #past; #fourier; #bins; #hop = 1; #seen = 0; #next = 0; #column = 0;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    this.start({ rate: 16000, hop: 160 });
  }

  /** Columns that the canvas has. */
  get width() {
    return this.#canvas.width;
  }

  /** Begin anew: a column every `hop` samples (may be a fraction). */
  start({ rate, hop }) {
    const ratio = Math.min(2, globalThis.devicePixelRatio || 1);
    this.#canvas.width = Math.max(64, Math.round(this.#canvas.clientWidth * ratio));
    this.#canvas.height = Math.max(32, Math.round(this.#canvas.clientHeight * ratio));
    this.#fourier = new Fourier(2 ** Math.round(Math.log2(rate * WINDOW_S)));
    this.#past = new Float32Array(this.#fourier.size);
    this.#hop = hop;
    this.#seen = this.#column = 0;
    this.#next = hop;
    const { height } = this.#canvas;
    this.#bins = Array.from({ length: height }, (_, y) => {
      const hz = hertz(mel(rate / 2) * (1 - (y + 0.5) / height));
      return Math.min(this.#fourier.size / 2 - 1, (hz / rate) * this.#fourier.size);
    });
    this.#context.fillStyle = `rgb(${STOPS[0]})`;
    this.#context.fillRect(0, 0, this.#canvas.width, height);
  }

  /** Height (0 at the bottom, 1 at the top) at which a frequency lies. */
  static place(hz, rate) {
    return mel(hz) / mel(rate / 2);
  }

  /** Take samples of one channel and draw the columns that they complete. */
  push(samples) {
    const { size } = this.#fourier;
    const columns = [];
    for (let n = 0; n < samples.length; n++) {
      this.#past[this.#seen++ & (size - 1)] = samples[n];
      if (this.#seen >= this.#next) {
        this.#next += this.#hop;
        columns.push(this.#colours());
      }
    }
    if (columns.length) this.#draw(columns.slice(-this.width));
  }

  /** The pixels of the column that ends here. */
  #colours() {
    const { size } = this.#fourier;
    const level = this.#fourier.levels((n) => this.#past[(this.#seen + n) & (size - 1)]);
    return this.#bins.map((bin) => {
      const low = Math.floor(bin);
      const db = level(low) + (bin - low) * (level(low + 1) - level(low));
      return PALETTE[Math.max(0, Math.min(255, Math.round((255 * (db - LOW_DB)) / (HIGH_DB - LOW_DB))))];
    });
  }

  #draw(columns) {
    const { width, height } = this.#canvas;
    const over = Math.max(0, this.#column + columns.length - width);
    if (over) {
      this.#context.drawImage(this.#canvas, -over, 0);
      this.#column -= over;
    }
    const image = this.#context.createImageData(columns.length, height);
    columns.forEach((colours, x) => {
      colours.forEach((colour, y) => {
        image.data.set(colour, 4 * (y * columns.length + x));
        image.data[4 * (y * columns.length + x) + 3] = 255;
      });
    });
    this.#context.putImageData(image, this.#column, 0);
    this.#column += columns.length;
  }
}
