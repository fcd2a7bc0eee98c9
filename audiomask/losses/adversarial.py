"""An adversary: networks that tell spectra of estimates from real ones, and what they teach the estimator.

Regression gives the mean of what might have been, which is duller than any of it. Least squares (Mao et al.
2017) on spectra of several resolutions, as in EnCodec (Defossez et al. 2022) and before it UnivNet (Jang et
al. 2021)::

    discriminator   mean w (1 - D(x))^2 + mean w D(y)^2                          x real, y estimated
    estimator       mean w (1 - D(y))^2, and the mean over layers of |D_l(x) - D_l(y)| / |D_l(x)|  (features)

with w where something was estimated at all: in concealment most of y is x. Each step one resolution has its
turn, on a part of the clip.

The gradients of the losses with respect to y are brought to one scale before they are added (EnCodec's
balancer): `weights` are then shares, and no loss has to be weighed anew when another changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from audiomask.frontend.stft import power

LAYERS = (  # kernel, stride over (frames, bins), width in `channels`
    ((3, 7), (1, 2), 1),
    ((3, 7), (1, 2), 1),
    ((3, 7), (1, 2), 2),
    ((3, 5), (2, 2), 2),
    ((3, 3), (1, 1), 2),
)


class SpectrumDiscriminator(nn.Module):
    """Scores of a signal at places of its spectrogram.

    Args:
        fft, hop: samples; the window is Hann's. channels: of the first layers, half those of the last.
    """

    window: Tensor

    def __init__(self, fft: int, hop: int, channels: int = 16):
        super().__init__()
        self.fft, self.hop = fft, hop
        self.register_buffer("window", torch.hann_window(fft), persistent=False)
        layers, before = [], 4
        for size, stride, wider in LAYERS:
            pad = (size[0] // 2, size[1] // 2)
            layers.append(weight_norm(nn.Conv2d(before, wider * channels, size, stride, pad)))
            before = wider * channels
        self.layers = nn.ModuleList(layers)
        self.last = weight_norm(nn.Conv2d(before, 1, 3, 1, 1))

    def forward(self, x: Tensor, where: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`x [B, T]` of RMS about 1, `where [B, T]`: 1 where it was estimated -> scores
        `[B, 1, frames / 2, places]`, and the outputs of the layers. Spectra enter compressed, X |X|^-.7."""
        z = torch.stft(x.float(), self.fft, self.hop, window=self.window, return_complex=True)
        z = torch.view_as_real(z).permute(0, 3, 2, 1) * (50 / self.window.sum())  # [B, 2, frames, bins]
        p = power(z) + 1e-6
        share = F.pad(where[:, None], (self.fft // 2, self.fft // 2))
        share = F.avg_pool1d(share, self.fft, self.hop)[..., None].expand(-1, -1, -1, z.shape[3])
        y = torch.cat([z * p**-0.35, p**0.15, share], 1)
        outputs = []
        for layer in self.layers:
            y = F.leaky_relu(layer(y), 0.2)
            outputs.append(y)
        return self.last(y), outputs


class Adversary:
    """Discriminators and their training beside an estimator's.

    Args:
        resolutions: (FFT size, hop) of each discriminator, in samples. channels: theirs.
        lr: of their AdamW (.5, .9).
        weights: of the gradients of `loss` (the estimator's other losses), `adversarial` and `features`.
        segment: samples of each clip that they look at. first: steps in which they learn alone.

    In several processes each trains its own on its own rows.
    """

    def __init__(
        self,
        resolutions: Sequence[Sequence[int]] = ((256, 64), (512, 128), (1024, 256)),
        channels: int = 16,
        lr: float = 2e-3,
        weights: Mapping[str, float] | None = None,
        segment: int = 16000,
        first: int = 150,
    ):
        self.weights = {"loss": 1.0, "adversarial": 0.5, "features": 0.5} | dict(weights or {})
        if len(self.weights) != 3:
            raise ValueError(f"weights of {sorted(self.weights)}: there are loss, adversarial and features")
        if not resolutions or segment < max(fft for fft, _ in resolutions):
            raise ValueError(
                f"segment {segment}, resolutions {resolutions}: it must hold the FFTs, one at least"
            )
        self.networks = nn.ModuleList(SpectrumDiscriminator(fft, hop, channels) for fft, hop in resolutions)
        self.optimizer = torch.optim.AdamW(self.networks.parameters(), lr, betas=(0.5, 0.9))
        self.segment, self.first, self.step = segment, first, 0
        self.norms: dict[str, float] = {}

    def to(self, device: torch.device) -> None:
        self.networks.to(device)
        self.optimizer.load_state_dict(self.optimizer.state_dict())  # its state follows the parameters

    def state_dict(self) -> dict[str, Any]:
        return {
            "networks": self.networks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "norms": dict(self.norms),
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.norms, self.step = dict(state["norms"]), state["step"]

    def __call__(
        self, estimate: Tensor, target: Tensor, where: Tensor, gradient: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Trains a discriminator for a step, and gives the gradient that the estimator is to follow.

        `estimate [B, T]` (no graph is needed), `target [B, T]`, both of RMS about 1; `where [B, T]` float,
        `gradient [B, T]` of the other losses with respect to the estimate -> the balanced sum `[B, T]`, and
        the values of the losses.
        """
        network: SpectrumDiscriminator = self.networks[self.step % len(self.networks)]  # type: ignore[assignment]
        at = self.step * 7919 % max(1, estimate.shape[1] - self.segment + 1)
        part = slice(at, at + self.segment)
        y, x, where = estimate.detach()[:, part], target[:, part], where[:, part]

        real, outputs = network(x, where)
        weight = _weight(where, real)
        loss = (weight * (1 - real.float()).square()).mean()
        loss = loss + (weight * network(y, where)[0].float().square()).mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), 10.0)
        self.optimizer.step()

        parts, gradients = {"discriminator": loss.detach()}, {"loss": gradient}
        if self.step >= self.first:
            y.requires_grad_()
            fake, made = network(y, where)
            distances = [_apart(a.detach(), b) for a, b in zip(outputs, made, strict=True)]
            values = {
                "adversarial": (weight * (1 - fake.float()).square()).mean(),
                "features": torch.stack(distances).mean(),
            }
            for name, value in values.items():
                (g,) = torch.autograd.grad(value, y, retain_graph=True)
                gradients[name] = F.pad(g, (at, estimate.shape[1] - at - g.shape[1]))
                parts[name] = value.detach()
        self.step += 1
        return self._balance(gradients), parts

    def _balance(self, gradients: dict[str, Tensor]) -> Tensor:
        for name, g in gradients.items():
            norm = float(g.norm())
            self.norms[name] = 0.98 * self.norms.get(name, norm) + 0.02 * norm
        scale = self.norms["loss"]
        total = torch.zeros_like(gradients["loss"])
        for name, g in gradients.items():
            total = total + self.weights[name] * scale / (self.norms[name] + 1e-12) * g
        return total


def _weight(where: Tensor, scores: Tensor) -> Tensor:
    """Of places of `scores [B, 1, T', F']`: 0 where nothing of `where [B, T]` is; mean about 1."""
    share = F.avg_pool1d(where[:, None], 160, 160, ceil_mode=True)
    share = F.adaptive_max_pool1d(share, scores.shape[2])[..., None]
    return share / (share.mean() + 1e-4)


def _apart(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).abs().mean() / (a.float().abs().mean() + 1e-3)
