"""Fill gaps by periodic extension, the classical method, where a concealing network starts.

Speech repeats itself. Where samples are lost, the last period before the loss is repeated; its length T is
the lag of the greatest normalised cross-correlation of the last received samples,

    T = argmax_l  sum_k x[s - k] x[s - k - l] / sqrt(sum_k x[s - k]^2 sum_k x[s - k - l]^2) - bias (l - l_min)

over lags of 5 to 15 ms (ITU-T G.711 Appendix I). A voice of more than 200 Hz is repeated by two periods or
more, and sound without period by pieces long enough not to buzz. `bias` decides for the shorter lag where two
fit alike. The first 10 ms repeat one period, the next 10 the last two, and what is lost after that the last
three, so that a long loss is no steady tone (also from there).

    x      ... . . . . . |  lost                    |
    filled ... a b c d e | b' c d e  b' c d e  b' c |     T = 4
                                                          b' and what follows carry the step that the jump
                                                          from e to b would have, fading over a quarter of T

Periods are measured on the filled signal, as an island between two losses may be too short. That makes it a
recursion over hops, in an exported graph a Scan.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from audiomask.streaming import State, Streaming, either, recur, to_onnx


class Extension(Streaming):
    """A block that fills the samples of `[B, 1, T]` that `lost [B, 1, T]` marks, without delay.

    `step` returns filled samples `[B, 1, T]`, and per hop the period and the length of the loss that lasts at
    the hop's end, in samples (0 where the last one is there), `[B, T / hop]` int64 each. `sample_rate` is in
    Hz, `hop` in samples, at least 5 ms.
    """

    lags: Tensor
    lagged: Tensor

    def __init__(self, sample_rate: int, hop: int):
        super().__init__()
        if sample_rate % 8000:
            raise ValueError(f"Extension at {sample_rate} Hz: needs a multiple of 8000")
        self.hop, self.factor = hop, sample_rate // 8000  # the coarse search is at 8 kHz
        ms = sample_rate // 1000
        self.least, self.most, self.template = 5 * ms, 15 * ms, 10 * ms
        self.past = 3 * self.most + 3 * ms
        lags = torch.arange(self.least, self.most + 1, self.factor) // self.factor
        width = self.template // self.factor
        lagged = self.past // self.factor - width - lags[:, None] + torch.arange(width)
        self.register_buffer("lags", lags, persistent=False)
        self.register_buffer("lagged", lagged, persistent=False)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        return {
            "past": torch.zeros(batch, self.past, device=device, dtype=dtype),
            "heard": torch.zeros(batch, self.past, device=device, dtype=dtype),  # before the newest loss
            "period": torch.full((batch,), self.least, dtype=torch.int64, device=device),
            "run": torch.zeros(batch, dtype=torch.int64, device=device),
        }

    def step(  # type: ignore[override]
        self, x: Tensor, state: State, lost: Tensor, **controls
    ) -> tuple[tuple[Tensor, Tensor, Tensor], State]:
        batch = x.shape[0]
        hops = x.reshape(batch, -1, self.hop).transpose(0, 1)
        flags = lost.reshape(batch, -1, self.hop).transpose(0, 1)
        names = ("past", "heard", "period", "run")
        hop = partial(self._hop, graph=to_onnx())
        end, (y, period, run) = recur(hop, tuple(state[name] for name in names), (hops, flags))
        y = y.transpose(0, 1).reshape(batch, 1, -1)
        return (y, period.T, run.T), dict(zip(names, end, strict=True))

    def _hop(self, carry: tuple[Tensor, ...], inputs: tuple[Tensor, ...], graph: bool) -> tuple[tuple, tuple]:
        """Process one hop `[B, hop]`; return past, heard, period, run, and filled, period, run."""
        past, heard, period, run = carry
        x, lost = inputs
        y, heard, period, run = either(
            lost.any(), self._fill, self._pass, (x, lost, past, heard, period, run), graph
        )
        past = torch.cat([past, y], 1)[:, self.hop :]
        return (past, heard, period, run), (y, period, run)

    @staticmethod
    def _pass(x, lost, past, heard, period, run) -> tuple[Tensor, ...]:
        """Pass a hop of which nothing is lost."""
        return x, heard, period, torch.zeros_like(run)

    def _fill(
        self, x: Tensor, lost: Tensor, past: Tensor, heard: Tensor, period: Tensor, run: Tensor
    ) -> tuple[Tensor, ...]:
        """Fill a hop in which something is lost; return filled, heard, period, run."""
        i = torch.arange(self.hop, device=x.device)[None]
        # The newest loss begins at sample s of the hop, after the last sample received before it; s = 0 and
        # run > 0 say that it began in an earlier hop and goes on.
        last = torch.where(lost, i, -1).amax(1, keepdim=True)
        s = torch.where(~lost & (i < last), i, -1).amax(1, keepdim=True) + 1
        going = (run > 0)[:, None]
        back = torch.where(lost, self.hop, i).amin(1, keepdim=True)  # where the older loss, if any, ends
        y = torch.where(going & (i < back), self._repeat(heard, period, run[:, None] + i), x)
        begins = (last >= 0) & ~((s == 0) & going)
        before = s + torch.arange(self.past, device=x.device)
        heard = torch.where(begins, torch.cat([past, y], 1).gather(1, before), heard)
        period = torch.where(begins[:, 0], self._period(heard), period)
        y = torch.where(lost & begins & (i >= s), self._repeat(heard, period, (i - s).clamp_min(0)), y)
        received = torch.where(lost, -1, i).amax(1)
        run = torch.where(received < 0, run + self.hop, self.hop - 1 - received)
        return y, heard, period, run

    def _repeat(self, heard: Tensor, period: Tensor, at: Tensor) -> Tensor:
        """Return samples number `at [B, n]` of a loss after `heard [B, past]`."""
        t = period[:, None] * (1 + torch.div(at, self.template, rounding_mode="trunc")).clamp_max(3)
        start = self.past - t
        phase = at - torch.div(at, t, rounding_mode="trunc") * t
        step = heard[:, -1:] - heard.gather(1, start - 1)
        return heard.gather(1, start + phase) + step * (1 - 4 * phase / period[:, None]).clamp_min(0)

    def _period(self, heard: Tensor) -> Tensor:
        """Return the lag `[B]` that continues `heard [B, past]` best, searched first at 8 kHz."""
        coarse = heard.unflatten(1, (-1, self.factor)).mean(2)
        width = self.template // self.factor
        bias = 0.1 * torch.linspace(0, 1, len(self.lags), device=heard.device)
        best = (_correlation(coarse[:, self.lagged], coarse[:, None, -width:]) - bias).argmax(1)
        near = self.lags[best] * self.factor
        near = near[:, None] + torch.arange(-self.factor, self.factor + 1, device=heard.device)
        near = near.clamp(self.least, self.most)
        at = self.past - self.template - near[:, :, None] + torch.arange(self.template, device=heard.device)
        lagged = heard.gather(1, at.flatten(1)).unflatten(1, at.shape[1:])
        best = _correlation(lagged, heard[:, None, -self.template :]).argmax(1)
        return near.gather(1, best[:, None])[:, 0]


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the normalised correlation over the last axis; 0 for silence."""
    return (a * b).sum(-1) / ((a.square().sum(-1) * b.square().sum(-1)).sqrt() + 1e-9)
