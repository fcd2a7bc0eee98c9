"""Packet-loss concealment: packets are lost on the training device, one network, losses on the waveform.

`Conceal` is the LightningModule. Its training data are `tasks.enhance.NoisySpeech`'s: what `Degrade` makes of
speech and noise is the signal that was sent, with the noise that a caller has about him. For validation,
`LossySpeech` takes a directory of recordings with a fixed trace each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from audiomask.audio import AudioError
from audiomask.data.kaldi import DataDir
from audiomask.data.loading import read_mono
from audiomask.losses.adversarial import Adversary
from audiomask.masks.packets import TRACE_MS, LossModel, Trace, packets, per_sample, read_trace
from audiomask.tasks.enhance import Enhance, NoisySpeech


class Conceal(Enhance):
    """Trains a model that fills what was lost.

    Args:
        losses: models of packet loss (`masks.packets`); each row draws one of them.
        packet_ms: lengths of a packet; each row draws one.
        adversary: discriminators to train against, beside the losses.
        The others are `Enhance`'s.

    Rows are divided by the level of what was sent (`relative`). A model with a mask among its inputs
    is told which samples are lost; one without, a blind one, finds zeros there.
    """

    measured = ("pesq_wb", "estoi", "plcmos")

    def __init__(
        self,
        *args: Any,
        losses: Sequence[LossModel],
        packet_ms: Sequence[float] = (20.0,),
        adversary: Adversary | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if not losses or not packet_ms:
            raise AudioError("losses and packet_ms: name at least one loss model and one length of packets")
        self.losses, self.packet_ms = tuple(losses), tuple(packet_ms)
        self.adversary = adversary
        self.told = next((port.name for port in self.model.inputs if port.type == "mask"), None)

    def lose(self, samples: int, seeds: Tensor) -> Tensor:
        """Which of `samples` samples are lost: `[B, samples]` bool, row by row from `seeds [B]` int64."""
        rows = []
        for seed in seeds:
            draw = torch.Generator().manual_seed(int(seed) ^ 0x10557)  # apart from the simulation's own
            model = self.losses[int(torch.randint(len(self.losses), (), generator=draw))]
            ms = self.packet_ms[int(torch.randint(len(self.packet_ms), (), generator=draw))]
            count, size = packets(samples, self.model.sample_rate, ms)
            rows.append(per_sample(model.sample(seed[None], count), samples, size)[0])
        return torch.stack(rows).to(seeds.device)

    def _sent(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What was sent, and which of it is lost, `[B, T]` each."""
        if "lost" in batch:
            return batch["clean"], batch["lost"]
        sent, _ = self.degrade(batch["speech"], batch["noise"], batch["seed"])
        return sent, self.lose(sent.shape[1], batch["seed"])

    def _pair(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return self._heard(*self._sent(batch))

    def _heard(self, sent: Tensor, lost: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        inputs = {self.told: lost[:, None].to(sent.dtype)} if self.told else {}
        return torch.where(lost, 0.0, sent), sent, inputs

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        if self.adversary is None:
            return super().training_step(batch, index)
        torch.manual_seed(int(batch["seed"][0]))
        with torch.no_grad():
            sent, lost = self._sent(batch)
            heard, _, inputs = self._heard(sent, lost)
        estimate = self.model(heard[:, None], **inputs)[:, 0].float()
        level = sent.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-4) if self.relative else 1.0
        made, target = (estimate.detach() / level).requires_grad_(), sent / level
        total, parts = self.loss(made, target)
        (gradient,) = torch.autograd.grad(total, made)
        gradient, more = self.adversary(made, target, lost.to(sent.dtype), gradient)
        self.log_dict(
            {"train/loss": total.detach()} | {f"train/{k}": v for k, v in (parts | more).items()},
            batch_size=len(sent),
        )
        return (estimate / level * gradient).sum()  # whose gradient that is

    def on_fit_start(self) -> None:
        if self.adversary is not None:
            self.adversary.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.adversary is not None:
            checkpoint["adversary"] = self.adversary.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.adversary is not None and "adversary" in checkpoint:
            self.adversary.load_state_dict(checkpoint["adversary"])

    def _level(self, noisy: Tensor, clean: Tensor) -> Tensor:
        return clean  # what was heard may be next to nothing


class Traced(Dataset[dict[str, Any]]):
    """Recordings of a data directory and their traces: `utt2trace` names a file of a line of 0 or 1 for each
    packet of `packet_ms`. Item: `clean [T]`, `lost [T]` bool, `key`."""

    def __init__(self, path: str | Path, sample_rate: int, packet_ms: float = TRACE_MS):
        self.data = DataDir.read(path)
        if "utt2trace" not in self.data.tables:
            raise AudioError(f"{path}: no utt2trace beside wav.scp, to name a loss trace for each recording")
        self.utterances = list(self.data.utterances())
        self.sample_rate, self.packet_ms = sample_rate, packet_ms

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, i: int) -> dict[str, Any]:
        u = self.utterances[i]
        x = torch.from_numpy(read_mono(self.data, u, self.sample_rate))
        count, size = packets(len(x), self.sample_rate, self.packet_ms)
        file = self.data.tables["utt2trace"].get(u.key)
        if file is None:
            raise AudioError(f"{u.key}: utt2trace names no loss trace for it")
        lost = Trace(read_trace(self.data.resolve(file)), file).sample(
            torch.zeros(1, dtype=torch.int64), count
        )
        return {"clean": x, "lost": per_sample(lost, len(x), size)[0], "key": u.key}


class LossySpeech(NoisySpeech):
    """`NoisySpeech` whose validation directory holds recordings and traces (`Traced`), of `packet_ms`."""

    def __init__(self, *args: Any, packet_ms: float = TRACE_MS, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.packet_ms = packet_ms

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Traced(self.valid_dir, self.sample_rate, self.packet_ms), batch_size=1)
