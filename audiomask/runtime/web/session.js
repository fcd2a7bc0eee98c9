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
//
// Nothing that is changed while sound is running clicks: the dry share and the bypass are ramps of the mix, and
// a change of the model's controls is a crossfade of two runs, of the old values and of the new ones, from the
// same state on.

import { ArtifactError, readArtifact } from "./artifact.js";
import { Polyphase, join } from "./polyphase.js";

export { ArtifactError };

// Hops per call of the graph when a block brings as many, and hops times channels: about 100 MB of activations.
const BULK_HOPS = 64;
const BULK_ROWS = 256;
const RAMP_S = 0.01; // of a change
const GARBAGE = 2 ** 32; // no sample is larger
const TINY = 1e-30; // below lie denormal numbers, on which many processors crawl

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
 * delayed alike; `bypass`: all of it. `controls`: values of the model's constant ports.
 *
 * Attributes: `outputs` (channels that come out), `hop`, `delay`, `latency` (samples of `sampleRate`, rate
 * conversion included), `cleaned` (input samples that were no number, or larger than any sample is), `faults`
 * (runs in which the model failed: muted, its state started anew). Throws `ArtifactError`.
 */
export class Session {
  #graph; #Tensor; #up = null; #down = null; #ports = {}; #turn = Promise.resolve();
  #now = { states: {}, values: {} }; // the memory of the model and the controls that it runs with
  #before = null; // the same, of what a change fades out of
  #target = {}; // controls wanted
  #dry = 0; #bypass = false; #share = 0; // the share of the dry signal at this sample
  #changed = false; #fading = 0; #stepped = 0; // hops
  #pending; #skip; #fed; #aligned; #late;

  constructor(model, { sampleRate, channels, dry = 0, bypass = false, controls = {} } = {}) {
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
    this.fades = Math.ceil((RAMP_S * artifact.sample_rate) / artifact.hop); // hops of a change of controls
    for (const port of artifact.constants) this.#ports[port.name] = this.#port(port);
    for (const [name, { port }] of Object.entries(this.#ports)) {
      this.#now.values[name] = this.#target[name] = this.#filled(name, port.default ?? 0);
    }
    this.set({ dry, bypass, ...controls });
    this.reset();
  }

  /** What the graph says of a constant port: `{port, type, width}`; width null: one value a row, without an axis. */
  #port(port) {
    const node = this.#graph.inputMetadata.find((n) => n.name === port.name);
    if (!node) throw new ArtifactError(`${this.artifact.name}: its graph has no input ${port.name}`);
    const width = Array.isArray(port.default) ? port.default.length : port.channels;
    return { port, type: node.type, width: node.shape.length === 1 ? null : width };
  }

  /** A value, or a list of them, as the array of a port for every row of the batch. */
  #filled(name, value) {
    const { type, width } = this.#ports[name];
    const row = [value].flat();
    if (row.length !== 1 && row.length !== (width ?? 1)) {
      throw new ArtifactError(`${this.artifact.name}: ${name} takes ${width ?? 1} values, not ${row.length}`);
    }
    const wrong = type === "int64" && row.find((number) => !Number.isInteger(number));
    if (typeof wrong === "number") {
      throw new ArtifactError(`${this.artifact.name}: ${name} = ${wrong} is not a whole number`);
    }
    const [kind, of] = type === "int64" ? [BigInt64Array, BigInt] : [Float32Array, Number];
    return kind.from({ length: this.batch * (width ?? 1) }, (_, i) => of(row[i % row.length]));
  }

  /** Change controls while running: `dry`, `bypass` and the model's constant ports. If it throws, nothing is
   * changed. */
  set({ dry = this.#dry, bypass = this.#bypass, ...values }) {
    const { name } = this.artifact;
    this.#check("dry", dry, 0, 1);
    const target = { ...this.#target };
    for (const [key, value] of Object.entries(values)) {
      if (!(key in this.#ports)) {
        const known = Object.keys(this.#ports).join(" ") || "none";
        throw new ArtifactError(`${name}: has no control '${key}'; it has: ${known}`);
      }
      const { minimum, maximum } = this.#ports[key].port;
      for (const number of [value].flat()) this.#check(key, number, minimum, maximum);
      target[key] = this.#filled(key, value);
    }
    this.#dry = dry;
    this.#bypass = Boolean(bypass);
    this.#target = target;
    this.#changed = Object.keys(target).some((key) => target[key].some((v, i) => v !== this.#now.values[key][i]));
  }

  #check(key, number, low, high) {
    const { name } = this.artifact;
    if (typeof number !== "number" || !Number.isFinite(Math.fround(number))) {
      throw new ArtifactError(`${name}: ${key} = ${number} is not a number`);
    }
    if ((low !== null && number < low) || (high !== null && number > high)) {
      throw new ArtifactError(`${name}: ${key} = ${number} is outside ${low} to ${high}`);
    }
  }

  /** Start a new signal; controls keep their values. */
  reset() {
    for (const state of this.artifact.states) {
      const rows = new state.array.constructor(this.batch * state.array.length);
      for (let row = 0; row < this.batch; row++) rows.set(state.array, row * state.array.length);
      this.#now.states[state.name] = new this.#Tensor(state.dtype, rows, [this.batch, ...state.shape]);
    }
    this.#up?.reset();
    this.#down?.reset();
    this.#pending = silence(this.channels, 0); // less than a hop
    this.#skip = this.artifact.delay; // outputs of the graph that lie before the signal's start
    this.#fed = this.#aligned = this.#stepped = this.#fading = 0;
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

  /** A copy of a channel with silence for what is no sample. */
  #clean(row) {
    const out = row.slice();
    for (let n = 0; n < out.length; n++) {
      if (!(Math.abs(out[n]) <= GARBAGE)) {
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
    const target = this.#bypass ? 1 : this.#dry;
    if (!this.#aligned) this.#share = target; // nothing has been heard yet that a change could click against
    this.#aligned += count;
    // The dry path is kept even at dry = 0, so that the mix can be turned at any moment.
    const first = this.artifact.audio.reference;
    this.#late = append(this.#late, this.outputs < this.channels ? x.slice(first, first + 1) : x);
    const way = target - this.#share;
    const share = (n) => this.#share + Math.sign(way) * Math.min((n + 1) / (RAMP_S * this.sampleRate), Math.abs(way));
    if (way || target) {
      y = y.map((row, c) => row.map((wet, n) => wet + share(n) * (this.#late[c][n] - wet)));
      this.#share = count ? share(count - 1) : this.#share;
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
      // Controls change in hops of their own.
      const hops = this.#changed || this.#fading ? 1 : 2 ** Math.floor(Math.log2(Math.min(left, limit)));
      y = append(y, await this.#step(part(all, at, at + hops * hop)));
      at += hops * hop;
    }
    this.#pending = all.map((row) => row.slice(at));
    const cut = Math.min(this.#skip, samples(y));
    this.#skip -= cut;
    return part(y, cut);
  }

  /** Whole hops through the graph; while controls change, through both of what they were and are. */
  async #step(x) {
    if (this.#changed && !this.#fading) {
      if (this.#stepped) {
        this.#before = { ...this.#now, states: { ...this.#now.states } };
        this.#fading = this.fades;
      }
      this.#now.values = this.#target;
      this.#changed = false;
    }
    const y = await this.#run(x, this.#now);
    this.#stepped++;
    if (!this.#fading) return y;
    const old = await this.#run(x, this.#before);
    const done = (this.fades - this.#fading--) * this.artifact.hop;
    const share = (n) => (done + n + 1) / (this.fades * this.artifact.hop);
    return y.map((row, c) => row.map((fresh, n) => old[c][n] + share(n) * (fresh - old[c][n])));
  }

  /** One call of the graph with a memory, which it moves on. */
  async #run(x, memory) {
    const { audio, sound, states } = this.artifact;
    const length = samples(x);
    const flat = new Float32Array(this.channels * length);
    x.forEach((row, c) => flat.set(row, c * length));
    const shape = [this.batch, audio.channels, length];
    const feeds = { ...memory.states, [audio.name]: new this.#Tensor("float32", flat, shape) };
    for (const [name, { type, width }] of Object.entries(this.#ports)) {
      const rows = width === null ? [this.batch] : [this.batch, width];
      feeds[name] = new this.#Tensor(type, memory.values[name], rows);
    }
    const results = await this.#graph.run(feeds);
    const made = results[sound.name].data;
    for (const { name } of states) memory.states[name] = results[`next_${name}`];
    this.#mend(made, memory);
    return Array.from({ length: this.outputs }, (_, c) => made.slice(c * length, (c + 1) * length));
  }

  /** A state that holds a NaN would never recover: mute rows that have one, start them anew, and say so. */
  #mend(made, memory) {
    const { states } = this.artifact;
    const floats = states.filter((state) => state.dtype === "float32").map((state) => memory.states[state.name].data);
    for (const data of floats) {
      for (let i = 0; i < data.length; i++) if (Math.abs(data[i]) < TINY) data[i] = 0;
    }
    let failed = false;
    for (let row = 0; row < this.batch; row++) {
      const mine = (data) => data.subarray((row * data.length) / this.batch, ((row + 1) * data.length) / this.batch);
      if ([made, ...floats].every((data) => mine(data).every(Number.isFinite))) continue;
      failed = true;
      mine(made).fill(0);
      for (const { name, array } of states) mine(memory.states[name].data).set(array);
    }
    this.faults += failed;
  }
}
