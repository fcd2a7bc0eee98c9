"""EnCodec's losses are the published ones: discriminators of either number of scales, mel spectrograms."""

import pytest
import torch

from audiomask.losses import Adversary, MelSpectrogramLoss, STFTDiscriminator

SCALES = {3: (1024, 2048, 512), 5: (2048, 1024, 512, 256, 128)}


@pytest.mark.parametrize(("scales", "size"), [(3, 283_398), (5, 472_330)])
def test_published_sizes(scales, size):
    assert sum(p.numel() for fft in SCALES[scales] for p in STFTDiscriminator(fft).parameters()) == size


@pytest.mark.peer
@pytest.mark.parametrize("scales", SCALES)
@torch.no_grad()
def test_scores_and_features_equal_the_package(scales):
    import audiomask.frontend.torchaudio_import  # noqa: F401 (the package imports torchaudio)

    peers = pytest.importorskip("encodec.msstftd")
    torch.manual_seed(0)
    sizes, slope = list(SCALES[scales]), 0.2 if scales == 3 else 0.3
    peer = peers.MultiScaleSTFTDiscriminator(
        32, n_ffts=sizes, win_lengths=sizes, hop_lengths=[n // 4 for n in sizes],
        activation_params={"negative_slope": slope},
    )  # fmt: skip
    x = torch.randn(2, 1, 5001)
    want_scores, want_layers = peer(x)
    for fft, network, want, layers in zip(sizes, peer.discriminators, want_scores, want_layers, strict=True):
        ours = STFTDiscriminator(fft, slope=slope)
        state = {}
        for key, value in network.state_dict().items():
            key = key.replace("convs.", "layers.").replace("conv_post", "last").replace(".conv.", ".")
            key = key.replace("weight_g", "parametrizations.weight.original0")
            state[key.replace("weight_v", "parametrizations.weight.original1")] = value
        state.pop("spec_transform.window")
        ours.load_state_dict(state)
        scores, outputs = ours(x)
        for mine, theirs in zip([scores, *outputs], [want, *layers], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_stereo_and_the_shortest_sound():
    network = STFTDiscriminator(128, 4, signals=2)
    scores, outputs = network(torch.randn(3, 2, network.least))
    assert scores.shape[:3] == (3, 1, 1)
    assert len(outputs) == 5


def test_features_of_audiocraft_are_not_divided_by_their_size():
    torch.manual_seed(0)
    y, x = torch.randn(2, 1, 2000, requires_grad=True), torch.randn(2, 1, 2000)
    network = STFTDiscriminator(256, 4)
    pairs = list(zip(network(x)[1], network(y)[1], strict=True))
    taught, _ = Adversary([network], "hinge", "all", 1.0, 0, lr=0.0, segment=0, relative=False)(y, x)
    plain = torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()
    torch.testing.assert_close(taught["features"], plain)


@pytest.mark.parametrize("rising", [False, True])
def test_mel_spectrograms_equal_the_published_formula(rising):
    from audiomask.frontend.torchaudio_import import torchaudio

    torch.manual_seed(0)
    est, ref = 0.1 * torch.randn(2, 2, 4001)
    total, weights = 0.0, 0.0
    for n in (32, 512):
        transform = torchaudio.transforms.MelSpectrogram(
            24000, n, n, n // 4, f_min=64.0, n_mels=64, normalized=True, center=False
        )

        def bands(x, n=n, transform=transform):
            beside = (n - n // 4) // 2
            x = torch.nn.functional.pad(x[:, None], (beside, beside), mode="reflect")
            extra = -(x.shape[2] - n) % (n // 4)
            return transform(torch.nn.functional.pad(x, (0, extra)))

        a, b = bands(est), bands(ref)
        assert a.shape[3] == -(4001 // -(n // 4))
        alpha = (n - 1) ** 0.5 if rising else 1.0
        total = total + (a - b).abs().mean()
        total = total + alpha * ((1e-5 + a).log10() - (1e-5 + b).log10()).square().mean()
        weights += 1 + alpha
    ours = MelSpectrogramLoss(24000, (32, 512), rising=rising)
    torch.testing.assert_close(ours(est, ref), total / weights, rtol=1e-4, atol=0)


def test_the_mel_loss_of_silence_has_a_gradient():
    est = torch.zeros(1, 4000, requires_grad=True)
    MelSpectrogramLoss(24000)(est, 0.1 * torch.randn(1, 4000)).backward()
    assert est.grad.isfinite().all()
    with pytest.raises(ValueError, match="multiples of 4"):
        MelSpectrogramLoss(24000, (33,))


def test_channels_may_be_judged_each_by_itself():
    """EnCodec's discriminators are mono at 48 kHz too."""
    network = STFTDiscriminator(128, 4)
    x = torch.randn(3, 2, 500)
    scores, layers = network(x)
    assert scores.shape[:2] == (3, 2)
    for channel in (0, 1):
        alone, own = network(x[:, channel : channel + 1])
        torch.testing.assert_close(scores[:, channel], alone[:, 0])
        torch.testing.assert_close(layers[-1].unflatten(0, (3, 2))[:, channel], own[-1])
    y = torch.randn(3, 2, 500, requires_grad=True)
    where = torch.ones(3, 500)
    taught, _ = Adversary([network], "hinge", "all", 1.0, 0, segment=0)(y, x, where)
    assert taught["adversarial"].isfinite()
