"""Take instruments apart, with scores as the only teacher.

After Hung, Wichern and Le Roux, "Transcription Is All You Need: Learning to Separate Musical Mixtures with
Score as Supervision" (ICASSP 2021, arXiv 2010.11904), who published no code. No recording of an instrument by
itself is needed to train it, and no score to use it:

    |X| -> log -> separator (TCN) -> sigmoid = M_i for each instrument,      estimates M_i X
    |X| or M_i |X| -> log -> transcriptor (TCN) -> notes of each instrument, and whether it is a recording

`tasks.scores.ScoreSupervision` trains first the transcriptor, then the separator by what it hears, then both
against each other. What the paper's public text does not tell is ours: the sizes of the networks, how wide
the harmonics of a note are, the weights of the losses, and the form of the two adversarial ones.

The networks see all of a clip, so files run over windows in constant memory (see `nn.windowed`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.frontend.stft import Centred, magnitude
from audiomask.masks.notes import NOTES, harmonics
from audiomask.nn.windowed import Windowed
from audiomask.streaming import Port, Steps, StreamingModel

FLOOR = 1e-3  # of magnitudes under the logarithm


class TCN(nn.Module):
    """Dilated convolutions over time, residual, `[B, C, T]` -> `[B, D, T]` (Bai et al. 2018).

    Each layer is a convolution of 3 frames by itself for each channel, between two of one frame.
    """

    def __init__(self, inputs: int, outputs: int, width: int, hidden: int, layers: int, repeats: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(inputs, width, 1), nn.Conv1d(width, outputs, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, hidden, 1), nn.PReLU(), nn.GroupNorm(1, hidden),
                nn.Conv1d(hidden, hidden, 3, padding=2**n, dilation=2**n, groups=hidden), nn.PReLU(),
                nn.GroupNorm(1, hidden), nn.Conv1d(hidden, width, 1),
            )
            for _ in range(repeats) for n in range(layers)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.last(x)


class Transcriptor(nn.Module):
    """A critic that hears notes in magnitudes.

    It maps `[B, T, F]` to logits of the notes that are played, `[B, stems, T, 88]`, and to the logit `[B, T]`
    of a recording, rather than a sum of estimates.
    """

    def __init__(self, bins: int, stems: int, width: int, hidden: int, layers: int, repeats: int) -> None:
        super().__init__()
        self.stems = stems
        self.net = TCN(bins, stems * NOTES + 1, width, hidden, layers, repeats)

    def forward(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        y = self.net(loudness(magnitude).transpose(1, 2)).transpose(1, 2)
        return y[..., :-1].unflatten(2, (self.stems, NOTES)).transpose(1, 2), y[..., -1]


class ScoreSeparator(StreamingModel):
    """A separator of songs `[B, 1, T]` into an instrument each, `[B, 1, T]`.

    Args:
        stems: Names of the instruments.
        size, hop_length: Frames of the transform, in samples.
        width, hidden, layers, repeats: Sizes of both networks, see `TCN`.
        window: Frames of a window.
        overlap: Fraction of a window that the next one begins with, at most .5.
        sample_rate: Rate in Hz.
        name: Name of the artifact.
    """

    task = "separate"
    harmonics: Tensor

    def __init__(
        self,
        stems: Sequence[str] = ("drums", "bass", "other"),
        size: int = 1024,
        hop_length: int = 256,
        width: int = 128,
        hidden: int = 256,
        layers: int = 8,
        repeats: int = 3,
        window: int = 512,
        overlap: float = 0.25,
        sample_rate: int = 16000,
        name: str = "score_separator",
    ) -> None:
        super().__init__()
        self.name, self.sample_rate, self.hop_length = name, sample_rate, hop_length
        self.inputs, self.outputs = (Port("audio"),), tuple(Port(stem) for stem in stems)
        self.transform = Centred(size, hop_length, "hann", "reflect", normalized=True)
        bins = size // 2 + 1
        self.separator = TCN(bins, bins * len(stems), width, hidden, layers, repeats)
        self.transcriptor = Transcriptor(bins, len(stems), width, hidden, layers, repeats)
        self.transcriptor.requires_grad_(False)  # no sound comes from it; `tasks.scores` trains it
        self.register_buffer("harmonics", harmonics(sample_rate, size), persistent=False)
        given = (window * hop_length, overlap, 1, len(stems), hop_length)
        self.windows = Windowed.overlapping(self.flat, *given)
        self.compose(self.windows)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        return self.parted(step("windows", x)), step.states

    def flat(self, x: Tensor) -> Tensor:
        """Return the instruments of a window `[B, 1, T]` as channels."""
        spectra = self.transform.spectra(x)  # [B, 2, T, F]
        masks = self.masks(magnitude(spectra)[:, 0])
        y = masks.repeat_interleave(2, 1) * spectra.repeat(1, len(self.outputs), 1, 1)
        return self.transform.signals(y, x.shape[2])

    def masks(self, magnitude: Tensor) -> Tensor:
        """Return masks `[B, stems, T, F]` of magnitudes `[B, T, F]`."""
        y = self.separator(loudness(magnitude).transpose(1, 2)).transpose(1, 2)
        return y.unflatten(2, (len(self.outputs), -1)).transpose(1, 2).sigmoid()


def loudness(magnitude: Tensor) -> Tensor:
    """Return magnitudes on a logarithmic scale, 0 for none, 1.5 for 1."""
    return ((magnitude + FLOOR) / FLOOR).log10() / 2


def piano_rolls_apart(notes: Tensor) -> Tensor:
    """Return the notes of each estimate by itself, `[B S, S, T, 88]`, of notes `[B, S, T, 88]`."""
    own = torch.eye(notes.shape[1], device=notes.device, dtype=notes.dtype)
    return (notes[:, None] * own[None, :, :, None, None]).flatten(0, 1)


def cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean over frames of the cross-entropy, summed over notes."""
    value = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return value.flatten(3).sum(3).mean()
