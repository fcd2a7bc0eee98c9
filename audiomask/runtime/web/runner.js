// The page's side of worker.js and worklet.js: open a session, put a file or a live source through it.

import { Ring } from "./ring.js";

const STOP_MS = 5000; // in which a live sound comes to its end once it is stopped
const CAPACITY_S = 4; // of each ring, beside the lag

export class Runner {
  #worker; #waiting = new Map(); #next = 1; #onsound = () => {};

  constructor() {
    this.#worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data }) => {
      if (data.event) return this.#onsound(data);
      const { done, fail } = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      if (data.error) fail(Object.assign(new Error(data.error.message), { code: data.error.code }));
      else done(data.value);
    };
    this.#worker.onerror = (event) => {
      for (const { fail } of this.#waiting.values()) fail(new Error(event.message || "the worker did not start"));
      this.#waiting.clear();
    };
  }

  #call(type, body = {}, transfer = []) {
    return new Promise((done, fail) => {
      const id = this.#next++;
      this.#waiting.set(id, { done, fail });
      this.#worker.postMessage({ id, type, ...body }, transfer);
    });
  }

  /** Give a context what `live` needs of it, so that nothing is left to fetch. Pages over plain http from
   * another machine have no AudioWorklet; there it does nothing. */
  static async prepare(context) {
    await context.audioWorklet?.addModule(new URL("./worklet.js", import.meta.url));
  }

  /** Get a model (`url` of the .onnx file) or a `codec` ready to run in this browser. */
  load(options) {
    return this.#call("load", options);
  }

  /** Open a session. `mode`: "browser" (then `url` of the model) or "server" (then `url` of the websocket,
   * `model`, `token`); `rate` in Hz, `channels` and their `speakers` (see `seats.js`), `output` (name of the one that is
   * heard of several) or `gains` of all, `dry`, `controls`. Of a codec there are `codec`: {encoder, decoder: addresses of the .onnx files, hash: in hexadecimal,
   * probabilities: {url, hash} or null}, and `loss`, a fraction; on the server `model`, `token`, and `kbps` to begin
   * with too. `mark`, on the server: what its hello says of marks, {do: "mark", key, message} or {do: "detect", key};
   * of the latter the figures have `found`, what was detected by now. Resolves to what is known of it: outputs
   * (channels) at rate_out Hz, hop, delay, latency in samples of `rate`. */
  open(options) {
    return this.#call("open", options);
  }

  /** Change controls of the open session, and the mix: `dry`, `bypass`, `gains`; of a codec `loss`. */
  set(controls, mix = {}) {
    return this.#call("set", { controls, mix });
  }

  /** A whole sound through the open session; `onsound({after, figures})` as it comes. False if cancelled. */
  file(sound, onsound) {
    this.#onsound = onsound;
    return this.#call("file", { sound });
  }

  /** What the open codec has made, once its sound is at an end: {file: the bytes of an .amk, figures}; else null. */
  codes() {
    return this.#call("codes");
  }

  /** The bytes of an .amk to {rate, sound, note}, by its `codec`; `headers`: of requests for the codec's files;
   * `onprogress(done)`: with the fraction that is done. */
  decode(options, onprogress = () => {}) {
    this.#onsound = ({ done }) => onprogress(done);
    return this.#call("decode", options);
  }

  cancel() {
    return this.#call("cancel");
  }

  close() {
    return this.#call("close");
  }

  /** The open session (`info`, from `open` at the context's rate) between a source node and the returned
   * `node`, which is to be connected to something. `lag`: samples between in and out, more than info.latency.
   * Both run at one rate, so it takes a session whose `rate_out` is that of the context.
   * `onsound({before, after, figures})`: lists of what went in and came out; `onreport({underruns, missed, played})`.
   * `ended` resolves after `stop()` when all is done, or is rejected with what went wrong. */
  async live(context, source, info, { lag, enhanced = true, onsound = () => {}, onreport = () => {} }) {
    const { channels, outputs } = info;
    await Runner.prepare(context);
    const capacity = CAPACITY_S * context.sampleRate + 2 * lag; // the worklet takes half of it as lag at most
    const ends = globalThis.crossOriginIsolated
      ? { input: Ring.buffer(channels, capacity, true), output: Ring.buffer(outputs, capacity, true) }
      : { link: null };
    const channel = "link" in ends ? new MessageChannel() : null;
    const node = new AudioWorkletNode(context, "audiomask-pump", {
      channelCount: channels,
      channelCountMode: "explicit",
      channelInterpretation: channels > 2 ? "discrete" : "speakers",
      outputChannelCount: [outputs],
      processorOptions: { channels, outputs, capacity, lag, ...ends },
    });
    node.port.onmessage = ({ data }) => onreport(data);
    node.port.postMessage({ enhanced, link: channel?.port1 }, channel ? [channel.port1] : []);
    this.#onsound = onsound;
    const ended = this.#call("live", { capacity, ...ends, link: channel?.port2 }, channel ? [channel.port2] : []);
    source.connect(node);
    return {
      node,
      ended,
      setLag: (samples) => node.port.postMessage({ lag: samples }),
      setEnhanced: (value) => node.port.postMessage({ enhanced: value }),
      stop: () => {
        node.port.postMessage({ stop: true });
        source.disconnect();
        node.disconnect();
        this.#call("end");
        const late = setTimeout(() => this.#call("close"), STOP_MS); // a server that does not answer
        return ended.finally(() => clearTimeout(late));
      },
    };
  }
}
