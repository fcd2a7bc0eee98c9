// The page: a microphone or a file through a model, in this browser or on the server, seen and heard before and
// after. What is done with sound is in runner.js and behind it; this file connects it with what is on the page.

import { Carrier, newKey, parseKey, parseMessage } from "./carrier.js";
import { catalogue } from "./catalogue.js";
import { Amk } from "./container.js";
import { DRY, LOSS, showControls } from "./controls.js";
import { Faders } from "./faders.js";
import {
  clock, drawSegments, meter, milliseconds, pictures, restMeters, show, showCodes, showFigures, showFound, startPictures,
} from "./figures.js";
import { Playback } from "./playback.js";
import { concat, join, zeros } from "./rows.js";
import { Runner } from "./runner.js";
import { maskOf } from "./seats.js";
import { choose } from "./session.js";
import { readWav, writeWav } from "./wav.js";

const BUFFER_MS = { browser: 30, server: 100 }; // spare time between the session and the loudspeaker
const KEEP_S = 600; // of a live recording
const DECODE_RATE = 48000; // of files that are no WAV
const COLUMN_S = 0.01; // of a live spectrogram
const METER_S = 0.03;
const DECODED = { 4: maskOf("FL FR BL BR"), 6: maskOf("FL FR FC LFE SL SR") }; // speakers, by channels: Web Audio 1.0

const $ = (id) => document.getElementById(id);
const buffering = {
  name: "buffer", dtype: "int64", minimum: 5, maximum: 500, unit: "ms",
  doc: "more of it, more lag and fewer underruns",
};

const runner = new Runner();
const context = new AudioContext({ latencyHint: "interactive" }); // sleeps until something is heard
const player = new Playback(context, {
  onended: () => {
    showTransport();
    restMeters();
  },
});

const faders = new Faders($("faders"), () => {
  if (live) runner.set({}, { gains: faders.gains }).catch((error) => complain(explain(error)));
  else if (take && !asking) later();
});

let models = [];
let values = {}; // of the model's controls
let mix = {}; // of the session's, or of the line's of a codec
let spare = null; // chosen buffer in ms
let live = null; // {handle, stream, gain, recording, info}
// {name, before, after}, each {rows, rate}, `before` with its speakers; of a codec {codes: bytes} too, of a search {found}
let take = null;
let asking = false; // for the microphone, or for what an .amk holds
let round = 0; // counts what was begun, so that what is outdated knows

// ---- what is said

function say(state, words) {
  document.body.dataset.state = state;
  $("status").textContent = words;
  const busy = state === "live" || state === "busy";
  $("model").disabled = busy || !models.length;
  $("output").disabled = busy;
  for (const input of document.querySelectorAll("[name=mode], [name=do]")) {
    input.disabled = busy || input.dataset.missing === "true";
  }
  for (const id of ["key", "new-key", "mark-message"]) $(id).disabled = state === "live";
  $("mic").disabled = !(state === "ready" || state === "live");
  $("open").disabled = !(state === "ready");
  $("mic").textContent = state === "live" ? "Stop the microphone" : "Start the microphone";
}

function complain(words) {
  $("message").hidden = !words;
  $("message").textContent = words;
}

const HINTS = {
  NotAllowedError: "The microphone was refused. Allow it for this page in the browser's settings, or open a file.",
  NotFoundError: "No microphone was found. Connect one and try again, or open a file.",
  NotReadableError: "The microphone cannot be read; another program may hold it. Close that program and try again.",
  "no-runtime": "The runtime for this browser (onnxruntime-web) is not installed with this page. Run "
    + "\u201cpython tools/release/vendor_web.py\u201d where audiomask is installed from and load the page again; or let the server do the work.",
};

const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}.`;
const explain = (error) => HINTS[error.code] ?? HINTS[error.name] ?? sentence(error.message || error.name);

// ---- the choice of model and place

const mode = () => document.querySelector("[name=mode]:checked").value;
const model = () => models[$("model").selectedIndex];
const finding = () => Boolean(model()?.marks) && document.querySelector("[name=do]:checked").value === "detect";
const away = () => mode() === "server" || finding(); // the detector is the server's
const token = () => $("token").value || new URLSearchParams(location.hash.slice(1)).get("token") || "";
const headers = () => (token() ? { Authorization: `Bearer ${token()}` } : {});

async function listModels() {
  say("loading", "Looking for models");
  let refused;
  try {
    ({ models, refused } = await catalogue(headers()));
    $("token-form").hidden = true;
  } catch (error) {
    $("token-form").hidden = error.code !== "token";
    throw error;
  }
  const reasons = [...refused].map(([reason, names]) => `${names.join(", ")} (${reason})`);
  $("refused").hidden = !reasons.length;
  $("refused").textContent = `Not for this page: ${reasons.join(", ")}.`;
  if (!models.length) throw new Error("the server offers no model for the page; start it with -m FILE");
  const kilohertz = (m) => `${m.sample_rate / 1000} kHz, ${Math.round((1000 * m.latency) / m.sample_rate)} ms`;
  const title = (m) => `${m.name} (${m.codec ? "codec, " : m.marks ? "marks, " : ""}${kilohertz(m)})`;
  $("model").replaceChildren(...models.map((m) => new Option(title(m), m.name)));
  const preferred = models.filter((m) => m.default);
  $("model").selectedIndex = models.indexOf(choose(preferred.length ? preferred : models, context.sampleRate));
}

/** Make the chosen model ready in the chosen place; with a sound at hand, put it through. */
async function prepare() {
  const mine = ++round;
  complain("");
  say("loading", "Loading the model");
  try {
    if (!models.length) await listModels();
    await Runner.prepare(context);
    showPorts();
    showOutputs();
    showPlace();
    if (!away()) await runner.load(files());
    if (mine !== round) return;
    if (take) await process();
    else say("ready", "Ready");
  } catch (error) {
    if (mine === round) fail(error);
  }
}

function fail(error) {
  complain(explain(error));
  if (error.code !== "no-runtime") return say("failed", "Not ready");
  const [local, remote] = document.getElementsByName("mode");
  local.dataset.missing = "true";
  remote.checked = true;
  showPorts(); // the buffer is another one there
  say("ready", "Ready");
  showPlace();
}

/** Say where the sound goes. */
function showPlace() {
  const what = model().marks ? "Sound and key are" : "Sound is";
  const why = finding() ? ", which does the detecting" : "";
  $("where").textContent = away() ? `${what} sent to this server${why}.` : "Nothing leaves this machine.";
}

const files = () => ({ url: model().url, codec: model().codec, headers: headers() });
const mixer = () => (model().codec ? LOSS : DRY);

/** Whether a value of another model's control is one of this one too. */
const fits = ({ minimum, maximum }, value) =>
  [value].flat().every((one) => one >= (minimum ?? -Infinity) && one <= (maximum ?? Infinity));

function showPorts() {
  const { controls, books, codec, marks } = model();
  const ports = finding() ? [] : [...Object.values(controls), mixer()];
  const kept = ([name, value]) => controls[name] && fits(controls[name], value);
  values = Object.fromEntries(Object.entries(values).filter(kept));
  if (books) values[books.name] ??= books.default; // which is the page's, not the encoder's
  showCodes(codec && { bytes: 0, plain: 0, frames: 0, lost: 0 });
  $("save-codes").hidden = !codec;
  $("marks").hidden = !marks;
  $("found").hidden = !finding();
  const others = [$("modes"), $("after").closest(".picture"), $("listen"), $("save"), $("message-field")];
  for (const element of others) element.hidden = finding();
  const shown = new Map(ports.map((port) => [port, values[port.name]]));
  shown.set(mixer(), mix[mixer().name]).set(buffering, spare ?? BUFFER_MS[mode()]);
  showControls($("controls"), [...ports, buffering], shown, (port, value) => {
    if (port === buffering) {
      spare = value;
      if (live) live.handle.setLag(lagOf(live.info));
      return;
    }
    const changed = { [port.name]: value };
    Object.assign(port === mixer() ? mix : values, changed);
    const request = port === mixer() ? [{}, changed] : [changed];
    if (live) runner.set(...request).catch((error) => complain(explain(error)));
    else if (take && !asking) later();
  });
}

/** Offer the sounds that the model makes, the last choice kept where it has it too, and a fader for each stem. */
function showOutputs() {
  const { sounds: names, stems } = model();
  const last = $("output").value;
  const all = stems.length ? [new Option("All, by their faders", "")] : [];
  $("output").replaceChildren(...all, ...names.map((name) => new Option(name)));
  if (names.includes(last)) $("output").value = last;
  $("output-field").hidden = names.length < 2;
  faders.show(turning() ? stems : []);
}

/** Whether the sound is heard with its stems turned. */
const turning = () => model().stems.length > 0 && !$("output").value;

let timer = 0;
/** Put the sound through again once the controls have come to rest. */
function later() {
  clearTimeout(timer);
  timer = setTimeout(() => !live && take && process(), 300);
}

/** What a session has to know of marks: a `carrier` that is made here, or what the server makes one of. */
async function marking() {
  if (!model().marks) return {};
  const [text, said] = [$("key").value.trim(), $("mark-message").value.trim()];
  const [key, message] = [parseKey(text), parseMessage(said)];
  if (!key) throw new Error("give a key of 32 hex digits, or make a new one and save it");
  if (finding()) return { mark: { do: "detect", key: text } };
  if (message === null) throw new Error("give a message of 1 to 4 hex digits");
  if (away()) return { mark: { do: "mark", key: text, message: said } };
  return { carrier: Array.from((await Carrier.of(key)).wave(message)) };
}

async function openSession(rate, channels, speakers = 0) {
  const { name, codec, books, kbps, most } = model();
  const { carrier, mark } = await marking();
  const url = away() ? new URL("ws", document.baseURI).href.replace(/^http/, "ws") : model().url;
  const place = { ...files(), url, model: name, token: token() };
  const coded = codec && { kbps: kbps * (books ? values[books.name] : most) };
  const controls = carrier ? { ...values, carrier } : values;
  const heard = turning() ? { gains: faders.gains } : { output: $("output").value };
  const options = { rate, channels, speakers, ...heard, controls, mark, [mixer().name]: mix[mixer().name] };
  const info = await runner.open({ mode: away() ? "server" : "browser", ...place, ...coded, ...options });
  $("latency").textContent = milliseconds(info.latency / rate);
  $("rate").textContent = `${rate} Hz`;
  return info;
}

// ---- a file, or a recording once more

async function openFile(file) {
  if (live || document.body.dataset.state !== "ready") return;
  complain("");
  try {
    const bytes = await file.arrayBuffer();
    const coded = /\.amk$/i.test(file.name) || new TextDecoder().decode(bytes.slice(0, 3)) === "AMK";
    const { rate, sound, speakers = 0, note } = coded ? await decodeCodes(bytes) : (readWav(bytes) ?? (await decode(bytes)));
    if (!sound.length || !sound[0].length) throw new Error("it holds no sound");
    player.pause();
    take = { name: file.name.replace(/\.[^.]*$/, ""), before: { rows: sound, rate, speakers }, after: null };
    if (note) complain(`${file.name}: ${note}.`);
    if (coded && model().codec) {
      show("rate", `${rate} Hz`);
      show("length", clock(sound[0].length / rate));
      present(take.before); // to code it once more is not what it was opened for
    } else await process();
  } catch (error) {
    complain(`${file.name} cannot be used: ${error.message}.`);
    say("ready", take?.after ? ready() : "Ready");
  }
}

/** The sound of an .amk, by its codec, in this browser. */
async function decodeCodes(bytes) {
  const { header } = new Amk(new Uint8Array(bytes));
  const made = models.find((m) => m.codec?.hash === header.hash);
  if (!made) throw new Error(`it was made by ${header.name}, and no such codec is offered here; try: audiomask decode`);
  clearTimeout(timer);
  asking = true;
  say("busy", "Decoding");
  const options = { bytes: new Uint8Array(bytes), codec: made.codec, headers: headers() };
  const told = (done) => say("busy", `Decoding: ${Math.round(100 * done)} %`);
  return runner.decode(options, told).finally(() => (asking = false));
}

async function decode(bytes) {
  const context = new OfflineAudioContext(1, 1, DECODE_RATE);
  const buffer = await context.decodeAudioData(bytes).catch(() => {
    throw new Error("this browser cannot decode it; convert it first, as in: ffmpeg -i FILE out.wav");
  });
  const sound = Array.from({ length: buffer.numberOfChannels }, (_, c) => buffer.getChannelData(c));
  return { rate: buffer.sampleRate, sound, speakers: DECODED[sound.length] };
}

/** The whole take through the model, as fast as it goes. What goes wrong is said, and can be tried again. */
async function process() {
  clearTimeout(timer); // what it waits for is done here
  const mine = ++round;
  try {
    await enhance(mine);
  } catch (error) {
    if (mine !== round) return;
    complain(explain(error));
    say("ready", "Ready");
  }
}

async function enhance(mine) {
  const { rows: before, rate, speakers } = take.before;
  const { width } = model();
  take.codes = take.found = null;
  showFound(null);
  showTransport(); // there is nothing to save until it is made anew
  await runner.cancel();
  if (width > 1 && before.length !== width) {
    throw new Error(`${model().name} takes ${width} channels, and this sound has ${before.length}`);
  }
  say("busy", "Working");
  const info = await openSession(rate, before.length, speakers);
  const seconds = before[0].length / rate;
  const after = zeros(info.outputs, Math.ceil((before[0].length * info.rate_out) / rate));
  let count = 0;
  startPictures({ before: rate, after: info.rate_out }, seconds / pictures.before.width);
  pictures.before.push(before[0]);
  show("underruns", "–");
  show("lag", "–");
  const done = await runner.file(before, (made) => {
    if (mine !== round) return;
    for (const sound of made.after) {
      sound.forEach((row, c) => after[c].set(row, count));
      count += sound[0].length;
      pictures.after.push(sound[0]);
    }
    showFigures(made.figures);
    take.found = made.figures.found;
    const speed = made.figures.seconds / made.figures.elapsed;
    say("busy", `Working: ${Math.round((100 * count) / after[0].length)} %, ${speed.toFixed(1)} times real time`);
  });
  if (!done || mine !== round) return;
  take.codes = await keepCodes();
  finish({ rows: after, rate: info.rate_out });
}

/** Close the session, and keep what a codec has made. */
async function keepCodes() {
  const made = await runner.codes();
  await runner.close();
  if (made) showCodes(made.figures);
  return made?.file ?? null;
}

/** Show a take as a whole. */
function present(after) {
  const { rows, rate } = take.before;
  startPictures({ before: rate, after: after.rate }, rows[0].length / rate / pictures.before.width);
  pictures.before.push(rows[0]);
  pictures.after.push(after.rows[0]);
  finish(after);
}

const ready = () => `Ready: ${take.name}, ${clock(player.duration)}`;

function finish(after) {
  take.after = after;
  player.load(take.before, after);
  for (const side of ["before", "after"]) {
    $(side).parentElement.append(Object.assign(document.createElement("span"), { className: "head" }));
  }
  if (take.found) drawSegments(take.found.segments, player.duration);
  say("ready", ready());
  showTransport();
}

// ---- the microphone

async function startLive() {
  const mine = ++round;
  clearTimeout(timer);
  asking = true;
  complain("");
  player.pause();
  say("busy", "Asking for the microphone");
  let stream = null;
  try {
    if (!navigator.mediaDevices) {
      throw new Error("browsers give the microphone only to pages from localhost or over https");
    }
    const { wide } = model();
    const wishes = { channelCount: wide, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio: wishes });
    await context.resume();
    const info = await openSession(context.sampleRate, wide);
    if (info.rate_out !== info.rate) {
      const words = `makes sound at ${info.rate_out} Hz and this sound card runs at ${info.rate}; open a file`;
      throw new Error(`${model().name} ${words}`);
    }
    const recording = { before: [], after: [], pending: new Float32Array(0), found: null };
    showFound(null);
    startPictures({ before: info.rate, after: info.rate_out }, COLUMN_S);
    const handle = await runner.live(context, new MediaStreamAudioSourceNode(context, { mediaStream: stream }), info, {
      lag: lagOf(info),
      enhanced: hearing(),
      onsound: (heard) => onLive(recording, heard),
      onreport: ({ underruns }) => show("underruns", String(underruns), underruns > 0),
    });
    const gain = new GainNode(context, { gain: $("hear").checked ? 1 : 0 });
    handle.node.connect(gain).connect(context.destination);
    live = { handle, stream, gain, recording, info };
    take = null;
    showTransport();
    say("live", "Live");
    const lost = () => live && stopLive("The microphone is gone. Connect it and start again.");
    stream.getAudioTracks()[0].addEventListener("ended", lost);
    handle.ended.catch((error) => live && mine === round && stopLive(explain(error)));
  } catch (error) {
    stream?.getTracks().forEach((track) => track.stop());
    runner.close();
    complain(explain(error));
    say("ready", "Ready");
  } finally {
    asking = false;
  }
}

const lagOf = (info) => info.latency + Math.round(((spare ?? BUFFER_MS[mode()]) / 1000) * info.rate);

function onLive(recording, { before, after, figures }) {
  const kept = figures.seconds < KEEP_S;
  for (const sound of before) {
    if (kept) recording.before.push(sound);
    recording.pending = concat([recording.pending, sound[0]]);
  }
  for (const sound of after) {
    if (kept) recording.after.push(sound);
    const count = sound[0].length; // both pictures show the same moment
    pictures.before.push(recording.pending.subarray(0, count));
    pictures.after.push(sound[0]);
    meter("before", recording.pending.subarray(0, count));
    meter("after", sound[0]);
    recording.pending = recording.pending.slice(count);
  }
  showFigures(figures);
  recording.found = figures.found;
  if (!live) return;
  const { info } = live;
  const device = context.baseLatency + (context.outputLatency || 0);
  show("lag", milliseconds(lagOf(info) / info.rate + device));
}

/** Stop, and keep what was recorded as a take. */
async function stopLive(words = "") {
  const { handle, stream, recording } = live;
  live = null;
  say("busy", "Stopping");
  await handle.stop().catch((error) => {
    words ||= explain(error);
  });
  stream.getTracks().forEach((track) => track.stop());
  const codes = await keepCodes();
  context.suspend();
  restMeters();
  const rate = context.sampleRate;
  const both = [recording.before, recording.after].map(join);
  const length = Math.min(...both.map((sound) => sound[0]?.length ?? 0));
  complain(words);
  if (!length) return say("ready", "Ready");
  const [before, after] = both.map((sound) => ({ rows: sound.map((row) => row.slice(0, length)), rate }));
  take = { name: "microphone", before, after, codes, found: recording.found };
  present(after);
}

// ---- listening and saving

const hearing = () => document.querySelector("[name=listen]:checked").value === "after";

function listen() {
  player.setEnhanced(hearing());
  live?.handle.setEnhanced(hearing());
}

function showTransport() {
  const there = Boolean(take?.after);
  for (const id of ["play", "save", "save-input", "seek"]) $(id).disabled = !there;
  $("save-codes").disabled = !take?.codes;
  $("play").textContent = player.playing ? "Pause" : "Play";
  const at = there ? player.position : 0;
  const all = there ? player.duration : 0;
  if (document.activeElement !== $("seek") || player.playing) $("seek").value = all ? at / all : 0;
  $("clock").textContent = `${clock(at)} / ${clock(all)}`;
  for (const head of document.querySelectorAll(".head")) head.style.left = `${all ? (100 * at) / all : 0}%`;
  if (!player.playing) return;
  for (const side of ["before", "after"]) {
    const { rows, rate } = take[side];
    meter(side, rows[0].subarray(Math.floor(at * rate), Math.floor((at + METER_S) * rate)));
  }
  requestAnimationFrame(showTransport);
}

function togglePlay() {
  if (!take?.after || live) return;
  if (player.playing) player.pause();
  else player.play();
  showTransport();
  if (!player.playing) restMeters();
}

const saveSound = ({ rows, rate }, suffix) => save(writeWav(rows, rate), `${take.name}_${suffix}.wav`);

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// ---- events

const toggleMic = () => (live ? stopLive() : startLive());
const saveResult = () => take?.after && !finding() && saveSound(take.after, model().task);
const KEYS = {
  " ": () => {
    const other = document.querySelector("[name=listen]:not(:checked)");
    other.checked = true;
    listen();
  },
  m: () => $("mic").disabled || toggleMic(),
  o: () => $("open").disabled || $("file").click(),
  p: togglePlay,
  d: saveResult,
};

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  const typing = target.matches("select, input[type=text], input[type=number], input[type=password]");
  const action = KEYS[key.toLowerCase()];
  // Space belongs to a button, a box or a choice that has the focus.
  if (!action || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (key === " " && target.matches("button, input:not([type=range])")) return;
  event.preventDefault();
  if (!event.repeat) action();
});
$("mic").addEventListener("click", toggleMic);
$("open").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  if ($("file").files[0]) openFile($("file").files[0]);
  $("file").value = "";
});
$("modes").addEventListener("change", prepare);
$("model").addEventListener("change", prepare);
$("output").addEventListener("change", prepare);
$("doing").addEventListener("change", prepare);
/** Another key or message: put the sound through again, once it is one. */
function remark() {
  complain("");
  const known = parseKey($("key").value.trim()) && (finding() || parseMessage($("mark-message").value.trim()) !== null);
  if (known && take && !asking) later();
}
for (const id of ["key", "mark-message"]) $(id).addEventListener("input", remark);
$("new-key").addEventListener("click", () => {
  $("key").value = newKey();
  remark();
});
$("save-key").addEventListener("click", () => {
  const text = $("key").value.trim();
  if (parseKey(text)) save(new Blob([`${text}\n`], { type: "text/plain" }), "audiomask.key");
  else complain("There is no key of 32 hex digits to save: make a new one.");
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  models = [];
  prepare();
});
$("listen").addEventListener("change", listen);
$("play").addEventListener("click", togglePlay);
$("save").addEventListener("click", saveResult);
$("save-input").addEventListener("click", () => saveSound(take.before, "input"));
$("save-codes").addEventListener("click", () => save(new Blob([take.codes]), `${take.name}.amk`));
$("seek").addEventListener("input", () => {
  player.seek($("seek").value * player.duration);
  showTransport();
});
$("hear").addEventListener("change", () => {
  live?.gain.gain.setTargetAtTime($("hear").checked ? 1 : 0, context.currentTime, 0.01);
});
for (const type of ["dragenter", "dragover"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
}
document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const [file, ...others] = event.dataTransfer.files;
  if (others.length) complain(`One file at a time: drop one of the ${others.length + 1}.`);
  else if (file) openFile(file);
});

startPictures({ before: 16000, after: 16000 }, COLUMN_S);
prepare();
