"""The contract's tests are tested: a block made wrong in each way fails the clause that is there to find
it.
"""

import pytest
import torch
from contract import (
    as_model,
    delay_is_composed,
    forward_is_step_flushed_and_trimmed,
    future_never_changes_the_past,
    gradients_flow,
    onnx_equals_torch,
    output_is_aligned_with_input,
    random_chunking_equals_whole,
    restored_state_continues_identically,
    rows_are_independent,
)
from torch import nn

from audiomask.frontend.stft import Analysis, Synthesis
from audiomask.nn.conv import Conv1d
from audiomask.nn.recurrent import GRU
from audiomask.streaming import Residual, Sequential, Steps, StreamingModel


def residual():
    """x + a small network that looks ahead 3 frames."""
    torch.manual_seed(0)
    block = Residual(Conv1d(2, 2, 7, lookahead=3), nn.Tanh(), shape=2)
    with torch.no_grad():
        block.branches[1][0].weight.mul_(0.1)
    return block


def stft():
    return Sequential(Analysis(64, 32), Synthesis(64, 32))


@pytest.mark.parametrize(("block", "shape"), [(residual, (2,)), (stft, (1,))])
def test_sound_blocks_are_aligned(block, shape):
    output_is_aligned_with_input(as_model(block(), shape))


def test_a_dropped_delay_is_found():
    block = residual()
    block.delays[0].frames = 0  # the dry path no longer waits for the branch
    with pytest.raises(AssertionError, match="3 frames early"):
        output_is_aligned_with_input(as_model(block, (2,)))


def test_a_delay_that_is_not_declared_is_found():
    block = stft()
    block.delay = 0
    with pytest.raises(AssertionError, match="32 frames late"):
        output_is_aligned_with_input(as_model(block, (1,)))


class Echo(StreamingModel):
    """The input after a transform and back."""

    def __init__(self):
        super().__init__()
        self.analysis, self.synthesis = Analysis(64, 32), Synthesis(64, 32)
        self.compose(self.analysis, self.synthesis)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        return step("synthesis", step("analysis", x)), step.states


def test_a_composed_delay_is_aligned():
    delay_is_composed(Echo())
    output_is_aligned_with_input(Echo())


def test_a_delay_that_is_typed_in_is_found():
    class Typed(StreamingModel):
        hop = delay = 32

    with pytest.raises(AssertionError, match="comes from no blocks"):
        delay_is_composed(Typed())


@pytest.mark.parametrize("name", ["hop", "delay"])
def test_a_composed_delay_that_is_changed_is_found(name):
    model = Echo()
    setattr(model, name, 64)
    with pytest.raises(AssertionError, match=r"those of the blocks \(32, 32\)"):
        delay_is_composed(model)


class Peeking(Conv1d):
    """Reads one frame of the future, where the step that it runs in has one."""

    def step(self, x, state, **controls):
        y, state = super().step(x, state)
        return y + 0.1 * torch.roll(y, -1, 2), state


class PeekingInHop(Analysis):
    """A framing that is one sample late in the hop: only changes at some phases show it."""

    def step(self, x, state, **controls):
        return super().step(torch.roll(x, -1, 2), state)


class Forgetful(GRU):
    """Starts every step afresh."""

    def step(self, x, state, **controls):
        return super().step(x, self.initial_state(x.shape[0]))


class Hoarding(Conv1d):
    """Remembers on itself."""

    last = 0.0

    def step(self, x, state, **controls):
        y, state = super().step(x, state)
        y, self.last = y + self.last, y[:, :, -1:]
        return y, state


class Overwriting(Conv1d):
    """Changes the state that it was given."""

    def step(self, x, state, **controls):
        y, after = super().step(x, state)
        state["past"].zero_()
        return y, after


class Mixing(Conv1d):
    """Normalises by the batch."""

    def step(self, x, state, **controls):
        y, state = super().step(x, state)
        return y - y.mean(0, keepdim=True), state


class Detached(Conv1d):
    """Lets no gradient through."""

    def step(self, x, state, **controls):
        return super().step(x.detach(), state)


class Double(nn.Module):
    """Computes something else when exported."""

    def forward(self, x):
        return x * (1.001 if torch.compiler.is_exporting() else 1.0)


@pytest.mark.parametrize(
    ("make", "promise", "words"),
    [
        (lambda: Peeking(2, 2, 3), future_never_changes_the_past, "the future shows in the past"),
        (lambda: Peeking(2, 2, 3), random_chunking_equals_whole, "random chunking"),
        (lambda: PeekingInHop(16, 8, "hann"), future_never_changes_the_past, r"at phases \[0\]"),
        (lambda: Forgetful(2, 3), random_chunking_equals_whole, "random chunking"),
        (lambda: Hoarding(2, 2, 3), restored_state_continues_identically, "restored state"),
        (lambda: Overwriting(2, 2, 3), restored_state_continues_identically, "step changed its input"),
        (lambda: Mixing(2, 2, 3), rows_are_independent, "alone"),
        (lambda: Detached(2, 2, 3), gradients_flow, "no gradient reaches the input"),
        (lambda: Sequential(Double()), onnx_equals_torch, "ONNX Runtime differs from torch in output"),
    ],
)
def test_a_broken_promise_is_found(make, promise, words):
    block = make()
    with pytest.raises(AssertionError, match=words):
        promise(as_model(block, (1,) if isinstance(block, Analysis) else (2,)))


def test_a_wrong_length_is_found():
    class Short(type(as_model(Conv1d(2, 2, 3), (2,)))):
        def forward(self, x, **inputs):
            return super().forward(x, **inputs)[:, :, 1:]

    with pytest.raises(AssertionError, match="for"):
        forward_is_step_flushed_and_trimmed(Short(Conv1d(2, 2, 3), (2,)))
