"""Run networks that need the whole signal over windows of it, in constant memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from audiomask.streaming import State, Streaming


class Windowed(Streaming):
    """A block that runs `network`, `[B, C, W]` -> `[B, D, W]`, over windows that overlap.

    It maps `[B, C, T]` -> `[B, D, T]`, with D = C unless `outputs` are given. A window has W = `hop` +
    `overlap` samples; half of them are common to two windows, unless an `overlap` is given. The middle of
    each window is used, `hop` samples and `fade` more, in which it is cross-faded with the one before (linear
    weights that sum to 1). Where the network looks no further than `overlap / 2 - fade` samples to each side,
    the result is that of the whole signal in silence:

        window k   |----before----|~fade~|--------used--------|----after----|
        window k + 1                      |----before---|~fade~|--------used ...

    The delay is overlap / 2 + fade. The first windows begin in the silence before the signal.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        hop: int,
        fade: int,
        channels: int = 1,
        outputs: int | None = None,
        overlap: int | None = None,
    ) -> None:
        super().__init__()
        shared = hop if overlap is None else overlap
        if shared % 2 or not 0 < fade <= shared // 2 or shared > hop:
            raise ValueError(
                f"windows of {hop} + {shared} samples with a fade of {fade}: the overlap must be even, no "
                "more than the hop, and the fade in half of it"
            )
        self._network = (network,)  # registered where its parameters are named
        self.hop, self.fade, self.channels, self.outputs = hop, fade, channels, outputs or channels
        self.overlap, self.delay = shared, shared // 2 + fade

    @classmethod
    def overlapping(
        cls,
        network: Callable[[Tensor], Tensor],
        window: int,
        overlap: float,
        channels: int,
        outputs: int,
        unit: int = 4,
    ) -> Windowed:
        """Return windows of `window` samples, of which two have a fraction `overlap` in common.

        What they share is a multiple of 2 `unit` samples, and an eighth of it is cross-faded on each side of
        its middle. Raises ValueError for windows of fewer than 4 units, and overlaps above .5.
        """
        if not 0 < overlap <= 0.5 or window < 4 * unit:
            raise ValueError(
                f"windows of {window // unit} x {unit} samples that overlap by {overlap}: give 4 or more, "
                "and 0 to .5"
            )
        shared = max(1, round(window / unit * overlap / 2)) * 2 * unit
        return cls(network, window - shared, shared // 4, channels, outputs, shared)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        past = torch.zeros(batch, self.channels, self.overlap, device=device, dtype=dtype)
        tail = torch.zeros(batch, self.outputs, self.fade, device=device, dtype=dtype)
        return {"past": past, "tail": tail, **self.gate_state(batch, device)}

    def step(self, x, state, **controls):
        hop, fade, overlap, batch = self.hop, self.fade, self.overlap, x.shape[0]
        x, seen = self.gate(x, state)
        hops = x.reshape(batch, self.channels, -1, hop)
        # What comes before each hop, and after the last.
        ends = torch.cat([state["past"][:, :, None], hops[..., hop - overlap :]], 2)
        windows = torch.cat([ends[:, :, :-1], hops], 3).transpose(1, 2)  # [B, n, C, overlap + hop]
        y = self._network[0](windows.reshape(-1, self.channels, overlap + hop))
        y = y[:, :, overlap // 2 - fade : overlap // 2 + hop]
        rise = (torch.arange(fade, device=x.device, dtype=x.dtype) + 0.5) / fade
        y = y * torch.cat([rise, torch.ones(hop - fade, device=x.device, dtype=x.dtype), 1 - rise])
        y = y.reshape(batch, -1, self.outputs, hop + fade).transpose(1, 2)  # [B, D, n, hop + fade]
        tails = torch.cat([state["tail"][:, :, None], y[:, :, :, hop:]], 2)
        y = torch.cat([y[..., :fade] + tails[:, :, :-1], y[..., fade:hop]], 3)
        return y.reshape(batch, self.outputs, -1), {"past": ends[:, :, -1], "tail": tails[:, :, -1], **seen}
