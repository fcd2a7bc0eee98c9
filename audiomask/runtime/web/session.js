// One live sound through one model in the browser: blocks of any size, any sample rate, any number of channels.
//
//   const model = await loadModel(ort, bytes);              // ort: the module of onnxruntime-web
//   const session = new Session(model, { sampleRate: 48000 });
//   for (const block of blocks) play(await session.feed([block]));
//   play(await session.flush());                            // as many samples came out as went in, aligned
//
// This is audiomask/runtime/session.py in JavaScript and gives the same samples: a player of a model that makes
// sound of sound, with what one listens with. A sound is a list of Float32Arrays, one a channel.
//
// A model that separates gives its stems by name, or with `gains` in decibels the sound with its stems turned.
//
// Nothing that is changed while sound is running clicks: gains, dry fraction and bypass are ramps of the mix,
// and a change of the model's controls is a crossfade of two runs, of the old values and of the new ones, from
// the same state on.

import { ArtifactError } from "./artifact.js";
import { loadModel } from "./engine.js";
import { Player, differ, mapped } from "./player.js";
import { gcd, whole } from "./ports.js";
import { join, part, zeros } from "./rows.js";
import { Seats } from "./seats.js";

export { ArtifactError, loadModel };

const RAMP_S = 0.01; // of a change
const MOST = 2 ** 18; // blocks after which `lagOf` takes the bound instead
const MOST_DB = 24; // of a gain
const REMIX = "remix"; // the output of a session with gains

/** The member of a list of model documents that keeps the whole band of `rate` Hz at the least cost: the lowest
 * sample rate not below it, else the highest. */
export function choose(models, rate) {
  const rising = [...models].sort((a, b) => a.sample_rate - b.sample_rate);
  return rising.find((m) => m.sample_rate >= rate) ?? rising.at(-1);
}

/** A value that moves to its `target` by `slope` a sample. */
class Ramp {
  constructor(slope) {
    this.slope = slope;
    this.now = this.target = 0;
  }

  /** Return the next `count` values as a function of their number, or null if all are 0. */
  take(count) {
    const { slope, now, target } = this;
    if (now === target || !count) return now ? () => now : null;
    const way = target - now;
    const at = (n) => now + Math.sign(way) * Math.min(slope * (n + 1), Math.abs(way));
    this.now = slope * count >= Math.abs(way) ? target : at(count - 1);
    return at;
  }
}

/**
 * A player that one listens to.
 *
 * `dry`: fraction 0..1 of the untouched signal, delayed alike (all of it is in an output that is added to it);
 * `bypass`: all of it. `trim`: the first sample out
 * belongs to the first one in; false: each `feed` returns as many samples as it got, `lag` later, which a promise
 * that blocks are multiples of `block` may shorten. `output`: name of the one output of sound that is heard,
 * default all. `gains`: decibels by output (0 for those left out, -Infinity for silence), of one sound in place of the
 * outputs: what came in, with each output turned within it. `speakers`: the layout of the channels, as the bits of
 * `seats.js`; 0 for unknown. A model from two channels to two takes any number of them. The others are those of `Player`.
 *
 * Attributes, beside those of `Player`: `outputs`, channels of an output, at `rateOut` Hz; `lag`; `mixes`:
 * whether the dry sound fits the output; `heard`: names of what is given.
 */
export class Session extends Player {
  #mix; #dried; #before = null; #fading = 0; #fades; #late; #lagging; #seats; #deep; #ramps; #begun = false;

  constructor(model, options = {}) {
    const { dry = 0, bypass = false, trim = true, block = 1, output = null, gains = null, speakers = 0, ...rest } = options;
    const { artifact } = model;
    const names = sounds(artifact, output);
    const width = artifact.streams[0].channels;
    const asked = width <= 2 && artifact.alike ? new Seats(rest.channels ?? width, speakers, width) : null;
    const seats = asked?.plain ? null : asked;
    super(model, { ...rest, channels: seats ? seats.rows : rest.channels, outputs: names });
    this.#seats = seats;
    this.heard = gains ? [REMIX] : names;
    const [port] = this.ports;
    const rate = Number(this.rates[port.name]);
    const alike = ({ name, channels }) => Number(this.rates[name]) === rate && channels === port.channels;
    if (!this.ports.every(alike) || !Number.isInteger(rate)) {
      throw new ArtifactError(`${artifact.name}: its outputs differ in rate or channels; name one of them`);
    }
    if (seats) {
      this.channels = seats.channels;
      for (const name of Object.keys(this.rows)) this.rows[name] = seats.channels;
    }
    this.outputs = this.rows[port.name];
    this.rateOut = rate;
    this.mixes = rate === this.sampleRate && [1, this.first.channels].includes(port.channels);
    if (!trim && !this.mixes) this.#refuse(", so it cannot give block for block; play it with trim=True");
    if (gains && !artifact.alike) {
      const words = "does not make of a sound others of its kind; nothing in it can be turned";
      throw new ArtifactError(`${artifact.name}: ${words}`);
    }
    for (const name of this.heard) [this.rows[name], this.rates[name]] = [this.outputs, this.rates[port.name]];
    const every = sounds(artifact);
    this.#deep = every.includes("effects") ? "effects" : every.at(-1); // gets the low frequency effects
    const { reference } = this.first; // of the channels that the dry sound is made of
    this.#dried = this.outputs < this.channels ? [reference, reference + 1] : [0, this.channels];
    this.trim = trim;
    this.lag = trim ? 0 : this.lagOf(block);
    this.dry = 0;
    this.bypass = false;
    this.#fades = Math.ceil((RAMP_S * artifact.sample_rate) / artifact.hop); // hops of a change of controls
    const slope = 1 / (RAMP_S * this.sampleRate);
    this.#mix = new Ramp(slope);
    this.#ramps = Object.fromEntries(gains ? names.map((name) => [name, new Ramp(slope)]) : []); // factors, less 1
    this.gains = Object.fromEntries(Object.keys(this.#ramps).map((name) => [name, 0]));
    this.set({}, { dry, bypass, gains: gains ?? {} });
    this.reset();
  }

  #refuse(what) {
    const { artifact, outputs, rateOut, channels, sampleRate } = this;
    const words = `makes ${outputs} channels at ${rateOut} Hz of ${channels} at ${sampleRate} Hz`;
    throw new ArtifactError(`${artifact.name}: ${words}${what}`);
  }

  /** Samples that can be out once `fed` are in. */
  #ready(fed) {
    const { hop, delay } = this.artifact;
    const [port] = this.ports;
    const hops = Math.floor((this._in[this.first.name]?.ready(fed) ?? fed) / hop);
    const out = Math.max(0, hops * port.perHop(hop) - Math.floor(Number(port.rate.times(whole(delay)))));
    return this._out[port.name]?.ready(out) ?? out;
  }

  /** Return by how many samples the output may fall behind the input, in blocks of `block`. */
  lagOf(block) {
    // The ready samples repeat once the blocks end where a hop of the model ends too.
    const { up, down } = this._in[this.first.name] ?? { up: 1, down: 1 };
    const period = (this.artifact.hop * down) / gcd(this.artifact.hop * down, up);
    const count = period / gcd(period, block) + Math.ceil(this.latency / block);
    if (count > MOST) return this.latency;
    let lag = 0;
    for (let fed = block; fed <= count * block; fed += block) lag = Math.max(lag, fed - this.#ready(fed));
    return lag;
  }

  /** Change the model's controls, and the mix, while running; gains that are left out stay. If it throws, nothing is
   * changed. */
  set(controls = {}, { dry = this.dry, bypass = this.bypass, gains = {} } = {}) {
    if (!(dry >= 0 && dry <= 1)) throw new ArtifactError(`dry = ${dry} is outside 0 to 1`);
    if ((dry || bypass) && !this.mixes) this.#refuse("; dry and bypass need the same");
    const { name: model } = this.artifact;
    const names = Object.keys(this.#ramps);
    for (const [name, gain] of Object.entries(gains)) {
      const which = names.length ? `it has: ${names.join(" ")}` : "it was made without gains";
      if (!names.includes(name)) throw new ArtifactError(`${model}: has no sound '${name}' to turn; ${which}`);
      if (!(gain <= MOST_DB)) throw new ArtifactError(`gain ${name} = ${gain} dB is outside -inf to ${MOST_DB}`);
    }
    this._turn(controls);
    this.dry = dry;
    this.bypass = Boolean(bypass);
    this.#mix.target = bypass ? 1 : dry;
    Object.assign(this.gains, gains);
    for (const [name, gain] of Object.entries(gains)) this.#ramps[name].target = 10 ** (gain / 20) - 1;
  }

  reset() {
    super.reset();
    this.#fading = 0;
    this.#begun = false;
    this.#late = zeros(this.outputs, 0); // dry signal whose wet part is not out yet
    this.#lagging = Object.fromEntries(this.heard.map((name) => [name, zeros(this.outputs, this.lag)]));
  }

  /** Take a block, a list of Float32Arrays, and return the samples that are ready: a list of them, or of a model
   * with several outputs `{port: list}`. `lost`: see `Player`; the lost samples are 0 in the dry sound too. */
  feed(block, lost = null) {
    return super.feed(block, lost ? { lost } : {});
  }

  _seated(x) {
    return this.#seats?.seated(x) ?? x;
  }

  _silence(count) {
    return zeros(this.channels, count);
  }

  _mixed(y, x) {
    // The dry path is kept even at dry = 0, so that the mix can be turned at any moment.
    if (this.mixes) this.#late = join([this.#late, x.slice(...this.#dried)]);
    return this.#seats ? mapped(y, (rows) => this.#seats.gathered(rows)) : y;
  }

  _handed(ready, count) {
    const y = this.mixes ? this.#turned(ready) : ready;
    if (!this.trim) {
      for (const [name, rows] of Object.entries(y)) {
        const late = join([this.#lagging[name], rows]);
        const n = count ?? late[0].length;
        y[name] = part(late, 0, n);
        this.#lagging[name] = late.map((row) => row.slice(n));
      }
    }
    return this.heard.length === 1 ? y[this.heard[0]] : y;
  }

  /** What is heard of aligned outputs, with the dry sound mixed in. */
  #turned(made) {
    const count = made[this.ports[0].name][0].length;
    const plain = part(this.#late, 0, count);
    this.#late = this.#late.map((row) => row.slice(count));
    const { low = [] } = this.#seats ?? {};
    if (made[this.#deep]) for (const n of low) made[this.#deep][n] = plain[n];
    const ramps = [this.#mix, ...Object.values(this.#ramps)];
    // At the start nothing has been heard yet that a change could click against.
    if (!this.#begun) for (const ramp of ramps) ramp.now = ramp.target;
    this.#begun ||= count > 0;
    for (const { name, added } of this.ports) if (added) made[name] = summed(plain, made[name], () => 1);
    const turned = Object.entries(this.#ramps).map(([name, ramp]) => [made[name], ramp.take(count)]);
    const remix = turned.reduce((sum, [rows, gain]) => (gain ? summed(sum, rows, gain) : sum), plain);
    const wet = turned.length ? { [REMIX]: remix } : made;
    const dry = this.#mix.take(count);
    if (!dry) return wet;
    return mapped(wet, (rows) => rows.map((row, c) => row.map((value, n) => (1 - dry(n)) * value + dry(n) * plain[c][n])));
  }

  _many(hops) {
    return this.#fading || (this._changed && this._stepped) ? 1 : super._many(hops);
  }

  async _step(piece, hops) {
    if (this._changed && !this.#fading) {
      if (this._stepped && differ(this._target, this.engine.controls)) {
        this.#before = this.engine.copy();
        this.#fading = this.#fades;
      }
      this.engine.controls = this._target;
      this._changed = false;
    }
    const fresh = await this.engine.run(piece, hops);
    this._stepped++;
    if (!this.#fading) {
      this.faults += fresh.broken;
      return fresh.outputs;
    }
    const old = await this.#before.run(piece, hops);
    this.faults += fresh.broken || old.broken;
    const done = this.#fades - this.#fading--;
    for (const [name, rows] of Object.entries(fresh.outputs)) {
      const share = (n) => (done * rows[0].length + n + 1) / (this.#fades * rows[0].length);
      const before = old.outputs[name];
      fresh.outputs[name] = rows.map((row, c) => row.map((y, n) => before[c][n] + share(n) * (y - before[c][n])));
    }
    return fresh.outputs;
  }
}

/** A sound with another added to it, times a `gain` of the sample's number. */
const summed = (sound, other, gain) =>
  sound.map((row, c) => row.map((value, n) => value + gain(n) * other[c][n]));

/** Return the names of the outputs of sound, or the one that is asked for. Throws `ArtifactError` for a model that
 * does not make sound of sound, and for an output that it lacks. */
export function sounds({ name, task, streams, outputs, lost }, output = null) {
  const names = outputs.filter((port) => port.type === "pcm").map((port) => port.name);
  const others = streams.slice(1).some((port) => !["lost", "noise"].includes(port.type));
  if (streams[0].type !== "pcm" || !names.length || others) {
    const words = "is no audio-to-audio model, so a session cannot play it; its task is";
    throw new ArtifactError(`${name}: ${words} ${task}: see audiomask ${task} --help`);
  }
  if (lost && (Number(lost.rate) !== 1 || lost.channels !== 1)) {
    const words = `has ${lost.channels} channels at rate ${lost.rate}; a session gives one flag for each sample`;
    throw new ArtifactError(`${name}: ${lost.name} ${words}`);
  }
  if (output !== null && !names.includes(output)) {
    throw new ArtifactError(`${name}: has no output '${output}' of sound; it has: ${names.join(" ")}`);
  }
  return output === null ? names : [output];
}
