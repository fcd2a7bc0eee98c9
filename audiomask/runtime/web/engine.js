// A model and its memory, stepped hop by hop by the names of its ports: the thin layer on onnxruntime-web, as
// audiomask/runtime/engine.py is on ONNX Runtime.

import { ArtifactError, readArtifact } from "./artifact.js";
import { MEMORY } from "./ports.js";

const TINY = 1e-30; // below lie denormal numbers, on which many processors crawl
const SWEEP = 64; // hops from one search for such numbers to the next

/** The bytes of an artifact to a model that many players can share: its document and its graph. */
export async function loadModel(ort, bytes) {
  const data = bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes);
  const artifact = readArtifact(data);
  const graph = await ort.InferenceSession.create(data, { executionProviders: ["wasm"], logSeverityLevel: 3 });
  return { artifact, graph, Tensor: ort.Tensor };
}

/** The values of nested lists, and of each level how many there are, as numpy has them. */
const flat = (value) => [value].flat(Infinity);
function shapeOf(value) {
  const shape = [];
  for (let inner = value; Array.isArray(inner); inner = inner[0]) shape.push(inner.length);
  return shape;
}

/** Whether all numbers are finite: a sum of squares says it quickest. */
function sound(data) {
  let sum = 0;
  for (let i = 0; i < data.length; i++) sum += data[i] * data[i];
  return sum < Infinity;
}

const tuple = (shape) => `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;
const said = (value) => (Array.isArray(value) ? `[${value.map(said).join(", ")}]` : String(value));
const quoted = (value) => (typeof value === "string" ? `'${value}'` : said(value));

/** The memory of `batch` independent streams through one graph. `outputs`: names of the ports that are wanted.
 *
 * Attributes: `controls`, the values of the control ports as typed arrays; `frames` of each input in a hop. */
export class Engine {
  #model; #shapes = {}; #state = {}; #hops = 0;

  constructor(model, batch = 1, outputs = null) {
    const { artifact, graph } = model;
    this.#model = model;
    this.artifact = artifact;
    this.batch = batch;
    this.frames = Object.fromEntries(artifact.streams.map((port) => [port.name, port.perHop(artifact.hop)]));
    const names = outputs ?? artifact.outputs.map((port) => port.name);
    this.outputs = names.map((name) => artifact.outputs.find((port) => port.name === name));
    this.controls = {};
    for (const port of Object.values(artifact.controls)) {
      const node = graph.inputMetadata.find(({ name }) => name === port.name);
      if (!node) throw new ArtifactError(`${artifact.name}: its graph has no input ${port.name}`);
      this.#shapes[port.name] = { dtype: node.type, shape: node.shape.length === 1 ? [batch] : [batch, port.channels] };
      this.controls[port.name] = this.#filled(port.name, port.default ?? 0);
    }
    this.reset();
  }

  /** Return another engine with the same memory. */
  copy() {
    const twin = new Engine(this.#model, this.batch, this.outputs.map((port) => port.name));
    twin.#state = { ...this.#state };
    twin.controls = { ...this.controls };
    return twin;
  }

  /** Bring all streams to the start of a signal. */
  reset() {
    for (const { name, dtype, shape, array } of this.artifact.states) {
      const rows = new MEMORY[dtype](this.batch * array.length);
      for (let row = 0; row < this.batch; row++) rows.set(array, row * array.length);
      this.#state[name] = new this.#model.Tensor(dtype, rows, [this.batch, ...shape]);
    }
  }

  /** Return a value for a control as its array: one for all streams, or one each. Throws `ArtifactError` for a
   * control that the model lacks or a value out of its range. */
  control(name, value) {
    const { controls } = this.artifact;
    const refuse = (words) => {
      throw new ArtifactError(`${this.artifact.name}: ${words}`);
    };
    if (!Object.hasOwn(controls, name)) {
      refuse(`has no control '${name}'; it has: ${Object.keys(controls).join(" ") || "none"}`);
    }
    const { minimum: low, maximum: high, unit } = controls[name];
    const values = flat(value);
    if (!values.every(Number.isFinite)) refuse(`${name} = ${quoted(value)} is not a number`);
    if (values.some((v) => (low !== null && v < low) || (high !== null && v > high))) {
      refuse(`${name} = ${said(value)} is outside ${low} to ${high} ${unit}`.trimEnd());
    }
    const { dtype, shape } = this.#shapes[name];
    const given = shapeOf(value);
    const fits = given.length <= shape.length && given.every((n, i) => n === 1 || n === shape.at(i - given.length));
    if (!fits || values.length !== given.reduce((a, b) => a * b, 1)) {
      refuse(`${name} has shape ${tuple(given)}, not ${tuple(shape)}`);
    }
    const int = dtype === "int64";
    if (!values.every(int ? Number.isSafeInteger : (v) => Number.isFinite(Math.fround(v)))) {
      refuse(`${name} = ${said(value)} does not fit a ${int ? "whole number" : "float32"}`);
    }
    return this.#filled(name, value);
  }

  /** A value that fits, broadcast to the shape of a control. */
  #filled(name, value) {
    const { dtype, shape } = this.#shapes[name];
    const values = flat(value);
    const [columns, rows] = shapeOf(value).reverse();
    const width = shape[1] ?? 1;
    const of = dtype === "int64" ? BigInt : Number;
    return MEMORY[dtype].from({ length: this.batch * width }, (_, i) => {
      if (columns === undefined || columns * (rows ?? 1) === 1) return of(values[0]);
      const row = rows > 1 ? Math.floor(i / width) : 0;
      const column = columns > 1 ? i % columns : 0;
      return of(values[row * columns + column]);
    });
  }

  /** Run `hops` over the rows of each input stream, to `{outputs, broken}`: rows by port, and whether the model
   * failed in some; those are muted and at the start of a signal again. */
  async run(inputs, hops) {
    const { graph, Tensor } = this.#model;
    const { name, streams, states } = this.artifact;
    const feeds = { ...this.#state };
    for (const port of streams) {
      const data = new MEMORY[port.dtype](this.batch * port.channels * hops * this.frames[port.name]);
      const count = data.length / (this.batch * port.channels);
      const cell = port.dtype === "int64" ? (row) => BigInt64Array.from(row, BigInt) : (row) => row;
      inputs[port.name].forEach((row, c) => data.set(cell(row), c * count));
      feeds[port.name] = new Tensor(port.dtype, data, [this.batch, port.channels, count]);
    }
    for (const [control, { dtype, shape }] of Object.entries(this.#shapes)) {
      feeds[control] = new Tensor(dtype, this.controls[control], shape);
    }
    const wanted = this.outputs.map((port) => port.name);
    const names = [...wanted, ...states.map((state) => `next_${state.name}`)];
    const results = await graph.run(feeds, names).catch((error) => {
      const words = String(error.message ?? error).split("\n")[0].slice(0, 300);
      throw new ArtifactError(`${name}: failed while running (${words}); export it again`);
    });
    for (const state of states) this.#state[state.name] = results[`next_${state.name}`];
    const made = wanted.map((output) => results[output].data);
    const broken = this.#mend(made, hops);
    const outputs = this.outputs.map((port, n) => {
      const length = this.batch * port.channels;
      const count = made[n].length / length;
      const rows = Array.from({ length }, (_, c) => made[n].subarray(c * count, (c + 1) * count));
      return [port.name, rows.map((row) => (port.dtype === "int64" ? port.Row.from(row, Number) : row))];
    });
    return { outputs: Object.fromEntries(outputs), broken };
  }

  /** A state that holds a NaN would never recover: mute rows that have one, start them anew, and say so. */
  #mend(made, hops) {
    const states = this.artifact.states.map(({ name }) => this.#state[name].data);
    const floats = states.filter((data) => data instanceof Float32Array);
    this.#hops += hops;
    if (this.#hops >= SWEEP) {
      this.#hops = 0;
      for (const data of floats) for (let i = 0; i < data.length; i++) if (Math.abs(data[i]) < TINY) data[i] = 0;
    }
    const all = [...made, ...floats].filter((data) => data instanceof Float32Array);
    if (all.every(sound)) return false;
    for (let row = 0; row < this.batch; row++) {
      const mine = (data) => data.subarray((row * data.length) / this.batch, ((row + 1) * data.length) / this.batch);
      if (all.every((data) => sound(mine(data)))) continue;
      for (const data of made) mine(data).fill(data instanceof BigInt64Array ? 0n : 0);
      for (const { name, array } of this.artifact.states) mine(this.#state[name].data).set(array);
    }
    return true;
  }
}
