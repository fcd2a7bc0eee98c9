"""Compute Audio-MAE's input: a clip as a normalised log-mel spectrogram of a fixed length.

It is Kaldi's fbank as Audio-MAE computes it (Huang et al. 2022): 16 kHz mono, the mean of the whole clip
removed, Hann windows of 25 ms every 10 ms, 128 mel bands, no dither; then (x - mean) / (2 std), with
constants of the corpus. Frames past the end are zeros before that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiomask.audio import AudioError
from audiomask.frontend.fbank import Fbank

# mean and standard deviation of the log-mel values of a corpus, as Audio-MAE's authors give them
CORPORA = {
    "audioset": (-4.2677393, 4.5689974),
    "esc": (-6.6268077, 5.358466),
    "speechcommands": (-6.845978, 5.5654526),
}


class LogMel(nn.Module):
    """Turns whole clips `[B, T]` at full scale 1.0 into `[B, frames, bands]`, always in float32.

    Args:
        corpus: Name of the corpus whose constants normalise (see `CORPORA`).
        mean, std: Constants in place of those.
        frames: Length that every clip is cut or padded to, a multiple of `patch`; 0: each batch is padded to
            whole patches.
        patch, bands, sample_rate: Frames of a patch, number of mel bands, and rate in Hz.
    """

    def __init__(
        self,
        corpus: str = "audioset",
        frames: int = 1024,
        patch: int = 16,
        bands: int = 128,
        sample_rate: int = 16000,
        mean: float | None = None,
        std: float | None = None,
    ) -> None:
        super().__init__()
        if corpus not in CORPORA:
            raise AudioError(f"no constants for the corpus {corpus!r}; there are {', '.join(CORPORA)}")
        if frames % patch or frames < 0:
            raise AudioError(f"frames {frames} is not a multiple of the patch, {patch}")
        known_mean, known_std = CORPORA[corpus]
        self.mean = known_mean if mean is None else mean
        self.std = known_std if std is None else std
        if self.std <= 0:
            raise AudioError(f"std is {self.std}; it divides, so it must be above 0")
        self.frames, self.patch, self.bands, self.sample_rate = frames, patch, bands, sample_rate
        self.fbank = Fbank(sample_rate, bands, window="hann", scale=1.0)

    def raw(self, x: Tensor) -> Tensor:
        """Return frames `[B, n, bands]` within the clip `x [B, T]`, not padded and not normalised.

        AudioError for a clip shorter than one frame.
        """
        count = self.fbank.complete(x.shape[-1])
        if not count:
            raise AudioError(
                f"a clip of {x.shape[-1]} samples is shorter than one frame of {self.fbank.length}; "
                "leave it out, or pad it with silence"
            )
        x = x.float()
        x = x - x.mean(-1, keepdim=True)
        with torch.autocast(x.device.type, enabled=False):  # log-mel in bfloat16 has steps of .03
            return self.fbank(x[:, None])[:, 0, :count]

    def forward(self, x: Tensor) -> Tensor:
        y = self.raw(x)
        frames = self.frames or -(-y.shape[1] // self.patch) * self.patch
        y = nn.functional.pad(y, (0, 0, 0, frames - y.shape[1]))  # negative cuts
        return (y - self.mean) / (2 * self.std)
