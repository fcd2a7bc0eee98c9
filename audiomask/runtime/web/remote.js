// A session that runs on the server, over a websocket: the same calls as the local one of worker.js.

const IN_FLIGHT_S = 2; // sound sent whose answer has not come yet, beyond the latency

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
function unpack(flat, channels) {
  return Array.from({ length: channels }, (_, c) => {
    const row = new Float32Array(flat.length / channels);
    for (let n = 0; n < row.length; n++) row[n] = flat[n * channels + c];
    return row;
  });
}

export class Remote {
  #socket; #error = null; #wake = []; #flushed = false; #sent = 0; #received = 0;

  /** `url` of the websocket; the rest is the hello. `onsound(sound)` gets what comes back, in order. Resolves
   * when the server is ready; throws an Error that says why it is not. */
  static async open({ url, model, rate, channels, output, dry, controls, token }, onsound) {
    const remote = new Remote(url, onsound);
    await remote.#until(() => remote.#socket.readyState === WebSocket.OPEN);
    const hello = { model, rate, format: "f32le", channels, output, dry, controls };
    remote.#send({ type: "hello", ...hello, ...(token ? { token } : {}) });
    await remote.#until(() => remote.info);
    return remote;
  }

  constructor(url, onsound) {
    this.info = null;
    this.onsound = onsound;
    this.#socket = new WebSocket(url);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => this.#step();
    this.#socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.#answer(JSON.parse(data));
      else {
        const sound = unpack(new Float32Array(data), this.info.outputs);
        this.#received += sound[0].length;
        this.onsound(sound);
      }
      this.#step();
    };
    this.#socket.onclose = ({ code, reason }) =>
      this.#fail(this.info ? `the server closed the connection (${code}${reason && `: ${reason}`})` : "the server cannot be reached");
  }

  #answer(message) {
    if (message.type === "ready") this.info = message;
    else if (message.type === "flushed") this.#flushed = true;
    else if (message.type === "error") this.#fail(`the server says: ${message.message} (${message.code})`);
  }

  #fail(words) {
    this.#error ??= new Error(words);
    this.#step();
  }

  #step() {
    this.#wake.splice(0).forEach((wake) => wake());
  }

  async #until(met) {
    while (!met()) {
      if (this.#error) throw this.#error;
      await new Promise((done) => this.#wake.push(done));
    }
  }

  #send(message) {
    if (this.#error) throw this.#error;
    this.#socket.send(typeof message === "object" && !ArrayBuffer.isView(message) ? JSON.stringify(message) : message);
  }

  async feed(sound) {
    const { latency, rate, rate_out } = this.info;
    const most = latency / rate + IN_FLIGHT_S;
    await this.#until(() => this.#sent / rate - this.#received / rate_out < most);
    this.#sent += sound[0].length;
    this.#send(pack(sound));
  }

  async flush() {
    this.#flushed = false;
    this.#send({ type: "flush" });
    await this.#until(() => this.#flushed);
    this.#sent = this.#received = 0;
  }

  set(controls, mix) {
    this.#send({ type: "set", controls, ...mix });
  }

  close() {
    this.#socket.onclose = this.#socket.onmessage = null;
    this.#socket.close();
    this.#fail("the connection was closed");
  }
}
