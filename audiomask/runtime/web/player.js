// Any model, block by block: streams in and streams out by port name, whatever they carry.
//
//   const model = await loadModel(ort, bytes);              // ort: the module of onnxruntime-web
//   const player = new Player(model, { sampleRate: 48000 });
//   for (const block of blocks) send((await player.feed([block])).codes);
//   send((await player.flush()).codes);
//
// This is audiomask/runtime/player.py in JavaScript and gives the same frames: around the graph lie cleaning of
// NaN, conversion to the model's rate, collection into hops, the graph, the cut of its delay, and conversion
// back. Nothing here knows a model: ports, states, hop and delay are read from the file. A stream is a list of
// rows, one a channel: Float32Arrays, or Float64Arrays of whole numbers.

import { ArtifactError } from "./artifact.js";
import { Engine } from "./engine.js";
import { Polyphase, Spread } from "./polyphase.js";
import { Fraction, whole } from "./ports.js";
import { concat, join, part, zeros } from "./rows.js";

// Hops per call of the graph when a block brings as many, and hops times rows: about 100 MB of activations.
// Models that make no sound hear long windows.
const BULK_HOPS = 64;
const BULK_ROWS = 256;
const BULK_SILENT = 8;
const GARBAGE = 2 ** 32; // no sample is larger

const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
/** An object with each value by `f(value, key)`. */
export const mapped = (object, f) => Object.fromEntries(Object.entries(object).map(([key, value]) => [key, f(value, key)]));
/** A sound as a list of rows, of rows or of one. */
const listed = (x) => (ArrayBuffer.isView(x) || typeof x[0] === "number" ? [x] : [...x]);
/** Rows of numbers as a port has them. */
const copied = (rows, { dtype, Row }) => rows.map((row) => (dtype === "int64" ? Row.from(row, Math.trunc) : new Row(row)));
const shape = (rows) => `(${rows.length}, ${rows[0]?.length ?? 0})`;
export const differ = (a, b) => Object.keys(a).some((key) => a[key].some((value, i) => value !== b[key][i]));

/**
 * One signal through one model.
 *
 * `model`: from `loadModel`. `sampleRate` of the sound that goes in and out in Hz, default the model's; a port
 * of sound at another rate than the model's clock keeps its own. `channels` of a block: independent rows of a
 * model of one channel; a model of M channels takes M, and multiples if it gives M back. `outputs`: names of
 * the output ports that are wanted, default all. `controls`: values of the model's controls.
 *
 * Attributes: `first`, the port of the block; `ports` of the output; `rows` and `rates` (frames per second) by
 * port; `hop`, `delay`, `latency` (samples of `sampleRate`, rate conversion included); `cleaned` (input samples
 * that were no number, or larger than any sample is); `faults` (calls in which the model failed: muted, its
 * state started anew). Throws `ArtifactError` for a model or control that does not fit, RangeError for a block.
 */
export class Player {
  #flagged; #bulk; #queue = Promise.resolve();

  constructor(model, { sampleRate, channels, outputs = null, controls = {} } = {}) {
    const { artifact } = model;
    const { name, streams } = artifact;
    this.artifact = artifact;
    this.first = streams[0];
    this.sampleRate = sampleRate ?? artifact.sample_rate;
    if (!(this.sampleRate >= 1 && Number.isInteger(this.sampleRate))) {
      const wrong = this.sampleRate >= 1 ? "no whole number" : "not positive";
      throw new ArtifactError(`sample rate ${this.sampleRate} Hz is ${wrong}`);
    }
    const width = this.first.channels;
    const sound = this.first.type === "pcm";
    this.channels = channels ?? width;
    const one = sound && width > 1 && !artifact.alike; // while codes, and pairs that become pairs, may be stacked as rows
    if (this.channels < 1 || (one ? this.channels !== width : this.channels % width)) {
      const each = one ? ", one for each of its microphones" : "";
      throw new ArtifactError(`${name}: takes ${width} channels, not ${this.channels}${each}`);
    }
    const batch = this.channels / width;
    this.ports = outputs ? outputs.map((output) => outputPort(artifact, output)) : artifact.outputs;
    this.engine = new Engine(model, batch, this.ports.map((port) => port.name));
    const ports = [...streams, ...this.ports];
    this._rows = Object.fromEntries(ports.map((port) => [port.name, batch * port.channels])); // of the graph
    this.rows = { ...this._rows };
    this.#bulk = this.ports.some((port) => port.type === "pcm") ? BULK_HOPS : BULK_SILENT;
    // Flags that come with the samples of a sound; of another clock they are a stream like any other.
    const { lost } = artifact;
    this.#flagged = sound && (!lost || (Number(lost.rate) === Number(this.first.rate) && lost.channels === 1));
    this.#convert(ports);
    this.cleaned = this.faults = 0;
    this._target = { ...this.engine.controls };
    this._changed = false;
    this._turn(controls);
    if (new.target === Player) this.reset(); // of a subclass when all of it is there
  }

  /** Make the converters between `sampleRate` and the model's clock, and all that follows from them. */
  #convert(ports) {
    const { artifact, sampleRate, first } = this;
    const { sample_rate: clock, lost } = artifact;
    this._in = {};
    this._out = {};
    this.rates = Object.fromEntries(ports.map((port) => [port.name, port.rate.times(whole(clock))]));
    if (sampleRate !== clock) {
      if (first.type === "pcm" && Number(first.rate) === 1) {
        const up = (this._in[first.name] = new Polyphase(sampleRate, clock, this._rows[first.name]));
        if (this.#flagged && lost) this._in[lost.name] = new Spread(up, this._rows[lost.name]);
      }
      for (const port of this.ports) {
        if (port.type !== "pcm" || Number(port.rate) !== 1) continue;
        this._out[port.name] = new Polyphase(clock, sampleRate, this._rows[port.name]);
      }
      for (const name of [...Object.keys(this._in), ...Object.keys(this._out)]) this.rates[name] = whole(sampleRate);
    }
    const before = this._in[first.name]?.half ?? 0;
    const after = Math.max(0, ...Object.values(this._out).map((down) => down.half));
    const outer = (samples) => Number(new Fraction(samples * sampleRate, clock));
    this.latency = Math.ceil(Number(new Fraction(before * clock + (artifact.latency + after) * sampleRate, clock)));
    this.hop = Math.ceil(outer(artifact.hop));
    this.delay = this.latency - this.hop;
  }

  /** Frames of the block after which the next hop runs. Fewer give nothing yet, and cost a call. */
  get due() {
    const { name } = this.first;
    const missing = this.engine.frames[name] - this._held[name][0].length;
    const up = this._in[name];
    return up ? up.after(up.given + missing) - up.taken : missing;
  }

  /** Change controls from the next hop on. If it throws, nothing is changed. */
  set(controls) {
    this._turn(controls);
  }

  _turn(controls) {
    const target = { ...this._target, ...mapped(controls, (value, name) => this.engine.control(name, value)) };
    if (differ(target, this._target)) [this._target, this._changed] = [target, true];
  }

  /** Start a new signal; controls keep their values. */
  reset() {
    const { streams, delay } = this.artifact;
    this.engine.reset();
    for (const converter of [...Object.values(this._in), ...Object.values(this._out)]) converter.reset();
    this._held = Object.fromEntries(streams.map((port) => [port.name, this.#empty(port)])); // less than a hop
    this._given = mapped(this._held, () => 0); // frames of each stream so far, as they came
    this._inner = 0; // frames of the first stream at the model's rate
    const outputs = this.ports.map((port) => [port.name, Math.floor(Number(port.rate.times(whole(delay))))]);
    this._skip = Object.fromEntries(outputs); // frames before the start
    this._done = mapped(this._skip, () => 0); // frames of each output that are out
    this._stepped = 0;
  }

  #empty(port, rows = this._rows) {
    return zeros(rows[port.name], 0, port.Row);
  }

  /** No frames of any output, in the rows that are handed out. */
  #nothing() {
    return Object.fromEntries(this.ports.map((port) => [port.name, this.#empty(port, this.rows)]));
  }

  /** Take a block, a list of rows of any length, and return `{port: rows}`: the frames that are complete.
   *
   * The block belongs to the first input, and the others are given by name, as rows or one for all of them; a
   * stream that is left out holds its neutral value for this time. `lost`: other than 0 for a sample that did
   * not arrive, and what sound holds there is ignored. Calls take their turn. */
  async feed(block, streams = {}) {
    const { x, lost, others } = this.#checked(block, streams);
    return this._next(async () => {
      const y = x[0].length ? await this._push(x, lost, others) : this.#nothing();
      return this._handed(y, x[0].length);
    });
  }

  /** Return the rest of the signal: ceil(T rate) frames in all. Then the player is as after `reset`. */
  flush() {
    return this._next(async () => {
      const y = this._handed(await this.#end(), null);
      this.reset();
      return y;
    });
  }

  _next(work) {
    const result = this.#queue.then(work);
    this.#queue = result.catch(() => {});
    return result;
  }

  /** What `feed` gives for a block of so many frames, or `flush` for null. */
  _handed(y) {
    return y;
  }

  /** Aligned frames of the output, `x` having come in. */
  _mixed(y) {
    return y;
  }

  /** What the graph hears of a block. */
  _seated(x) {
    return x;
  }

  /** The block of so many frames that comes after the end. */
  _silence(count) {
    return this.first.neutral(this.engine.batch, count, this._inner);
  }

  /** Return the first stream's block, copied and cleaned, which of it is lost, and the other streams. */
  #checked(block, { lost: missing, ...others }) {
    const { first, channels, artifact } = this;
    const name = artifact.lost?.name ?? "lost";
    if (missing) others[name] = missing;
    let given = block;
    if (!given) ({ [first.name]: given, ...others } = others);
    if (!given) throw new RangeError(`nothing is given for ${first.name}, the first stream`);
    given = listed(given);
    if (given.length !== channels || given.some((row) => row.length !== given[0].length)) {
      throw new RangeError(`a block of shape ${shape(given)} does not fit [${channels}, T]`);
    }
    const x = copied(given, first);
    let lost = null;
    if (this.#flagged && others[name]) {
      const marks = listed(others[name]);
      if (![1, x.length].includes(marks.length) || marks.some((row) => row.length !== x[0].length)) {
        throw new RangeError(`lost of shape ${shape(marks)} does not fit a block of shape ${shape(given)}`);
      }
      const all = x.map((row, c) => marks[marks.length > 1 ? c : 0]);
      x.forEach((row, c) => all[c].forEach((mark, n) => {
        if (mark) row[n] = 0;
      }));
      lost = zeros(this.engine.batch, x[0].length); // of several microphones where any of them lacks a sample
      this._seated(all).forEach((row, c) => {
        const flags = lost[Math.floor(c / first.channels)];
        row.forEach((mark, n) => {
          if (mark) flags[n] = 1;
        });
      });
    }
    if (this.#flagged) delete others[name];
    const unknown = Object.keys(others).sort().find((key) => !Object.hasOwn(this._held, key));
    if (unknown) {
      throw new RangeError(`${artifact.name} has no stream ${unknown}; it has ${Object.keys(this._held).join(" ")}`);
    }
    if (first.type === "pcm") {
      for (const row of x) {
        for (let n = 0; n < row.length; n++) {
          if (Math.abs(row[n]) <= GARBAGE) continue; // not so for NaN
          row[n] = 0;
          this.cleaned++;
        }
      }
    }
    return { x, lost, others };
  }

  /** Take a checked block and give the aligned frames that it completes, by port. */
  async _push(x, lost = null, streams = {}) {
    const { name } = this.first;
    const given = { [name]: this._seated(x), ...this.#others(x[0].length, lost, streams) }; // all is checked before any is taken
    for (const [stream, rows] of Object.entries(given)) {
      this._given[stream] += rows[0].length;
      if (this._in[stream]) given[stream] = this._in[stream].push(rows);
    }
    this._inner += given[name][0].length;
    let y = await this.#hops(given);
    for (const [output, down] of Object.entries(this._out)) y[output] = down.push(y[output]);
    y = this._mixed(y, x);
    for (const [output, rows] of Object.entries(y)) this._done[output] += rows[0].length;
    return y;
  }

  /** What the other streams bring beside `count` frames of the first. */
  #others(count, lost, streams) {
    const parts = {};
    const first = this.rates[this.first.name];
    for (const port of this.artifact.streams.slice(1)) {
      const { name } = port;
      const start = this._given[name];
      const clock = this.rates[name];
      const same = Number(clock) === Number(first);
      const end = same ? start + count : Number(whole(this._given[this.first.name] + count).times(clock).by(first));
      let x = this.#flagged && port === this.artifact.lost ? lost : streams[name];
      if (!x) x = port.neutral(this.engine.batch, Math.max(0, Math.floor(end) - start), start);
      else {
        x = copied(listed(x), port);
        const rows = this._rows[name];
        if (![1, rows].includes(x.length)) {
          throw new RangeError(`${name} of shape ${shape(x)} does not fit [${rows}, T]`);
        }
        if (Math.abs(start + x[0].length - end) >= 1) {
          const due = Number((end - start).toPrecision(6));
          const words = `${name} has ${x[0].length} frames, not the ${due} that go with ${count} of ${this.first.name}`;
          throw new RangeError(words);
        }
        if (x.length < rows) x = Array(rows).fill(x[0]);
      }
      parts[name] = x;
    }
    return parts;
  }

  /** What is missing of each output, the silence after the end put in. */
  async #end() {
    const { name } = this.first;
    const clock = whole(this.artifact.sample_rate);
    const time = whole(this._given[name]).by(this.rates[name]); // seconds
    const samples = whole(Math.ceil(Number(time.times(clock)))); // of the clock
    const due = Object.fromEntries(this.ports.map((port) => {
      const frames = port.type === "pcm" ? time.times(this.rates[port.name]) : samples.times(port.rate);
      return [port.name, Math.ceil(Number(frames))];
    }));
    const parts = [this.#nothing()];
    const up = this._in[name];
    if (up && !Object.keys(this._out).length) {
      // What makes no sound hears nothing of the converter's ringing after the end.
      const tail = up.push(zeros(up.channels, 2 * up.half + up.down));
      const kept = [this._in, this.rates];
      this._in = {};
      this.rates = { ...this.rates, [name]: clock };
      this._given[name] = this._inner;
      try {
        parts.push(await this._push(part(tail, 0, samples.over - this._inner)), ...(await this.#rest(due)));
      } finally {
        [this._in, this.rates] = kept;
      }
    } else parts.push(...(await this.#rest(due)));
    return mapped(due, (n, output) => {
      const lengths = parts.map((one) => one[output][0].length);
      return part(join(parts.map((one) => one[output])), 0, Math.max(0, n - this._done[output] + sum(lengths)));
    });
  }

  /** Push neutral frames until each output has had as many frames as are due. */
  async #rest(due) {
    const clock = this.rates[this.first.name];
    const hop = new Fraction(this.artifact.hop, this.artifact.sample_rate);
    const parts = [];
    for (;;) {
      const missing = Object.entries(due).map(([output, n]) => whole(n - this._done[output]).by(this.rates[output]));
      const longest = missing.reduce((a, b) => (b > a ? b : a));
      if (!(longest > 0)) return parts;
      const n = Math.ceil(Number((longest > hop ? longest : hop).times(clock)));
      parts.push(await this._push(this._silence(n)));
    }
  }

  /** Take frames at the model's rates and give those of the whole hops that they complete, less its delay. */
  async #hops(given) {
    const { frames } = this.engine;
    for (const [name, x] of Object.entries(given)) given[name] = x.map((row, c) => concat([this._held[name][c], row]));
    const hops = Math.min(...Object.entries(given).map(([name, x]) => Math.floor(x[0].length / frames[name])));
    const runs = [];
    for (let at = 0; at < hops; ) {
      const many = this._many(hops - at);
      const piece = mapped(given, (x, name) => part(x, at * frames[name], (at + many) * frames[name]));
      runs.push(await this._step(piece, many));
      at += many;
    }
    this._held = mapped(given, (x, name) => x.map((row) => row.slice(hops * frames[name])));
    return Object.fromEntries(this.ports.map((port) => {
      const y = runs.length ? join(runs.map((run) => run[port.name])) : this.#empty(port);
      const cut = Math.min(this._skip[port.name], y[0].length);
      this._skip[port.name] -= cut;
      return [port.name, part(y, cut)];
    }));
  }

  /** How many of so many hops the next call takes: few different lengths, so that the runtime's memory stays
   * bound. */
  _many(hops) {
    const most = Math.min(hops, this.#bulk, Math.max(1, Math.floor(BULK_ROWS / this.engine.batch)));
    return 2 ** Math.floor(Math.log2(most));
  }

  /** Whole hops through the graph, to its outputs by port. */
  async _step(piece, hops) {
    if (this._changed) this.engine.controls = this._target;
    this._changed = false;
    const { outputs, broken } = await this.engine.run(piece, hops);
    this._stepped++;
    this.faults += broken;
    return outputs;
  }
}

/** Return the output of a name or else a type. */
function outputPort({ name, task, outputs }, wanted) {
  const found = outputs.find((port) => port.name === wanted) ?? outputs.find((port) => port.type === wanted);
  if (found) return found;
  const types = outputs.map((port) => port.type).join(" ");
  const words = `is a model to ${task}, whose output is ${types}, not ${wanted}; choose another with -m`;
  throw new ArtifactError(`${name}: ${words}`);
}
