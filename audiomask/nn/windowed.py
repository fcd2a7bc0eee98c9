"""Run networks that need the whole signal over windows of it, in constant memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from audiomask.streaming import State, Streaming


class Windowed(Streaming):
    """A block that runs `network`, `[B, C, 2 hop]` -> `[B, D, 2 hop]`, over windows.

    It maps `[B, C, T]` -> `[B, D, T]`, with D = C unless `outputs` are given. Windows overlap by half, and
    the middle of each is used, `hop` samples and `fade` more, in which it is cross-faded with the one before
    (linear weights that sum to 1). Where the network looks no further than `hop / 2 - fade` samples to each
    side, the result is that of the whole signal in silence:

        window k   |----before----|~fade~|--------used--------|----after----|
        window k + 1                      |----before---|~fade~|--------used ...

    The delay is hop / 2 + fade. The first windows begin in the silence before the signal.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        hop: int,
        fade: int,
        channels: int = 1,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        if hop % 2 or not 0 < fade <= hop // 2:
            raise ValueError(
                f"windows of 2 x {hop} samples with a fade of {fade}: hop must be even, fade in it"
            )
        self._network = (network,)  # registered where its parameters are named
        self.hop, self.fade, self.channels, self.outputs = hop, fade, channels, outputs or channels
        self.delay = hop // 2 + fade

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        past = torch.zeros(batch, self.channels, self.hop, device=device, dtype=dtype)
        tail = torch.zeros(batch, self.outputs, self.fade, device=device, dtype=dtype)
        return {"past": past, "tail": tail, **self.gate_state(batch, device)}

    def step(self, x, state, **controls):
        hop, fade, batch = self.hop, self.fade, x.shape[0]
        x, seen = self.gate(x, state)
        x = torch.cat([state["past"], x], 2)
        hops = x.reshape(batch, self.channels, -1, hop).transpose(1, 2)  # [B, n + 1, C, hop]
        windows = torch.cat([hops[:, :-1], hops[:, 1:]], 3)
        y = self._network[0](windows.reshape(-1, self.channels, 2 * hop))
        y = y[:, :, hop // 2 - fade : hop // 2 + hop]
        rise = (torch.arange(fade, device=x.device, dtype=x.dtype) + 0.5) / fade
        y = y * torch.cat([rise, torch.ones(hop - fade, device=x.device, dtype=x.dtype), 1 - rise])
        y = y.reshape(batch, -1, self.outputs, hop + fade).transpose(1, 2)  # [B, D, n, hop + fade]
        tails = torch.cat([state["tail"][:, :, None], y[:, :, :, hop:]], 2)
        y = torch.cat([y[..., :fade] + tails[:, :, :-1], y[..., fade:hop]], 3)
        past = x[:, :, -hop:]
        return y.reshape(batch, self.outputs, -1), {"past": past, "tail": tails[:, :, -1], **seen}
