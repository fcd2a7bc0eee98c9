"""Train a concealer on packet loss: losses of any signal, and recordings with fixed traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiomask.audio import AudioError
from audiomask.data.crops.clips import Utterances
from audiomask.data.example import Example, Simulation, rms
from audiomask.data.kaldi.directory import Utterance, read_mono
from audiomask.masks.packets import TRACE_MS, LossModel, Trace, packets, per_sample, read_trace


class PacketLoss(Simulation):
    """Loses packets of the noisy signal that another simulation makes, which is wanted back.

    A network with an input `lost` is informed of the lost samples; one without, a blind one, is given only
    zeros there. Rows are divided by the level of the signal sent, since next to nothing may be left. `sent`
    makes that signal, speech with the noise that a caller has about him; each row draws one of `losses` (see
    `masks.packets`), and one of the lengths `packet_ms` of a packet.
    """

    def __init__(
        self, sent: Simulation, losses: Sequence[LossModel], packet_ms: Sequence[float] = (TRACE_MS,)
    ):
        super().__init__(sent.sample_rate, sent.segment)
        if not losses or not packet_ms:
            raise AudioError("losses and packet_ms: name at least one loss model and one length of packets")
        self.sent, self.losses, self.packet_ms = sent, tuple(losses), tuple(packet_ms)

    @property
    def crop(self) -> int:
        return self.sent.crop

    def lose(self, samples: int, seeds: Tensor) -> Tensor:
        """Return which samples are lost, `[B, samples]` bool, each row by its seed of `seeds [B]`."""
        rows = []
        for seed in seeds:
            draw = torch.Generator().manual_seed(int(seed) ^ 0x10557)  # not the simulation's own
            model = self.losses[int(torch.randint(len(self.losses), (), generator=draw))]
            ms = self.packet_ms[int(torch.randint(len(self.packet_ms), (), generator=draw))]
            count, size = packets(samples, self.sample_rate, ms)
            rows.append(per_sample(model.sample(seed[None], count), samples, size)[0])
        return torch.stack(rows).to(seeds.device)

    def example(self, batch: Mapping[str, Tensor]) -> Example:
        """Return the example of raw rows, or of recordings and traces (`Traced`)."""
        if "lost" in batch:
            sent, lost = batch["clean"], batch["lost"]
        else:
            sent, _ = self.sent(batch["speech"], batch["noise"], batch["seed"])
            lost = self.lose(sent.shape[1], batch["seed"])
        where = lost.to(sent.dtype)
        given = {"audio": torch.where(lost, 0.0, sent)[:, None], "lost": where[:, None]}
        return Example(given, {"sent": sent[:, None]}, rms(sent), where)


class Traced(Utterances):
    """Reads `clean [T]` and `lost [T]` bool; a trace in utt2trace has a line for `packet_ms`."""

    def __init__(self, path: str | Path, sample_rate: int, packet_ms: float = TRACE_MS):
        super().__init__(path, sample_rate, "utt2trace", ", to name a loss trace for each recording")
        self.packet_ms = packet_ms

    def signals(self, u: Utterance) -> dict[str, np.ndarray]:
        x = read_mono(self.data, u, self.sample_rate)
        count, size = packets(len(x), self.sample_rate, self.packet_ms)
        file = self.data.tables["utt2trace"].get(u.key)
        if file is None:
            raise AudioError(f"{u.key}: utt2trace names no loss trace for it")
        trace = Trace(read_trace(self.data.resolve(file)), file)
        return {"clean": x, "lost": per_sample(trace.sample(np.zeros(1, int), count), len(x), size)[0]}
