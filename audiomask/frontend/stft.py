"""Analyse and synthesise signals by short-time Fourier transforms, as streaming blocks.

Frame n of an analysis with window K and hop S reads samples [(n+1)S - K, (n+1)S). It ends with the newest
sample, so analysis adds no delay, and with K = 2S it is frame n of
`torch.stft(center=True, pad_mode="constant")`. Synthesis overlap-adds the inverse frames and lags K - S.

    x      |  hop 0  |  hop 1  |  hop 2  |
    frame 0|.........                          K = 2S: the first half is before the signal: zeros
    frame 1 \\.................
    frame 2           .................
    out              |  hop 0  |  hop 1  |     complete one hop later: delay = K - S

Spectra are float maps `[B, 2C, T, F]`: channel 2c holds the real part of signal c, 2c + 1 the imaginary part.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from audiomask.streaming import State, Streaming, simplest, to_onnx

# --- windows ------------------------------------------------------------------------------------------------


def window(name: str, length: int) -> Tensor:
    """Return a periodic window `[length]`: sqrt_hann, hann, hamming, vorbis or rect."""
    n = torch.arange(length, dtype=torch.float64)
    if name in ("hann", "sqrt_hann"):
        w = torch.sin(math.pi * n / length) ** (2 if name == "hann" else 1)
    elif name == "hamming":
        w = 0.54 - 0.46 * torch.cos(2 * math.pi * n / length)
    elif name == "vorbis":  # power-complementary
        w = torch.sin(math.pi / 2 * torch.sin(math.pi * (n + 0.5) / length) ** 2)
    elif name == "rect":
        w = torch.ones_like(n)
    else:
        raise ValueError(f"no window {name!r}: use sqrt_hann, hann, hamming, vorbis, rect or a tensor")
    return w.float()


def dual_window(analysis: Tensor, hop: int) -> Tensor:
    """Return the synthesis window that makes overlap-add the identity.

    It is a[i] / sum_k a[i + kS]^2, which gives the least-squares inverse (Griffin and Lim 1984). ValueError
    where the windows leave gaps.
    """
    a, size = analysis.double(), len(analysis)
    total = nn.functional.pad(a * a, (0, -size % hop)).view(-1, hop).sum(0)
    if total.min() < 1e-6 * total.max():
        raise ValueError(f"windows of {size} samples at hop {hop} leave gaps: shorten the hop")
    return (a / total.repeat(math.ceil(size / hop))[:size]).float()


# --- transform ----------------------------------------------------------------------------------------------


def _factors(size: int) -> tuple[int, int] | None:
    """Return n1 and even n2 of least sum with n1 n2 = size; None where two products do not pay."""
    pairs = [(size // n2, n2) for n2 in range(2, size, 2) if size % n2 == 0][::-1]  # the greater n2 first
    best = min(pairs, key=sum, default=None)
    return best if best is not None and size >= 64 and 4 * sum(best) < size else None


class RealDft(nn.Module):
    """The DFT of real frames, which maps `[N, T, size]` to `[N, 2, T, size // 2 + 1]` and back.

    In torch this is `torch.fft`. In an exported graph it is two matrix products (Cooley and Tukey 1965, one
    split): with size = P Q, n = Q p + q, k = r + P s,

        X[r + P s] = sum_q e^(-2 pi i q (r + P s) / size)  sum_p e^(-2 pi i p r / P)  x[Q p + q]

    For one frame of 512 these are 49 thousand multiplications instead of 263 thousand, in few operators, and
    quick at every composite size; ONNX Runtime's DFT operator is slow even at powers of two. The inverse is
    the transpose.
    """

    direct: Tensor
    direct_inverse: Tensor
    outer: Tensor
    outer_inverse: Tensor
    inner: Tensor
    inner_inverse: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.bins = size, size // 2 + 1
        self.factors = _factors(size)
        k = torch.arange(self.bins, dtype=torch.float64)
        # X[size - k] is the conjugate of X[k]
        weight = torch.where((k == 0) | (2 * k == size), 1.0, 2.0) / size
        if self.factors is None:
            phase = 2 * math.pi / size * torch.outer(torch.arange(size, dtype=torch.float64), k)
            self._keep("direct", torch.cat([phase.cos(), -phase.sin()], 1))
            self._keep("direct_inverse", torch.cat([weight * phase.cos(), -weight * phase.sin()], 1).T)
            return
        p, q = self.factors
        s = q // 2 + 1  # k = r + P s reaches size / 2
        outer = torch.outer(torch.arange(p), torch.arange(p)) % p * (2 * math.pi / p)
        self._keep("outer", torch.stack([outer.cos(), -outer.sin()], 1).reshape(2 * p, p))
        self._keep("outer_inverse", torch.stack([outer.cos(), -outer.sin()], 2).reshape(p, 2 * p))
        index = torch.arange(p)[:, None] + p * torch.arange(s)  # k by (r, s)
        phase = torch.arange(q)[None, :, None] * index[:, None, :] % size * (2 * math.pi / size)
        c, m = phase.cos(), phase.sin()
        self._keep("inner", torch.cat([torch.cat([c, -m], 2), torch.cat([m, c], 2)], 1))  # [P, 2Q, 2S]
        weight = torch.where(index < self.bins, weight[index.clamp_max(self.bins - 1)], 0.0)[:, None, :]
        c, m = weight * c, weight * m
        inverse = torch.cat([torch.cat([c, m], 1), torch.cat([-m, c], 1)], 2)  # [P, 2Q, 2S]
        self._keep("inner_inverse", inverse.transpose(1, 2))

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.float().contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the spectra `[N, 2, T, bins]` of frames `[N, T, size]`."""
        if not to_onnx():
            return torch.view_as_real(torch.fft.rfft(x)).permute(0, 3, 1, 2)
        n, t, _ = x.shape
        if self.factors is None:
            return (x @ self.direct).reshape(n, t, 2, self.bins).transpose(1, 2)
        p, q = self.factors
        s = q // 2 + 1
        y = self.outer @ x.reshape(n, t, p, q)  # [N, T, (r, re/im), q]
        y = y.reshape(n, t, p, 2 * q).transpose(1, 2) @ self.inner  # [N, r, T, (re/im, s)]
        y = y.reshape(n, p, t, 2, s).permute(0, 3, 2, 4, 1)  # [N, 2, T, s, r]
        return y.reshape(n, 2, t, s * p)[..., : self.bins]

    def inverse(self, x: Tensor) -> Tensor:
        """Return the frames `[N, T, size]` of spectra `[N, 2, T, bins]`."""
        if not to_onnx():
            return torch.fft.irfft(torch.complex(x[:, 0], x[:, 1]), self.size)
        n, _, t, _ = x.shape
        if self.factors is None:
            return x.transpose(1, 2).reshape(n, t, 2 * self.bins) @ self.direct_inverse
        p, q = self.factors
        s = q // 2 + 1
        x = torch.cat([x, x[..., : s * p - self.bins]], 3)  # any values: their weights are 0
        y = x.reshape(n, 2, t, s, p)
        y = y.permute(0, 4, 2, 1, 3).reshape(n, p, t, 2 * s) @ self.inner_inverse  # [N, r, T, (re/im, q)]
        y = self.outer_inverse @ y.transpose(1, 2).reshape(n, t, 2 * p, q)  # [N, T, p, q]
        return y.reshape(n, t, self.size)


# --- blocks -------------------------------------------------------------------------------------------------


def _window(value: str | Tensor, length: int) -> Tensor:
    w = window(value, length) if isinstance(value, str) else value.detach().float()
    if w.shape != (length,):
        raise ValueError(f"a window of shape {tuple(w.shape)} given for frames of {length} samples")
    return w


class Analysis(Streaming):
    """Turns `[B, C, T]` into `[B, 2C, T / hop, size // 2 + 1]`: torch.stft's scale, no delay."""

    window: Tensor

    def __init__(
        self, size: int = 512, hop: int = 256, window: str | Tensor = "sqrt_hann", channels: int = 1
    ) -> None:
        super().__init__()
        if not 0 < hop <= size or size % 2:
            raise ValueError(
                f"frames of {size} samples at hop {hop}: the size must be even and at least the hop"
            )
        self.size, self.hop, self.channels = size, hop, channels
        self.rate = Fraction(1, hop)
        self.register_buffer("window", _window(window, size), persistent=False)
        self.dft = RealDft(size)

    def align(self, lag: int) -> None:
        self.lag = lag
        self.delay = -lag % self.hop  # keep the lattice: frames end where hops of the signal end

    @property
    def _memory(self) -> int:
        return -(self.size // -self.hop) * self.hop - self.hop + int(self.delay)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        past = torch.zeros(batch, self.channels, self._memory, device=device, dtype=dtype)
        return {"past": past, **self.gate_state(batch, device)} if self._memory else None

    def step(self, x, state, **controls):
        batch, hop, memory, delay = x.shape[0], self.hop, self._memory, int(self.delay)
        if memory:
            x, seen = self.gate(x, state)
            x = torch.cat([state["past"], x], 2)
            state = {"past": x[:, :, -memory:], **seen}
        if delay:
            x = x[:, :, :-delay]
        overlap = -(self.size // -hop)  # hops that a frame touches
        hops = x.unflatten(2, (-1, hop)).flatten(0, 1)
        frames = torch.cat([hops[:, i : i - overlap + 1 or None] for i in range(overlap)], 2)
        y = self.dft(frames[:, :, overlap * hop - self.size :] * self.window)
        return y.reshape(batch, 2 * self.channels, -1, self.dft.bins), state


class Synthesis(Streaming):
    """Turns spectra `[B, 2C, T, F]` into samples `[B, C, T * hop]`: the inverse of `Analysis`.

    It inverts the one of the same arguments.
    """

    window: Tensor

    def __init__(
        self, size: int = 512, hop: int = 256, window: str | Tensor = "sqrt_hann", channels: int = 1
    ) -> None:
        super().__init__()
        w = dual_window(_window(window, size), hop)
        self.size, self.stride, self.channels = size, hop, channels
        self.rate = Fraction(hop)
        self.delay = simplest(Fraction(size - hop, hop))
        self.register_buffer("window", nn.functional.pad(w, (0, -size % hop)), persistent=False)
        self.dft = RealDft(size)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        state = self.gate_state(batch, device)
        for i in range(1, len(self.window) // self.stride):  # piece i of a frame is added i hops later
            state[f"piece{i}"] = torch.zeros(batch, self.channels, i, self.stride, device=device, dtype=dtype)
        return state or None

    def step(self, x, state, **controls):
        batch, _, frames, bins = x.shape
        if state is not None:
            x, state = self.gate(x, state)[0], {**state, **self.advance(x, state)}
        y = self.dft.inverse(x.reshape(batch * self.channels, 2, frames, bins))
        if len(self.window) > self.size:
            y = nn.functional.pad(y, (0, len(self.window) - self.size))
        y = (y * self.window).reshape(batch, self.channels, frames, -1)
        first, *pieces = y.split(self.stride, 3)
        for i, piece in enumerate(pieces, 1):
            piece = torch.cat([state[f"piece{i}"], piece], 2)
            first = first + piece[:, :, :-i]
            state[f"piece{i}"] = piece[:, :, -i:]
        return first.reshape(batch, self.channels, frames * self.stride), state


class Centred(nn.Module):
    """A transform of whole signals, as `torch.stft` with centred frames, and back; it exports.

    For networks that need the whole signal (see `nn.windowed`). Signals `[B, C, T]` have spectra
    `[B, 2C, T // hop + 1, size // 2 + 1]`, with zeros beyond the ends, or their reflections (`pad`).
    `normalized` spectra have power 1 in each bin for white noise of variance 1.
    """

    window: Tensor

    def __init__(
        self,
        size: int = 2048,
        hop: int = 512,
        window: str | Tensor = "hann",
        pad: Literal["constant", "reflect"] = "constant",
        normalized: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < hop <= size or size % hop or size % 2:
            raise ValueError(f"frames of {size} samples at hop {hop}: an even number of whole hops is wanted")
        self.size, self.hop, self.pad = size, hop, pad
        w = _window(window, size)
        w = w * w.square().sum().rsqrt() if normalized else w
        self.register_buffer("window", w, persistent=False)
        self.dft = RealDft(size)

    def spectra(self, x: Tensor) -> Tensor:
        """Return the spectra of signals."""
        batch, channels, length = x.shape
        frames, beside = length // self.hop + 1, self.size // 2
        x = nn.functional.pad(x, (beside, beside), self.pad)[:, :, : (frames - 1) * self.hop + self.size]
        hops = x.reshape(batch * channels, -1, self.hop)
        x = torch.cat([hops[:, i : i + frames] for i in range(self.size // self.hop)], 2)
        y = self.dft(x * self.window)
        return y.reshape(batch, 2 * channels, frames, self.dft.bins)

    def signals(self, spectra: Tensor, length: int) -> Tensor:
        """Return the signals of `length` samples that have these spectra, in the least-squares sense."""
        batch, parts, frames, bins = spectra.shape
        y = self.dft.inverse(spectra.reshape(-1, 2, frames, bins)) * self.window
        weight = self.window.square().expand(1, frames, self.size)
        y = self._added(y) / self._added(weight).clamp_min(1e-11)
        return y[:, self.size // 2 : self.size // 2 + length].reshape(batch, parts // 2, length)

    def _added(self, frames: Tensor) -> Tensor:
        """Return the sum `[N, T]` of overlapping frames `[N, F, size]`."""
        pieces = frames.unflatten(2, (-1, self.hop)).unbind(2)
        last = len(pieces) - 1
        padded = [nn.functional.pad(piece, (0, 0, i, last - i)) for i, piece in enumerate(pieces)]
        return torch.stack(padded).sum(0).flatten(1)


# --- spectra ------------------------------------------------------------------------------------------------


def power(spectrum: Tensor) -> Tensor:
    """Return |X|^2 `[B, C, T, F]` of spectra `[B, 2C, T, F]`."""
    if spectrum.shape[1] == 2:
        return spectrum.square().sum(1, keepdim=True)
    return spectrum.unflatten(1, (-1, 2)).square().sum(2)


def magnitude(spectrum: Tensor, floor: float = 1e-12) -> Tensor:
    """Return sqrt(|X|^2 + floor) `[B, C, T, F]`; the floor keeps the gradient finite at zero."""
    return (power(spectrum) + floor).sqrt()


def compress(spectrum: Tensor, exponent: float = 0.3, floor: float = 1e-12) -> Tensor:
    """Return spectra `[B, 2C, T, F]` X |X|^(exponent - 1): magnitudes compressed, phases kept."""
    gain = (power(spectrum) + floor) ** ((exponent - 1) / 2)
    return spectrum * (gain if spectrum.shape[1] == 2 else gain.repeat_interleave(2, 1))
