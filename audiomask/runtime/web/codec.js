// A codec in the page: sound becomes codes, these travel, and become sound again, at the other end of a line that
// counts them and loses some.
//
//   const codec = new Codec({ encoder, decoder, hash }, { rate: 48000, channels: 1, controls: { books: 12 } });
//   for (const block of blocks) play(await codec.feed([block]));
//   play(await codec.flush());                          // as many samples as went in, aligned with them
//   save(codec.line.finish().file);                     // an .amk

import { ArtifactError } from "./artifact.js";
import { Amk, Packer, coderOf, framesOf, headerOf, samplesOf } from "./container.js";
import { Player } from "./player.js";
import { uniform } from "./ports.js";
import { concat, join, part, zeros } from "./rows.js";

const RECENT_S = 1; // of codes, whose bytes a second are told
const MOST = 2 ** 28; // samples of all channels that are decoded of a file: 1 GB
const NOTHING = { frames: 0, bytes: 0, plain: 0 };

/** Return what a page has to know of a codec by the documents of its parts: `codes`, the encoder's port; `books`, the
 * control that says how many of them are sent, if there is one; `kbps` of a book. Throws `ArtifactError` for parts that
 * do not fit, or need more than codes. */
export function pairOf(encoder, decoder) {
  const refuse = (words) => {
    throw new ArtifactError(words);
  };
  const needs = ({ streams }) => streams.slice(1).filter(({ type }) => !["lost", "noise"].includes(type));
  const named = (ports) => ports.map((port) => port.name).join(" and ");
  const codes = encoder.outputs.filter((port) => port.type === "codes");
  const sounds = decoder.outputs.filter((port) => port.type === "pcm");
  const [sound, heard] = [encoder.streams[0], decoder.streams[0]];
  if (needs(encoder).length) refuse(`its encoder needs ${named(needs(encoder))} beside the sound`);
  if (needs(decoder).length) refuse(`its decoder needs ${named(needs(decoder))} beside the codes`);
  if (sound.type !== "pcm" || codes.length !== 1 || heard.type !== "codes" || sounds.length !== 1) {
    refuse("it does not turn one sound into codes and these into one sound");
  }
  const [port] = codes;
  const alike = ["channels", "levels", "rate"].every((key) => Number(port[key]) === Number(heard[key]));
  if (!alike || encoder.sample_rate !== decoder.sample_rate || sounds[0].channels !== sound.channels) {
    refuse("its encoder and its decoder do not fit each other");
  }
  if (port.levels < 2 || port.rate.over !== 1) refuse("its codes are of no known number, or at no whole stride");
  const books = Object.values(encoder.controls).find(({ type }) => type === "int") ?? null;
  const bits = Math.ceil(Math.log2(port.levels));
  return { codes: port, books, kbps: (encoder.sample_rate * Number(port.rate) * bits) / 1000 };
}

/** What lies between the ends of a codec. `facts` of the header of a file, see container.js; `loss`: the fraction of
 * frames that do not arrive, each by itself, but for the first one. Always the same ones, so that only what is changed
 * is heard.
 *
 * Attributes: `loss`; `frames` that were sent, and `lost` of them. */
export class Line {
  #packer; #parts; #recent = [NOTHING]; #signal = 0; #samples = 0;

  constructor(facts, probabilities, loss = 0) {
    const coded = probabilities ? { coder: 1, probabilities: probabilities.hash } : { coder: 0, probabilities: "" };
    this.header = headerOf({ ...facts, ...coded });
    this.#packer = new Packer(this.header, probabilities);
    this.#parts = [this.#packer.head()];
    this.loss = loss;
    this.frames = this.lost = 0;
  }

  /** Take codes, rows [streams x books] of frames, and return flags of those that do not arrive. */
  pass(codes) {
    this.#keep(this.#packer.push(codes));
    return Float32Array.from(codes[0], () => {
      const missing = this.#signal++ > 0 && uniform(this.frames) < this.loss;
      this.frames++;
      this.lost += missing;
      return missing;
    });
  }

  /** End a signal of so many samples. */
  end(samples) {
    this.#samples = samplesOf(this.header, this.frames - this.#signal) + samples;
    this.#signal = 0;
  }

  #keep(packets) {
    if (!packets.length) return;
    this.#parts.push(packets);
    const { frames, size, plain } = this.#packer;
    this.#recent.push({ frames, bytes: size - this.#parts[0].length, plain });
    const recent = this.#recent;
    while (recent.length > 2 && this.#seconds(frames - recent[1].frames) >= RECENT_S) recent.shift();
  }

  #seconds(frames) {
    return (frames * this.header.stride) / this.header.clock;
  }

  /** Return bytes a second of packets of about half a second: `bytes`, and `plain`, what they would be without
   * probabilities; of the last second, or since `first`. Beside them `frames` and `lost`. */
  figures(first = this.#recent[0]) {
    const last = this.#recent.at(-1);
    const seconds = this.#seconds(last.frames - first.frames);
    const rate = (key) => (seconds ? (last[key] - first[key]) / seconds : 0);
    return { bytes: rate("bytes"), plain: rate("plain"), frames: this.frames, lost: this.lost };
  }

  /** Return all that was sent, once nothing more is: the bytes of an .amk, and its figures. */
  finish() {
    if (this.#signal) this.end(samplesOf(this.header, this.#signal)); // it broke off
    const end = this.#packer.finish(this.#samples);
    const file = concat([...this.#parts, end]);
    this.#keep(end);
    return { file, figures: this.figures(NOTHING) };
  }
}

/** A session of a codec, of `{encoder, decoder, probabilities, hash}`: models, see `loadModel`; `Probabilities` or null;
 * the codec's hash in hexadecimal. `rate` of the sound in Hz, `channels`, `loss`: see `Line`, `controls` of the encoder.
 *
 * Attributes: `line`; those of `Session`. */
export class Codec {
  #encoder; #decoder; #codes; #fed = 0; #made = 0;

  constructor({ encoder, decoder, probabilities, hash }, { rate, channels, loss, controls }) {
    const { codes } = pairOf(encoder.artifact, decoder.artifact);
    this.#codes = codes.name;
    this.#encoder = new Player(encoder, { sampleRate: rate, channels, outputs: [codes.name], controls });
    const { name, sample_rate: clock } = encoder.artifact;
    const streams = this.#encoder.engine.batch;
    const { channels: books, levels } = codes;
    const facts = { name, hash, clock, stride: codes.rate.under, rate, channels, streams, books, levels };
    this.line = new Line(facts, probabilities, loss);
    this.#decoder = new Player(decoder, { sampleRate: rate, channels: streams * books });
    this.outputs = channels;
    this.rateOut = rate;
    this.hop = this.#encoder.hop;
    this.delay = this.#encoder.delay + this.#decoder.delay; // the decoder gets a frame whole
    this.latency = this.delay + this.hop;
  }

  get cleaned() {
    return this.#encoder.cleaned;
  }

  get faults() {
    return this.#encoder.faults + this.#decoder.faults;
  }

  set(controls, { loss = this.line.loss } = {}) {
    this.#encoder.set(controls);
    this.line.loss = loss;
  }

  async feed(sound) {
    this.#fed += sound[0].length;
    const made = await this.#through((await this.#encoder.feed(sound))[this.#codes]);
    this.#made += made[0].length;
    return made;
  }

  async flush() {
    const last = await this.#through((await this.#encoder.flush())[this.#codes]);
    const rest = Object.values(await this.#decoder.flush())[0];
    const sound = part(join([last, rest]), 0, this.#fed - this.#made);
    this.line.end(this.#fed);
    this.#fed = this.#made = 0;
    return sound;
  }

  async #through(codes) {
    return received(this.#decoder, codes, this.line.pass(codes));
  }
}

/** Decode frames of codes, of which those that are flagged did not arrive. */
async function received(decoder, codes, flags) {
  const heard = codes.map((row) => row.map((code, t) => (flags[t] ? -1 : code)));
  const { lost } = decoder.artifact;
  return Object.values(await decoder.feed(heard, lost ? { [lost.name]: [flags] } : {}))[0];
}

/** Decode the bytes of an .amk to `{rate, sound, note}`, what is missing concealed. `progress` is called with the
 * fraction that is done, and may take its time. Throws an Error for a file that is none, or is of another codec. */
export async function decodeAmk({ decoder, probabilities, hash }, bytes, progress = () => {}) {
  const amk = new Amk(bytes);
  const { header } = amk;
  const { streams, sample_rate: clock, outputs } = decoder.artifact;
  const [codes] = streams;
  const theirs = [header.hash, header.clock, header.stride, header.books, header.levels, header.channels];
  const ours = [hash, clock, codes.rate.under, codes.channels, codes.levels, header.streams * outputs[0].channels];
  if (String(theirs) !== String(ours)) {
    throw new Error(`it was made by another ${header.name} than the one that is offered here`);
  }
  if (header.coder && header.probabilities !== probabilities?.hash) {
    throw new Error("it was coded by probabilities that are not offered here");
  }
  if (amk.samples * header.channels > MOST) {
    throw new Error("it is of more sound than this page can hold; try: audiomask decode");
  }
  const player = new Player(decoder, { sampleRate: header.rate, channels: header.streams * header.books });
  const parts = [];
  let [at, missing] = [0, 0];
  for (const { codes, frames } of amk.pieces(coderOf(header, probabilities))) {
    const flags = new Float32Array(frames).fill(codes ? 0 : 1);
    parts.push(await received(player, codes ?? zeros(header.streams * header.books, frames, Float64Array), flags));
    at += frames;
    if (!codes) missing += frames;
    await progress(at / amk.frames);
  }
  parts.push(Object.values(await player.flush())[0]);
  const seconds = ((missing * header.stride) / header.clock).toFixed(2);
  const note = [amk.note, missing ? `${seconds} s are missing and were concealed` : ""].filter(Boolean).join(", ");
  return { rate: header.rate, sound: part(join(parts), 0, amk.samples), note };
}
