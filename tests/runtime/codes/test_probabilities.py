"""audiomask.runtime.codes.probabilities: the same whole numbers everywhere, and files that hold none."""

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import likely
import numpy as np
import pytest
from codes import damaged

from audiomask.runtime.codes.coders import Likely
from audiomask.runtime.codes.probabilities import Probabilities, ProbabilitiesError

GOLDEN = Path(__file__).parents[1] / "golden" / "likely.json"


def packets(probabilities):
    """What becomes of codes that are the same on every machine."""
    coder, found = Likely(probabilities.levels, probabilities), []
    for seed, shape in enumerate([(1, 12, 25), (2, 18, 3), (1, 6, 1), (1, 18, 40)]):
        codes = likely.drawn(probabilities, shape, seed)
        data = coder.encode(codes)
        assert len(data) < coder.most(shape), "plain ones would prove nothing"
        np.testing.assert_array_equal(coder.decode(data, shape), codes)
        found.append(hashlib.sha256(data).hexdigest())
    return found


def full_size(path):
    """Probabilities of the size that ships: its matrix products take all the paths of a BLAS."""
    score = np.random.default_rng(8).integers(-4, 5, (18, 1024, 48)).astype(np.int8)
    return likely.write(path, books=18, levels=1024, seed=7, width=32, hidden=192, inner=48, score=score)


def test_the_bytes_are_those_of_every_other_machine(tmp_path):
    """The file was written on one; another instruction set, another BLAS or numpy has to give the same."""
    full_size(tmp_path / "a.safetensors")
    made = Probabilities.load(tmp_path / "a.safetensors")
    assert {"packets": packets(made)} == json.loads(GOLDEN.read_text())


def test_one_thread_two_and_old_instructions_give_the_same_bytes(tmp_path):
    full_size(tmp_path / "a.safetensors")
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]; import json; from pathlib import Path\n"
        "from audiomask.runtime.codes.probabilities import Probabilities\n"
        "from runtime.codes.test_probabilities import packets\n"
        "print(json.dumps(packets(Probabilities.load(sys.argv[1]))))"
    )
    tests = Path(__file__).parents[2]
    words = [sys.executable, "-c", script, str(tmp_path / "a.safetensors"), str(tests), str(tests.parent)]
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    found = set()
    for changes in (dict.fromkeys(names, "1"), dict.fromkeys(names, "2"), {"OPENBLAS_CORETYPE": "Prescott"}):
        env = os.environ | changes
        found.add(subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout)
    assert [json.loads(text) for text in found] == [json.loads(GOLDEN.read_text())["packets"]]


def reference(of, codes):
    """Weights `[frames, books, levels]` by the equations, in Python's whole numbers."""

    def layer(weights, bias, x, shift=None):
        sums = [sum(int(w) * v for w, v in zip(row, x, strict=True)) for row in weights]
        sums = [total + int(b) for total, b in zip(sums, bias, strict=True)]
        if shift is None:
            return sums
        return [min(255, max(0, (total + 2**shift // 2) // 2**shift)) for total in sums]

    before, found = [[int(v) for v in row] for row in of.start], []
    for row in codes:
        y = layer(of.past, of.past_bias, [v for vector in before for v in vector], of.past_shift)
        sums, width = [0] * of.start.shape[1], of.embed.shape[2]
        for book, code in enumerate(row):
            held = [min(255, max(-255, v)) for v in sums]
            x = layer(of.into[book], of.into_bias[book], y + held, of.into_shift)
            scores = layer(of.score[book], of.score_bias[book], x)
            places = [min(len(of.table) - 1, (max(scores) - s) // 2**of.score_shift) for s in scores]
            found.append([int(of.table[place]) for place in places])
            for n in range(width):
                sums[book % of.groups * width + n] += int(of.embed[book, code, n])
        before = [[min(255, max(-255, v)) for v in sums], *before[:-1]]
    return found


def test_the_weights_are_those_of_the_equations(tmp_path):
    of = likely.write(tmp_path / "a.safetensors")
    codes = np.random.default_rng(0).integers(0, 16, (4, 6))
    found = []
    for row, frame in zip(codes, of.frames(), strict=False):
        for code in row:
            found.append(frame.weights().tolist())
            frame.take(code)
    assert found == reference(of, codes.tolist())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"facts": {"past_shift": 40}}, "past_shift 40 is outside"),
        ({"facts": {"groups": 2}}, "start has the shape"),
        ({"facts": {"codec": "xyz"}}, "holds no probabilities"),
        ({"table": np.zeros(5, np.int32)}, "weights are outside"),
        ({"score_bias": np.full((6, 16), 2**24, np.int32)}, "its sums may pass"),
        ({"score": np.zeros((6, 16, 9), np.int8)}, "has the shape"),
        ({"another": np.zeros(1, np.int8)}, "unexpected keyword"),
        ({"table": np.ones(5, np.int64)}, "I64"),
    ],
)
def test_what_is_no_file_of_probabilities(tmp_path, changes, words):
    with pytest.raises(ProbabilitiesError, match=words):
        likely.write(tmp_path / "a.safetensors", **changes)


def test_damaged_files_of_probabilities_are_refused_or_others(tmp_path):
    first = likely.write(tmp_path / "a.safetensors")
    data, refused = (tmp_path / "a.safetensors").read_bytes(), 0
    huge = struct.pack("<Q", 2**60) + data[8:]
    for bad in [huge, b"", data[:7], b"[" * 10**6, *damaged(data, 300)]:
        (tmp_path / "b.safetensors").write_bytes(bad)
        try:
            other = Probabilities.load(tmp_path / "b.safetensors")
        except ProbabilitiesError:
            refused += 1
            continue
        assert (other.hash == first.hash) == (bad == data)
    assert refused > 100
    with pytest.raises(ProbabilitiesError, match="cannot be read"):
        Probabilities.load(tmp_path / "none.safetensors")
