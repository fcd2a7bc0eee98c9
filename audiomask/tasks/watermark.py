"""Train a watermark: one network marks sound, one finds the mark after an attack.

In a recipe:

    model:
      class_path: audiomask.tasks.watermark.Watermark
      init_args:
        model: {class_path: audiomask.models.audioseal.AudioSeal}
        objective: {class_path: audiomask.losses.Objective, init_args: {outside: [detection, message], ...}}
        simulation: {class_path: audiomask.data.simulate.marking.Marking}
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
from audiomask.tasks.signals import Signals


class Watermark(Signals):
    """Trains a marker by an objective, and its detector by two terms beside it.

    `detection` is the negative log-likelihood of where the mark is, and of its absence in rows that are
    marked as a whole, before they are; `message` is the cross-entropy of the bits where the mark is. Both are
    means over the attacks that a step has drawn, beside none (San Roman et al. 2024).

    Args:
        model: The two networks.
        objective: Compares the marked sound with the sound; it names `detection` and `message` as `outside`.
        simulation: Makes the examples: `data.simulate.marking.Marking`.
        attacks: Specs, such as "opus:16" or "speed:0.8..1.2", see `data.simulate.attacks`. The mask follows
            the sound where one moves it.
        attack_p: Probability that a step draws an attack, for each of them.
        temperature: Divides the logits of the bits.
        rest: See `Signals`.
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
        super().__init__(model, objective, simulation, **rest)
        self.attacks, self.attack_p, self.temperature = [*map(Attack, attacks)], attack_p, temperature

    def run(self, example: Example) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        made, terms = super().run(example)
        (marked,) = made.values()
        return made, terms | self.found(marked, example.given)

    def found(self, marked: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms of the detector for marked sound `[B, 1, T]`."""
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
        moved = attack.moved(x.float(), self.model.sample_rate, int(torch.randint(2**31, ())))
        at = (moved.begin[:, None] + moved.speed * torch.arange(moved.audio.shape[2])).round().long()
        inside = ((at >= 0) & (at < x.shape[2])).to(x.device)
        at = at.clamp(0, x.shape[2] - 1).to(x.device)
        return moved.audio, present.gather(2, at[:, None]) * inside[:, None]

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
