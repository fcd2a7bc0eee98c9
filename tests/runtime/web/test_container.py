"""The page packs and reads .amk files, in Node, as Python does: the same bytes, also of damaged ones."""

import base64
import json
import shutil
import subprocess
from dataclasses import asdict, replace

import codes
import likely
import numpy as np
import pytest

from audiomask.audio import AudioError
from audiomask.runtime.codes.coders import Likely
from audiomask.runtime.codes.container import Header
from audiomask.runtime.codes.files import AmkFile
from audiomask.runtime.net.server import PAGE

SCRIPT = """
import { readFileSync } from "node:fs";
const { Amk, Packer, coderOf } = await import(process.argv[2] + "/container.js");
const { Probabilities } = await import(process.argv[2] + "/coders.js");
const { concat } = await import(process.argv[2] + "/rows.js");
const probabilities = Probabilities.parse(readFileSync(process.argv[3]));
const found = JSON.parse(readFileSync(process.argv[4])).map(({ file, header, codes, blocks, samples }) => {
  const one = {};
  if (codes) {
    const packer = new Packer(header, probabilities);
    const parts = [packer.head()];
    for (let at = 0, n = 0; at < codes[0].length; at += blocks[n++ % blocks.length]) {
      const stop = at + blocks[n % blocks.length];
      parts.push(packer.push(codes.map((row) => Float64Array.from(row.slice(at, stop)))));
    }
    one.packed = Buffer.from(concat([...parts, packer.finish(samples)])).toString("base64");
    one.sizes = [packer.packets, packer.frames, packer.size, packer.plain];
  }
  try {
    const amk = new Amk(new Uint8Array(Buffer.from(file, "base64")));
    const pieces = [...amk.pieces(coderOf(amk.header, probabilities))];
    Object.assign(one, { header: amk.header, samples: amk.samples, frames: amk.frames, note: amk.note });
    one.pieces = pieces.map(({ codes, frames }) => codes ? codes.map((row) => [...row]) : frames);
  } catch (error) {
    one.error = error.message;
  }
  return one;
});
console.log(JSON.stringify(found));
"""
TINY = replace(codes.HEADER, books=6, levels=16, frames=7)
STEREO = replace(TINY, channels=2, streams=2, rate=44100, frames=3, name="tüny")


def plain(header):
    fields = asdict(header)
    return fields | {key: fields[key].hex() for key in ("hash", "probabilities")}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("likely") / "tiny_prob.safetensors"
    return path, likely.write(path, TINY.hash)


@pytest.fixture
def page(tmp_path, tiny):
    """A function from cases to what Node makes of them."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")

    def run(cases):
        (tmp_path / "cases.json").write_text(json.dumps(cases))
        (tmp_path / "read.mjs").write_text(SCRIPT)
        words = [node, tmp_path / "read.mjs", PAGE.as_uri(), tiny[0], tmp_path / "cases.json"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def read(tmp_path, data, odds):
    """Return the file, and frames of codes `[rows, frames]` with -1 where they are missing; or None twice."""
    (tmp_path / "one.amk").write_bytes(data)
    try:
        file = AmkFile(tmp_path / "one.amk")
    except AudioError:
        return None, None
    file.coder = file.header.coder_of(odds)
    rows = file.header.streams * file.header.books
    found = np.full((rows, 0), -1)
    for piece in file.pieces():
        piece = np.full((rows, piece), -1) if isinstance(piece, int) else piece
        found = np.concatenate((found, piece), axis=1)
    missing = np.full((rows, max(0, file.frames - found.shape[1])), -1)
    return file, np.concatenate((found, missing), axis=1)[:, : file.frames]


def joined(got):
    rows = got["header"]["streams"] * got["header"]["books"]
    pieces = [np.full((rows, p), -1) if isinstance(p, int) else np.array(p) for p in got["pieces"]]
    return np.concatenate(pieces, axis=1)


def test_files_are_the_same_bytes_and_come_back(page, tiny, tmp_path):
    cases, wanted = [], []
    for header, odds in (
        (TINY, None),
        (STEREO, None),
        (codes.HEADER, None),
        (TINY, tiny[1]),
        (STEREO, tiny[1]),
    ):
        if odds:
            header = replace(header, coder=Likely.number, probabilities=odds.hash)
        for blocks, books in (((7, 64, 1), 5), ((1,), header.books)):
            x = codes.drawn(header, frames=150, books=books)
            x.reshape(header.streams, header.books, -1)[:, 2:, 60:] = -1  # fewer from here on
            if odds:
                x = x % 4 * (x >= 0) + np.minimum(x, 0)
            samples = header.samples(150) - 100
            data = codes.packed(x, header, samples, blocks, odds)
            file = base64.b64encode(data).decode()
            given = {"header": plain(header), "codes": x.tolist(), "blocks": blocks, "samples": samples}
            cases.append(given | {"file": file})
            wanted.append((header, data, x, samples, odds))
    for (header, data, x, samples, odds), got in zip(wanted, page(cases), strict=True):
        assert base64.b64decode(got["packed"]) == data
        packets, frames, _, plainly = got["sizes"]
        assert (packets, frames) == (-(-150 // header.frames), 150)
        coded = replace(header, coder=0, probabilities=b"")
        ends = len(codes.packed(x[:, :0], coded, samples)) + 8 * ((packets - 1) // 16)
        assert plainly == len(codes.packed(x, coded, samples)) - ends
        assert "error" not in got
        assert (got["header"], got["samples"], got["note"]) == (plain(header), samples, "")
        assert np.array_equal(joined(got), read(tmp_path, data, odds)[1])


def test_a_long_file_has_the_same_coarse_index(page):
    """4,096 entries of 16 packets are full after 65,536."""
    header = Header("tiny", bytes(8), 16000, 320, 16000, 1, 1, 1, 2, 1)
    x = codes.drawn(header, frames=65600, books=1)
    data = codes.packed(x, header, blocks=(4096,))
    given = {
        "header": plain(header),
        "codes": x.tolist(),
        "blocks": [65600],
        "samples": header.samples(65600),
    }
    (got,) = page([given | {"file": ""}])
    assert base64.b64decode(got["packed"]) == data


def test_damaged_files_give_the_same_codes(page, tiny, tmp_path):
    cases, wanted, refused = [], [], 0
    for header, odds in ((TINY, None), (STEREO, tiny[1])):
        if odds:
            header = replace(header, coder=Likely.number, probabilities=odds.hash)
        data = codes.packed(codes.drawn(header, frames=60, books=6), header, None, (7,), odds)
        for one in codes.damaged(data, 100):
            cases.append({"file": base64.b64encode(one).decode()})
            wanted.append(read(tmp_path, one, odds))
    for n, ((file, x), got) in enumerate(zip(wanted, page(cases), strict=True)):
        if file is None:
            refused += 1
            assert "error" in got, n
            continue
        assert "error" not in got, (n, got)
        assert (got["samples"], got["frames"]) == (file.info.frames, file.frames), n
        assert np.array_equal(joined(got), x), n
    assert 0 < refused < 100
