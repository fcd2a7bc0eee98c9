"""A codec of the page, in Node, beside its parts in Python: the same codes and bytes, and the same sound."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr

from audiomask import ports
from audiomask.runtime.catalogue import codec_hash, codec_part, probabilities_of, probabilities_path
from audiomask.runtime.codes.container import Packer, Unpacker
from audiomask.runtime.files.coded import header_of
from audiomask.runtime.net.server import PAGE
from audiomask.runtime.player import Player

SPEECH = Path(__file__).parents[3] / "egs/mini/denoise/corpus/demo/mixture_clean.flac"
SCRIPT = """
import { readFileSync, writeFileSync } from "node:fs";
const [, , web, folder, cases, out] = process.argv;
const ort = await import(`${web}/vendor/ort.wasm.min.mjs`);
const { loadModel } = await import(`${web}/session.js`);
const { Codec, decodeAmk } = await import(`${web}/codec.js`);
const { Probabilities } = await import(`${web}/coders.js`);
const { join } = await import(`${web}/rows.js`);
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = `${web}/vendor/`;
ort.env.wasm.wasmBinary = readFileSync(new URL(`${web}/vendor/ort-wasm-simd-threaded.wasm`));
const { hash, odds, sounds } = JSON.parse(readFileSync(cases, "utf8"));
const [encoder, decoder] = await Promise.all(["enc", "dec"].map(async (part) =>
  loadModel(ort, readFileSync(`${folder}/gist_${part}.onnx`))));
const file = readFileSync(`${folder}/gist_prob.safetensors`);
const probabilities = Object.assign(Probabilities.parse(file), { hash: odds });
const base64 = (bytes) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
const text = (rows) => rows.map(base64);
const results = [];
for (const { rate, likely, loss, blocks, books, sound } of sounds) {
  const rows = sound.map((row) => new Float32Array(new Uint8Array(Buffer.from(row, "base64")).buffer));
  const parts = { encoder, decoder, hash, probabilities: likely ? probabilities : null };
  const codec = new Codec(parts, { rate, channels: rows.length, loss, controls: { books: books[0] } });
  const heard = [];
  for (let at = 0, n = 0; at < rows[0].length; at += blocks[n++ % blocks.length]) {
    if (at >= rows[0].length / 2) codec.set({ books: books[1] });
    heard.push(await codec.feed(rows.map((row) => row.slice(at, at + blocks[n % blocks.length]))));
  }
  heard.push(await codec.flush());
  const running = codec.line.figures();
  const { file, figures } = codec.line.finish();
  const again = await decodeAmk(parts, file);
  const { hop, delay, latency, cleaned, faults } = codec;
  const facts = { hop, delay, latency, cleaned, faults };
  const made = { sound: text(join(heard)), file: base64(file), again: text(again.sound) };
  results.push({ ...made, running, figures, facts, rate: again.rate, note: again.note });
}
writeFileSync(out, JSON.stringify(results));
"""


def cases():
    speech, rate = sf.read(SPEECH, dtype="float32")
    assert rate == 16000
    two = soxr.resample(np.stack((speech[:40001], speech[20000:60001]), 1), rate, 44100).T
    mono = {"rate": rate, "blocks": [700, 1, 5000, 320], "books": [12, 12]}
    return [
        mono | {"loss": 0.0, "likely": False, "x": speech[None, :64001]},
        mono | {"loss": 0.25, "likely": True, "books": [18, 3], "x": speech[None, :48000]},
        {"rate": 44100, "blocks": [11025], "books": [12, 6], "loss": 0.1, "likely": True, "x": two},
    ]


def reference(case, parts, odds):
    """Return a file, flags of what is lost, the sound, that of the file, and facts of the session."""
    encoder, decoder = parts
    rate, x = case["rate"], case["x"]
    options = {"sample_rate": rate, "channels": len(x)}
    player = Player(encoder, outputs=["codes"], controls={"books": case["books"][0]}, **options)
    header = header_of(encoder, rate, len(x), None, odds if case["likely"] else None)
    found, at, n = [], 0, 0
    while at < x.shape[1]:
        if at >= x.shape[1] / 2:
            player.set({"books": case["books"][1]})
        size = case["blocks"][n % len(case["blocks"])]
        found.append(player.feed(x[:, at : at + size])["codes"])
        at, n = at + size, n + 1
    codes = np.concatenate([*found, player.flush()["codes"]], axis=1)
    packer = Packer(header, odds if case["likely"] else None)
    data = packer.head() + packer.push(codes) + packer.finish(x.shape[1])
    _, *packets, _ = Unpacker().push(data, last=True)
    kept = np.concatenate([p.codes(header, header.coder_of(odds)) for p in packets], axis=1)
    numbers = np.arange(codes.shape[1], dtype=np.uint32)
    lost = ports._hash(numbers + np.uint32(0x9E3779B9)) / 2**32 < case["loss"]
    lost[0] = False
    back = Player(decoder, sample_rate=rate, channels=len(codes))
    delay = player.delay + back.delay
    facts = {"hop": player.hop, "delay": delay, "latency": delay + player.hop, "cleaned": 0, "faults": 0}

    def decoded(codes, lost):
        y = back.feed(np.where(lost, -1, codes), lost[None].astype(np.float32))["decoded"]
        return np.concatenate((y, back.flush()["decoded"]), axis=1)[:, : x.shape[1]]

    return data, lost, decoded(codes, lost), decoded(kept, np.zeros_like(lost)), facts


def rows(encoded):
    return np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in encoded])


def test_a_codec_of_the_page_is_that_of_python(tmp_path):
    node = shutil.which("node")
    if node is None or not (PAGE / "vendor").is_dir():
        pytest.skip("needs node and onnxruntime-web: python tools/release/vendor_web.py")
    parts = [codec_part("gist", part) for part in ("enc", "dec")]
    odds = probabilities_of(parts[0])
    given = []
    for case in cases():
        sound = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in case["x"]]
        given.append({key: case[key] for key in case if key != "x"} | {"sound": sound})
    facts = {"hash": codec_hash(parts[0]).hex(), "odds": odds.hash.hex(), "sounds": given}
    (tmp_path / "cases.json").write_text(json.dumps(facts))
    (tmp_path / "run.mjs").write_text(SCRIPT)
    folder, out = probabilities_path(parts[0]).parent, tmp_path / "results.json"
    words = [node, tmp_path / "run.mjs", PAGE.as_uri(), folder, tmp_path / "cases.json", out]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for case, got in zip(cases(), json.loads(out.read_text()), strict=True):
        data, lost, y, whole, facts = reference(case, parts, odds)
        assert base64.b64decode(got["file"]) == data
        made, again, peak = rows(got["sound"]), rows(got["again"]), np.abs(y).max()
        assert made.shape == y.shape == again.shape
        np.testing.assert_allclose(made, y, atol=1e-5 * peak)
        assert (got["facts"], got["rate"], got["note"]) == (facts, case["rate"], "")
        np.testing.assert_allclose(again, whole, atol=1e-5 * peak)
        assert (got["figures"]["frames"], got["figures"]["lost"]) == (len(lost), lost.sum())
        assert bool(case["loss"]) == bool(lost.any()) == (np.abs(made - again).max() > 0.01 * peak)
        packets = [m.start() for m in re.finditer(b"\xb5K", data)]
        assert packets
        seconds = len(lost) * 0.02
        assert 0.9 < got["figures"]["bytes"] * seconds / len(data) < 1
        plain = got["figures"]["plain"]
        assert plain > 1.1 * got["figures"]["bytes"] if case["likely"] else plain == got["figures"]["bytes"]
        last = got["running"]["plain"] / len(case["x"])  # of the second half, in which fewer books are sent
        assert abs(last - 50 * case["books"][1] * 10 / 8) < 2 * 14 + 26
