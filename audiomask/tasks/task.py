"""Hold what all trainings share: optimizer, schedule, start, and contents of checkpoints."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.losses import Objective
from audiomask.tasks.muon import Muon, groups


def warmup_stable_decay(step: int, warmup: int, total: int, decay: float, floor: float = 0.01) -> float:
    """Return the factor of the learning rate at a step.

    It rises linearly over the warm-up, is 1, then falls to `floor` as half a cosine over the last `decay`
    fraction of the run; at 1 that is the usual warm-up and cosine. Below 1 a run can be continued from its
    constant part and decayed again (Hu et al. 2024, MiniCPM).
    """
    if step < warmup:
        return (step + 1) / warmup
    start = max(warmup, total - int(decay * total))
    if step < start or total <= start:
        return 1.0
    x = min(1.0, (step - start) / (total - start))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * x))


def keep_recurrent_layers_whole() -> None:
    """Have `torch.compile` leave `torch.gru` and `torch.lstm` as they are, here and in `nn.GRU`.

    It would decompose them into their steps in time (`torch._decomp`, `one_layer_rnn`) and compile each.
    """
    for layer in (torch.gru, torch.lstm):
        torch._dynamo.disallow_in_graph(layer)


class Task(pl.LightningModule):
    """Base of the tasks, which train one network, `model`.

    Args:
        model: Network to train.
        optimizer: "adamw", or "muon": Muon for the weight matrices (see `tasks.muon`), AdamW for the rest.
        lr, betas, weight_decay: Settings of the optimizer; biases, norms and embeddings are not decayed.
        warmup: Steps in which the learning rate rises (see `warmup_stable_decay`).
        decay: Fraction of the run in which it falls.
        start_from: Folder with weights of the same architecture to begin with (a run's `model/`).
        compile: Train through `torch.compile`; validation runs the network as it is.

    Subclasses may have an `objective`, whose balancer and adversary are then kept in the checkpoints.

    Attributes:
        monitor: Validation value by whose maximum the weights are chosen; None: the last are kept.
        floor: Least learning rate, as a fraction.
    """

    monitor: str | None = "val/select"
    floor = 0.0
    objective: Objective

    def __init__(
        self,
        model: nn.Module,
        optimizer: Literal["adamw", "muon"] = "adamw",
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.01,
        warmup: int = 500,
        decay: float = 1.0,
        start_from: str | None = None,
        compile: bool = False,
    ):
        super().__init__()
        self.model: Any = model
        self.optimizer, self.lr, self.betas, self.weight_decay = optimizer, lr, betas, weight_decay
        self.warmup, self.decay, self.compiled = warmup, decay, compile
        if start_from is not None:
            self.begin(weights.load(start_from)[0].state_dict())

    def begin(self, state: dict[str, Tensor]) -> None:
        """Take over the weights that `start_from` names."""
        self.model.load_state_dict(state)

    def arguments(self) -> dict[str, Any]:
        """Return arguments of the network that only the data determine, to be kept with the weights."""
        return {}

    @contextlib.contextmanager
    def as_kept(self) -> Iterator[None]:
        """Run the network as exported, float32 and uncompiled (it would compile for every length)."""
        with torch.autocast(self.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
            yield

    def record(self, part: str, values: Mapping[str, Any], rows: int) -> None:
        """Log values of a batch of so many rows as `part/name`; "val" is averaged over processes."""
        named = {f"{part}/{name}": value for name, value in values.items()}
        self.log_dict(named, batch_size=rows, sync_dist=part == "val")

    def picture(self, name: str, x: Tensor, low: Tensor, high: Tensor) -> None:
        """Show `x [frames, bands]` in TensorBoard, black at `low`, white at `high`, low bands below."""
        if isinstance(self.logger, TensorBoardLogger):
            grey = ((x - low) / (high - low).clamp_min(1e-6)).clamp(0, 1).T.flip(0)
            self.logger.experiment.add_image(name, grey[None], self.global_step)

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters in groups for the optimizer."""
        return groups(self.model, self.weight_decay, self.optimizer == "muon")

    def configure_optimizers(self) -> Any:
        optimizer = Muon(self.groups(), self.lr, self.betas)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_stable_decay(step, self.warmup, total, self.decay, self.floor)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        if self.compiled:
            keep_recurrent_layers_whole()
            self.model.compile()  # in place: the names of the parameters stay
        if hasattr(self, "objective") and self.objective.adversary is not None:
            self.objective.adversary.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if hasattr(self, "objective"):
            checkpoint["objective"] = self.objective.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if not hasattr(self, "objective"):
            return
        try:
            self.objective.restore(checkpoint.get("objective", {}))
        except KeyError as missing:
            raise AudioError(
                f"the checkpoint holds no {missing} of the objective, which the recipe has now; "
                "begin anew with --fresh"
            ) from None
