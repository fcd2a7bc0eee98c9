"""The perceptual loss against package pesq, which is the standard's own code, and its gradient."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from pesq import pesq
from scipy.signal import butter, sosfilt

from audiomask.losses import PESQLoss, pesq_disturbance

DEMO = Path(__file__).parents[2] / "egs/mini/denoise/corpus/demo"


def pesq_wb(est, ref):
    """The score of the disturbances on the scale of P.862.2, as package `pesq` gives it."""
    symmetric, asymmetric = pesq_disturbance(est, ref)
    raw = 4.5 - 0.1 * symmetric - 0.0309 * asymmetric
    return 0.999 + 4 / (1 + torch.exp(-1.3669 * raw + 3.8224))


def speech(seconds: float = 4.0) -> np.ndarray:
    x, rate = sf.read(DEMO / "mixture_clean.flac", dtype="float32")
    assert rate == 16000
    return x[: round(seconds * rate)]


def spoilt(clean: np.ndarray) -> dict[str, np.ndarray]:
    """The kinds of fault that a denoiser leaves: noise, colour, holes, overload."""
    rng = np.random.default_rng(0)
    white = rng.standard_normal(len(clean)).astype(np.float32)
    brown = sosfilt(butter(2, 600, fs=16000, output="sos"), white).astype(np.float32)
    level = clean.std()
    faults = {}
    for name, noise in (("white", white), ("brown", brown)):
        for snr in (0, 8, 16, 24, 35):
            faults[f"{name} {snr} dB"] = clean + noise * (level / noise.std() * 10 ** (-snr / 20))
    faults["low pass"] = sosfilt(butter(4, 2500, fs=16000, output="sos"), clean).astype(np.float32)
    faults["clipped"] = clean.clip(-level, level)
    gated = clean.copy()
    for at in range(8000, len(clean), 16000):
        gated[at : at + 800] *= 0.05
    faults["holes"] = gated
    return faults


def test_scores_go_with_the_standard():
    clean = speech()
    faults = spoilt(clean)
    theirs = np.array([pesq(16000, clean, x, "wb") for x in faults.values()])
    ref = torch.from_numpy(clean).expand(len(faults), -1)
    ours = pesq_wb(torch.from_numpy(np.stack(list(faults.values()))), ref).numpy()
    apart = {k: round(float(o - t), 2) for k, o, t in zip(faults, ours, theirs, strict=True)}
    assert theirs.max() > 3.5, "the faults have to span the scale"
    assert theirs.min() < 1.3, "likewise"
    assert np.corrcoef(ours, theirs)[0, 1] > 0.98, apart
    assert np.abs(ours - theirs).mean() < 0.15, apart


def test_what_is_equal_has_no_disturbance_and_level_does_not_count():
    clean = torch.from_numpy(speech(2.0))[None]
    assert PESQLoss()(clean, clean) < 1e-3
    assert float(pesq_wb(0.1 * clean, clean)) == pytest.approx(4.64, abs=0.01)
    noisy = clean + 0.01 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pesq_wb(3 * noisy, clean), pesq_wb(noisy, clean), atol=1e-3, rtol=0)


def test_the_asymmetric_part_counts_what_was_added():
    clean = torch.from_numpy(speech(2.0))[None]
    noise = 0.003 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    _, added = pesq_disturbance(clean + noise, clean)
    _, removed = pesq_disturbance(clean, clean + noise)
    assert added > 2 * removed


def test_following_the_gradient_raises_the_score_of_the_standard():
    clean = speech(3.0)
    noisy = spoilt(clean)["white 16 dB"]
    ref, x = torch.tensor(clean)[None], torch.tensor(noisy)[None].requires_grad_()
    loss, optimizer = PESQLoss(), torch.optim.Adam([x], 4e-4)
    for _ in range(50):
        optimizer.zero_grad()
        loss(x, ref).backward()
        optimizer.step()
    before = pesq(16000, clean, noisy, "wb")
    assert pesq(16000, clean, x.detach()[0].numpy(), "wb") > before + 0.3


@pytest.mark.parametrize("est", ["zero", "equal", "noise"])
@pytest.mark.parametrize("ref", ["zero", "speech"])
def test_gradient_is_finite(est, ref):
    torch.manual_seed(0)
    clean = torch.from_numpy(speech(1.0))[None] * (ref == "speech")
    x = {"zero": torch.zeros_like(clean), "equal": clean.clone(), "noise": torch.randn(clean.shape)}[est]
    x.requires_grad_()
    loss = PESQLoss()(x, clean)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    if ref == "zero":  # nothing to judge by
        assert loss == 0


def test_the_mean_of_rows_in_float32_whatever_autocast_says():
    torch.manual_seed(0)
    clean = torch.from_numpy(speech(1.0)).expand(2, -1)
    noisy = clean + torch.tensor([[0.01], [0.03]]) * torch.randn(clean.shape)
    with torch.autocast("cpu", torch.bfloat16):
        got = PESQLoss()(noisy[:, None], clean[:, None])
    torch.testing.assert_close(got, (PESQLoss()(noisy[:1], clean[:1]) + PESQLoss()(noisy[1:], clean[1:])) / 2)


def test_too_short():
    with pytest.raises(ValueError, match=r"511 samples.*512"):
        PESQLoss()(torch.zeros(1, 511), torch.zeros(1, 511))
