// A spectrogram that is drawn column by column as sound comes, on the mel scale; once the canvas is full it
// scrolls.

import { Fourier } from "./fourier.js";

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

export class Spectrogram {
  #canvas; #context; #past; #fourier; #window; #bins; #hop = 1; #seen = 0; #next = 0; #column = 0;

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
    const { size } = this.#fourier;
    this.#window = Float64Array.from({ length: size }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / size));
    this.#past = new Float32Array(size);
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
    const { size, re, im } = this.#fourier;
    this.#fourier.run((n) => this.#past[(this.#seen + n) & (size - 1)] * this.#window[n]);
    const level = (k) => 10 * Math.log10((re[k] ** 2 + im[k] ** 2) * (4 / size) ** 2 + 1e-20); // dB of full scale
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
