"""One file of cases, cases.json, through the players in Python and through those of the page, in Node.

A case is a model, options, and actions: `["feed", frames, {...}]` (of the first stream, with `lost` spans,
`spoil`ed samples, other `streams` by their frames, or a wrong number of `rows`), `["set", controls, mix]`,
`["flush"]`, `["reset"]`. A gain of null is silence. What is fed follows from the case, see `given`, and so do
controls of many values: as many `steps` of it.
"""

import base64
import functools
import itertools
import json
import math
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import concealer
import numpy as np
import pytest
import small_artifacts

from audiomask.audio import AudioError
from audiomask.ports import Port, gaussian
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import PRETRAINED
from audiomask.runtime.net.server import PAGE
from audiomask.runtime.player import Player
from audiomask.runtime.session import Session

HERE = Path(__file__).parent
CASES = {case["name"]: case for case in json.loads((HERE / "cases.json").read_text())}
SPOILED = {"nan": np.nan, "inf": np.inf, "large": 1e20, "huge": 1e9}
FACTS = ("hop", "delay", "latency", "cleaned", "faults")


def given(port, rows, count, start, spans=()):
    """Return frames `[rows, count]` of a stream from `start` on, exactly the same as replay.mjs makes."""
    if port.type == "lost":
        n = np.arange(count)
        return np.tile(sum(((n >= a) & (n < b) for a, b in spans), np.zeros(count, bool)), (rows, 1))
    steps = np.floor(gaussian(rows, count, start).astype(np.float64) * 4096)
    if port.levels:
        return np.abs(steps).astype(np.int64) % port.levels
    return (steps / 65536).astype(np.float32)


def build_eighth(path, toys):
    """A toy whose state is an eighth power, which overflows for loud samples and would stay infinite."""
    import onnx
    from onnx import helper

    model = onnx.load(toys.build(path))
    at = [node.output[0] for node in model.graph.node].index("next_state_f32")
    model.graph.node[at].input[1] = "eighth"
    for a, b in (("fourth", "eighth"), ("square", "fourth"), ("l_end", "square")):
        model.graph.node.insert(at, helper.make_node("Mul", [a, a], [b]))
    onnx.save(model, path)


def build_whole(path, toys):
    """A toy with a control of whole numbers that it does not use."""
    import onnx
    from onnx import TensorProto, helper

    inputs = toys.document()["inputs"]
    inputs.append({"name": "mode", "kind": "constant", "type": "int", "default": 1, "channels": 1})
    model = onnx.load(toys.build(path, inputs=inputs))
    model.graph.input.append(helper.make_tensor_value_info("mode", TensorProto.INT64, ["B"]))
    onnx.save(model, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toys, toy, array3, repeat16, tagger16):
    """All models of the cases, as NAME.onnx."""
    folder = tmp_path_factory.mktemp("cases")
    others = {"toy": toy / "toy_16k.onnx", "toy48": toy / "toy_48k.onnx", "toy_tagger": tagger16}
    for name, path in {**others, "array3": array3, "repeat16": repeat16}.items():
        shutil.copy(path, folder / f"{name}.onnx")
    for name in small_artifacts.MODELS:
        small_artifacts.build(folder, name)
    for part in ("enc", "dec"):
        shutil.copy(PRETRAINED / f"gist_{part}.onnx", folder)
    shutil.copy(PRETRAINED / "hallmark.onnx", folder)
    start, states = np.linspace(-1, 1, 257, dtype=np.float32), toys.document()["states"]
    for name, initial in (("bytes", {"base64": base64.b64encode(start).decode()}), ("list", start.tolist())):
        entries = [{**states[0], "initial": initial}, states[1]]
        toys.build(folder / f"started_{name}.onnx", states=entries)
    build_eighth(folder / "eighth.onnx", toys)
    build_whole(folder / "whole.onnx", toys)
    concealer.build(folder / "framed.onnx", mask={"rate": "1/160"})
    toys.build(folder / "plain.onnx", metadata="")
    toys.build(folder / "new.onnx", metadata=json.dumps(toys.document(format=9)))
    (folder / "text.onnx").write_text("this is no protobuf")
    return folder


@functools.cache
def load(path):
    return Artifact.load(path)


def fed(player, at, count, lost=(), spoil=None, rows=None, streams=None):
    """Return the block and the other streams of an action; `at`: frames of each that came before."""

    def take(port, count, rows):
        start, at[port.name] = at.get(port.name, 0), at.get(port.name, 0) + count
        return given(port, rows, count, start, lost)

    block = take(player.first, count, rows or player.channels)
    for n, word in (spoil or {}).items():
        block[-1, int(n)] = SPOILED[word]
    ports, others = {port.name: port for port in player.artifact.streams}, {}
    for name, n in (streams or {}).items():
        others[name] = take(ports.get(name, Port(name, type="float")), n, player.rows.get(name, 1))
    if lost and "lost" not in others:
        others["lost"] = given(Port("lost", type="lost"), 1, count, 0, lost)
    return block, others


def set_up(options):
    """Return options whose controls of many values are filled in."""
    controls = {
        name: 16 * given(Port(name), 1, value["steps"], 0)[0] if isinstance(value, dict) else value
        for name, value in options.get("controls", {}).items()
    }
    return turned({**options, "controls": controls})


def turned(options):
    """Return options in which silence, null in JSON, is a gain of -inf."""
    gains = {name: -math.inf if gain is None else gain for name, gain in options.get("gains", {}).items()}
    return options | ({"gains": gains} if "gains" in options else {})


def replay(path, case):
    """Return what each action gives: frames by port, None, or the words of its error; and the player, or the
    words why there is none.
    """
    kind = Player if case.get("as") == "Player" else Session
    try:
        player = kind(load(path), **set_up(case.get("options", {})))
    except (ValueError, AudioError) as error:
        return [], str(error)
    at, results = {}, []
    for action, *words in case["actions"]:
        y = None
        try:
            if action == "feed":
                block, others = fed(player, at, words[0], **(words[1] if len(words) > 1 else {}))
                y = player.feed(block, **others)
            elif action == "set":
                player.set(words[0], **turned(words[1] if len(words) > 1 else {}))
            else:
                y = getattr(player, action)()
        except (ValueError, AudioError) as error:
            y = str(error)
        if isinstance(y, np.ndarray):
            y = {player.ports[0].name: y}
        results.append({k: np.atleast_2d(v) for k, v in y.items()} if isinstance(y, dict) else y)
    return results, player


def said(words):
    """Return words with numbers as JavaScript writes them."""
    return re.sub(r"(\d)\.0\b", r"\1", words).replace("True", "true")


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    """What Node makes of all cases."""
    node = shutil.which("node")
    if node is None or not (PAGE / "vendor").is_dir():
        pytest.skip("needs node and onnxruntime-web: python tools/release/vendor_web.py")
    folder_out = tmp_path_factory.mktemp("replayed")
    files = [{"name": n, "model": n, "actions": []} for n in ("text", "plain", "new")]
    cases, out = folder_out / "cases.json", folder_out / "results.json"
    cases.write_text(json.dumps([*CASES.values(), *files]))
    done = subprocess.run(
        [node, HERE / "replay.mjs", cases, folder, out], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def rows(encoded):
    return np.stack([np.frombuffer(base64.b64decode(row), "<f8") for row in encoded])


@pytest.mark.parametrize("name", CASES)
def test_the_page_plays_as_python(name, folder, page):
    case, got = CASES[name], page[name]
    want, player = replay(folder / f"{case['model']}.onnx", case)
    if isinstance(player, str):
        assert said(got["error"]) == said(player)
        return
    assert "facts" in got, got
    facts = got["facts"]
    assert [facts[key] for key in FACTS] == [getattr(player, key) for key in FACTS]
    assert facts["lag"] == getattr(player, "lag", None)
    assert facts["rates"] == {key: str(rate) for key, rate in player.rates.items()}
    peak = max([np.abs(y).max(initial=0) for part in want if isinstance(part, dict) for y in part.values()])
    assert peak > 0
    for n, (a, b) in enumerate(zip(want, got["results"], strict=True)):
        if isinstance(a, str):
            assert said(b["error"]) == said(a), n
        elif a is None:
            assert b is None, n
        else:
            assert list(b) == list(a), n
            for port, y in a.items():
                made = rows(b[port])
                assert made.shape == y.shape, (n, port)  # ready at the same moments too
                tolerance = 0 if y.dtype.kind == "i" else 1e-5 * peak
                assert np.abs(made - y).max(initial=0) <= tolerance, (n, port)


def pieces(case):
    """The plain blocks of the first signal of a case that nothing else happens in, or None."""
    blocks = [*itertools.takewhile(lambda action: action[0] == "feed" and len(action) == 2, case["actions"])]
    ended = case["actions"][len(blocks) : len(blocks) + 1] == [["flush"]]
    return blocks if ended and case.get("options", {}).get("trim", True) else None


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if pieces(case)])
def test_blocks_do_not_matter(name, folder):
    """A signal in one block is the same, and as long as it should be."""
    case, blocks = CASES[name], pieces(CASES[name])
    want, player = replay(folder / f"{case['model']}.onnx", {**case, "actions": [*blocks, ["flush"]]})
    total = sum(count for _, count in blocks)
    got, _ = replay(folder / f"{case['model']}.onnx", {**case, "actions": [["feed", total], ["flush"]]})
    for port in player.ports[: len(want[0])]:
        cut, whole = (np.concatenate([part[port.name] for part in parts], 1) for parts in (want, got))
        rate = player.rates[port.name] / player.rates[player.first.name]
        assert abs(whole.shape[1] - total * rate) < 1 + (port.type != "pcm")
        assert cut.shape == whole.shape
        assert np.abs(cut - whole).max() <= 1e-5 * np.abs(whole).max() * (port.dtype.kind == "f")


def test_noise_is_the_same(page):
    """Beyond 2^32 frames too, where their number goes through the hash in two halves."""
    np.testing.assert_allclose(page["gaussian"], gaussian(2, 4, 2**32 - 2, 7), rtol=1e-6)


@pytest.mark.parametrize("name", small_artifacts.MODELS)
def test_models_with_other_ports_give_what_they_should(name, folder):
    player, frames = Player(folder / f"{name}.onnx"), {Fraction(1): 4160, Fraction(1, 320): 13}
    ports = player.artifact.streams
    streams = {port.name: given(port, port.channels, frames[port.rate], 0, [(3, 5)]) for port in ports}
    first, *others = streams
    parts = [player.feed(streams[first], **{other: streams[other] for other in others}), player.flush()]
    for port, want in small_artifacts.REFERENCES[name](**streams).items():
        got = np.concatenate([part[port] for part in parts], 1)
        np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize(
    ("name", "options"),
    [("toy", {}), ("toy", {"sample_rate": 44100}), ("upsampler", {"sample_rate": 48000})],
)
def test_block_for_block_is_the_trimmed_sound_later(name, options, folder):
    path, x = folder / f"{name}.onnx", given(Port("x"), 1, 20000, 0)
    trimmed = Session(path, **options)
    want = np.concatenate((trimmed.feed(x), trimmed.flush()), axis=None)
    held = Session(path, trim=False, **options)
    got = np.concatenate([held.feed(x[0, n : n + 100]) for n in range(0, 20000, 100)])
    assert held.lag <= held.latency
    np.testing.assert_allclose(got[held.lag :], want[: 20000 - held.lag], atol=1e-6)
    assert not got[: held.lag].any()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text", "is no ONNX model"),
        ("plain", "has no 'audiomask' metadata"),
        ("new", "has artifact format 9"),
    ],
)
def test_files_that_are_no_artifacts_are_refused(name, words, page):
    assert page[name]["kind"] == "ArtifactError"
    assert words in page[name]["error"]


DUE = """
import { readFileSync } from "node:fs";
const [page, file] = process.argv.slice(2);
const { Session, loadModel } = await import(`${page}/session.js`);
const ort = await import(`${page}/vendor/ort.wasm.min.mjs`);
ort.env.wasm.numThreads = 1;
const model = await loadModel(ort, readFileSync(file));
const found = {};
for (const sampleRate of [8000, 16000, 44100, 48000]) {
  const session = new Session(model, { sampleRate });
  const rows = (count) => Array.from({ length: session.channels }, () => new Float32Array(count));
  found[sampleRate] = [];
  for (let hop = 0; hop < 20; hop++) {
    const { due } = session;
    if (due > 1) await session.feed(rows(due - 1));
    const early = session._stepped - hop;
    await session.feed(rows(1));
    found[sampleRate].push([due, early, session._stepped - hop]);
  }
}
console.log(JSON.stringify(found));
"""


def test_a_hop_runs_when_it_is_due(folder, tmp_path):
    """Live, blocks of the audio thread wait in their ring until they complete a hop."""
    node = shutil.which("node")
    if node is None or not (PAGE / "vendor").is_dir():
        pytest.skip("needs node and onnxruntime-web: python tools/release/vendor_web.py")
    script = tmp_path / "due.mjs"
    script.write_text(DUE)
    words = [node, script, PAGE.as_uri(), folder / "toy.onnx"]
    found = json.loads(subprocess.run(words, capture_output=True, check=True, timeout=120).stdout)
    hop = load(folder / "toy.onnx").hop
    for rate, hops in found.items():
        assert {(early, then) for _, early, then in hops} == {(0, 1)}, rate
        assert [due for due, *_ in hops[1:]] == pytest.approx([hop * int(rate) / 16000] * 19, abs=1)
