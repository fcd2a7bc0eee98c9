"""Take the singing voice out of a song by classifying each bin: a CNN of ideal binary masks.

Lin, Balamurali, Koh, Lui and Herremans, "Singing Voice Separation Using a Deep Convolutional Neural Network
Trained by Ideal Binary Mask and Cross Entropy" (Neural Computing and Applications 2018, arXiv 1812.01278):

    9 frames |X| [9, 2049] -> conv 3 x 12, 32 -> conv, 16 -> max of 12 bins -> conv, 64 -> conv, 32
      -> max of 12 bins -> linear 2048 -> linear 512 -> linear 9 x 2049 -> sigmoid: is it voice?

It has 19,489,049 parameters, as the authors count. Magnitudes are those of Hann windows of 1024 samples over
their sum, hop 256, transformed with 4096 points at 22.05 kHz; of each 9 frames the middle one's probabilities
are the mask M of the voice, and 1 - M that of the rest. The target (`tasks.masks.IdealMasks`) is 1 where the
voice is louder than the rest, softened to .98 and .02, by cross-entropy over all 9 frames. The weights are
first trained as an autoencoder, to put out the magnitudes of the bins that are voice.

It streams, 4 frames behind: what comes before a song is silence, where the authors repeat its least
magnitude, and its end likewise. Overlapping frames are put together by the window that inverts the analysis,
where they add the bare frames up. The windows end with the frames of 4096, so a listener waits 232 ms, 139 of
which the transform of a stream could do without. Their TensorFlow checkpoints are not read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.frontend.stft import Analysis, Synthesis, magnitude, window
from audiomask.masks import gains
from audiomask.nn.masked import Masked
from audiomask.streaming import Context, Port, Steps, Streaming

SURE, UNSURE = 0.98, 0.02  # what the target is where the mask is 1 and 0


def _beside(size: int, kernel: int, stride: int = 1) -> tuple[int, int]:
    """Return the padding before and after `size`, so that there are ceil(size / stride) outputs."""
    total = max(0, (-(size // -stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


class Classifier(nn.Module):
    """A network that maps frames `[N, frames, bins]` to logits of the same shape."""

    def __init__(
        self,
        frames: int,
        bins: int,
        widths: Sequence[int],
        kernel: tuple[int, int],
        pool: int,
        dense: Sequence[int],
    ) -> None:
        super().__init__()
        self.shape, self.kernel, self.pool = (frames, bins), kernel, pool
        layers = zip([1, *widths], widths, strict=False)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, kernel) for a, b in layers)
        for _ in widths[1::2]:
            bins = -(bins // -pool)
        sizes = [widths[-1] * frames * bins, *dense, frames * self.shape[1]]
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        for layer in [*self.convs, *self.dense]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.constant_(layer.bias, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x, time = x[:, None], _beside(self.shape[0], self.kernel[0])
        for i, conv in enumerate(self.convs):
            x = conv(F.pad(x, (*_beside(x.shape[3], self.kernel[1]), *time))).relu()
            if i % 2:  # zeros beside what is positive change no maximum
                x = F.max_pool2d(F.pad(x, _beside(x.shape[3], self.pool, self.pool)), (1, self.pool))
        x = x.flatten(1)
        *hidden, last = self.dense
        for layer in hidden:
            x = layer(F.dropout(x, 0.5, self.training)).relu()
        return last(x).unflatten(1, self.shape)


class MiddleFrame(Streaming):
    """A block that gives each frame's probabilities, `[B, 1, T, F]`, by the frames around it."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        frames, self.bins = classifier.shape
        self.beside = frames // 2
        self.context = Context(self.beside, self.beside, (1, self.bins))
        self.classifier = classifier
        self.compose(self.context)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        y, length, frames = step("context", x), x.shape[2], 2 * self.beside + 1
        windows = torch.stack([y[:, 0, i : i + length] for i in range(frames)], 2)  # [B, T, frames, F]
        logits = self.classifier(windows.flatten(0, 1))[:, self.beside]
        return logits.sigmoid().reshape(x.shape[0], 1, -1, self.bins), step.states


class IBMCNN(Masked):
    """A separator of songs `[B, 1, T]` into vocals and the rest, each `[B, 1, T]`.

    Args:
        stems: Names of the two outputs, the one that is classified first.
        frames: Frames that the network sees, an odd number.
        widths: Channels of the convolutions; after every second one, frequencies are pooled.
        kernel: Frames and bins of the convolutions.
        pool: Bins that are pooled to one.
        dense: Units of the hidden layers.
        threshold: Probabilities below it count 0, in both masks.
        size, hop_length, fft: Window, hop and transform, in samples.
        sample_rate: Rate in Hz.
        name: Name of the artifact.
    """

    task = "separate"

    def __init__(
        self,
        stems: Sequence[str] = ("vocals", "other"),
        frames: int = 9,
        widths: Sequence[int] = (32, 16, 64, 32),
        kernel: tuple[int, int] = (3, 12),
        pool: int = 12,
        dense: Sequence[int] = (2048, 512),
        threshold: float = 0.0,
        size: int = 1024,
        hop_length: int = 256,
        fft: int = 4096,
        sample_rate: int = 22050,
        name: str = "ibm_cnn",
    ) -> None:
        super().__init__()
        if len({*stems}) != 2 or len(stems) != 2:
            raise ValueError(f"stems {list(stems)}: want two, what is classified and the rest")
        if frames % 2 == 0 or frames < 3:
            raise ValueError(f"{frames} frames have no middle; want an odd number from 3 up")
        if not hop_length <= size <= fft:
            raise ValueError(f"window {size}, hop {hop_length}, FFT {fft}: want hop <= window <= FFT")
        self.name, self.sample_rate, self.threshold = name, sample_rate, threshold
        self.outputs = tuple(Port(stem) for stem in stems)
        hann = F.pad(window("hann", size), (fft - size, 0))
        self.scale = 2.0 / size  # over the sum of the window
        self.net = MiddleFrame(Classifier(frames, fft // 2 + 1, widths, (kernel[0], kernel[1]), pool, dense))
        self.between(Analysis(fft, hop_length, hann), self.net, Synthesis(fft, hop_length, hann, channels=2))

    def features(self, spectrum: Tensor) -> Tensor:
        return self.scale * magnitude(spectrum)

    def estimate(self, mask, spectrum, **controls):
        masks = torch.cat([mask, 1 - mask], 1)
        masks = torch.where(masks < self.threshold, 0.0, masks)
        return spectrum.repeat(1, 2, 1, 1) * masks.repeat_interleave(2, 1)

    def cross_entropy(self, x: Tensor, voice: Tensor, reconstruct: bool = False) -> Tensor:
        """Return the cross-entropy with the ideal binary mask of a `voice` in `x`, both `[B, 1, T]`.

        To `reconstruct`, as an autoencoder, the target is the mixture's magnitude where the mask is 1.
        """
        mixture, sung, rest = (self.analysis(s) for s in (x, voice, x - voice))
        ideal = gains.binary(
            torch.complex(sung[:, 0], sung[:, 1]), torch.complex(rest[:, 0], rest[:, 1])
        )  # [B, T', F]
        seen, frames = self.features(mixture)[:, 0], 2 * self.net.beside + 1
        target = ideal * seen if reconstruct else UNSURE + (SURE - UNSURE) * ideal
        if seen.shape[1] < frames:
            raise ValueError(f"{x.shape[2]} samples are {seen.shape[1]} frames; want {frames} or more")
        given, wanted = (
            v.unfold(1, frames, frames - 1).flatten(0, 1).transpose(1, 2) for v in (seen, target)
        )
        return F.binary_cross_entropy_with_logits(self.net.classifier(given), wanted)
