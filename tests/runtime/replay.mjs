// Replay the file of cases with the players of the page, in Node: replay.mjs CASES MODELS RESULTS. MODELS is a
// folder with NAME.onnx for each; the results have one entry for each action, as test_cases.py has them.

import { readFileSync, writeFileSync } from "node:fs";

const web = new URL("../../audiomask/runtime/web/", import.meta.url);
const ort = await import(new URL("vendor/ort.wasm.min.mjs", web));
const { Session, loadModel } = await import(new URL("session.js", web));
const { Player } = await import(new URL("player.js", web));
const { gaussian } = await import(new URL("ports.js", web));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("vendor/", web).href;
ort.env.wasm.wasmBinary = readFileSync(new URL("vendor/ort-wasm-simd-threaded.wasm", web));

const SPOILED = { nan: NaN, inf: Infinity, large: 1e20, huge: 1e9 };

/** What is given of a stream: see `given` in test_cases.py. */
function given(port, rows, count, start, spans = []) {
  if (port.type === "lost") {
    const flag = (n) => (spans.some(([a, b]) => n >= a && n < b) ? 1 : 0);
    return Array.from({ length: rows }, () => Float32Array.from({ length: count }, (_, n) => flag(n)));
  }
  const steps = gaussian(rows, count, start).map((row) => Float64Array.from(row, (x) => Math.floor(x * 4096)));
  if (port.levels) return steps.map((row) => row.map((x) => Math.abs(x) % port.levels));
  return steps.map((row) => Float32Array.from(row, (x) => x / 65536));
}

const text = (row) => Buffer.from(Float64Array.from(row).buffer).toString("base64");
const failed = (error) => ({ error: error.message, kind: error.name });

/** Controls, those of many values filled in: see `set_up` in test_cases.py. */
const filled = (controls) => Object.fromEntries(Object.entries(controls).map(([name, value]) => {
  const steps = value.steps && given({ type: "pcm" }, 1, value.steps, 0)[0];
  return [name, steps ? Array.from(steps, (x) => 16 * x) : value];
}));

/** Options or a mix in which silence, null in JSON, is a gain of -Infinity. */
const turned = ({ gains, ...rest }) => (gains
  ? { ...rest, gains: Object.fromEntries(Object.entries(gains).map(([name, gain]) => [name, gain ?? -Infinity])) }
  : rest);

async function replay(model, one) {
  const { sample_rate: sampleRate, controls = {}, ...options } = one.options ?? {};
  const made = { sampleRate, controls: filled(controls), ...turned(options) };
  const player = new (one.as === "Player" ? Player : Session)(model, made);
  const at = {};
  const results = [];
  for (const [kind, ...words] of one.actions) {
    let y = null;
    try {
      if (kind === "feed") {
        const [count, { lost, spoil = {}, rows, streams = {} } = {}] = words;
        const take = (port, n, of) => {
          const start = at[port.name] ?? 0;
          at[port.name] = start + n;
          return given(port, of, n, start, lost);
        };
        const block = take(player.first, count, rows ?? player.channels);
        for (const [n, word] of Object.entries(spoil)) block.at(-1)[n] = SPOILED[word];
        const others = {};
        for (const [name, n] of Object.entries(streams)) {
          const port = player.artifact.streams.find((p) => p.name === name) ?? { name, type: "float" };
          others[name] = take(port, n, player.rows[name] ?? 1);
        }
        if (lost && !("lost" in others)) others.lost = given({ type: "lost" }, 1, count, 0, lost);
        y = await (one.as === "Player" ? player.feed(block, others) : player.feed(block, others.lost));
      } else if (kind === "flush") y = await player.flush();
      else if (kind === "set") player.set(words[0], ...words.slice(1).map(turned));
      else player[kind](...words);
      if (Array.isArray(y)) y = { [player.ports[0].name]: y }; // as there
      results.push(y && Object.fromEntries(Object.entries(y).map(([name, rows]) => [name, rows.map(text)])));
    } catch (error) {
      results.push(failed(error));
    }
  }
  const { hop, delay, latency, cleaned, faults, lag = null } = player;
  const rates = Object.fromEntries(Object.entries(player.rates).map(([name, rate]) => [name, String(rate)]));
  return { results, facts: { hop, delay, latency, cleaned, faults, lag, rates } };
}

const [, , cases, models, out] = process.argv;
const loaded = new Map();
const all = { gaussian: gaussian(2, 4, 2 ** 32 - 2, 7).map((row) => [...row]) };
for (const one of JSON.parse(readFileSync(cases, "utf8"))) {
  try {
    if (!loaded.has(one.model)) loaded.set(one.model, await loadModel(ort, readFileSync(`${models}/${one.model}.onnx`)));
    all[one.name] = await replay(loaded.get(one.model), one);
  } catch (error) {
    all[one.name] = failed(error);
  }
}
writeFileSync(out, JSON.stringify(all));
