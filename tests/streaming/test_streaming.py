"""Clocks, lags and combinators."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from audiomask.nn.conv import Conv1d, ConvTranspose1d
from audiomask.streaming import (
    Context,
    Delay,
    Gate,
    Parallel,
    Port,
    Residual,
    Sequential,
    Steps,
    Streaming,
    StreamingModel,
    flatten_state,
    tree_map,
    unflatten_state,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def layers():
    """(kernel, stride, dilation, look-ahead) of a convolution; the look-ahead within its span."""
    basic = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
    return basic.flatmap(lambda b: st.tuples(*map(st.just, b), st.integers(0, (b[0] - 1) * b[2])))


def offline(stack, x):
    """The same convolutions as published code writes them: zeros before, zeros after, every layer whole."""
    for conv in stack:
        x = F.pad(x, (conv.extent - 1 - conv.lookahead, conv.lookahead))
        x = torch.tanh(F.conv1d(x, conv.weight, conv.bias, conv.hop, 0, conv.dilation) + 0.3)
    return x


class Bent(nn.Module):
    """Not zero at zero, as a biased or normalised activation: what a missing gate lets through."""

    def forward(self, x):
        return torch.tanh(x + 0.3)


@settings(max_examples=60, deadline=None)
@given(
    spec=st.lists(layers(), min_size=1, max_size=4),
    length=st.integers(1, 90),
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=8),
)
def test_any_stack_of_convolutions_equals_offline(spec, length, cuts):
    torch.manual_seed(length)
    stack = [Conv1d(2, 2, k, s, d, lookahead=r) for k, s, d, r in spec]
    model = Sequential(*(block for conv in stack for block in (conv, Bent())))
    x = torch.randn(1, 2, length)
    frames = -(-length * model.rate.numerator // model.rate.denominator)
    # Offline code ends with zeros in every layer; we end with what silence after the signal gives: more of it
    # than four layers of stride 4 look ahead.
    theirs = offline(stack, F.pad(x, (0, 2000)))[:, :, :frames]
    ours = model(x)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)

    total = -(-(length + model.delay) // model.hop) * model.hop
    padded, state, pieces, at, i = F.pad(x, (0, int(total) - length)), model.initial_state(1), [], 0, 0
    while at < padded.shape[2]:
        n = min(cuts[i % len(cuts)] * model.hop, padded.shape[2] - at)
        y, state = model.step(padded[:, :, at : at + n], state)
        pieces.append(y)
        at, i = at + n, i + 1
    streamed = torch.cat(pieces, 2)[:, :, model.lag_out : model.lag_out + frames]
    torch.testing.assert_close(streamed, theirs, atol=2e-6, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    first=st.integers(0, 4), second=st.integers(0, 4), stride=st.integers(1, 3), trim=st.integers(0, 3),
)  # fmt: skip
def test_residual_around_a_codec_equals_offline(first, second, stride, trim):
    torch.manual_seed(0)
    down = Conv1d(1, 3, 5, stride, lookahead=first)
    up = ConvTranspose1d(3, 1, stride + trim, stride, trim=trim)
    inner = Sequential(down, Residual(Conv1d(3, 3, 5, lookahead=second), Bent(), shape=3), up)
    model = Residual(inner, shape=1)
    x = torch.randn(1, 1, 50)
    z = F.pad(x, (0, 200))
    y = F.conv1d(F.pad(z, (4 - first, first)), down.weight, down.bias, stride)
    conv = inner[1].branches[1][0]
    y = y + torch.tanh(F.conv1d(F.pad(y, (4 - second, second)), conv.weight, conv.bias) + 0.3)
    y = F.conv_transpose1d(y, up.weight, up.bias, stride)[:, :, trim:]
    torch.testing.assert_close(model(x), x + y[:, :, :50], atol=2e-6, rtol=1e-5)


def test_delays_and_hops_compose():
    model = Sequential(Conv1d(1, 2, 8, 4, lookahead=5), Conv1d(2, 2, 3, lookahead=1), Conv1d(2, 2, 4, 2))
    # 2 samples to look ahead and 2 for the lattice of 4, then one frame of 4
    assert (model.hop, model.rate, model.delay, model.latency) == (8, Fraction(1, 8), 8, 16)
    nested = Sequential(Delay(3, 1), model)
    assert nested.delay == 16  # 3 more: 8 on the lattice of 4, a frame of 4, and 4 for the lattice of 8
    assert model.lag == 3


def test_fractional_rates_compose():
    model = Sequential(ConvTranspose1d(1, 1, 3, 3), Conv1d(1, 1, 2, 2))
    assert (model.hop, model.rate) == (2, Fraction(3, 2))
    assert model(torch.randn(1, 1, 7)).shape == (1, 1, 11)


def test_parallel_waits_for_the_slowest():
    model = Parallel(nn.Identity(), Delay(3, 2), Delay(1, 2), merge="cat", shapes=2)
    x = torch.randn(2, 2, 9)
    assert model.delay == 3
    assert torch.equal(model(x), torch.cat([x, x, x], 1))


def test_parallel_says_what_it_lacks():
    with pytest.raises(ValueError, match=r"wait 3 frames.*shapes="):
        Parallel(nn.Identity(), Delay(3, 2))
    with pytest.raises(ValueError, match="different rates"):
        Parallel(nn.Identity(), Conv1d(1, 1, 2, 2))


class Branched(Streaming):
    """Blocks by name, in a list, without memory, and unused."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([Conv1d(2, 2, 3), nn.Tanh(), Conv1d(2, 2, 1)])
        self.wait, self.absent = Delay(2, 2), None
        self.compose(*self.convs, self.wait)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        for i in range(3):
            x = step(f"convs.{i}", x)
        return step("wait", x), step.states


def test_steps_thread_the_states_of_named_blocks():
    block, x = Branched(), torch.randn(1, 2, 12)
    assert block.delay == 2
    names = [name for name, _ in flatten_state(block.initial_state(1))]
    assert names == ["convs.0.past", "wait.past"]  # as the parameters; nothing for blocks without memory
    whole, end = block.step(x, block.initial_state(1))
    assert [name for name, _ in flatten_state(end)] == names
    first, state = block.step(x[:, :, :5], block.initial_state(1))
    second, _ = block.step(x[:, :, 5:], state)
    torch.testing.assert_close(torch.cat([first, second], 2), whole)
    torch.testing.assert_close(block(x), block.convs[2](block.convs[0](x).tanh()))


def test_what_does_not_enter_as_sound_composes_on_the_clock():
    decoder = Two()
    decoder.compose(
        Conv1d(2, 2, 3, lookahead=1), ConvTranspose1d(2, 1, 480, 320, trim=160), rate=Fraction(1, 320)
    )
    assert (decoder.hop, decoder.rate, decoder.delay) == (320, 1, 320 + 160)


@pytest.mark.parametrize("lag", [0, 2])
def test_context_puts_neighbours_beside_frames(lag):
    context = Context(2, 1, (1,), fill=7.0)
    context.align(lag)
    assert (context.delay, context.latency) == (1, 2)
    x = torch.arange(1.0, 7.0)[None, None]
    entering = F.pad(x, (lag, 0), value=99.0)
    whole, end = context.step(entering, context.initial_state(1))
    expected = torch.cat([torch.full((3,), 7.0), torch.zeros(lag), x[0, 0]])
    assert torch.equal(whole[0, 0], expected)
    first, state = context.step(entering[:, :, :2], context.initial_state(1))
    second, again = context.step(entering[:, :, 2:], state)
    assert torch.equal(first[0, 0], expected[:5])
    assert torch.equal(second[0, 0], expected[2:])
    assert torch.equal(again["past"], end["past"])


def test_context_of_nothing_is_refused():
    with pytest.raises(ValueError, match="need one at least"):
        Context(0, 0, 1)


def test_gate_silences_what_is_before_the_signal():
    model = Sequential(Delay(3, 1), Bent(), Gate())
    y, _ = model.step(torch.ones(1, 1, 5), model.initial_state(1))
    assert y[0, 0, :3].eq(0).all()
    assert y[0, 0, 3:].ne(0).all()


def test_rows_of_one_batch_may_be_of_different_age():
    model = Sequential(Delay(3, 1), Bent(), Conv1d(1, 1, 3)).eval()
    x = torch.randn(1, 1, 12)
    whole, _ = model.step(x, model.initial_state(1))
    _, old = model.step(x[:, :, :5], model.initial_state(1))
    pairs = zip(flatten_state(old), flatten_state(model.initial_state(1)), strict=True)
    mixed = unflatten_state(old, [torch.cat([a, b]) for (_, a), (_, b) in pairs])
    y, _ = model.step(torch.cat([x[:, :, 5:9], x[:, :, :4]]), mixed)
    torch.testing.assert_close(y[0], whole[0, :, 5:9])
    torch.testing.assert_close(y[1], whole[0, :, :4])


def test_counters_are_integers():
    state = Sequential(Delay(1, 1), Conv1d(1, 1, 3)).initial_state(2)
    assert {name: t.dtype for name, t in flatten_state(state)}["1.seen"] == torch.int64


def test_state_functions():
    state = {"a": torch.ones(1), "b": (torch.zeros(2), {"c": torch.ones(3)}), "d": None}
    names = [name for name, _ in flatten_state(state)]
    assert names == ["a", "b.0", "b.1.c"]
    doubled = tree_map(lambda t: 2 * t, state)
    assert doubled["d"] is None
    assert torch.equal(doubled["b"][1]["c"], torch.full((3,), 2.0))
    back = unflatten_state(state, [t for _, t in flatten_state(state)])
    assert back["b"][1]["c"] is state["b"][1]["c"]
    with pytest.raises(ValueError, match="4 tensors"):
        unflatten_state(state, [torch.ones(1)] * 4)


class Two(StreamingModel):
    """A stream of half the rate beside the audio, a constant, two outputs of two rates."""

    name, hop = "two", 4
    inputs = (Port("audio"), Port("codes", rate=Fraction(1, 2)), Port("gain", "control", default=2.0))
    outputs = (Port("mixed"), Port("frames", rate=Fraction(1, 4)))

    def step(self, x, state, codes=None, gain=None):
        y = x * self.control("gain", gain, x)[:, None, None] + codes.repeat_interleave(2, 2)
        return (y, y[:, :, ::4]), state


def test_ports_of_other_rates_and_constants():
    x, codes = torch.randn(2, 1, 10), torch.randn(2, 1, 5)
    mixed, frames = Two()(x, codes=codes)
    torch.testing.assert_close(mixed, 2 * x + codes.repeat_interleave(2, 2))
    assert frames.shape == (2, 1, 3)
    louder, _ = Two()(x, codes=codes, gain=3.0)
    torch.testing.assert_close(louder - mixed, x)
    with pytest.raises(ValueError, match="no control 'level'"):
        Two().control("level", None, x)
