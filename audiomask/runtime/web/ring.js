// A ring of samples with one writer and any readers, over memory that threads may share.
//
// The writer never waits: it overwrites the oldest samples and then raises the one counter, `written`. A reader
// keeps its own position and compares: (written - position) | 0 samples are ahead of it, which holds across the
// wrap of the 32-bit counter. So the audio thread neither locks nor allocates, and can read its own past.

const HEADER = 8; // bytes: samples written, closed

export class Ring {
  /** Memory for `channels` rows of at least `least` samples (a power of two). */
  static buffer(channels, least, shared) {
    const bytes = HEADER + 4 * channels * 2 ** Math.ceil(Math.log2(least));
    return shared ? new SharedArrayBuffer(bytes) : new ArrayBuffer(bytes);
  }

  #header; #rows; #mask; #shared; #wake = null;

  constructor(buffer, channels) {
    this.channels = channels;
    this.capacity = (buffer.byteLength - HEADER) / 4 / channels;
    this.#mask = this.capacity - 1;
    this.#header = new Int32Array(buffer, 0, 2);
    this.#rows = Array.from(
      { length: channels },
      (_, c) => new Float32Array(buffer, HEADER + 4 * c * this.capacity, this.capacity),
    );
    this.#shared = !(buffer instanceof ArrayBuffer);
  }

  get written() {
    return Atomics.load(this.#header, 0);
  }

  get closed() {
    return Atomics.load(this.#header, 1) === 1;
  }

  /** Append a sound (a Float32Array a channel) and wake the readers. */
  write(sound) {
    const at = this.written;
    const count = sound[0].length;
    for (let c = 0; c < this.#rows.length; c++) {
      for (let n = 0; n < count; n++) this.#rows[c][(at + n) & this.#mask] = sound[c][n];
    }
    Atomics.store(this.#header, 0, (at + count) | 0);
    this.#notify();
  }

  /** Copy `count` samples of channel `c` from position `at` on into `row`. They must be there. */
  read(at, c, row, count) {
    for (let n = 0; n < count; n++) row[n] = this.#rows[c][(at + n) & this.#mask];
  }

  /** Say that nothing more will be written. */
  close() {
    Atomics.store(this.#header, 1, 1);
    this.#notify();
  }

  #notify() {
    if (this.#shared) Atomics.notify(this.#header, 0);
    this.#wake?.();
  }

  /** Until something was written after `seen`, or the ring is closed, or some milliseconds have passed. */
  async wait(seen) {
    if (this.written !== seen || this.closed) return;
    if (this.#shared && Atomics.waitAsync) {
      const wait = Atomics.waitAsync(this.#header, 0, seen, 50);
      if (wait.async) await wait.value;
    } else if (this.#shared) {
      await new Promise((done) => setTimeout(done, 2));
    } else {
      await new Promise((done) => (this.#wake = done));
    }
  }
}
