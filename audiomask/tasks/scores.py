"""Train separators by the scores of songs.

In a recipe:

    model:
      class_path: audiomask.tasks.scores.ScoreSupervision
      init_args:
        model: {class_path: audiomask.models.score_separator.ScoreSeparator}
        stage: transcribe       # then separate, then adversarial, each with start_from the one before
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from audiomask.audio import AudioError
from audiomask.frontend.stft import magnitude
from audiomask.models.score_separator import ScoreSeparator, cross_entropy, piano_rolls_apart
from audiomask.tasks.task import Task


class ScoreSupervision(Task):
    """Trains a `ScoreSeparator` in one of three stages.

    - "transcribe": the transcriptor learns to transcribe mixtures, by cross-entropy with their scores.
    - "separate": it is frozen, and the separator learns. What the transcriptor hears in each estimate shall
      be the notes of its instrument and of no other; the estimates of the instruments that play shall sum to
      the mixture, and those of the others be silent (after Pishdadian, Wichern and Le Roux 2020); and an
      estimate shall be 0 away from the harmonics of the notes in its score, but for stems without a pitch.
    - "adversarial": both learn. The transcriptor learns to hear in an estimate whatever instruments are left
      in it, which the separator has to hide from it; and to tell recordings from sums of the estimates of
      different songs, which the separator has to make alike.

    Args:
        model: Networks to train.
        stage: See above; each begins with the weights of the one before (`start_from`).
        mixture, harmonic, leak, real: Weights of the losses, that of the notes being 1.
        unpitched: Stems without harmonics.
        training: See `Task`.
    """

    def __init__(
        self,
        model: ScoreSeparator,
        stage: Literal["transcribe", "separate", "adversarial"] = "separate",
        mixture: float = 10.0,
        harmonic: float = 10.0,
        leak: float = 1.0,
        real: float = 0.1,
        unpitched: tuple[str, ...] = ("drums",),
        **training: Any,
    ):
        super().__init__(model, **training)
        if stage not in ("transcribe", "separate", "adversarial"):
            raise AudioError(f"stage {stage!r}: want transcribe, separate or adversarial")
        model.separator.requires_grad_(stage != "transcribe")
        model.transcriptor.requires_grad_(stage != "separate")
        self.stage = stage
        self.mixture, self.harmonic, self.leak, self.real = mixture, harmonic, leak, real
        names = [port.name for port in model.outputs]
        pitched = torch.tensor([float(name not in unpitched) for name in names])
        self.register_buffer("pitched", pitched, persistent=False)

    pitched: Tensor

    def losses(self, audio: Tensor, notes: Tensor) -> dict[str, Tensor]:
        """Return the losses of mixtures `[B, 1, T]` with notes `[B, stems, frames, 88]`."""
        model: ScoreSeparator = self.model
        seen = magnitude(model.transform.spectra(audio))[:, 0]  # [B, T, F]
        if notes.shape[1:3] != (len(model.outputs), seen.shape[1]):
            raise AudioError(
                f"scores of {notes.shape[1]} stems and {notes.shape[2]} frames do not fit "
                f"{len(model.outputs)} stems and {seen.shape[1]} frames: make data.stems and "
                "data.hop_length those of the model"
            )
        if self.stage == "transcribe":
            return {"notes": cross_entropy(model.transcriptor(seen)[0], notes)}
        made = model.masks(seen) * seen[:, None]  # [B, S, T, F]
        own = piano_rolls_apart(notes)
        with frozen(model.transcriptor):
            heard, _ = model.transcriptor(made.flatten(0, 1))
            found = {"notes": cross_entropy(heard, own)}
            if self.stage == "adversarial":
                _, taken = model.transcriptor(remixed(made))
                found["real"] = self.real * F.softplus(-taken).mean()
        level = seen.mean().clamp_min(1e-6)
        active = notes.amax(3, keepdim=True)  # [B, S, T, 1]
        off = (made * active).sum(1) - seen * active.amax(1)
        silent = (made * (1 - active)).sum(1)
        found["mixture"] = self.mixture * (off.abs() + silent).mean() / level
        allowed = (notes @ model.harmonics).clamp(max=1.0)
        stray = made * (1 - allowed) * self.pitched[None, :, None, None]
        found["harmonic"] = self.harmonic * stray.mean() / level
        if self.stage == "adversarial":
            played = notes[:, None].expand(-1, notes.shape[1], -1, -1, -1).flatten(0, 1)
            heard, _ = model.transcriptor(made.detach().flatten(0, 1))
            mixtures, genuine = model.transcriptor(seen)
            _, put = model.transcriptor(remixed(made.detach()))
            found["leak"] = self.leak * cross_entropy(heard, played)
            found["mixtures"] = cross_entropy(mixtures, notes)
            found["told"] = self.real * (F.softplus(-genuine).mean() + F.softplus(put).mean())
        return found

    def compare(self, batch: dict[str, Tensor], part: str) -> Tensor:
        """Return the sum of the losses of a batch, which are logged."""
        found = self.losses(batch["audio"], batch["notes"])
        total = torch.stack([*found.values()]).sum()
        self.record(
            part,
            {name: x.detach() for name, x in found.items()} | {"loss": total.detach()},
            len(batch["notes"]),
        )
        return total

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        return self.compare(batch, "train")

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        with self.as_kept():
            total = self.compare(batch, "val")
        self.record("val", {"select": -total}, len(batch["notes"]))


@contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """Let gradients through a network, and none to its parameters."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def remixed(made: Tensor) -> Tensor:
    """Return sums of estimates `[B, S, T, F]`, each stem's from another row of the batch."""
    rows = [made[:, n].roll(n, 0) for n in range(made.shape[1])]
    return torch.stack(rows).sum(0)
