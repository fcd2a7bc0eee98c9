"""Train discriminators beside a network, and give it the losses that they teach.

Regression gives the mean of all that is possible, which is duller than any of it. With D_k the K
discriminators of a step, D_kl their layers, x real and y estimated sound:

                 least squares (Mao et al. 2017)             hinge (Lim and Ye 2017, EnCodec)
    D learns     mean_k (1 - D_k(x))^2 + D_k(y)^2            mean_k max(0, 1 - D_k(x)) + max(0, 1 + D_k(y))
    adversarial  mean_k (1 - D_k(y))^2                       mean_k max(0, 1 - D_k(y))
    features     mean_kl |D_kl(x) - D_kl(y)|_1 / |D_kl(x)|_1

each a mean over places. Features that are not `relative` lack the division, as in audiocraft. `where` weighs
the places by whether something was estimated there at all: in concealment most of y is x. Discriminators live
beside the network: no trainer, optimizer or average of the network's weights touches them. Over several
processes their gradients are averaged here.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.losses import processes
from audiomask.losses.discriminators import Discriminator


class Adversary:
    """Holds discriminators and trains them.

    Args:
        discriminators: Any number of them.
        loss: Loss of the scores, see above.
        turns: "one" discriminator a step, each in its turn, or "all" in every step.
        update: Probability that discriminators learn in a step.
        first: Steps in which they learn alone.
        lr, betas, clip: Settings of their AdamW; `clip` is the greatest norm of their gradient.
        weight_decay: Its decay; 0 makes it Adam.
        relative: Divide the distance of features by their size, as EnCodec's paper does.
        segment: Samples of each clip that they look at, from a place that changes; 0: all.
    """

    def __init__(
        self,
        discriminators: list[Discriminator],
        loss: Literal["least_squares", "hinge"] = "least_squares",
        turns: Literal["one", "all"] = "one",
        update: float = 1.0,
        first: int = 150,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.5, 0.9),
        clip: float = 10.0,
        segment: int = 16000,
        weight_decay: float = 0.01,
        relative: bool = True,
    ):
        if not discriminators or (segment and segment < max(d.least for d in discriminators)):
            raise ValueError(
                f"segment {segment}, {len(discriminators)} discriminators: want one at least, and as many "
                f"samples as each needs ({[d.least for d in discriminators]})"
            )
        if loss not in ("least_squares", "hinge") or turns not in ("one", "all") or not 0 < update <= 1:
            raise ValueError(
                f"loss {loss!r}, turns {turns!r}, update {update}: want least_squares or hinge, one or all, "
                "and a probability above 0"
            )
        self.networks = nn.ModuleList(discriminators)
        self.optimizer = torch.optim.AdamW(
            self.networks.parameters(), lr, betas=betas, weight_decay=weight_decay
        )
        self.hinge, self.all, self.update = loss == "hinge", turns == "all", update
        self.relative = relative
        self.first, self.clip, self.segment, self.step = first, clip, segment, 0

    def to(self, device: torch.device) -> None:
        """Move to `device`; all processes then have the weights of the first."""
        self.networks.to(device)
        self.optimizer.load_state_dict(self.optimizer.state_dict())  # its state follows the parameters
        processes.share(p.data for p in self.networks.parameters())

    def state_dict(self) -> dict[str, Any]:
        return {
            "networks": self.networks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def __call__(
        self, estimate: Tensor, wanted: Tensor, where: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Train for a step, and return what the network learns from it.

        Args:
            estimate: `[B, C, T]` of RMS about 1, part of a graph.
            wanted: `[B, C, T]` of RMS about 1, without a graph.
            where: Float `[B, T]`, 1 where the signal was estimated; None: everywhere.

        Returns:
            The losses `adversarial` and `features` as functions of `estimate`, none in the first steps; and
            the discriminators' own loss, `discriminator`, where they learned.
        """
        at = self.step * 7919 % max(1, estimate.shape[2] - self.segment + 1) if self.segment else 0
        part = slice(at, at + self.segment if self.segment else None)
        y, x = estimate[..., part], wanted[..., part].detach()
        where = None if where is None else where[:, part]
        networks: Any = list(self.networks)
        networks = networks if self.all else [networks[self.step % len(networks)]]
        # one draw for all processes, repeated in a resumed run
        learns = float(torch.rand((), generator=torch.Generator().manual_seed(self.step))) < self.update
        teaches = self.step >= self.first
        self.step += 1
        if not learns and not teaches:
            return {}, {}

        with torch.set_grad_enabled(learns):
            real = [network(x, where) for network in networks]
        weights = _weights(where, [scores for scores, _ in real])
        parts = {}
        if learns:
            fake = [network(y.detach(), where)[0] for network in networks]
            losses = [
                self._distance(scores, 1.0, w) + self._distance(made, -1.0, w)
                for (scores, _), made, w in zip(real, fake, weights, strict=True)
            ]
            loss = torch.stack(losses).mean()
            self.optimizer.zero_grad()
            loss.backward()
            processes.average(p.grad for p in self.networks.parameters() if p.grad is not None)
            nn.utils.clip_grad_norm_(self.networks.parameters(), self.clip)
            self.optimizer.step()
            parts["discriminator"] = loss.detach()
        if not teaches:
            return {}, parts
        made = [network(y, where) for network in networks]
        adversarial = [self._distance(scores, 1.0, w) for (scores, _), w in zip(made, weights, strict=True)]
        pairs = [
            (a.detach().float(), b.float())
            for (_, wanted_layers), (_, layers) in zip(real, made, strict=True)
            for a, b in zip(wanted_layers, layers, strict=True)
        ]
        distances = torch.stack([(a - b).abs().mean() for a, b in pairs])
        if self.relative:
            sizes = torch.stack([a.abs().mean() for a, _ in pairs])
            processes.average([sizes])
            distances = distances / (sizes + 1e-3)
        return {"adversarial": torch.stack(adversarial).mean(), "features": distances.mean()}, parts

    def _distance(self, scores: Tensor, side: float, weight: Tensor | float) -> Tensor:
        """Return the mean distance of scores from "real" (`side` 1) or "estimated" (-1)."""
        scores = scores.float()
        if self.hinge:
            return (weight * F.relu(1 - side * scores)).mean()
        return (weight * (max(side, 0.0) - scores).square()).mean()


def _weights(where: Tensor | None, scores: list[Tensor]) -> list[Any]:
    """Return a weight for each place of each of `scores [B, 1, T', ...]`.

    It is 0 where nothing of `where [B, T]` is, and about 1 in the mean over the rows of all processes.
    """
    if where is None:
        return [1.0] * len(scores)
    share = F.avg_pool1d(where[:, None], 160, 160, ceil_mode=True)
    shares = [F.adaptive_max_pool1d(share, s.shape[2]) for s in scores]
    means = torch.stack([each.mean() for each in shares])
    processes.average([means])
    shares = [each[(..., *[None] * (s.ndim - 3))] for each, s in zip(shares, scores, strict=True)]
    return [each / (mean + 1e-4) for each, mean in zip(shares, means, strict=True)]
