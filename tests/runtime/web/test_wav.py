"""The page reads WAV, in Node, as the reader in Python does: the same samples whatever the header says."""

import base64
import json
import shutil
import struct
import subprocess

import numpy as np
import pytest

from audiomask import audio
from audiomask.audio import Reader, layout
from audiomask.runtime.net.server import PAGE

SCRIPT = """
import { readFileSync } from "node:fs";
const { readWav } = await import(process.argv[2]);
const all = {};
for (const path of process.argv.slice(3)) {
  const bytes = readFileSync(path);
  const found = readWav(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const rows = found && found.sound.map((row) => Buffer.from(row.buffer).toString("base64"));
  all[path] = found && { rate: found.rate, note: found.note, rows };
}
console.log(JSON.stringify(all));
"""
KINDS = {
    "plain": {"subtype": "PCM_16"},
    "bytes": {"subtype": "PCM_U8"},
    "24": {"subtype": "PCM_24"},
    "32": {"subtype": "PCM_32"},
    "float": {"subtype": "FLOAT"},
    "double": {"subtype": "DOUBLE"},
    "surround": {"subtype": "PCM_16", "mask": layout.mask_of("FL FR FC")},
    "rf64": {"subtype": "PCM_16", "format": "RF64"},
}


def files(folder):
    x = np.random.default_rng(0).normal(0, 0.1, (3, 4001)).astype(np.float32)
    for name, how in KINDS.items():
        audio.write(folder / f"{name}.wav", x, 44100, **how)
    whole = (folder / "plain.wav").read_bytes()
    at = whole.index(b"data") + 4

    def sized(size, more=b""):
        return whole[:at] + struct.pack("<I", size) + whole[at + 4 :] + more

    size = len(whole) - at - 4
    made = {
        "crashed": sized(0),
        "piped": sized(0xFFFFFFFF),
        "piped by ffmpeg": sized(0x7FFFFFFF),
        "stale": sized(6000),
        "cut": whole[: at + 4 + 7777],
        "followed": sized(size, b"LIST" + struct.pack("<I", 4) + b"INFO"),
        "empty": whole[:at] + bytes(4),
    }
    for name, data in made.items():
        (folder / f"{name}.wav").write_bytes(data)
    (folder / "none.wav").write_bytes(b"RIFF of nothing")
    (folder / "law.wav").write_bytes(whole[:20] + struct.pack("<H", 7) + whole[22:])
    return [*KINDS, *made, "none", "law"]


def test_the_page_reads_wav_as_python(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    names = files(tmp_path)
    (tmp_path / "read.mjs").write_text(SCRIPT)
    words = [node, tmp_path / "read.mjs", (PAGE / "wav.js").as_uri(), *(tmp_path / f"{n}.wav" for n in names)]
    found = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    for name in names:
        got = found[str(tmp_path / f"{name}.wav")]
        if name in ("none", "law", "empty"):
            assert not got or not got["rows"][0]
            continue
        rows = np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in got["rows"]])
        with Reader(tmp_path / f"{name}.wav") as reader:
            want = np.concatenate(list(reader.blocks()), 1)
            assert (bool(got["note"]), got["rate"]) == (bool(reader.notes), 44100), name
        np.testing.assert_allclose(rows, want, atol=1e-6, err_msg=name)
