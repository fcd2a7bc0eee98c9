"""Train networks whose output is sound: denoisers, concealers, whatever has a simulation.

In a recipe:

    model:
      class_path: audiomask.tasks.signals.Signals
      init_args:
        model: {class_path: audiomask.models.sieve.Sieve}
        objective: {class_path: audiomask.losses.Objective, init_args: {losses: ...}}
        simulation: {class_path: audiomask.data.simulate.degrade.Degrade}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from audiomask import metrics
from audiomask.audio import AudioError
from audiomask.data.example import Example, Simulation
from audiomask.losses import Objective, SignalLoss
from audiomask.streaming import StreamingModel
from audiomask.tasks.task import Task


class Signals(Task):
    """Trains a network to make the wanted signals from the given ones.

    Args:
        model: Network to train.
        objective: Compares its output with the wanted signals.
        simulation: Makes the examples: `data.simulate.Degrade` (noise), `data.arrays.ArrayScenes`,
            `data.augment.Augment` (pairs of a corpus), `data.packet_loss.PacketLoss`.
        relative: Divide both by the example's level first, so that loud and quiet rows count alike.
        measured: Scores (`metrics`) of the first `scored` validation clips, beside SI-SDR (a second each).
        scored: Number of those clips.
        shown: Validation clips that go to TensorBoard as audio and spectrograms, each signal by its name. Of
            models that make several channels the mean of them is shown, else the microphone of reference.
        mask_input, mask_attention: Fractions of the time-frequency bins and of the attention that are hidden
            at random in training, for noises that the corpus lacks and models that have `hide` (after Chen et
            al. 2023, "Masked Image Training for Generalizable Deep Image Denoising").
        lr, betas, decay, training: See `Task`.

    The weights kept are those of the epoch with the highest PESQ + 4 ESTOI + .1 SI-SDR (dB), in which each
    term is worth about as much as the others' usual spread; with `scored` 0 those with the lowest loss.

    W processes (docs/scale.md) with B rows each give the parameters of one with W B rows, up to rounding, if
    the loss is a mean over rows and nothing in the network looks across them. Batch norms do, unless
    `--trainer.sync_batchnorm true`, which torch has for GPUs only; and the spectral convergence of the
    multi-resolution STFT loss is no mean over rows.
    """

    floor = 0.01

    def __init__(
        self,
        model: StreamingModel,
        objective: Objective,
        simulation: Simulation,
        relative: bool = True,
        measured: Sequence[str] = ("pesq_wb", "estoi"),
        scored: int = 40,
        shown: int = 3,
        mask_input: float = 0.0,
        mask_attention: float = 0.0,
        lr: float = 1.5e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        decay: float = 0.25,
        **training: Any,
    ):
        super().__init__(model, lr=lr, betas=betas, decay=decay, **training)
        if simulation.sample_rate != model.sample_rate:
            raise AudioError(
                f"simulation.sample_rate is {simulation.sample_rate} Hz and the model runs at "
                f"{model.sample_rate} Hz; make them equal"
            )
        for name, loss in objective.named_modules():
            if isinstance(loss, SignalLoss) and loss.sample_rate not in (None, model.sample_rate):
                raise AudioError(
                    f"loss {name.split('.')[-1]} is for {loss.sample_rate} Hz and the model runs at "
                    f"{model.sample_rate} Hz; leave it out"
                )
        self.reference = model.inputs[0].reference
        if simulation.reference != self.reference:
            raise AudioError(
                f"simulation.reference is microphone {simulation.reference} and the model's is "
                f"{self.reference}; make them equal"
            )
        self.objective, self.simulation, self.relative = objective, simulation, relative
        self.measured, self.scored, self.shown = tuple(measured), scored, shown
        if mask_input or mask_attention:
            if not 0 <= mask_input < 1 or not 0 <= mask_attention < 1:
                raise AudioError(
                    f"mask_input {mask_input}, mask_attention {mask_attention}: fractions are in [0, 1)"
                )
            hide = getattr(model, "hide", None)
            if hide is None:
                raise AudioError(f"{type(model).__name__} has no masked training; set the fractions to 0")
            hide(mask_input, mask_attention)
        self._clips: list[dict[str, float]] = []

    def run(self, example: Example) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the network's output by the names of the wanted signals, and its own terms."""
        first, *others = self.model.inputs
        for port in self.model.inputs:
            if port.kind == "stream" and port.name not in example.given:
                raise AudioError(
                    f"{self.model.name} takes {port.name} and the simulation gives {sorted(example.given)}"
                )
        x = example.given[first.name]
        if x.shape[1] != first.channels:
            raise AudioError(
                f"the data have {x.shape[1]} channels and {self.model.name} takes {first.channels}; "
                "make them equal"
            )
        beside = {p.name: example.given[p.name] for p in others if p.name in example.given}
        y, terms = self.model.learn(x, **beside)
        made = self.model.by_port(y)
        if len(example.wanted) == 1:
            return dict.fromkeys(example.wanted, next(iter(made.values()))), terms
        if missing := sorted(set(example.wanted) - set(made)):
            raise AudioError(f"{self.model.name} makes {list(made)}, and {missing} are wanted too")
        return {name: made[name] for name in example.wanted}, terms

    def compare(self, example: Example) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return the value to minimise, the parts of the loss, and the network's output."""
        made, terms = self.run(example)
        sounds = [made, example.wanted]
        if self.relative:
            sounds = [{name: x / example.level for name, x in of.items()} for of in sounds]
        return *self.objective(*sounds, example.where, terms), made

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        torch.manual_seed(int(batch["seed"][0]))  # for what is hidden: a resumed run goes on as before
        with torch.no_grad():
            example = self.simulation.example(batch)
        scalar, parts, _ = self.compare(example)
        self.record("train", parts, len(batch["seed"]))
        return scalar

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        example = self.simulation.example(batch)
        with self.as_kept():
            _, parts, made = self.compare(example)
        self.record("val", parts, len(example.level))
        names = ["si_sdr", *self.measured] if index < self.scored else ["si_sdr"]
        for name, wanted in example.wanted.items():
            for ref, est in zip(wanted[0].cpu().numpy(), made[name][0].float().cpu().numpy(), strict=True):
                row = metrics.score(ref, est, self.model.sample_rate, names)
                row |= {f"{k}_{name}": v for k, v in row.items()} if len(example.wanted) > 1 else {}
                row |= {} if self.scored else {"select": -float(parts["loss"])}
                self._clips.append({k: v for k, v in row.items() if not math.isnan(v)})
        if index < self.shown:
            self._show(f"{index}/given", {"audio": example.given[self.model.inputs[0].name]}, True)
            self._show(f"{index}/wanted", example.wanted, True)
            self._show(f"{index}/made", made)

    def on_validation_epoch_end(self) -> None:
        means = {
            f"val/{k}": float(np.mean([c[k] for c in self._clips if k in c]))
            for k in sorted({k for c in self._clips for k in c})
        }
        self._clips.clear()
        if {"val/pesq_wb", "val/estoi", "val/si_sdr"} <= set(means):
            means["val/select"] = means["val/pesq_wb"] + 4 * means["val/estoi"] + 0.1 * means["val/si_sdr"]
        self.log_dict(means, sync_dist=True)

    def _show(self, name: str, signals: Mapping[str, Tensor], fixed: bool = False) -> None:
        """Log the first row of signals `[B, C, T]` as sound and spectrogram; if `fixed`, once."""
        if not isinstance(self.logger, TensorBoardLogger) or (
            fixed and self.global_step > 0 and self.current_epoch > 0
        ):
            return
        rate = self.model.sample_rate
        size = 1 << (rate // 32).bit_length()  # 32 ms or a little more, 512 at 16 kHz
        window = torch.hann_window(size, device=self.device)
        wide = any(port.channels > 1 for port in self.model.outputs)
        for kind, rows in signals.items():
            at = self.reference if rows.shape[1] > self.reference else 0
            x = (rows[0].mean(0) if wide else rows[0, at]).float()
            self.logger.experiment.add_audio(f"{name}/{kind}", x.clamp(-1, 1), self.global_step, rate)
            spectrum = torch.stft(x, size, size // 4, window=window, return_complex=True)
            power = spectrum.abs().square() * 512 / size
            low, high = torch.tensor([-70.0, 30.0], device=self.device)
            self.picture(f"{name}/{kind}_spectrogram", 10 * torch.log10(power + 1e-9).T, low, high)
