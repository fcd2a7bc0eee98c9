"""The page packs and unpacks codes, in Node, as Python does: the same bytes, the same codes."""

import base64
import json
import shutil
import subprocess

import likely
import numpy as np
import pytest

from audiomask.runtime.codes.coders import Likely, Plain
from audiomask.runtime.net.server import PAGE

SCRIPT = """
import { readFileSync } from "node:fs";
const { Likely, Plain, Probabilities } = await import(process.argv[2]);
const probabilities = Probabilities.parse(readFileSync(process.argv[3]));
const likely = new Likely(probabilities.levels, probabilities);
const plain = new Plain(probabilities.levels);
const found = JSON.parse(readFileSync(process.argv[4])).map(({ data, shape }) => {
  const bytes = new Uint8Array(Buffer.from(data, "base64"));
  try {
    const codes = likely.decode(bytes, shape);
    const again = [likely, plain].map((coder) => Buffer.from(coder.encode(codes, shape)).toString("base64"));
    return { codes: codes.map((rows) => rows.map((row) => [...row])), again };
  } catch (error) {
    return { error: error.message };
  }
});
console.log(JSON.stringify(found));
"""


def unpacked(coder, data, shape):
    try:
        return coder.decode(data, shape), ""
    except ValueError as error:
        return None, str(error)


def test_the_page_unpacks_what_python_packs(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    coder = Likely(16, likely.write(tmp_path / "tiny_prob.safetensors"))
    rng, cases = np.random.default_rng(0), []
    for shape in ((1, 6, 25), (2, 3, 4), (1, 1, 1), (3, 6, 9), (1, 4, 255)):
        codes = rng.integers(0, 16, shape)
        usual = likely.drawn(coder.probabilities, shape)
        cases += [(shape, coder.encode(x), x) for x in (codes, usual)] + [
            (shape, Plain(16).encode(codes), codes)
        ]
        cases += [(shape, rng.bytes(n), None) for n in (coder.least(shape), coder.most(shape) - 1, 0, 400)]
    given = [{"shape": shape, "data": base64.b64encode(data).decode()} for shape, data, _ in cases]
    (tmp_path / "cases.json").write_text(json.dumps(given))
    (tmp_path / "read.mjs").write_text(SCRIPT)
    words = [node, tmp_path / "read.mjs", (PAGE / "coders.js").as_uri()]
    words += [tmp_path / "tiny_prob.safetensors", tmp_path / "cases.json"]
    done = subprocess.run(words, capture_output=True, check=True)
    for (shape, data, codes), found in zip(cases, json.loads(done.stdout), strict=True):
        want, reason = unpacked(coder, data, shape)
        if want is None:
            assert codes is None
            assert found == {"error": reason}
            continue
        assert codes is None or np.array_equal(want, codes)
        assert np.array_equal(found["codes"], want)
        assert found["again"] == [base64.b64encode(x.encode(want)).decode() for x in (coder, Plain(16))]
