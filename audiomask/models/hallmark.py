"""Hide a carrier under what masks it, to be found again: Hallmark, our own watermark.

Hallmark is spread spectrum (Cox et al. 1997, Kirovski and Malvar 2003): a carrier like noise, which only a
key can make, is added to sound, shaped to lie below the threshold that the sound itself raises:

    X, R = STFT of sound x and carrier r (32 ms, hop 8)
    W = R sqrt(T) 10^(-m / 20),      T the masking threshold of X (`masks.hearing`), the least of 3 frames
    m = closest + (farthest - closest) clip(1 + (T - top) / span, 0, 1) dB
    mark = strength * the signal of W

where top is the greatest T of the last second, or `loud` if that is more. Loud places are far from T, for
they have the energy; soft ones near it, for there codecs and noise leave as much of the mark for less. |R|^2
is cut at `crest` times its mean. A frame gets no more than a part of its own power (`ceiling`): under the
threshold of hearing there is room for a mark in silence, too, but silence is to stay silent.

The energy of the mark in the last 5 s is at most a part of the sound's (`budget`). While there is room left,
loud places move towards `closest`, too. What was before the beginning is taken for sound of -55 dBFS.

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
from audiomask.streaming import Context, Delay, Port, State, Steps, StreamingModel


class Hallmark(StreamingModel):
    """A marker that maps sound `[B, 1, T]` to what is to be added to it, `[B, 1, T]`.

    Args:
        ear: Threshold, "model1" or "johnston".
        closest, farthest: Margins below the threshold in dB: where T is `span` dB below its top, and there.
        span, loud: In dB; `loud` in units of |X|^2.
        crest: Greatest power of the carrier in a bin, over its mean.
        ceiling, budget: Greatest power of the mark in dB, beside that of the sound: in a frame, and in the
            mean of 5 s.
        name: Name of the artifact.
    """

    task = "mark"
    sample_rate = 16000
    SIZE, HOP, PERIOD, SECOND, FIVE_S = 512, 128, 8192, 125, 625
    BEFORE = 10**-5.5 * SIZE**2 / 4  # the sum of |X|^2 that sound of -55 dBFS has

    def __init__(
        self,
        ear: str = "model1",
        closest: float = 4.5,
        farthest: float = 22.0,
        span: float = 45.0,
        loud: float = 15.0,
        crest: float = 1.5,
        ceiling: float = -15.0,
        budget: float = -26.3,
        name: str = "hallmark",
    ) -> None:
        super().__init__()
        self.name, self.closest, self.farthest, self.span, self.loud = name, closest, farthest, span, loud
        self.crest, self.ceiling, self.budget = crest, ceiling, budget
        shape = window("sqrt_hann", self.SIZE)
        self.sound = Analysis(self.SIZE, self.HOP, "sqrt_hann")
        self.carried = Analysis(self.SIZE, self.HOP, "sqrt_hann")
        self.threshold = {"model1": Model1, "johnston": Johnston}[ear](self.sample_rate, self.SIZE, shape)
        self.around = Context(1, 1, (1, self.SIZE // 2 + 1))
        self.own = Delay(1, 1)
        self.second = Context(self.SECOND - 1, 0, 1, fill=loud)
        self.heard = Context(self.FIVE_S - 1, 0, 1, fill=self.BEFORE)
        self.hidden = Context(self.FIVE_S - 1, 0, 2)
        self.synthesis = Synthesis(self.SIZE, self.HOP, "sqrt_hann")
        self.density = float(shape.square().sum())  # |R|^2 in the mean, of a carrier of power 1 in all bins
        self.inputs = (
            Port("audio"),
            Port("carrier", "control", channels=self.PERIOD // 2, doc="half a period, of power 1"),
            Port("strength", "control", default=1.0, minimum=0.0, maximum=4.0, doc="gain of the mark"),
        )
        self.outputs = (Port("mark", added=True),)
        self.compose(self.sound, self.around, self.synthesis)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        place = torch.zeros(batch, dtype=torch.int64, device=device)  # in the period
        return {**super().initial_state(batch, device, dtype), "place": place}

    def step(self, x, state, carrier=None, strength=None, **controls):
        step = Steps(self, state)
        half = self.control("carrier", carrier, x)
        # a hop before that of the sound, as the thresholds wait for the next one
        at = state["place"][:, None] + torch.arange(x.shape[2], device=x.device) - self.HOP
        step.states["place"] = (state["place"] + x.shape[2]) % self.PERIOD
        period = torch.cat((half, -half), 1).gather(1, at % self.PERIOD)
        z, r = step("sound", x), step("carried", period[:, None])
        t = step("around", step("threshold", z))  # [B, 1, T + 2, F]
        t = torch.minimum(torch.minimum(t[:, :, :-2], t[:, :, 1:-1]), t[:, :, 2:])
        level = 10 * torch.log10(t + 1e-20)
        recent = step("second", level.amax(3))  # [B, 1, 124 + T]
        top = F.max_pool1d(recent, self.SECOND, 1).clamp_min(self.loud)[..., None]
        power = r.square().sum(1, keepdim=True) / self.density
        cut = (self.crest / power.clamp_min(1e-12)).clamp_max(1).sqrt() / math.sqrt(self.density)
        near = r * ((level - self.closest).mul(math.log(10) / 20).exp() * cut)
        tilt = (1 + (level - top) / self.span).clamp(0, 1) * (self.closest - self.farthest)
        far = near * tilt.mul(math.log(10) / 20).exp()
        own = step("own", z.square().sum((1, 3))[:, None])  # [B, 1, T]
        ceiling = 10 ** (self.ceiling / 10) * own
        powers = torch.cat([w.square().sum((1, 3))[:, None] for w in (far, near)], 1)
        fits = (ceiling / (powers + 1e-20)).clamp_max(1)
        room = 10 ** (self.budget / 10) * F.avg_pool1d(step("heard", own), self.FIVE_S, 1)
        least, most = F.avg_pool1d(step("hidden", fits * powers), self.FIVE_S, 1).sqrt().split(1, 1)
        fits = fits.sqrt()
        # amplitudes add up to no more than the room, whatever the share of either
        share = ((room.sqrt() - least) / (most - least + 1e-10)).clamp(0, 1)
        less = (room.sqrt() / (least + 1e-10)).clamp_max(1)
        strength = self.control("strength", strength, x)[:, None, None]
        gains = torch.cat(((1 - share) * less, share), 1) * fits * strength
        w = far * gains[:, :1, :, None] + near * gains[:, 1:, :, None]
        return step("synthesis", w), step.states
