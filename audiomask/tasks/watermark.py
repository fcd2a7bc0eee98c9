"""Train a watermark: one network marks sound, one finds the mark after an attack.

In a recipe:

    model:
      class_path: audiomask.tasks.watermark.Watermark
      init_args:
        model: {class_path: audiomask.models.audioseal.AudioSeal}
        objective: {class_path: audiomask.losses.Objective, init_args: {outside: [detection, message], ...}}
        simulation: {class_path: audiomask.data.simulate.marking.Marking}

`Watermark` is for a detector that finds a mark sample by sample, as AudioSeal's; `SymbolWatermark` for one
that reads symbols frame by frame, as SilentCipher's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audiomask.data.example import Example, Simulation
from audiomask.data.simulate.attacks import Attack
from audiomask.losses import Objective
from audiomask.models.audioseal import AudioSeal
from audiomask.models.silentcipher import SilentCipher
from audiomask.tasks.signals import Signals


class Marks(Signals):
    """A base that trains a marker, whose detector hears the mark after attacks.

    A subclass says by `found` what the detector makes of it.

    Args:
        model: The networks.
        objective: Compares the marked sound with the sound, and names the terms of `found` as `outside`.
        simulation: Makes the examples: `data.simulate.marking.Marking`.
        attacks: Specs, such as "opus:16" or "speed:0.8..1.2", see `data.simulate.attacks`.
        rest: See `Signals`.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        simulation: Simulation,
        attacks: Sequence[str] = (),
        **rest: Any,
    ):
        super().__init__(model, objective, simulation, **rest)
        self.attacks = [*map(Attack, attacks)]

    def run(self, example: Example) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        made, terms = super().run(example)
        (marked,) = made.values()
        return made, terms | self.found(marked, example.given)

    def found(self, marked: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms of the detector for marked sound `[B, 1, T]`."""
        raise NotImplementedError

    def attacked(self, attack: Attack, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return sound `[B, 1, N]` after an attack, and where its samples were, float64 `[B, N]`."""
        moved = attack.moved(x.float(), self.model.sample_rate, int(torch.randint(2**31, ())))
        at = moved.begin[:, None] + moved.speed * torch.arange(moved.audio.shape[2])
        return moved.audio, at.to(x.device)


class Watermark(Marks):
    """Trains a marker by an objective, and its detector by two terms beside it.

    `detection` is the negative log-likelihood of where the mark is, and of its absence in rows that are
    marked as a whole, before they are; `message` is the cross-entropy of the bits where the mark is. Both are
    means over the attacks that a step has drawn, beside none (San Roman et al. 2024).

    Args:
        model: The two networks.
        objective: Names `detection` and `message` as `outside`.
        attacks: The mask follows the sound where one moves it.
        attack_p: Probability that a step draws an attack, for each of them.
        temperature: Divides the logits of the bits.
        simulation, rest: See `Marks`.
    """

    def __init__(
        self,
        model: AudioSeal,
        objective: Objective,
        simulation: Simulation,
        attacks: Sequence[str] = (),
        attack_p: float = 0.1,
        temperature: float = 0.1,
        **rest: Any,
    ):
        super().__init__(model, objective, simulation, attacks, **rest)
        self.attack_p, self.temperature = attack_p, temperature

    def found(self, marked: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        audio, mask = given["audio"], given["mask"]
        whole = mask.amin((1, 2)) > 0
        sounds = torch.cat([mask * marked + (1 - mask) * given["fill"], audio[whole]])
        present = torch.cat([mask, torch.zeros_like(audio[whole])])
        heard = [(sounds, present)]
        for attack in self.attacks if self.training else ():
            if torch.rand(()) < self.attack_p:
                heard.append(self._attacked(attack, sounds, present))
        found = [self._terms(*pair, given["message"]) for pair in heard]
        terms = {name: torch.stack([term[name] for term in found]).mean() for name in found[0]}
        right = {name: terms.pop(name) for name in ("bits_right", "samples_right")}
        self.record("train" if self.training else "val", right, len(marked))
        return terms

    def _attacked(self, attack: Attack, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return sound `[B, 1, N]` after an attack, and where the mark is in it."""
        audio, at = self.attacked(attack, x)
        at = at.round().long()
        inside = (at >= 0) & (at < x.shape[2])
        at = at.clamp(0, x.shape[2] - 1)
        return audio, present.gather(2, at[:, None]) * inside[:, None]

    def _terms(self, x: Tensor, present: Tensor, message: Tensor) -> dict[str, Tensor]:
        rows, detector = len(message), self.model.detect
        score, logits = detector(x, raw=True)
        wrong = F.binary_cross_entropy_with_logits(score, present, reduction="none")
        bits = message[..., None].expand(-1, -1, x.shape[2]).to(logits.dtype)
        off = F.binary_cross_entropy_with_logits(logits[:rows] / self.temperature, bits, reduction="none")
        mask = present[:rows]
        with torch.no_grad():
            right = (logits[:rows].mul(mask).sum(2) > 0) == (message > 0)
            seen = (score > 0) == (present > 0)
        return {
            "detection": wrong.mean((1, 2)).sum() / rows,
            "message": (off * mask).sum() / (mask.sum() * message.shape[1]).clamp_min(1),
            "bits_right": right.float().mean(),
            "samples_right": seen.float().mean(),
        }


class SymbolWatermark(Marks):
    """Trains a marker and its detector by what the detector reads in each frame.

    `symbols` is the cross-entropy of the frame's symbol after one of the attacks, or none of them, which a
    step draws with equal chance (Singh et al. 2024). How soft the mark is lies in the marker, so an objective
    may give its losses the weight 0.

    Args:
        model: The network.
        objective: Names `symbols` as `outside`.
        simulation, attacks, rest: See `Marks`.
    """

    def __init__(
        self,
        model: SilentCipher,
        objective: Objective,
        simulation: Simulation,
        attacks: Sequence[str] = (),
        **rest: Any,
    ):
        super().__init__(model, objective, simulation, attacks, **rest)

    def found(self, marked: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x, at = marked, torch.arange(marked.shape[2], device=marked.device).expand(len(marked), -1)
        drawn = int(torch.randint(len(self.attacks) + 1, ())) if self.training else 0
        if drawn:
            x, at = self.attacked(self.attacks[drawn - 1], marked)
        logits = self.model.logits(x)
        wanted = self.model.tokens(given["message"], self._frames(at, logits.shape[2], marked.shape[2]))
        known = wanted >= 0
        with torch.no_grad():
            right = (logits.argmax(1) == wanted)[known].float().mean()
        self.record("train" if self.training else "val", {"symbols_right": right}, len(marked))
        return {"symbols": F.cross_entropy(logits, wanted, ignore_index=-1)}

    def _frames(self, at: Tensor, frames: int, length: int) -> Tensor:
        """Return the frames of marked sound that are nearest to those of the attacked, -1 outside.

        The centre of a frame is the sample of its number times the hop; `at [B, N]` says where that was.
        """
        hop = self.model.hop
        here = at[:, ::hop][:, :frames]
        near = torch.where((here >= 0) & (here < length), (here / hop).round(), -1)
        return F.pad(near, (0, frames - near.shape[1]), value=-1).long()
