"""DAC's losses are the published ones: discriminators of periods and of bands, logarithms of mel bands."""

import re

import pytest
import torch

from audiomask.losses import Adversary, BandDiscriminator, LogMelLoss, PeriodDiscriminator


def test_published_sizes():
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in network.parameters())
            for network in (PeriodDiscriminator(2), BandDiscriminator(512))
        ]
    assert sizes == [8_221_154, 471_330]


@pytest.fixture(scope="module")
def package():
    import audiomask.frontend.torchaudio_import  # noqa: F401 (the package imports torchaudio)

    return pytest.importorskip("dac", exc_type=ImportError)


@pytest.mark.peer
@torch.no_grad()
def test_scores_and_features_equal_the_package(package):
    torch.manual_seed(0)
    peers = package.model.Discriminator(periods=[2, 3], fft_sizes=[512, 128])
    x = 0.3 * torch.randn(2, 1, 2003) + 0.1
    every = peers(x)
    ours = [PeriodDiscriminator(2), PeriodDiscriminator(3), BandDiscriminator(512), BandDiscriminator(128)]
    for mine, peer, want in zip(ours, peers.discriminators, every, strict=True):
        state = {}
        for key, value in peer.state_dict().items():
            key = (
                key.replace("band_convs.", "bands.").replace("convs.", "layers.").replace("conv_post", "last")
            )
            key = re.sub(r"(layers\.\d|bands\.\d\.\d)\.0\.", r"\1.", key)
            key = key.replace("weight_g", "parametrizations.weight.original0")
            state[key.replace("weight_v", "parametrizations.weight.original1")] = value
        mine.load_state_dict(state)
        scores, outputs = mine(x)
        for a, b in zip([*outputs, scores], want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


@pytest.mark.peer
@torch.no_grad()
def test_the_mel_loss_equals_the_package(package):
    from audiotools import AudioSignal

    torch.manual_seed(0)
    windows = [32, 64, 128, 256, 512, 1024, 2048]
    peer = package.nn.loss.MelSpectrogramLoss(
        n_mels=[5 * n // 32 for n in windows], window_lengths=windows, mel_fmin=[0] * 7, mel_fmax=[None] * 7,
        pow=1.0, clamp_eps=1e-5, mag_weight=0.0,
    )  # fmt: skip
    est, ref = 0.1 * torch.randn(2, 2, 1, 5003)
    want = peer(AudioSignal(est, 44100), AudioSignal(ref, 44100))
    torch.testing.assert_close(LogMelLoss(44100)(est, ref), want, rtol=1e-4, atol=0)


def test_log_mels_of_tones_of_a_tenth_differ_by_one():
    """In every window, where both are above the floor."""
    x = torch.sin(torch.arange(8000) * 0.3)[None] + 0.1 * torch.randn(1, 8000)
    loss = LogMelLoss(16000, (64, 512))
    torch.testing.assert_close(loss(0.1 * x, x), torch.tensor(2.0), rtol=0, atol=0.05)
    assert loss(x, x) == 0
    est = torch.zeros(1, 4000, requires_grad=True)
    loss(est, x[:, :4000]).backward()
    assert est.grad.isfinite().all()
    with pytest.raises(ValueError, match="powers of 2"):
        LogMelLoss(16000, (48,))


def test_the_shortest_sound_and_a_step_of_training():
    torch.manual_seed(0)
    networks = [PeriodDiscriminator(3, (4, 8)), BandDiscriminator(128, 4)]
    for network in networks:
        network(torch.randn(3, 1, network.least + 1))
        scores, outputs = network(torch.randn(3, 1, network.least))
        assert scores.shape[:2] == (3, 1)
        assert len(outputs) in (2, 25)
    adversary = Adversary(networks, "least_squares", "all", 1.0, 0, lr=1e-3, segment=0, relative=False)
    y, x = torch.randn(2, 1, 1000, requires_grad=True), torch.randn(2, 1, 1000)
    taught, parts = adversary(y, x)
    (taught["adversarial"] + taught["features"]).backward()
    assert y.grad.isfinite().all()
    assert y.grad.any()
    assert parts["discriminator"] > 0
