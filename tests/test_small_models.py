"""Nine small models of the families to come keep the contract, and play everywhere that they apply.

Each is one file and one YAML in `tests/small/`: the two parts of a codec, four stems as outputs, stereo stems
as channels of two outputs and of three, an upsampler, a marker with 16 bits, a detector with two outputs, and
a network that hears noise.
"""

import contextlib
import copy
import functools
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import built_once
import contract
import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from serving import Running
from serving import sound as sound_of

from audiomask import weights
from audiomask.cli import main
from audiomask.export.onnx_file import export
from audiomask.export.packing import ExportError
from audiomask.export.proof import apart, check_file, compare
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.player import Player
from audiomask.runtime.session import Session
from audiomask.streaming import StreamingModel

YAMLS = {path.stem: path for path in sorted((Path(__file__).parent / "small").glob("*.yaml"))}
MODELS = [(n, p) for n, path in YAMLS.items() for p in weights.part_configs(yaml.safe_load(path.read_text()))]
each = pytest.mark.parametrize(("name", "part"), MODELS, ids=["_".join(filter(None, m)) for m in MODELS])


def small(name, part=""):
    torch.manual_seed(0)
    config = weights.part_configs(yaml.safe_load(YAMLS[name].read_text()))[part]
    return weights.load_model(config, StreamingModel).eval(), config


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """`files(name, part)`: the artifact of a model, exported once, with its proof."""
    folder = tmp_path_factory.mktemp("small")

    @functools.cache
    def made(name, part=""):
        model, config = small(name, part)
        path = folder / f"{model.name}.onnx"
        with built_once.graphs():
            export(model, path, config)
        return path

    return made


def check(model, path):
    """`check_file` over as many hops of each model, of which one of one sample has 48000 in three seconds."""
    return check_file(model, path, seconds=min(3.0, 1000 * model.hop / model.sample_rate))


def test_there_are_nine():
    assert len(MODELS) == 9


@each
@pytest.mark.parametrize("promise", contract.CONTRACT[:-1], ids=lambda f: f.__name__)
def test_contract(name, part, promise):
    promise(small(name, part)[0])


@each
def test_file_and_player(name, part, files):
    model, _ = small(name, part)
    assert check(model, files(name, part)) < 1e-5
    artifact = Artifact.load(files(name, part))
    assert [(p.name, p.type, p.rate, p.channels) for p in (*artifact.inputs, *artifact.outputs)] == [
        (p.name, p.type, p.rate, p.channels) for p in (*model.inputs, *model.outputs)
    ]


# --- planted faults -----------------------------------------------------------------------------------------


class Planted(StreamingModel):
    """A model made wrong: `change(model, inputs, state) -> (outputs, state)` stands for its step."""

    def __init__(self, model, change):
        super().__init__()
        self.model, self.change = model, change
        for key in ("name", "hop", "delay", "inputs", "outputs"):
            setattr(self, key, getattr(model, key))

    def initial_state(self, *args, **kwargs):
        return self.model.initial_state(*args, **kwargs)

    def step(self, x, state, **inputs):
        y, state = self.change(self.model, {self.inputs[0].name: x, **inputs}, state)
        return tuple(y.values()) if len(y) > 1 else next(iter(y.values())), state


def peeking(model, inputs, state):
    first = model.inputs[0]
    ahead = torch.roll(inputs[first.name], -first.per_hop(model.hop), 2)  # a sample hardly changes a code
    return model.run({**inputs, first.name: ahead}, state)


def forgetting(model, inputs, state):
    return model.run(inputs, model.initial_state(len(inputs[model.inputs[0].name])))


def mixing(model, inputs, state):
    first = model.inputs[0].name
    return model.run({**inputs, first: torch.roll(inputs[first], 1, 0)}, state)


@each
@pytest.mark.parametrize(
    ("change", "promise", "words"),
    [
        (peeking, contract.future_never_changes_the_past, "the future shows in the past"),
        (forgetting, contract.random_chunking_equals_whole, "random chunking"),
        (mixing, contract.rows_are_independent, "alone"),
    ],
    ids=["leaked future", "reset state", "mixed rows"],
)
def test_planted_faults_are_found(name, part, change, promise, words):
    with pytest.raises(AssertionError, match=words):
        promise(Planted(small(name, part)[0], change))


@each
def test_a_file_of_other_weights_is_refused(name, part, files):
    model, _ = small(name, part)
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in wrong.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    with pytest.raises(ExportError, match="the runtime differs from torch"):
        check(wrong, files(name, part))


def test_a_wrong_delay_is_refused(files):
    model, _ = small("upsampler")
    model.delay += 1
    with pytest.raises(ExportError, match=r"differs from torch|frames, not"):
        check(model, files("upsampler"))


# --- codes --------------------------------------------------------------------------------------------------


def test_codewords_that_are_equally_near_are_no_difference():
    """The proof judges codes by the distances of their codewords; what follows a difference is not judged."""
    model, _ = small("codec", "enc")
    with torch.no_grad():
        model.books[0, 5] = model.books[0, 3]  # the same word under two numbers
    inputs = {"audio": 0.1 * torch.randn(1, 1, 320 * 200)}
    codes = model.run(inputs, model.initial_state(1))[0]["codes"]
    assert (codes[:, 0] == 3).any()
    other = codes.clone()
    other[:, 0] = torch.where(codes[:, 0] == 3, 5, codes[:, 0])
    other[:, 1] = torch.where(codes[:, 0] == 3, 0, codes[:, 1])
    assert apart(model, "codes", other, codes, inputs)[0] == 0
    wrong = codes.clone()
    wrong[0, 1, 7] = (wrong[0, 1, 7] + 1) % 16
    error, peak = apart(model, "codes", wrong, codes, inputs)
    assert error / peak > 1e-3
    assert apart(model, "codes", codes.clone(), codes, inputs)[0] == 0


def test_a_codec_is_two_files_that_name_each_other(tmp_path):
    config = yaml.safe_load(YAMLS["codec"].read_text())
    torch.manual_seed(0)
    network = weights.load_model(config, torch.nn.Module)
    weights.save(tmp_path / "run", network, config)
    with built_once.graphs():
        assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "c.onnx"), "--check"]) == 0
    enc, dec = (Artifact.load(tmp_path / f"c_{part}.onnx") for part in ("enc", "dec"))
    assert enc.meta["parts"] == dec.meta["parts"] == {"enc": enc.meta["hash"], "dec": dec.meta["hash"]}
    assert not (tmp_path / "c.onnx").exists()
    x = 0.1 * np.random.default_rng(0).standard_normal(16000 + 123).astype(np.float32)
    there, back = Player(enc), Player(dec)
    codes = [there.feed(x[:777])["codes"], there.feed(x[777:])["codes"], there.flush()["codes"]]
    assert [c.dtype for c in codes] == [np.int64] * 3
    codes = np.concatenate(codes, 1)
    assert codes.shape == (3, 51)  # ceil(16123 / 320)
    y = np.concatenate(
        [back.feed(codes[:, :10])["decoded"], back.feed(codes[:, 10:])["decoded"], back.flush()["decoded"]], 1
    )
    assert y.shape == (1, 51 * 320)
    with torch.no_grad():
        latent = network.down(torch.from_numpy(x)[None, None])
        for book in network.books:
            latent = latent - book[network._nearest(latent, book)].transpose(1, 2)
        sound = network.up(network.down(torch.from_numpy(x)[None, None]) - latent)[0]
    delay = dec.delay  # at the end, frames of code 0 follow here, and nothing in the network
    np.testing.assert_allclose(y[:, :-delay], sound.numpy()[:, :-delay], atol=1e-5)
    lost = np.zeros(51)
    lost[20:30] = 1
    mended = np.concatenate([back.feed(codes, lost)["decoded"], back.flush()["decoded"]], 1)
    assert np.abs(mended - y)[:, 21 * 320 : 29 * 320].max() > 1e-3
    np.testing.assert_allclose(mended[:, : 19 * 320], y[:, : 19 * 320], atol=1e-6)


# --- players and sessions -----------------------------------------------------------------------------------


def test_four_stems_and_stereo_stems(files, noise):
    x = noise(1, 5000)
    session = Session(files("stems"), sample_rate=48000)
    first = session.feed(x[0])
    rest = session.flush()
    assert list(first) == ["drums", "bass", "other", "vocals"]
    assert {name: len(first[name]) + len(rest[name]) for name in first} == dict.fromkeys(first, 5000)
    alone = Session(files("stems"), sample_rate=48000, output="bass")
    np.testing.assert_allclose(alone.feed(x[0]), first["bass"], atol=1e-6)
    stereo = Session(files("stereo"), channels=2, dry=0.5)
    y = stereo.feed(noise(2, 5000))
    assert {name: part.shape[0] for name, part in y.items()} == {"voice": 2, "backing": 2}


@pytest.mark.parametrize(("rate", "channels"), [(16000, 2), (44100, 2), (48000, 1), (8000, 6)])
def test_stems_of_an_exported_model_are_turned(files, noise, rate, channels):
    """In pieces as in one, and by the verb as by a session."""
    x = noise(channels, 6000)
    options = {"sample_rate": rate, "channels": channels, "gains": {"music": -20, "speech": 6}}
    parts = []
    for sizes in ([6000], [1, 700, 0, 3000, 2299]):
        session = Session(files("cinema"), **options)
        pieces = [session.feed(piece) for piece in np.split(x, np.cumsum(sizes), axis=1)]
        parts.append(np.concatenate([*pieces, np.atleast_2d(session.flush())], 1))
    np.testing.assert_allclose(parts[1], parts[0], atol=1e-5)
    assert np.abs(parts[0] - x).max() > 1e-3


def test_an_upsampler_has_a_rate_of_its_own(files, noise):
    x = noise(1, 4001)[0]
    session = Session(files("upsampler"))
    y = np.concatenate([session.feed(x), session.flush()])
    assert (session.sample_rate, session.rate_out, len(y)) == (16000, 48000, 3 * 4001)
    at = Player(files("upsampler"), sample_rate=8000)
    parts = [at.feed(x)["upsampled"], at.flush()["upsampled"]]
    assert np.concatenate(parts, 1).shape == (1, 6 * 4001)  # 48 kHz
    with pytest.raises(Exception, match="dry and bypass need the same"):
        Session(files("upsampler"), dry=0.5)
    with pytest.raises(Exception, match="trim=True"):
        Session(files("upsampler"), trim=False)


def test_bits_are_a_control_of_sixteen(files, noise):
    x = noise(1, 3000)[0]
    session = Session(files("marker"))
    plain = session.feed(x)
    marked = Session(files("marker"), controls={"message": [1] * 16}).feed(x)
    assert np.abs(plain - marked).max() > 1e-4
    with pytest.raises(Exception, match="does not fit a whole number"):
        session.set({"message": [0.5] * 16})


def test_a_detector_gives_two_streams_of_two_rates(files, noise):
    player = Player(files("detector"))
    first, rest = player.feed(noise(1, 1000)), player.flush()
    assert first["marked"].shape[1] + rest["marked"].shape[1] == 1000
    assert first["bits"].shape[1] + rest["bits"].shape[1] == 7
    assert first["bits"].shape[0] == 16


def test_noise_that_nobody_gives_is_drawn_and_the_same_anywhere(files, noise):
    """In any blocks, and in torch."""
    x = noise(1, 2500)
    model, _ = small("noisy")
    with torch.no_grad():
        theirs = model(torch.from_numpy(x)[None])[0].numpy()
    for sizes in ((2500,), (1, 99, 1400, 1000)):
        player = Player(files("noisy"))
        parts = [player.feed(part)["enhanced"] for part in np.split(x, np.cumsum(sizes)[:-1], axis=1)]
        np.testing.assert_allclose(np.concatenate([*parts, player.flush()["enhanced"]], 1), theirs, atol=1e-6)
    quiet = Player(files("noisy"))
    silent = [quiet.feed(x, noise=np.zeros(2500))["enhanced"], quiet.flush()["enhanced"]]
    assert np.abs(np.concatenate(silent, 1) - theirs).max() > 1e-2


@each
def test_snapshot_of_a_player(name, part, files):
    artifact = Artifact.load(files(name, part))
    rng, frames = np.random.default_rng(0), 9 * artifact.streams[0].per_hop(artifact.hop)
    first = artifact.streams[0]
    x = (
        rng.integers(0, first.levels or 2, (first.channels, frames))
        if first.levels
        else (0.1 * rng.standard_normal((first.channels, frames)).astype(np.float32))
    )
    player = Player(artifact)
    player.feed(x[:, : frames // 2])
    saved = player.snapshot()
    want = player.feed(x[:, frames // 2 :]) | {"end": player.flush()}
    other = Player(artifact)
    other.restore(saved)
    got = other.feed(x[:, frames // 2 :]) | {"end": other.flush()}
    for key in player.rows.keys() & want.keys():
        np.testing.assert_array_equal(got[key], want[key])
        np.testing.assert_array_equal(got["end"][key], want["end"][key])


@each
def test_a_hop_as_it_comes_goes_a_shorter_way_to_the_same_result(name, part, files):
    artifact, rng = Artifact.load(files(name, part)), np.random.default_rng(0)
    first = artifact.streams[0]
    hop = first.per_hop(artifact.hop)
    sizes = [hop, hop, hop, max(1, hop // 2), hop, hop - max(1, hop // 2), hop, 2 * hop, hop]
    if first.levels:
        x = rng.integers(0, first.levels, (first.channels, sum(sizes)))
    else:
        x = 0.1 * rng.standard_normal((first.channels, sum(sizes))).astype(np.float32)
        x[0, hop + 1] = np.nan
    short, long = Player(artifact), Player(artifact)
    long._one = None
    for at, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        block, whole = x[:, at : at + size], size == hop and at % hop == 0
        way = mock.patch.object(short, "feeding", side_effect=AssertionError)
        with way if short._one and whole and np.isfinite(block).all() else contextlib.nullcontext():
            got = short.feed(block)
        want = long.feed(block)
        for key in short.rows.keys() & want.keys():
            np.testing.assert_array_equal(got[key], want[key])
    assert (short.cleaned, short.faults) == (long.cleaned, long.faults)
    kept, other = short.snapshot(), long.snapshot()
    np.testing.assert_equal(kept.rest, other.rest)
    np.testing.assert_equal(kept.memory, other.memory)


def test_wrong_streams_are_refused_before_anything_is_taken(files):
    back, untouched = Player(files("codec", "dec")), Player(files("codec", "dec"))
    codes = np.arange(12).reshape(3, 4)
    for wrong, words in (
        ({"lost": np.zeros(3)}, "lost has 3 frames, not the 2 that go with 2 of codes"),
        ({"lost": np.zeros((2, 2))}, r"lost of shape \(2, 2\) does not fit \[1, T\]"),
        ({"loss": np.zeros(2)}, "has no stream loss; it has codes lost"),
    ):
        with pytest.raises(ValueError, match=words):
            back.feed(codes[:, :2], **wrong)
    with pytest.raises(ValueError, match="nothing is given for codes"):
        back.feed(lost=np.zeros(2))
    for player in (back, untouched):
        player.feed(codes)
    np.testing.assert_array_equal(back.flush()["decoded"], untouched.flush()["decoded"])


@each
def test_compare_runs_over_all_outputs(name, part, files):
    model, _ = small(name, part)
    assert {port.name for port in model.outputs} <= set(compare(model, files(name, part)))


# --- files, pipe, server ------------------------------------------------------------------------------------


def torch_offline(name, x, part="", **inputs):
    """Return what torch makes of a whole signal `[C, T]`, by output."""
    model, _ = small(name, part)
    with torch.no_grad():
        y = model(torch.from_numpy(x)[None], **inputs)
    values = y if isinstance(y, tuple) else (y,)
    return {port.name: value[0].numpy() for port, value in zip(model.outputs, values, strict=True)}


def pipe(data, artifact, *options):
    """Return the bytes that `audiomask stream` makes of samples or codes."""
    words = ["-m", "audiomask", "stream", "-q", "--rate", "16000", "--format", "f32le"]
    process = [sys.executable, *words, "-m", str(artifact), *options]
    return subprocess.run(process, input=data, capture_output=True, check=True).stdout


def near(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


SOUNDS = ("stems", "stereo", "upsampler", "marker", "noisy")


@pytest.mark.parametrize("name", SOUNDS)
def test_files_hold_every_sound_at_its_rate(name, files, noise, tmp_path):
    x = noise(2 if name == "stereo" else 1, 4001)
    sf.write(tmp_path / "in.wav", x.T, 16000, subtype="FLOAT")
    out = tmp_path / "out"
    assert main(["enhance", str(tmp_path / "in.wav"), "-m", str(files(name)), "-o", f"{out}/"]) == 0
    want = torch_offline(name, x)
    for port, sound in want.items():
        path = out / ("in.wav" if len(want) == 1 else f"in_{port}.wav")
        y, rate = sf.read(path, dtype="float32", always_2d=True)
        assert rate == (48000 if name == "upsampler" else 16000)
        near(y.T, sound)
    assert len(list(out.iterdir())) == len(want)


def test_files_of_codes_and_probabilities(files, noise, tmp_path):
    x = noise(1, 320 * 40 + 5)
    sf.write(tmp_path / "in.wav", x.T, 16000, subtype="FLOAT")
    words = [str(tmp_path / "in.wav"), "-o", f"{tmp_path}/out/", "-m"]
    assert main(["enhance", *words, str(files("codec", "enc"))]) == 0
    codes = np.load(tmp_path / "out/in.npz")["codes"]
    assert np.array_equal(codes, torch_offline("codec", x, "enc")["codes"])
    back = ["enhance", str(tmp_path / "out/in.npz"), "-o", str(tmp_path / "back.wav"), "--subtype", "FLOAT"]
    assert main([*back, "-m", str(files("codec", "dec"))]) == 0
    y, _ = sf.read(tmp_path / "back.wav", dtype="float32")
    near(y, torch_offline("codec", codes, "dec")["decoded"][0, : len(y)])
    assert len(y) == x.shape[1]
    assert main(["enhance", *words, str(files("detector"))]) == 0
    lines = {path.stem: path.read_text().splitlines() for path in (tmp_path / "out").glob("*.jsonl")}
    assert {name: len(rows) for name, rows in lines.items()} == {"in_marked": 12805, "in_bits": 81}
    assert len(json.loads(lines["in_bits"][0])) >= 3  # start, end, values


@pytest.mark.parametrize("name", SOUNDS)
def test_a_pipe_gives_the_samples_of_torch(name, files, noise):
    channels = 2 if name == "stereo" else 1
    x, output = noise(channels, 4001), {"stems": "bass", "stereo": "voice"}.get(name)
    options = ["--channels", str(channels), *(["--output", output] if output else [])]
    y = pipe(x.T.tobytes(), files(name), *options)
    want = torch_offline(name, x)
    near(np.frombuffer(y, "<f4").reshape(-1, channels).T, want[output or next(iter(want))])


def test_a_pipe_carries_codes(files, noise):
    x = noise(1, 320 * 20)
    codes = pipe(x.tobytes(), files("codec", "enc"))
    want = torch_offline("codec", x, "enc")["codes"]
    assert np.array_equal(np.frombuffer(codes, "<i4").reshape(-1, 3).T, want)
    sound = pipe(codes, files("codec", "dec"))
    near(np.frombuffer(sound, "<f4"), torch_offline("codec", want, "dec")["decoded"][0])


@pytest.mark.parametrize("name", SOUNDS)
def test_the_server_gives_the_samples_of_torch(name, files, noise):
    channels = 2 if name == "stereo" else 1
    x, output = noise(channels, 4001), {"stems": "vocals", "stereo": "backing"}.get(name)
    running = Running(files(name))
    try:
        hello = {"rate": 16000, "format": "f32le", "channels": channels}
        hello |= {"output": output} if output else {}
        with running.open(hello) as ws:
            assert ws.ready["rate_out"] == (48000 if name == "upsampler" else 16000), ws.ready
            data = x.T.astype("<f4").tobytes()
            for at in range(0, len(data), 4 * channels * 999):
                ws.send(data[at : at + 4 * channels * 999])
            ws.send('{"type": "flush"}')
            y, _ = sound_of(ws)
        want = torch_offline(name, x)
        near(y.reshape(-1, channels).T, want[output or next(iter(want))])
    finally:
        running.stop()
