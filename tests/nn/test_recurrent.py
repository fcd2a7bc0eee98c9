"""Recurrent layers against torch's own, and in ONNX Runtime at other sizes than the example's."""

import pytest
import torch
from torch import nn

from audiomask.export import graph, proof
from audiomask.nn.recurrent import GRU, LSTM, PlainGRU, PlainLSTM, _onnx_module, _TrainedGRU
from audiomask.streaming import Delay, Port, Sequential, StreamingModel

PAIRS = [(GRU, nn.GRU), (LSTM, nn.LSTM)]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("bias", [True, False])
def test_loads_and_equals_torch(ours, theirs, bias):
    reference = theirs(4, 5, 2, bias=bias, batch_first=True)
    model = ours(4, 5, 2, bias=bias)
    model.load_state_dict(reference.state_dict())
    x = torch.randn(3, 4, 11)
    torch.testing.assert_close(model(x), reference(x.transpose(1, 2))[0].transpose(1, 2))


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_dropout_lies_between_layers_and_in_training_only(ours, theirs):
    reference = theirs(4, 5, 2, dropout=0.5, batch_first=True)
    one, two = ours(4, 5, 1, dropout=0.5), ours(4, 5, 2, dropout=0.5)
    two.load_state_dict(reference.state_dict())
    x = torch.randn(3, 4, 11)
    assert torch.equal(one(x), one(x))
    assert not torch.equal(two(x), two(x))
    torch.testing.assert_close(two.eval()(x), reference.eval()(x.transpose(1, 2))[0].transpose(1, 2))


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_frames_before_the_signal_leave_the_state_alone(ours, theirs):
    reference = theirs(4, 5, 2, batch_first=True)
    model = ours(4, 5, 2)
    model.load_state_dict(reference.state_dict())
    late = Sequential(Delay(3, 4), nn.Softsign(), model)
    x = torch.randn(3, 4, 11)
    expected = reference(nn.Softsign()(x).transpose(1, 2))[0].transpose(1, 2)
    torch.testing.assert_close(late(x), expected)


def test_bands_share_weights_and_keep_their_own_state():
    model, single = GRU(2, 3, freqs=4), GRU(2, 3)
    single.load_state_dict(model.state_dict())
    x = torch.randn(2, 2, 6, 4)
    torch.testing.assert_close(model(x), torch.stack([single(x[..., f]) for f in range(4)], 3))


@pytest.mark.parametrize(("ours", "theirs"), [(PlainGRU, nn.GRU), (PlainLSTM, nn.LSTM)])
def test_plain_layers_are_torch_layers(ours, theirs):
    model, reference = ours(4, 5, 2, bidirectional=True), theirs(4, 5, 2, bidirectional=True)
    model.load_state_dict(reference.state_dict())
    x = torch.randn(7, 3, 4)
    torch.testing.assert_close(model(x)[0], reference(x)[0])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_training_on_a_cpu_has_the_gradients_of_torch(bias, dtype, tolerance):
    """Two layers in both directions, with a state in and out."""
    torch.manual_seed(0)
    reference = nn.GRU(5, 4, 2, bias=bias, bidirectional=True).to(dtype)
    model = PlainGRU(5, 4, 2, bias=bias, bidirectional=True).to(dtype)
    model.load_state_dict(reference.state_dict())
    x, h = torch.randn(7, 3, 5, dtype=dtype), torch.randn(4, 3, 4, dtype=dtype)
    found = []
    for gru in (model, reference):
        inputs = [x.clone().requires_grad_(), h.clone().requires_grad_()]
        y, end = gru(*inputs)
        (y.sin().sum() + end.square().sum()).backward()
        found.append([y, end, *(value.grad for value in (*inputs, *gru.parameters()))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_the_written_out_gradient_is_that_of_the_layer():
    torch.manual_seed(0)
    shapes = ((4, 2, 3), (2, 5), (15, 3), (15, 5), (15,), (15,))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(_TrainedGRU.apply, inputs)


class AcrossFrequency(StreamingModel):
    """Bidirectional layers over the frequencies of a frame, frames as rows, and one over time with its own
    state.
    """

    name = "across"
    inputs, outputs = (Port("audio", channels=6),), (Port("output"),)

    def __init__(self):
        super().__init__()
        self.gru = PlainGRU(1, 4, 2, bidirectional=True)
        self.lstm = PlainLSTM(8, 3, bidirectional=True)
        self.time = PlainGRU(36, 5)

    def initial_state(self, batch, device=None, dtype=torch.float32):
        return torch.zeros(batch, 5, device=device, dtype=dtype)

    def step(self, x, state, **controls):
        batch, bins, frames = x.shape
        y = x.permute(1, 0, 2).reshape(bins, batch * frames, 1)
        y = self.lstm(self.gru(y)[0])[0]  # [F, B T, 6]
        y = y.permute(1, 0, 2).reshape(batch, frames, bins * 6).transpose(0, 1)
        y, h = self.time(y, state[None])
        return y.permute(1, 2, 0), h[0]


def test_plain_layers_export_at_any_size():
    model = AcrossFrequency().eval()
    differences = proof.compare(model, graph.to_bytes(graph.build(model)))
    assert max(differences.values()) < 1e-5, differences


def test_export_refuses_what_the_operator_cannot_do():
    with pytest.raises(ValueError, match="time-first"):
        _onnx_module(nn.GRU(2, 2, batch_first=True), torch.zeros(1, 1, 2), [torch.zeros(1, 1, 2)])


@pytest.mark.parametrize(("layer", "name"), [(LSTM, "lstm"), (GRU, "gru")])
def test_gradients_are_asked_for_as_cudnn_needs_it(layer, name, monkeypatch):
    """In evaluation mode too: a codec that attacks a mark is not trained, and gradients go through it."""
    asked, own = [], getattr(torch, name)
    monkeypatch.setattr(torch, name, lambda *given: (asked.append(given[6]), own(*given))[1])
    block, x = layer(2, 3).eval().to(torch.bfloat16), torch.randn(1, 2, 4).to(torch.bfloat16)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            block.step(x, block.initial_state(1, dtype=torch.bfloat16))
    assert asked == [True, False]
