// What the page shows of a sound: levels, pictures, and the figures of the session.

import { Spectrogram } from "./spectrogram.js";

const METER_DB = 60; // below full scale
const LEAST_S = 1; // of sound in which a mark is looked for
const TICKS_HZ = [250, 1000, 4000, 12000];

const $ = (id) => document.getElementById(id);

export const pictures = { before: new Spectrogram($("before")), after: new Spectrogram($("after")) };

export const milliseconds = (seconds) => `${Math.round(1000 * seconds)} ms`;
export const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

export function show(id, text, alarming = false) {
  $(id).textContent = text;
  $(id).classList.toggle("alarm", alarming);
}

export function showFigures({ rtf, seconds, dropped, faults, cleaned, codes, found }) {
  show("rtf", rtf === null ? "on the server" : rtf.toFixed(3), rtf >= 1);
  const notes = [[dropped, "samples dropped"], [faults, "faults of the model"], [cleaned, "samples cleaned"]];
  show("length", [clock(seconds), ...notes.filter(([n]) => n).map(([n, words]) => `${n} ${words}`)].join(", "));
  showCodes(codes);
  if (found) showFound(found);
}

/** Show bytes a second of a codec's packets, and how many were lost; nothing of what is no codec. */
export function showCodes(codes) {
  for (const id of ["bytes", "packets"]) $(id).parentElement.hidden = !codes;
  if (!codes) return;
  const { bytes, plain, frames, lost } = codes;
  const without = plain === bytes ? "" : ` (plain ${Math.round(plain)})`;
  show("bytes", bytes ? `${Math.round(bytes)}${without}` : "\u2013");
  show("packets", `${lost} of ${frames}`);
}

const percent = (sure) => `${(100 * sure).toFixed(sure > 0.999 ? 2 : 1)} %`;
const probability = (p) => (p >= 0.001 ? p.toPrecision(2) : p ? p.toExponential(0) : "below 1e-300");
const span = ([start, end]) => `${start.toFixed(2)}\u2013${end.toFixed(2)} s`;

/** Show what was detected, as docs/serve.md has it; null: nothing yet. */
export function showFound(found) {
  const { present = false, p = 1, message, bits = [], segments = [], speed, others = [], seconds = 0 } = found ?? {};
  const said = (text, there = present) => (there ? text() : "\u2013");
  const none = p === 1 && seconds < LEAST_S ? "Too short to tell" : "No mark of this key";
  $("verdict").textContent = said(() => (present ? "Marked" : none), found);
  $("found").dataset.present = present;
  show("chance", said(() => probability(p), found));
  show("said", said(() => [message, ...others].join(", ")));
  show("segments", said(() => segments.map(span).join(", ")));
  show("speed", said(() => `${Number((100 * speed).toFixed(3))} %`));
  $("bits").parentElement.hidden = !bits.length;
  $("bits").replaceChildren(...bits.map(([bit, sure], n) => {
    const title = `bit ${bits.length - 1 - n}: ${percent(sure)}`;
    const bar = Object.assign(document.createElement("span"), { textContent: bit, title });
    bar.style.setProperty("--sure", 2 * sure - 1); // a guess is right half the time
    return bar;
  }));
}

/** Draw where a sound of so many seconds is marked over its picture. */
export function drawSegments(segments, seconds) {
  for (const [start, end] of segments) {
    const title = `marked ${span([start, end])}`;
    const band = Object.assign(document.createElement("span"), { className: "segment", title });
    band.style.left = `${(100 * start) / seconds}%`;
    band.style.width = `${(100 * (end - start)) / seconds}%`;
    $("before").parentElement.append(band);
  }
}

const levels = { before: -METER_DB, after: -METER_DB };
export function meter(side, row) {
  let power = 0;
  for (const value of row) power += value * value;
  const db = row.length ? 10 * Math.log10(power / row.length + 1e-12) : -METER_DB;
  levels[side] = Math.max(-METER_DB, Math.min(0, Math.max(db, levels[side] - 1.5)));
  $(`${side}-meter`).firstElementChild.style.transform = `scaleX(${1 + levels[side] / METER_DB})`;
  $(`${side}-meter`).setAttribute("aria-valuenow", Math.round(levels[side]));
}

export function restMeters() {
  levels.before = levels.after = -METER_DB;
  meter("before", []);
  meter("after", []);
}

/** Begin pictures of sounds at `rates` of before and after, with a column each `column` seconds. */
export function startPictures(rates, column) {
  for (const [side, picture] of Object.entries(pictures)) {
    const rate = rates[side];
    picture.start({ rate, hop: column * rate });
    const plot = $(side).parentElement;
    plot.querySelectorAll(".tick, .head, .segment").forEach((old) => old.remove());
    for (const hz of TICKS_HZ.filter((f) => f < 0.42 * rate)) {
      const tick = Object.assign(document.createElement("span"), { className: "tick", ariaHidden: "true" });
      tick.textContent = hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`;
      tick.style.bottom = `${100 * Spectrogram.place(hz, rate)}%`;
      plot.append(tick);
    }
  }
}
