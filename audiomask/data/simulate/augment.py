"""Augment pairs of a corpus by Remix, BandMask, Shift and RevEcho of the Demucs denoiser.

They (Defossez, Synnaeve and Adi 2020, "Real Time Speech Enhancement in the Waveform Domain") act on clean
speech and on the noise of a recording, before the two are summed, in batches on the training device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from audiomask.data.example import Simulation
from audiomask.data.simulate.degrade import RowDraws, low_pass


def mel_hz(share: Tensor, sample_rate: int) -> Tensor:
    """Return the frequency at a fraction 0..1 of the mel scale to Nyquist (O'Shaughnessy 1987)."""
    top = math.log1p(sample_rate / 2 / 700)
    return 700 * torch.expm1(share * top)


def band_stop(x: Tensor, low_hz: Tensor, high_hz: Tensor, sample_rate: int) -> Tensor:
    """Return `x [B, K, T]` without the band between `low_hz [B]` and `high_hz [B]`."""
    n = 2 * x.shape[-1]
    gain = 1 + low_pass(low_hz, n, sample_rate, 50.0) - low_pass(high_hz, n, sample_rate, 50.0)
    return torch.fft.irfft(torch.fft.rfft(x, n) * gain[:, None], n)[..., : x.shape[-1]]


def echoes(
    gain: Tensor, first_s: Tensor, rt60_s: Tensor, jitter: Tensor, length: int, sample_rate: int
) -> Tensor:
    """Return impulse responses `[B, length]` of decaying echoes, without the direct sound.

    Echo n = 0, 1, ... comes about (n + 1) `first_s` after the sound, each step longer or shorter by a factor
    `1 + jitter [B, R, N]`, with gain `gain 10^(-3 n first_s / rt60_s)`, until it is 60 dB down, in R series.
    """
    n = torch.arange(jitter.shape[2], device=gain.device)
    late = (first_s[:, None, None] * (1 + jitter)).cumsum(2) * sample_rate
    decay = 10 ** (-3 * n * (first_s / rt60_s)[:, None])  # [B, N]
    amount = torch.where(decay >= 1e-3, gain[:, None] * decay, 0.0)[:, None].expand_as(jitter)
    at = late.round().long()
    amount = torch.where(at < length, amount, 0.0)
    h = torch.zeros(len(gain), length, device=gain.device)
    return h.scatter_add(1, at.clamp(max=length - 1).flatten(1), amount.flatten(1))


class Augment(Simulation):
    """Augments the pairs of `data.modules.PairedSpeech` in the authors' order, not by `Degrade`.

    Unlike the authors, who draw one band and one set of echoes for a batch, it draws them for each row.

    Args:
        sample_rate, segment: See `Simulation`.
        remix: Chance that the noises of a batch are dealt out anew among its rows.
        band_mask: Greatest fraction of the 120 mel bands that is cut out (published: .2; 0: none).
        shift: Samples by which the start of a row moves, drawn from 0..shift (published: 8000).
        revecho: Chance that a row echoes (published: .5).
        echo_gain, first_ms, rt60_s: Gain and delay of the first echo; seconds to fall by 60 dB.
        repeats, jitter: Number of series of echoes, and jitter of their delays.
        keep_clean: Fraction of the speech's echoes that the target keeps.
    """

    bands = 120

    def __init__(
        self,
        sample_rate: int | None = None,
        segment: int | None = None,
        remix: float = 1.0,
        band_mask: float = 0.0,
        shift: int = 0,
        revecho: float = 0.0,
        echo_gain: tuple[float, float] = (0.0, 0.3),
        rt60_s: tuple[float, float] = (0.3, 1.3),
        first_ms: tuple[float, float] = (10.0, 30.0),
        repeats: int = 3,
        jitter: float = 0.1,
        keep_clean: float = 0.1,
    ):
        super().__init__(sample_rate, segment)
        self.remix, self.band_mask, self.shift, self.revecho = remix, band_mask, shift, revecho
        self.echo_gain, self.rt60_s, self.first_ms = echo_gain, rt60_s, first_ms
        self.repeats, self.jitter, self.keep_clean = repeats, jitter, keep_clean

    @property
    def crop(self) -> int:
        return self.segment + self.shift

    def forward(self, speech: Tensor, noise: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return noisy and clean `[B, segment]` of `speech [B, L]`, `noise [B, 1, L]`, L >= `crop`."""
        if noise.shape[1] != 1 or speech.shape[1] < self.crop:
            raise ValueError(
                f"speech {tuple(speech.shape)} and noise {tuple(noise.shape)}: pairs need one noise a row "
                f"and {self.crop} samples (segment + shift)"
            )
        draws = RowDraws(seeds, 8, speech.device)
        noise = noise[:, 0]
        if self.remix:
            g = torch.Generator().manual_seed(int(seeds[0]) % 2**63)
            order = torch.randperm(len(noise), generator=g).to(noise.device)
            if float(torch.rand((), generator=g)) < self.remix:
                noise = noise[order]
        x = torch.stack([speech, noise], 1)  # [B, 2, L]
        if self.band_mask:
            low = draws.uniform(0, self.bands).floor()
            high = (low + draws.uniform(0, self.band_mask * self.bands).floor()).clamp(max=self.bands)
            low, high = (mel_hz(edge / self.bands, self.sample_rate) for edge in (low, high))
            x = band_stop(x, low, high, self.sample_rate)
        if self.shift:
            start = draws.uniform(0, self.shift + 1).long().clamp(max=self.shift)
            at = start[:, None] + torch.arange(self.segment, device=x.device)
            x = x.gather(2, at[:, None].expand(-1, 2, -1))
        x = x[:, :, : self.segment]
        if self.revecho:
            x = torch.where(draws.chance(self.revecho)[:, None, None], self._echoed(x, draws), x)
        clean, noise = x.unbind(1)
        return clean + noise, clean

    def _echoed(self, x: Tensor, draws: RowDraws) -> Tensor:
        n = x.shape[2]
        gain, rt60 = draws.uniform(*self.echo_gain), draws.uniform(*self.rt60_s)
        first = draws.uniform(*self.first_ms) / 1000
        most = math.ceil(1000 * self.rt60_s[1] / self.first_ms[0])
        jitter = draws.rows(torch.rand, self.repeats * most).unflatten(1, (self.repeats, most))
        h = echoes(gain, first, rt60, self.jitter * (2 * jitter - 1), n, self.sample_rate)
        echo = torch.fft.irfft(torch.fft.rfft(x, 2 * n) * torch.fft.rfft(h, 2 * n)[:, None], 2 * n)[..., :n]
        of_speech, of_noise = echo.unbind(1)
        kept = torch.stack([self.keep_clean * of_speech, (1 - self.keep_clean) * of_speech + of_noise], 1)
        return x + kept
