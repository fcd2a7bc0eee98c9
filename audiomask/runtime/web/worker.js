// Where the work is done, off the page's thread and off the audio thread: a session, in this worker or on the
// server, is fed from a ring (live) or from memory (a file).
//
// Calls come as {id, type, ...} and are answered with {id, value} or {id, error}; between them go events
// {event: "sound", ...}. See runner.js for the other side.

import { Codec, decodeAmk } from "./codec.js";
import { Likely, Probabilities } from "./coders.js";
import { Player } from "./player.js";
import { Remote, RemoteCodec, RemoteFinder } from "./remote.js";
import { Ring } from "./ring.js";
import { zeros } from "./rows.js";
import { Session, loadModel } from "./session.js";

const TAP_MS = 30; // how often sound and figures go to the page
const BREATH_MS = 50; // how often messages are let in while there is always something to do
const LATE_S = 1; // sound that waits longer than this is given up, or a stall would never end
const FILE_BLOCK_S = 0.25;
const WARM = 10; // frames of codes
const REMOTE_BLOCK_S = 0.01; // a frame on the wire

const breathe = () => new Promise((done) => setTimeout(done));

let runtime = null; // the promise of onnxruntime-web
const models = new Map(); // address to the promise of what was made of the file there

function loadRuntime() {
  runtime ??= import("./vendor/ort.wasm.min.mjs").then(
    (ort) => {
      ort.env.wasm.numThreads = 1;
      ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
      return ort;
    },
    () => {
      runtime = null;
      throw Object.assign(new Error("onnxruntime-web is not installed here"), { code: "no-runtime" });
    },
  );
  return runtime;
}

async function fetched(url, headers) {
  const answer = await fetch(url, { headers }).catch(() => null);
  if (answer?.ok) return new Uint8Array(await answer.arrayBuffer());
  const words = answer ? `the server answers ${answer.status}` : "the server cannot be reached";
  throw Object.assign(new Error(`the model ${url.split("/").at(-1)} was not found: ${words}`), { code: "no-model" });
}

async function fetchModel(url, headers) {
  const model = await loadModel(await loadRuntime(), await fetched(url, headers));
  const player = new Player(model);
  const frames = player.first.perHop(model.artifact.hop);
  await player.feed(player.first.neutral(1, frames)); // the first step is slow, live it would be late
  return model;
}

/** What is at an address, made once; another try may succeed. */
function once(url, make) {
  if (!models.has(url)) {
    const made = make();
    made.catch(() => models.delete(url));
    models.set(url, made);
  }
  return models.get(url);
}

const load = ({ url, headers }) => once(url, () => fetchModel(url, headers));

async function loadProbabilities({ probabilities: file }, headers) {
  if (!file) return null;
  return once(file.url, async () => {
    const made = Probabilities.parse(await fetched(file.url, headers));
    const weigh = new Likely(made.levels, made).weighing();
    for (let n = 0; n < WARM; n++) weigh(new Array(made.books).fill(0)); // the first ones are slow too
    return Object.assign(made, { hash: file.hash });
  });
}

/** The files of a codec as `Codec` takes them. */
async function loadCodec({ codec, headers }) {
  const [encoder, decoder, probabilities] = await Promise.all([
    load({ url: codec.encoder, headers }), load({ url: codec.decoder, headers }), loadProbabilities(codec, headers),
  ]);
  return { encoder, decoder, probabilities, hash: codec.hash };
}

/** A session in this worker, with the calls of `Remote`. */
class Local {
  static async open(options, onsound) {
    const { rate: sampleRate, channels, speakers, output, gains, dry, controls, codec } = options;
    const session = codec
      ? new Codec(await loadCodec(options), options)
      : new Session(await load(options), { sampleRate, channels, speakers, output, gains, dry, controls });
    return new Local(session, options, onsound);
  }

  constructor(session, { rate, channels }, onsound) {
    this.session = session;
    this.line = session.line;
    const { outputs, rateOut, hop, delay, latency } = session;
    this.info = { rate, channels, outputs, rate_out: rateOut, hop, delay, latency };
    this.onsound = onsound;
    this.busy = 0; // seconds
  }

  async #timed(work) {
    const start = performance.now();
    const sound = await work;
    this.busy += (performance.now() - start) / 1000;
    if (sound[0].length) this.onsound(sound);
  }

  feed(sound) {
    return this.#timed(this.session.feed(sound));
  }

  flush() {
    return this.#timed(this.session.flush());
  }

  set(controls, mix) {
    this.session.set(controls, mix);
  }

  close() {}
}

/** A session on the server, of a model or a codec, or one that detects marks. */
async function away({ codec, ...options }, onsound) {
  if (options.mark?.do === "detect") return RemoteFinder.open(options, onsound);
  if (!codec) return Remote.open(options, onsound);
  return RemoteCodec.open({ ...options, probabilities: await loadProbabilities(codec, options.headers) }, onsound);
}

/** Gathers sound and figures for the page. */
class Tap {
  #sent = 0; #fed = 0; #made = 0; #marks = []; #before = []; #after = []; #answer = 0; #start = performance.now();

  constructor(engine) {
    this.engine = engine;
    this.dropped = 0;
  }

  before(sound) {
    this.#fed += sound[0].length;
    this.#marks.push([this.#fed, performance.now()]);
    this.#before.push(sound);
  }

  after(sound) {
    this.#made += (sound[0].length * this.engine.info.rate) / this.engine.info.rate_out;
    while (this.#marks.length && this.#marks[0][0] <= this.#made) {
      this.#answer = performance.now() - this.#marks.shift()[1];
    }
    this.#after.push(sound);
  }

  /** Send what came together, if it is time or `now` is true. */
  send(now = false, keep = true) {
    if (!now && performance.now() - this.#sent < TAP_MS) return;
    this.#sent = performance.now();
    const { session, info, busy, line } = this.engine;
    const seconds = this.#fed / info.rate;
    const figures = {
      seconds,
      rtf: session && seconds ? busy / seconds : null, // the server's load is the server's secret
      elapsed: (performance.now() - this.#start) / 1000,
      answer: this.#answer,
      dropped: this.dropped,
      cleaned: session?.cleaned ?? 0,
      faults: session?.faults ?? 0,
      codes: line?.figures(),
      found: this.engine.found,
    };
    postMessage({ event: "sound", before: keep ? this.#before : [], after: this.#after, figures });
    this.#before = [];
    this.#after = [];
  }
}

let engine = null;
let run = 0; // the file that is being worked on; another one, or none, ends it
let source = null; // the ring of the live sound

const calls = {
  load: async (options) => {
    if (options.codec) await loadCodec(options);
    else await load(options);
  },

  async open({ mode, ...options }) {
    engine?.close();
    engine = null;
    engine = await (mode === "server" ? away : Local.open)(options, () => {});
    return engine.info;
  },

  /** What the open codec has made, once nothing more comes: an .amk and its figures; null of a model. */
  codes() {
    return engine?.line?.finish() ?? null;
  },

  /** The sound of an .amk, decoded in this worker. */
  async decode({ bytes, ...options }) {
    let breath = performance.now();
    return decodeAmk(await loadCodec(options), bytes, async (done) => {
      if (performance.now() - breath < BREATH_MS) return;
      postMessage({ event: "decoding", done });
      await breathe();
      breath = performance.now();
    });
  },

  set({ controls, mix }) {
    engine?.set(controls, mix);
  },

  cancel() {
    run++;
  },

  /** A whole file as fast as it goes. */
  async file({ sound }) {
    const me = ++run;
    const mine = engine;
    const tap = new Tap(mine);
    mine.onsound = (made) => tap.after(made);
    const size = Math.ceil(FILE_BLOCK_S * mine.info.rate);
    let breath = performance.now();
    for (let at = 0; at < sound[0].length && me === run; at += size) {
      const block = sound.map((row) => row.slice(at, at + size));
      tap.before(block);
      await mine.feed(block);
      if (me === run) tap.send(false, false);
      if (performance.now() - breath > BREATH_MS) {
        await breathe();
        breath = performance.now();
      }
    }
    if (me === run) await mine.flush();
    if (me === run) tap.send(true, false);
    return me === run;
  },

  /** From the input ring through the session to the output ring, until `end`. */
  async live({ input, output, link, capacity }) {
    const mine = engine;
    const { rate, channels, outputs } = mine.info;
    const ring = new Ring(input ?? Ring.buffer(channels, capacity, false), channels);
    const sink = output ? new Ring(output, outputs) : { write: (sound) => link.postMessage(sound) };
    if (link) link.onmessage = ({ data }) => ring.write(data);
    source = ring;
    const tap = new Tap(mine);
    mine.onsound = (sound) => {
      sink.write(sound);
      tap.after(sound);
      tap.send();
    };
    let at = 0;
    let breath = performance.now();
    for (;;) {
      const closed = ring.closed; // before the counter: what was written before the end counts
      const seen = ring.written;
      const ahead = (seen - at) | 0;
      const least = mine.session ? (mine.session.due ?? 1) : Math.ceil(REMOTE_BLOCK_S * rate);
      if (closed && !ahead) break;
      if (ahead < least && !closed) {
        await ring.wait(seen);
        breath = performance.now();
        continue;
      }
      if (ahead > LATE_S * rate) {
        const lost = ahead - least;
        const finder = mine instanceof RemoteFinder;
        if (!finder) await mine.flush(); // as many samples came out as went in: both sides can jump alike
        at = (at + lost) | 0;
        tap.dropped += lost;
        tap.before(zeros(channels, lost));
        if (finder) await mine.feed(zeros(channels, lost)); // who hears of times, not of samples
        else mine.onsound(zeros(outputs, lost));
        continue;
      }
      const count = Math.min(ahead, Math.ceil(rate / 10));
      const block = zeros(channels, count);
      block.forEach((row, c) => ring.read(at, c, row, count));
      at = (at + count) | 0;
      tap.before(block);
      await mine.feed(block);
      tap.send();
      if (performance.now() - breath > BREATH_MS) {
        await breathe();
        breath = performance.now();
      }
    }
    await mine.flush();
    tap.send(true);
    link?.close();
  },

  end() {
    source?.close();
  },

  close() {
    engine?.close();
    engine = null;
  },
};

onmessage = async ({ data: { id, type, ...body } }) => {
  try {
    postMessage({ id, value: await calls[type](body) });
  } catch (error) {
    postMessage({ id, error: { message: error.message, code: error.code ?? "" } });
  }
};
