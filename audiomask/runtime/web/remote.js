// Sessions that run on the server, over websockets: the same calls as the local ones of worker.js.

import { Line } from "./codec.js";
import { codesOf, coderOf, parseHeader, records } from "./container.js";
import { concat } from "./rows.js";

const IN_FLIGHT_S = 2; // sound sent whose answer has not come yet, beyond the latency
const MOST = 16; // packets of a message
const WAITING = 2 ** 20; // bytes of a sound that is heard of only now and then
const LOOK_MS = 20; // how often is looked whether they have gone

/** Sound to interleaved samples. */
function pack(sound) {
  const channels = sound.length;
  const flat = new Float32Array(channels * sound[0].length);
  for (let c = 0; c < channels; c++) {
    for (let n = 0; n < sound[c].length; n++) flat[n * channels + c] = sound[c][n];
  }
  return flat;
}

/** And back. */
function unpack(data, channels) {
  const flat = new Float32Array(data);
  return Array.from({ length: channels }, (_, c) => {
    const row = new Float32Array(flat.length / channels);
    for (let n = 0; n < row.length; n++) row[n] = flat[n * channels + c];
    return row;
  });
}

/** Decibels as JSON has them: silence is null. */
const told = (gains) => Object.fromEntries(Object.entries(gains).map(([name, gain]) => [name, gain > -Infinity ? gain : null]));

/** Where one waits for what sockets bring, or for the first of their errors. */
class Gate {
  #error = null; #wake = [];

  step() {
    this.#wake.splice(0).forEach((wake) => wake());
  }

  fail(words) {
    this.#error ??= new Error(words);
    this.step();
  }

  check() {
    if (this.#error) throw this.#error;
  }

  async until(met) {
    while (!met()) {
      this.check();
      await new Promise((done) => this.#wake.push(done));
    }
  }
}

/** A websocket of the server: `info`, its answer to the hello; `ondata(data)` gets what comes back, in order, and
 * `onreport(message)` what is detected. */
class Socket {
  #socket; #flushed = false;

  /** Resolves when the server is ready; throws an Error that says why it is not. */
  static async open(gate, url, hello, token) {
    const socket = new Socket(gate, url);
    await gate.until(() => socket.#socket.readyState === WebSocket.OPEN);
    socket.send({ type: "hello", format: "f32le", ...hello, ...(token ? { token } : {}) });
    await gate.until(() => socket.info);
    return socket;
  }

  constructor(gate, url) {
    this.gate = gate;
    this.info = null;
    this.#socket = new WebSocket(url);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => gate.step();
    this.#socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.#answer(JSON.parse(data));
      else this.ondata(data);
      gate.step();
    };
    this.#socket.onclose = ({ code, reason }) => gate.fail(
      this.info ? `the server closed the connection (${code}${reason && `: ${reason}`})` : "the server cannot be reached",
    );
  }

  #answer(message) {
    if (message.type === "ready") this.info = message;
    else if (message.type === "flushed") this.#flushed = true;
    else if (message.type === "detected") this.onreport(message);
    else if (message.type === "error") this.gate.fail(`the server says: ${message.message} (${message.code})`);
  }

  send(message) {
    this.gate.check();
    this.#socket.send(typeof message === "object" && !ArrayBuffer.isView(message) ? JSON.stringify(message) : message);
  }

  /** Bytes that the network has not taken yet. */
  get waiting() {
    return this.#socket.bufferedAmount;
  }

  async flush() {
    this.#flushed = false;
    this.send({ type: "flush" });
    await this.gate.until(() => this.#flushed);
  }

  close() {
    this.#socket.onclose = this.#socket.onmessage = null;
    this.#socket.close();
    this.gate.fail("the connection was closed");
  }
}

/** What sessions on the server have in common: the sound that comes back, and how much of it is on its way. */
class Away {
  #sent = 0; #received = 0;

  constructor(gate, info, onsound) {
    [this.gate, this.info, this.onsound] = [gate, info, onsound];
  }

  _heard(data) {
    const sound = unpack(data, this.info.outputs);
    this.#received += sound[0].length;
    this.onsound(sound);
  }

  /** Send sound by a socket as soon as not too much is on its way. */
  async _play(socket, sound) {
    const { latency, rate, rate_out } = this.info;
    const most = latency / rate + IN_FLIGHT_S;
    await this.gate.until(() => this.#sent / rate - this.#received / rate_out < most);
    this.#sent += sound[0].length;
    socket.send(pack(sound));
  }

  _ended() {
    this.#sent = this.#received = 0;
  }
}

/** A model of sound on the server. */
export class Remote extends Away {
  #socket;

  /** `url` of the websocket; the rest is the hello. `onsound(sound)` gets what comes back, in order. Throws an Error
   * that says why the server is not ready. */
  static async open({ url, model, rate, channels, speakers, output, gains, dry, controls, mark, token }, onsound) {
    const what = mark ? { mark } : { speakers, ...(gains ? { gains: told(gains) } : { output }) };
    const socket = await Socket.open(new Gate(), url, { model, rate, channels, dry, controls, ...what }, token);
    return new Remote(socket, onsound);
  }

  constructor(socket, onsound) {
    super(socket.gate, socket.info, onsound);
    this.#socket = socket;
    socket.ondata = (data) => this._heard(data);
  }

  feed(sound) {
    return this._play(this.#socket, sound);
  }

  async flush() {
    await this.#socket.flush();
    this._ended();
  }

  set(controls, { gains, ...mix }) {
    this.#socket.send({ type: "set", controls, ...mix, ...(gains && { gains: told(gains) }) });
  }

  close() {
    this.#socket.close();
  }
}

/** Marks that the server looks for: the sound passes as it is, and `found` is what is known of it by now. */
export class RemoteFinder {
  #socket;

  /** Likewise; `mark`: {do: "detect", key}. */
  static async open({ url, model, rate, channels, mark, token }, onsound) {
    return new RemoteFinder(await Socket.open(new Gate(), url, { model, rate, channels, mark }, token), onsound);
  }

  constructor(socket, onsound) {
    this.#socket = socket;
    this.onsound = onsound;
    const { rate, channels } = socket.info;
    this.info = { rate, channels, outputs: channels, rate_out: rate, hop: 1, delay: 0, latency: 1 };
    this.found = null;
    socket.onreport = (found) => (this.found = found);
  }

  async feed(sound) {
    while (this.#socket.waiting > WAITING) {
      this.#socket.gate.check();
      await new Promise((done) => setTimeout(done, LOOK_MS));
    }
    this.#socket.send(pack(sound));
    this.onsound(sound);
  }

  flush() {
    return this.#socket.flush();
  }

  set() {}

  close() {
    this.#socket.close();
  }
}

/** A codec on the server: one socket encodes and another one decodes. Packets of a frame go through the page, by a
 * `line` like that of a codec in this browser. */
export class RemoteCodec extends Away {
  #encoder; #decoder; #header; #coder;

  /** Likewise; `kbps` of the codes to begin with, `probabilities` to pack a file by, or null, `loss` of the line. */
  static async open({ url, model, rate, channels, kbps, probabilities, loss, controls, token }, onsound) {
    const [gate, codec] = [new Gate(), { do: "encode", kbps, frames: 1 }];
    const encoder = await Socket.open(gate, url, { model, rate, channels, controls, codec }, token);
    const back = { do: "decode", header: encoder.info.codec.header, jitter_ms: 0, realtime: false };
    const decoder = await Socket.open(gate, url, { model, codec: back }, token).catch((error) => {
      encoder.close();
      throw error;
    });
    return new RemoteCodec(encoder, decoder, probabilities, loss, onsound);
  }

  constructor(encoder, decoder, probabilities, loss, onsound) {
    const { rate, channels, hop, delay, codec } = encoder.info;
    const { outputs, rate_out, packets } = decoder.info;
    const late = delay + packets.delay; // a frame more than in this browser: one is lost when the next one comes
    super(encoder.gate, { rate, channels, outputs, rate_out, hop, delay: late, latency: late + hop }, onsound);
    [this.#encoder, this.#decoder] = [encoder, decoder];
    [this.#header] = parseHeader(Uint8Array.from(atob(codec.header), (c) => c.charCodeAt(0)));
    this.#coder = coderOf(this.#header);
    this.line = new Line(this.#header, probabilities, loss);
    encoder.ondata = (data) => this.#pass(new Uint8Array(data));
    decoder.ondata = (data) => this._heard(data);
  }

  /** Take what the encoder sends, and hand on what is not lost. */
  #pass(data) {
    const kept = [];
    for (const { packet, end } of records(data, this.#header)) {
      if (end) this.line.end(end.samples);
      const lost = packet && this.line.pass(codesOf(packet, this.#header, this.#coder))[0];
      if ((packet || end) && !lost) kept.push(data.subarray((packet ?? end).at, (packet ?? end).stop));
    }
    try {
      for (let at = 0; at < kept.length; at += MOST) this.#decoder.send(concat(kept.slice(at, at + MOST)));
    } catch (error) {
      this.gate.fail(error.message); // whoever waits hears of it
    }
  }

  feed(sound) {
    return this._play(this.#encoder, sound);
  }

  async flush() {
    await this.#encoder.flush();
    await this.#decoder.flush();
    this._ended();
  }

  set(controls, { loss = this.line.loss } = {}) {
    this.line.loss = loss;
    this.#encoder.send({ type: "set", controls });
  }

  close() {
    this.#encoder.close();
    this.#decoder.close();
  }
}
