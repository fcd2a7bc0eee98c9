"""NSNet2-PLC gives what the challenge's graph and loop give, and leaves alone what was received. Its
recipe stands for the contract.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from dtln_pair import Graph
from onnx import TensorProto, helper

from audiomask import checkpoints
from audiomask.checkpoints import CheckpointError
from audiomask.export.document import describe
from audiomask.models.nsnet2_plc import NSNet2PLC

SMALL = {"size": 32, "units": (6, 5, 7, 4)}
HOP = 16


def small(**more) -> NSNet2PLC:
    torch.manual_seed(0)
    return NSNet2PLC(**SMALL, **more).eval()


def signal(packets: int, lost: tuple[int, ...], size: int = 2 * HOP) -> tuple[np.ndarray, np.ndarray]:
    """Noise `[T]` float32 with zeros in the packets that are lost, and the flags of all packets."""
    flags = np.isin(np.arange(packets), lost)
    x = 0.1 * np.random.default_rng(0).standard_normal(packets * size)
    return np.where(flags.repeat(size), 0, x).astype(np.float32), flags


def batch(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x, np.float32))[None, None]


def test_published_size_and_clock():
    model = NSNet2PLC()
    assert sum(p.numel() for p in model.parameters()) == 376_628  # as in the challenge's graph
    assert (model.sample_rate, model.hop, model.latency) == (16000, 160, 320)
    state = dict(model.initial_state(1))
    assert [state[name]["h0"].shape[1] for name in ("gru1", "gru2")] == [134, 100]
    assert model.enter.in_features == 5 * 161


# --- against the challenge's graph and loop -----------------------------------------------------------------


def write_graph(path, bins: int = HOP + 1, units=SMALL["units"]):
    """A graph as the challenge's, with random weights, up to what goes into the sigmoids."""
    first, second, third, fourth = units
    graph = Graph(0)

    def gru(x: str, width: int, hidden: int, state: str) -> tuple[str, str]:
        w, r = (graph.weight(1, 3 * hidden, n) for n in (width, hidden))
        b = graph.weight(1, 6 * hidden)
        y, end = graph("GRU", x, w, r, b, "", state, outputs=2, hidden_size=hidden, linear_before_reset=1)
        return graph("Squeeze", y, graph.constant(np.array([1]))), end

    def dense(x: str, width: int, out: int) -> str:
        return graph("Add", graph("MatMul", x, graph.weight(width, out)), graph.weight(out))

    x = graph("LeakyRelu", dense("input", 5 * bins, first), alpha=0.01)
    x, h1 = gru(x, first, first, "h01")
    x, h2 = gru(x, first, second, "h02")
    x = graph("LeakyRelu", dense(x, second, third), alpha=0.01)
    x = graph("LeakyRelu", dense(x, third, fourth), alpha=0.01)
    x = dense(x, fourth, 3 * bins)
    info, inputs = helper.make_tensor_value_info, (("input", 5 * bins), ("h01", first), ("h02", second))
    made = helper.make_graph(
        graph.nodes,
        "baseline",
        [info(name, TensorProto.FLOAT, [1, 1, width]) for name, width in inputs],
        [info(n, TensorProto.FLOAT, None) for n in (x, h1, h2)],
        graph.weights,
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def challenge_loop(path, x: np.ndarray, flags: np.ndarray, hop: int) -> np.ndarray:
    """Frame by frame, as the challenge describes: features of all, replaced where the later half is lost."""
    window = np.sqrt(np.hanning(2 * hop + 1)[:-1])
    padded = np.concatenate([np.zeros(hop), x, np.zeros(hop)])
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop] * window
    spectra = np.fft.rfft(frames)
    graph = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    states = {i.name: np.zeros(i.shape, np.float32) for i in graph.get_inputs()[1:]}
    hops = flags.repeat(len(x) // len(flags) // hop)
    played = []
    for i, spectrum in enumerate(spectra):
        before, after = ((0 <= j < len(hops)) and hops[j] for j in (i - 1, i))
        phase = np.angle(spectrum)
        features = [np.log10(np.maximum(np.abs(spectrum) ** 2, 1e-12)), np.full(hop + 1, before)]
        features += [np.full(hop + 1, after), np.sin(phase), np.cos(phase)]
        feed = {"input": np.concatenate(features)[None, None].astype(np.float32)}
        y, *ends = graph.run(None, feed | states)
        states = dict(zip(states, ends, strict=True))
        y = 1 / (1 + np.exp(-y.reshape(3, -1)))
        magnitude, sin, cos = np.sqrt(10 ** ((0.786 * y[0] - 0.6) * 20)), 2 * y[1] - 1, 2 * y[2] - 1
        estimate = magnitude * (cos + 1j * sin) / np.hypot(sin, cos)
        played.append(np.fft.irfft(estimate if after else spectrum) * window)
    played = np.array(played)
    return (played[1:, :hop] + played[:-1, hop:]).reshape(-1)


@torch.no_grad()
def test_equals_the_challenge_with_its_graph(tmp_path):
    path = write_graph(tmp_path / "baseline.onnx")
    model, config, card = checkpoints.load("nsnet2_plc", [path])
    assert config["init_args"] == {"size": 32, "units": list(SMALL["units"]), "tail": False}
    assert card["licence"] == "MIT"
    x, flags = signal(20, (3, 7, 8, 12, 13, 14, 18))
    want = challenge_loop(path, x, flags, HOP)
    assert np.abs(want[3 * 32 : 4 * 32]).max() > 1e-3  # the gaps are filled
    got = model(batch(x), lost=batch(flags.repeat(32)))[0, 0].numpy()
    assert np.abs(got - want[: len(got)]).max() < 1e-5 * np.abs(want).max()


def test_another_graph_is_refused(tmp_path):
    path = write_graph(tmp_path / "baseline.onnx")
    model = onnx.load(path)
    del model.graph.node[0]
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of nsnet2_plc"):
        checkpoints.load("nsnet2_plc", [path])


# --- what is received, what is lost -------------------------------------------------------------------------


@torch.no_grad()
def test_without_loss_the_output_is_the_input_bit_for_bit():
    x, _ = signal(10, ())
    x = batch(x)
    for inputs in ({}, {"lost": torch.zeros_like(x)}):
        assert torch.equal(small()(x, **inputs), x)


@torch.no_grad()
@pytest.mark.parametrize("tail", [True, False])
def test_received_sound_passes_but_for_the_fades(tail):
    x, flags = signal(20, (5, 6, 12))
    y = small(tail=tail)(batch(x), lost=batch(flags.repeat(32)))[0, 0].numpy()
    touched = np.convolve(flags.repeat(2), [1, 1, tail, 0, 0], "full")[1:-3]  # hops: one before, one after
    changed = (y != x).reshape(-1, HOP).any(1)
    assert (changed == (touched > 0)).all()
    assert changed.any()


@torch.no_grad()
def test_what_lies_in_lost_samples_is_ignored():
    x, flags = signal(20, (5, 6, 12))
    lost, model = flags.repeat(32), small()
    silent = model(batch(x), lost=batch(lost))
    for junk in (1.0, np.nan, np.inf):
        assert torch.equal(model(batch(np.where(lost, junk, x)), lost=batch(lost)), silent)


@torch.no_grad()
def test_the_tail_of_a_gap_does_not_fade_to_silence():
    """Where the network puts out a constant, the last sample of the gap is nothing but the end of a window
    without `tail`.
    """
    x, flags = signal(40, tuple(range(10, 30)))
    ends = {}
    for tail in (True, False):
        model = small(tail=tail)
        model._estimate = lambda spectrum, *rest: torch.eye(17)[0].expand_as(spectrum)
        gap = model(batch(x), lost=batch(flags.repeat(32)))[0, 0, 10 * 32 : 30 * 32]
        ends[tail] = float(gap[-1] / gap.median())
    assert ends[True] > 0.7
    assert ends[False] < 0.1


@torch.no_grad()
def test_losses_that_are_no_whole_hops():
    """The shares of lost samples are what the network is told, and nothing lost is left unfilled."""
    x = 0.1 * np.random.default_rng(1).standard_normal(40 * HOP).astype(np.float32)
    lost = np.zeros(40 * HOP)
    lost[5 * HOP + 3 : 7 * HOP + 7] = 1
    model, told = small(), []
    inner = model._estimate
    model._estimate = lambda *a: told.append(a[1]) or inner(*a)
    y = model(batch(x), lost=batch(lost))[0, 0].numpy()
    earlier, later = told[0].unbind(1)
    assert later[0, 4:9].tolist() == [0, 13 / 16, 1, 7 / 16, 0]
    assert earlier[0, 5:10].tolist() == [0, 13 / 16, 1, 7 / 16, 0]
    changed = (y != x).reshape(-1, HOP).any(1)
    assert changed.nonzero()[0].tolist() == [4, 5, 6, 7, 8]
    assert (y[5 * HOP + 3 : 7 * HOP + 7] != 0).all()


@torch.no_grad()
def test_silence_costs_no_precision():
    """161 logarithms of -12, with weights of one sign as the published ones, add up to 190; what comes of
    them in float32 is still within a few of its steps (1.5e-5 there) of what comes of them in float64.
    """
    torch.manual_seed(0)
    model = NSNet2PLC().eval()
    model.enter.weight[:, :161].mul_(3).sub_(0.1)
    x = 0.1 * torch.randn(1, 1, 6400, generator=torch.Generator().manual_seed(0))
    lost = torch.zeros(1, 1, 6400)
    lost[..., 1600:4800] = 1
    heard = []
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)
        inner = model.gru1.layer
        model.gru1.layer = lambda z, state, inner=inner: heard.append(z) or inner(z, state)
        model(x.to(dtype), lost=lost.to(dtype))
        del model.gru1.layer
    silent = slice(12, 29)  # frames of 10 ms that hold nothing
    assert 100 < heard[1][silent].abs().max() < 400
    assert (heard[0].double() - heard[1])[silent].abs().max() < 4e-5


@torch.no_grad()
def test_golden_values():
    """Weights and sound by formula, so that no generator of random numbers is part of it."""
    model = small()
    for i, parameter in enumerate(model.parameters()):
        n = torch.arange(parameter.numel(), dtype=torch.float64)
        parameter.copy_((0.4 * torch.sin(1.7 * n + i)).reshape(parameter.shape))
    n = np.arange(320)
    y = model(batch(0.3 * np.sin(0.21 * n)), lost=batch((n >= 128) & (n < 224)))[0, 0]
    assert y[[40, 120, 130, 160, 200, 230, 300]].tolist() == pytest.approx(GOLDEN, abs=1e-5)


GOLDEN = [0.25638, 0.001187, -0.002676, 0.005813, -0.007076, -0.088962, 0.050207]


def test_the_artifact_names_the_mask():
    document = describe(small(), {})
    audio, lost = document["inputs"]
    assert (audio["type"], lost["type"]) == ("pcm", "lost")
    assert {k: lost[k] for k in ("name", "kind", "rate", "channels")} == {
        "name": "lost", "kind": "stream", "rate": "1", "channels": 1,
    }  # fmt: skip
