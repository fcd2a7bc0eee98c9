// One live signal through one model in the browser: blocks of any size, any sample rate, any number of channels.
//
//   const model = await loadModel(ort, bytes);              // ort: the module of onnxruntime-web
//   const session = new Session(model, { sampleRate: 48000 });
//   for (const block of blocks) play(await session.feed([block]));
//   play(await session.flush());                            // as many samples came out as went in, aligned
//
// This is audiomask/runtime/session.py in JavaScript and gives the same samples: around the graph lie cleaning
// of NaN, conversion to the model's rate, collection into hops, the graph, the cut of its delay, conversion
// back, and the mix with the dry signal. Nothing here knows a model: ports, states, hop and delay are read from
// the file. A sound is a list of Float32Arrays, one a channel.

import { ArtifactError, readArtifact } from "./artifact.js";
import { Polyphase, join } from "./polyphase.js";

export { ArtifactError };

// Hops per call of the graph when a block brings as many, and hops times channels: about 100 MB of activations.
const BULK_HOPS = 64;
const BULK_ROWS = 256;

/** The bytes of an artifact to a model that many sessions can share: its document and its graph. */
export async function loadModel(ort, bytes) {
  const data = bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes);
  const artifact = readArtifact(data);
  const graph = await ort.InferenceSession.create(data, { executionProviders: ["wasm"], logSeverityLevel: 3 });
  return { artifact, graph, Tensor: ort.Tensor };
}

/** The member of a list of model documents that keeps the whole band of `rate` Hz at the least cost: the lowest
 * sample rate not below it, else the highest. */
export function choose(models, rate) {
  const rising = [...models].sort((a, b) => a.sample_rate - b.sample_rate);
  return rising.find((m) => m.sample_rate >= rate) ?? rising.at(-1);
}

const samples = (sound) => sound[0].length;
const silence = (channels, length) => Array.from({ length: channels }, () => new Float32Array(length));
const part = (sound, start, stop) => sound.map((row) => row.subarray(start, stop));
const append = (sound, more) => sound.map((row, c) => join(row, more[c]));

/**
 * `model`: from `loadModel`. `sampleRate` of the blocks in Hz, default the model's. `channels` become
 * independent rows of a mono model; a model of M channels takes M. `dry`: share 0..1 of the untouched signal,
 * delayed alike. `controls`: values of the model's constant ports.
 *
 * Attributes: `outputs` (channels that come out), `hop`, `delay`, `latency` (samples of `sampleRate`, rate
 * conversion included), `cleaned` (input samples that were NaN or infinite), `faults` (blocks in which the
 * model failed: muted, its state started anew). Throws `ArtifactError`.
 */
export class Session {
  #graph; #Tensor; #up = null; #down = null; #dry = 0; #constants = {}; #states = {};
  #pending; #skip; #fed; #aligned; #late; #turn = Promise.resolve();

  constructor(model, { sampleRate, channels, dry = 0, controls = {} } = {}) {
    const artifact = model.artifact;
    const { audio, sound } = artifact;
    this.artifact = artifact;
    this.#graph = model.graph;
    this.#Tensor = model.Tensor;
    this.channels = channels ?? audio.channels;
    this.sampleRate = sampleRate ?? artifact.sample_rate;
    if (this.channels < 1 || (audio.channels !== 1 && this.channels !== audio.channels)) {
      throw new ArtifactError(`${artifact.name}: takes ${audio.channels} channels, not ${this.channels}`);
    }
    if (!Number.isInteger(this.sampleRate) || this.sampleRate < 1) {
      throw new ArtifactError(`a sample rate of ${this.sampleRate} Hz is not possible`);
    }
    this.batch = this.channels / audio.channels;
    this.outputs = this.batch * sound.channels;
    if (this.sampleRate !== artifact.sample_rate) {
      this.#up = new Polyphase(this.sampleRate, artifact.sample_rate, this.channels);
      this.#down = new Polyphase(artifact.sample_rate, this.sampleRate, this.outputs);
    }
    const ratio = this.sampleRate / artifact.sample_rate;
    const inner = artifact.delay + artifact.hop + (this.#down?.half ?? 0);
    this.latency = Math.ceil((this.#up?.half ?? 0) + inner * ratio - 1e-6);
    this.hop = Math.ceil(artifact.hop * ratio - 1e-6);
    this.delay = this.latency - this.hop;
    this.cleaned = this.faults = 0;
    for (const port of artifact.constants) this.#constants[port.name] = this.#constant(port);
    this.set({ dry, ...controls });
    this.reset();
  }

  /** A constant port's value for every row of the batch: `{type, width, data, port}`. */
  #constant(port) {
    const node = this.#graph.inputMetadata.find((n) => n.name === port.name);
    if (!node) throw new ArtifactError(`${this.artifact.name}: its graph has no input ${port.name}`);
    const width = node.shape.length === 1 ? null : Array.isArray(port.default) ? port.default.length : port.channels;
    const data = new (node.type === "int64" ? BigInt64Array : Float32Array)(this.batch * (width ?? 1));
    const constant = { type: node.type, width, data, port };
    this.#fill(constant, port.default ?? 0);
    return constant;
  }

  #fill({ type, width, data, port }, value) {
    const row = [value].flat().map(Number);
    if (row.length !== 1 && row.length !== (width ?? 1)) {
      throw new ArtifactError(`${this.artifact.name}: ${port.name} takes ${width ?? 1} values, not ${row.length}`);
    }
    for (let i = 0; i < data.length; i++) {
      const number = row[row.length === 1 ? 0 : i % row.length];
      data[i] = type === "int64" ? BigInt(Math.round(number)) : number;
    }
  }

  /** Change controls while running: `dry` and the model's constant ports. */
  set(values) {
    const { name } = this.artifact;
    for (const [key, value] of Object.entries(values)) {
      const constant = this.#constants[key];
      const [low, high] = key === "dry" ? [0, 1] : [constant?.port.minimum ?? null, constant?.port.maximum ?? null];
      if (!constant && key !== "dry") {
        const known = Object.keys(this.#constants).join(" ") || "none";
        throw new ArtifactError(`${name}: has no control '${key}'; it has: ${known}`);
      }
      for (const number of [value].flat()) {
        if (typeof number !== "number" || !Number.isFinite(number)) {
          throw new ArtifactError(`${name}: ${key} = ${value} is not a number`);
        }
        if ((low !== null && number < low) || (high !== null && number > high)) {
          throw new ArtifactError(`${name}: ${key} = ${value} is outside ${low} to ${high}`);
        }
      }
      if (constant) this.#fill(constant, value);
      else this.#dry = value;
    }
  }

  /** Start a new signal; controls keep their values. */
  reset() {
    for (const state of this.artifact.states) {
      const rows = new state.array.constructor(this.batch * state.array.length);
      for (let row = 0; row < this.batch; row++) rows.set(state.array, row * state.array.length);
      this.#states[state.name] = new this.#Tensor(state.dtype, rows, [this.batch, ...state.shape]);
    }
    this.#up?.reset();
    this.#down?.reset();
    this.#pending = silence(this.channels, 0); // less than a hop
    this.#skip = this.artifact.delay; // outputs of the graph that lie before the signal's start
    this.#fed = this.#aligned = 0;
    this.#late = silence(this.outputs, 0); // dry signal whose wet part is not out yet
  }

  /** `block`: a Float32Array a channel, any length, to the samples that are ready. Calls take their turn. */
  feed(block) {
    return this.#next(async () => {
      if (block.length !== this.channels || block.some((row) => row.length !== block[0].length)) {
        throw new ArtifactError(`a block of ${block.length} channels does not fit a session of ${this.channels}`);
      }
      if (!samples(block)) return silence(this.outputs, 0);
      this.#fed += samples(block);
      return this.#push(block.map((row) => this.#clean(row)));
    });
  }

  /** The rest of the signal. Then the session is as after `reset`. */
  flush() {
    return this.#next(async () => {
      const wanted = this.#fed - this.#aligned;
      let rest = silence(this.outputs, 0);
      while (samples(rest) < wanted) {
        const missing = wanted - samples(rest);
        rest = append(rest, await this.#push(silence(this.channels, Math.max(missing, this.hop))));
      }
      this.reset();
      return part(rest, 0, wanted);
    });
  }

  #next(work) {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => {});
    return result;
  }

  /** A copy of a channel with silence for what is no number. */
  #clean(row) {
    const out = row.slice();
    for (let n = 0; n < out.length; n++) {
      if (!Number.isFinite(out[n])) {
        out[n] = 0;
        this.cleaned++;
      }
    }
    return out;
  }

  /** Outer samples in, the aligned outer samples that they complete out. */
  async #push(x) {
    let y = await this.#hops(this.#up ? this.#up.push(x) : x);
    if (this.#down) y = this.#down.push(y);
    const count = samples(y);
    this.#aligned += count;
    // The dry path is kept even at dry = 0, so that the mix can be turned at any moment.
    const first = this.artifact.audio.reference;
    this.#late = append(this.#late, this.outputs < this.channels ? x.slice(first, first + 1) : x);
    if (this.#dry) {
      y = y.map((row, c) => row.map((wet, n) => (1 - this.#dry) * wet + this.#dry * this.#late[c][n]));
    }
    this.#late = this.#late.map((row) => row.slice(count));
    return y;
  }

  /** Model-rate samples through the graph, many hops at once where there are, without its delay. */
  async #hops(x) {
    const { hop } = this.artifact;
    const all = append(this.#pending, x);
    const limit = Math.min(BULK_HOPS, Math.max(1, Math.floor(BULK_ROWS / this.channels)));
    let y = silence(this.outputs, 0);
    let at = 0;
    for (let left; (left = Math.floor((samples(all) - at) / hop)) > 0; ) {
      // Powers of two: few different lengths, so that the runtime's memory stays bound.
      const hops = 2 ** Math.floor(Math.log2(Math.min(left, limit)));
      y = append(y, await this.#run(part(all, at, at + hops * hop)));
      at += hops * hop;
    }
    this.#pending = all.map((row) => row.slice(at));
    const cut = Math.min(this.#skip, samples(y));
    this.#skip -= cut;
    return part(y, cut);
  }

  async #run(x) {
    const { audio, sound } = this.artifact;
    const length = samples(x);
    const flat = new Float32Array(this.channels * length);
    x.forEach((row, c) => flat.set(row, c * length));
    const feeds = { ...this.#states, [audio.name]: new this.#Tensor("float32", flat, [this.batch, audio.channels, length]) };
    for (const [name, { type, width, data }] of Object.entries(this.#constants)) {
      feeds[name] = new this.#Tensor(type, data, width === null ? [this.batch] : [this.batch, width]);
    }
    const results = await this.#graph.run(feeds);
    const data = results[sound.name].data;
    for (const { name } of this.artifact.states) this.#states[name] = results[`next_${name}`];
    const wide = sound.channels * length;
    let failed = false;
    for (let row = 0; row < this.batch; row++) {
      const mine = data.subarray(row * wide, (row + 1) * wide);
      if (!mine.every(Number.isFinite)) {
        // A state that holds a NaN would never recover. Mute the block, start the row anew, and say so.
        failed = true;
        mine.fill(0);
        for (const { name, array } of this.artifact.states) this.#states[name].data.set(array, row * array.length);
      }
    }
    this.faults += failed;
    return Array.from({ length: this.outputs }, (_, c) => data.slice(c * length, (c + 1) * length));
  }
}
