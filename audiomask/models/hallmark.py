"""Hide a carrier under what masks it, to be found again: Hallmark, our own watermark.

Hallmark is spread spectrum (Cox et al. 1997, Kirovski and Malvar 2003): a carrier like noise, which only a
key can make, is added to sound, shaped to lie below the threshold that the sound itself raises:

    X, R = STFT of sound x and carrier r (32 ms, hop 8)
    W = R sqrt(T) 10^(-m / 20),      T the masking threshold of X (`masks.hearing`)
    m = closest + (farthest - closest) clip(1 + (T - max T) / span, 0, 1) dB
    mark = strength * the signal of W

max T is the loudest of the last second. Loud places are far from T, for they have the energy; soft ones near
it, for there codecs and noise leave as much of the mark for less. |R|^2 is cut at `crest` times its mean. A
frame gets no more than a part of its own power (`ceiling`): under the threshold of hearing there is room for
a mark in silence, too, but silence is to stay silent.

It works at 16 kHz and below 6.8 kHz. Sound of any rate is brought to that, and the mark comes back to its
rate before it is added: nothing else of the sound is changed. The carrier is a control, half a period that is
repeated with opposite sign each time; what it says, and how it is found, is `runtime.marks`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from audiomask.frontend.stft import Analysis, Synthesis, window
from audiomask.masks.hearing import Johnston, Model1
from audiomask.streaming import Context, Port, State, Steps, StreamingModel


class Hallmark(StreamingModel):
    """A marker that maps sound `[B, 1, T]` to what is to be added to it, `[B, 1, T]`.

    Args:
        ear: Threshold, "model1" or "johnston".
        closest, farthest: Margins below the threshold in dB, where T is `span` dB below the loudest T of the
            last second, and there.
        span: In dB.
        crest: Greatest power of the carrier in a bin, over its mean.
        ceiling: Greatest power of a frame of the mark in dB, beside that of the sound.
        name: Name of the artifact.
    """

    task = "mark"
    sample_rate = 16000
    SIZE, HOP, SECOND, PERIOD = 512, 128, 125, 8192

    def __init__(
        self,
        ear: str = "model1",
        closest: float = 7.0,
        farthest: float = 24.0,
        span: float = 45.0,
        crest: float = 4.0,
        ceiling: float = -15.0,
        name: str = "hallmark",
    ) -> None:
        super().__init__()
        self.name, self.closest, self.farthest, self.span = name, closest, farthest, span
        self.crest, self.ceiling = crest, ceiling
        shape = window("sqrt_hann", self.SIZE)
        self.sound = Analysis(self.SIZE, self.HOP, "sqrt_hann")
        self.carried = Analysis(self.SIZE, self.HOP, "sqrt_hann")
        self.threshold = {"model1": Model1, "johnston": Johnston}[ear](self.sample_rate, self.SIZE, shape)
        self.second = Context(self.SECOND - 1, 0, 1, fill=-200.0)
        self.synthesis = Synthesis(self.SIZE, self.HOP, "sqrt_hann")
        self.density = float(shape.square().sum())  # |R|^2 in the mean, of a carrier of power 1 in all bins
        self.inputs = (
            Port("audio"),
            Port("carrier", "control", channels=self.PERIOD // 2, doc="half a period, of power 1"),
            Port("strength", "control", default=1.0, minimum=0.0, maximum=4.0, doc="gain of the mark"),
        )
        self.outputs = (Port("mark", added=True),)
        self.compose(self.sound, self.synthesis)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        place = torch.zeros(batch, dtype=torch.int64, device=device)  # in the period
        return {**super().initial_state(batch, device, dtype), "place": place}

    def step(self, x, state, carrier=None, strength=None, **controls):
        step = Steps(self, state)
        half = self.control("carrier", carrier, x)
        at = state["place"][:, None] + torch.arange(x.shape[2], device=x.device)
        step.states["place"] = (state["place"] + x.shape[2]) % self.PERIOD
        period = torch.cat((half, -half), 1).gather(1, at % self.PERIOD)
        z, r = step("sound", x), step("carried", period[:, None])
        t = step("threshold", z)  # [B, 1, T, F]
        level = 10 * torch.log10(t + 1e-20)
        recent = step("second", level.amax(3))  # [B, 1, 124 + T]
        top = F.max_pool1d(recent, self.SECOND, 1)[..., None]
        near = (1 + (level - top) / self.span).clamp(0, 1)
        margin = self.closest + (self.farthest - self.closest) * near
        power = r.square().sum(1, keepdim=True) / self.density
        cut = (self.crest / power.clamp_min(1e-12)).clamp_max(1).sqrt()
        w = r * ((level - margin).mul(math.log(10) / 20).exp() * cut / math.sqrt(self.density))
        own, its = (each.square().sum((1, 3), keepdim=True) for each in (z, w))
        fit = (10 ** (self.ceiling / 10) * own / (its + 1e-20)).clamp_max(1).sqrt()
        strength = self.control("strength", strength, x)[:, None, None, None]
        return step("synthesis", w * (fit * strength)), step.states
