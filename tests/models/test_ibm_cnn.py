"""Each bin is voice or not, as a CNN trained by the ideal binary mask tells."""

import contract
import pytest
import torch
import torch.nn.functional as F

from audiomask.models.ibm_cnn import IBMCNN, Classifier

TINY = {
    "frames": 3, "widths": (3, 2), "kernel": (3, 4), "pool": 4, "dense": (6,), "size": 32, "hop_length": 8,
    "fft": 64, "sample_rate": 16000,
}  # fmt: skip


def tiny(**changes) -> IBMCNN:
    torch.manual_seed(0)
    return IBMCNN(**{**TINY, **changes}).eval()


def test_size_is_the_published_one():
    assert sum(
        p.numel() for p in Classifier(9, 2049, (32, 16, 64, 32), (3, 12), 12, (2048, 512)).parameters()
    ) == (19_489_049)


@pytest.mark.parametrize(
    "promise", [f for f in contract.CONTRACT if f is not contract.onnx_equals_torch], ids=lambda f: f.__name__
)
def test_contract(promise):
    promise(tiny())


def test_delay_is_that_of_transform_and_context():
    assert (tiny().hop, tiny().delay) == (8, 64 - 8 + 8)


@torch.no_grad()
def test_stems_sum_to_the_mixture_and_thresholds_take_away():
    x = torch.randn(2, 1, 500)
    torch.testing.assert_close(sum(tiny()(x)), x, rtol=0, atol=1e-5)
    none = tiny(threshold=1.1)(x)
    assert all(y.abs().max() == 0 for y in none)


@torch.no_grad()
def test_the_middle_frame_is_taken_of_frames_that_the_network_sees_alone():
    """What the stream makes is what the classifier says of each run of frames, cut out by hand."""
    model = tiny()
    x = torch.randn(1, 1, 400)
    seen = model.features(model.analysis(x))
    got = model.net(seen)
    around = F.pad(seen[:, 0], (0, 0, 1, 1)).unfold(1, 3, 1)[0].transpose(1, 2)
    torch.testing.assert_close(got[0, 0], model.net.classifier(around)[:, 1].sigmoid(), rtol=0, atol=1e-6)


@torch.no_grad()
def test_layers_pad_as_the_authors_do():
    """`SAME` of TensorFlow: as many outputs as inputs, or a twelfth; the odd zero comes last."""
    model = Classifier(3, 25, (1, 1), (1, 12), 12, ())
    for conv in model.convs:
        conv.weight.fill_(0.0)
        conv.weight[..., 0] = 1.0  # reads 5 bins before
        conv.bias.zero_()
    model.dense[0].weight.zero_()
    model.dense[0].weight[:9, :9] = torch.eye(9)
    model.dense[0].bias.zero_()
    x = torch.zeros(1, 3, 25)
    x[0, 1, 1] = 1.0  # at 11 after two convolutions; 36 - 25 = 11: 5 zeros before, so in the second of 3
    assert model(x).flatten()[:9].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_target_is_the_ideal_binary_mask():
    model = tiny()
    x, voice = torch.randn(1, 1, 400), torch.randn(1, 1, 400)
    spectra = [model.analysis(s) for s in (voice, x - voice)]
    ideal = (spectra[0].square().sum(1) > spectra[1].square().sum(1)).float()
    with torch.no_grad():
        model.net.classifier.dense[-1].weight.zero_()
        model.net.classifier.dense[-1].bias.fill_(2.0)
    frames = 1 + 2 * ((ideal.shape[1] - 3) // 2) + 2
    share = torch.cat([ideal[:, i : i + 3] for i in range(0, frames - 2, 2)], 1).mean()
    target = 0.02 + 0.96 * share
    want = -target * F.logsigmoid(torch.tensor(2.0)) - (1 - target) * F.logsigmoid(torch.tensor(-2.0))
    torch.testing.assert_close(model.cross_entropy(x, voice), want, rtol=1e-5, atol=0)
    assert model.cross_entropy(x, voice, reconstruct=True) > model.cross_entropy(x, voice)  # little is voice


def test_it_learns_a_tone_from_noise():
    torch.manual_seed(0)
    model = tiny().train()
    voice = 0.5 * torch.sin(2 * torch.pi * 2000 / 16000 * torch.arange(2000.0))[None, None]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    values = []
    for _ in range(150):
        loss = model.cross_entropy(voice + 0.1 * torch.randn(1, 1, 2000), voice)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.5 * values[0]
    model.eval()
    noise = 0.1 * torch.randn(1, 1, 2000)
    with torch.no_grad():
        sung, _ = model(voice + noise)
    assert (sung - voice).square().mean() < 0.5 * noise.square().mean()


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"frames": 4}, "no middle"), ({"stems": ("vocals",)}, "want two"), ({"size": 128}, "hop <= window")],
)
def test_sizes_that_cannot_be_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        tiny(**changes)
