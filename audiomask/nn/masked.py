"""Build models that multiply the spectrum of a sound by a mask which a network makes.

    class Denoiser(Masked):
        def __init__(self):
            super().__init__()
            self.net = MyNet()  # a streaming block: [B, 2, T, F] -> [B, 2, T, F]
            self.between(Analysis(512, 256), self.net, Synthesis(512, 256))

The network may look ahead. Its mask then lags, and the spectrum waits for it:

    x -> analysis -> X -+-> features -> net ---> M     (R frames late)
                        '-> wait R frames -----> X  -> estimate M X -> synthesis -> y

Hop and delay are composed from the blocks: with frames of K samples at hop S, K - S + R S.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from audiomask.frontend.stft import Analysis, Synthesis
from audiomask.masks import gains
from audiomask.streaming import Delay, Port, Steps, Streaming, StreamingModel, whole


class Masked(StreamingModel):
    """A model that masks spectra and maps samples `[B, C, T]` to those of its outputs."""

    task = "enhance"
    outputs: tuple[Port, ...] = (Port("enhanced"),)

    def between(self, analysis: Analysis, net: Streaming, synthesis: Synthesis) -> None:
        """Put the network between the transforms; its parts are registered where weights are named."""
        self.analysis, self.synthesis = analysis, synthesis
        self.compose(analysis, net, synthesis)
        synthesis.align(0)  # before the signal the spectrum that waits is zero: nothing to gate
        self.wait = Delay(whole(net.delay), (2 * analysis.channels, analysis.dft.bins))

    def named_blocks(self) -> dict[str, nn.Module]:
        return {
            "analysis": self.analysis, "net": self.path[1], "wait": self.wait, "synthesis": self.synthesis
        }  # fmt: skip

    def features(self, spectrum: Tensor) -> Tensor:
        """Return the part of the spectrum `[B, 2 C, T, F]` that the network sees, by default all."""
        return spectrum

    def estimate(self, mask: Tensor, spectrum: Tensor, **controls: Any) -> Tensor:
        """Return the spectra of all outputs, `[B, 2 N, T, F]`, from the network's mask and X."""
        return gains.multiply(mask, spectrum)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        spectrum = step("analysis", x)
        mask = step("net", self.features(spectrum))
        y = step("synthesis", self.estimate(mask, step("wait", spectrum), **controls))
        return self.parted(y), step.states
