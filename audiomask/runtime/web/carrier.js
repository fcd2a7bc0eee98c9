// The carriers that say a message, from a key that nobody else has: audiomask/runtime/marks/carrier.py in JavaScript.
//
//   const carrier = await Carrier.of(newKey());
//   const session = new Session(model, { controls: { carrier: carrier.wave(0xbeef), strength: 1 } });
//
// A key and a message are texts of hex digits, as people give them.

import { Fourier } from "./fourier.js";

const RATE = 16000; // Hz
const PERIOD = 8192; // samples, of which the second half is the first one turned over
const [LOW_HZ, HIGH_HZ] = [200, 6800];
const [BITS, PARTS] = [16, 128];
const STEP = PERIOD / 2 / PARTS; // samples between the parts of a codeword
const PILOT = 1 / 3; // of the power

/** Whether a model of this document marks sound by a carrier. */
export const marksBy = ({ task, controls }) => task === "mark" && controls.carrier?.channels === PERIOD / 2;

/** Return the bytes of a key, 32 hex digits, or null for a text that is none. */
export const parseKey = (text) =>
  /^[0-9a-f]{32}$/i.test(text) ? Uint8Array.from(text.match(/../g), (pair) => parseInt(pair, 16)) : null;

/** Return the number of a message, 1 to 4 hex digits, or null for a text that is none. */
export const parseMessage = (text) => (/^[0-9a-f]{1,4}$/i.test(text) ? parseInt(text, 16) : null);

/** Return 32 hex digits that nobody can guess. */
export const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** So many bytes that follow from key and label: SHA-256 in counter mode. */
async function draw(key, label, count) {
  const start = [...key, ...new TextEncoder().encode(label)];
  const blocks = await Promise.all(Array.from({ length: Math.ceil(count / 32) }, (_, i) =>
    crypto.subtle.digest("SHA-256", Uint8Array.from([...start, i, i >> 8, i >> 16, i >> 24]))));
  return Uint8Array.from(blocks.flatMap((block) => [...new Uint8Array(block)])).subarray(0, count);
}

/** A spectrum, `re` and `im` of bins 0 to PERIOD / 2, of magnitude 1 at odd harmonics in the band, else 0. */
async function phases(key, label) {
  const bytes = await draw(key, label, PERIOD + 2);
  const made = { re: new Float64Array(PERIOD / 2 + 1), im: new Float64Array(PERIOD / 2 + 1) };
  for (let k = 1; k <= PERIOD / 2; k += 2) {
    const hz = (k * RATE) / PERIOD;
    if (hz < LOW_HZ || hz > HIGH_HZ) continue;
    const angle = (2 * Math.PI * (bytes[2 * k] + 256 * bytes[2 * k + 1])) / 65536;
    made.re[k] = Math.cos(angle);
    made.im[k] = Math.sin(angle);
  }
  return made;
}

export class Carrier {
  /** Resolves to the carrier of a key, 16 bytes. Only pages from localhost or over https can compute it. */
  static async of(key) {
    if (!globalThis.crypto?.subtle) {
      throw new Error("browsers make a mark's carrier only in pages from localhost or over https; let the server mark");
    }
    return new Carrier(await phases(key, "pilot"), await phases(key, "data"), await draw([], "code", (BITS * PARTS) / 8));
  }

  constructor(pilot, data, code) {
    Object.assign(this, { pilot, data, code });
  }

  /** Return the signs of a message, a number of 16 bits. */
  codeword(message) {
    const bit = (row, part) => (this.code[(row * PARTS + part) >> 3] >> (7 - (part & 7))) & 1;
    return Array.from({ length: PARTS }, (_, part) => {
      let sum = 0;
      for (let row = 0; row < BITS; row++) sum ^= ((message >> row) & 1) & bit(row, part);
      return 1 - 2 * sum;
    });
  }

  /** Return the half period that says the message, as dense as noise of power 1. */
  wave(message) {
    const signs = this.codeword(message);
    const fourier = new Fourier(PERIOD);
    fourier.run((n) => (n % STEP || n >= PERIOD / 2 ? 0 : signs[n / STEP]));
    const [a, b] = [Math.sqrt(PILOT), Math.sqrt((1 - PILOT) / PARTS)];
    const [re, im] = [new Float64Array(PERIOD), new Float64Array(PERIOD)]; // of the negative frequencies: 0
    for (let k = 0; k <= PERIOD / 2; k++) {
      re[k] = a * this.pilot.re[k] + b * (fourier.re[k] * this.data.re[k] - fourier.im[k] * this.data.im[k]);
      im[k] = a * this.pilot.im[k] + b * (fourier.re[k] * this.data.im[k] + fourier.im[k] * this.data.re[k]);
    }
    fourier.run((k) => re[k], (k) => -im[k]); // the inverse, of the conjugate
    return Float32Array.from(fourier.re.subarray(0, PERIOD / 2), (x) => (2 * Math.sqrt(2 * PERIOD) * x) / PERIOD);
  }
}
