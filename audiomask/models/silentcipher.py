"""Hide a repeated message in the magnitudes of a spectrogram: SilentCipher.

    marked = network.marked(x, network.message(0xC0FFEE1234))       # x [B, 1, T], 5 bytes at 44.1 kHz
    network.read(marked[0, 0]).number == 0xC0FFEE1234               # with trained weights

Singh, Takahashi, Liao and Mitsufuji, "SilentCipher: Deep Audio Watermarking" (Interspeech 2024, arXiv
2406.03822). Frames of K samples at hop K / 2 under a Hann window; |X| is the carrier, whose phase is kept:

    c = |X| a / level                                       a^2 = .0028372, the mean energy of VCTK
    e = encoder(c)                                          gated convolutions 3x3, 32 channels
    h = |decoder([e, c, c, .., m, m, ..])| in the band      m = message linear of the frame's symbol
    d = h / rms_f(h)  10^(-SDR / 20)  level                 rms over a frame's bins, SDR = 47 dB
    |Y| = relu(|X| - min(d, masking threshold))
    logits = linear over the band of detector(|Y| a / level)    one of `symbols` + 1 in each frame

where a gated convolution is norm(conv(x) sigmoid(gate(x))). A message is `length - 1` symbols and an end
token, one a frame, over and over. The published sizes are

                 K      band   symbols   length   bits   encoder   decoder    detector    parameters
    44.1 kHz   4096     1024         4       21     40    43,968   499,012   2,378,773     2,921,753
    16 kHz     2048      512         3       16     23    40,384   499,012   2,375,953     2,915,349

The 16 kHz model has three symbols, so that 15 of them hold 23 bits; the released code, which writes two bits
a symbol, cannot mark with it.

Two ways to run. The network as a stream (`forward`, `step`, a file) takes for `level` the energy heard so
far, forgotten exponentially with a time constant of `level_s` seconds, and zeros before the signal. `marked`
and `logits` work on a whole signal as the authors do: its level is that of the whole, and it is mirrored at
both ends. The stream waits for the frames that the convolutions see ahead, 6 to mark and 10 to read.

Differences from the released code:

- It never leaves training mode, so that its batch norms take the statistics of the very clip. Here they take
  those of training, on purpose: a stream has no others, and a frame's mark does not depend on sounds seconds
  away. `clip_statistics` repeats the released behaviour for whole signals.
- The paper limits the mark by a psychoacoustic threshold, the released code does not. Here `masking` is the
  model of `masks.hearing` that limits it bin by bin, "none" for the released behaviour. Frames overlap, and
  so the mark of one shows in its neighbours: a few bins end up above their own threshold, by 3 dB at most.
- Bins that the band cannot hear of are not computed, and what is repeated over channels is summed in the
  weights: the same numbers for half of the work.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, pairwise
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.frontend.stft import Analysis, Synthesis, magnitude
from audiomask.masks.hearing import EARS
from audiomask.nn.conv import Conv2d
from audiomask.nn.norm import RunningLevel
from audiomask.streaming import Delay, Port, Sequential, State, Steps, StreamingModel

ENERGY = 0.002837200844477648  # mean of x^2 over VCTK, to which inputs are scaled
TINY = 1e-20  # least power, below which a root has no slope
FRAMES = 128  # of whole signals that the networks run over at once

Run = Callable[[str, Tensor], Tensor]


# --- messages -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """A message as read from a sound.

    Args:
        symbols: The message; None where none is whole: not one end token in a repetition.
        number: The same as a number; None likewise.
        confidence: How far the repetitions agree beyond chance: Fleiss' kappa (1971), 1 for full agreement,
            about 0 for random symbols, and 0 for a single repetition or a constant symbol, which prove
            nothing. After a search over phases it is the greatest of many, so about 0 is then a little more.
        agreement: The fraction of symbols that equal the most frequent one at their place. The released code
            calls it confidence; it is 1 where there is one repetition.
        repetitions: How many whole repetitions were heard.
        phase: Samples that were skipped at the start.
    """

    symbols: tuple[int, ...] | None
    number: int | None
    confidence: float
    agreement: float
    repetitions: int
    phase: int = 0


def digits(number: int, count: int, base: int) -> tuple[int, ...]:
    """Return `count` digits of a number, the most significant first; ValueError if it has more."""
    if not 0 <= number < base**count:
        raise ValueError(f"{number} is not a message of {count} symbols of {base}: 0 to {base**count - 1}")
    return tuple(number // base ** (count - 1 - i) % base for i in range(count))


def decode(tokens: np.ndarray, length: int, symbols: int, phase: int = 0) -> Reading:
    """Return the message in `tokens [T]`, 0 for the end and 1 .. `symbols`, one a frame.

    It is the most frequent token at each of `length` places, from the one after the end token on.
    """
    rows = len(tokens) // length
    counts = np.zeros((length, symbols + 1), np.int64)
    places = np.arange(rows * length) % length
    np.add.at(counts, (places, tokens[: rows * length]), 1)
    if not rows:
        return Reading(None, None, 0.0, 0.0, 0, phase)
    found, agreement = counts.argmax(1), float(counts.max(1).mean() / rows)
    ends = np.flatnonzero(found == 0)
    message = None
    if len(ends) == 1:
        message = tuple(int(token) - 1 for token in np.roll(found, -ends[0] - 1)[:-1])
    number = None
    if message is not None:
        number = sum(digit * symbols**i for i, digit in enumerate(reversed(message)))
    return Reading(message, number, _kappa(counts), agreement, rows, phase)


def _kappa(counts: np.ndarray) -> float:
    """Return Fleiss' kappa of how often symbols were heard at each place, `[places, symbols]`."""
    rows = int(counts[0].sum())
    chance = float(np.square(counts.sum(0) / counts.sum()).sum())
    if rows < 2 or chance >= 1:
        return 0.0
    pairs = float((counts * (counts - 1)).sum(1).mean() / (rows * (rows - 1)))
    return (pairs - chance) / (1 - chance)


# --- networks -----------------------------------------------------------------------------------------------


class Gated(Conv2d):
    """A layer norm(conv(x) sigmoid(gate(x))) that keeps the size of maps `[B, in, T, F]`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, freqs: int) -> None:
        side = kernel // 2
        super().__init__(inputs, 2 * outputs, (kernel, kernel), padding=side, lookahead=side, freqs=freqs)
        self.side = side
        self.norm = nn.BatchNorm2d(outputs)

    def step(self, x, state, **controls):
        y, state = super().step(x, state)
        return self.norm(_gated(y)), state

    def whole(self, x: Tensor, clip_statistics: bool) -> Tensor:
        """Return the layer of a whole signal; its norm may take the statistics of each row."""
        y, norm = _gated(F.conv2d(x, self._kernel(), self.bias, padding=self.side)), self.norm
        if not clip_statistics:
            return norm(y)
        return F.instance_norm(y, weight=norm.weight, bias=norm.bias, eps=norm.eps)


def _gated(y: Tensor) -> Tensor:
    value, gate = y.chunk(2, 1)
    return value * gate.sigmoid()


class Merging(Gated):
    """A first layer that takes `width` encoded channels, carrier and message as one map.

    The map is `[B, width + 2, T, F]`. The weights are those of 3 `width` channels, in which carrier and
    message are repeated.
    """

    def __init__(self, width: int, outputs: int, kernel: int, freqs: int) -> None:
        super().__init__(3 * width, outputs, kernel, freqs)
        self.in_channels = width + 2

    def _kernel(self) -> Tensor:
        width = self.in_channels - 2
        carrier = self.weight[:, width : 2 * width].sum(1, keepdim=True)
        message = self.weight[:, 2 * width :].sum(1, keepdim=True)
        return torch.cat([self.weight[:, :width], carrier, message], 1)


class SilentCipher(StreamingModel):
    """A marker of sound `[B, 1, T]`, which also holds the detector, and runs on whole signals.

    Its parts, `SilentCipherMarker` and `SilentCipherDetector`, hold all weights and stream. The default sizes
    are those of 44.1 kHz. The control `message [B, length - 1]` may change at any time: the next repetition
    is of the new one.

    Args:
        sample_rate: Rate in Hz.
        size: K, samples of a frame, even.
        band: Bins that carry the message, from 0 up.
        symbols: Number of symbols, the end token not counted.
        length: Frames of a repetition: symbols of a message, and the end token.
        encoder_layers, decoder_layers, detector_layers: Gated convolutions of each.
        width: Channels of the encoder; the decoder has three times as many.
        detector_width: Channels of the detector.
        sdr: Default of the control `sdr`, the level of sound over mark in dB before it is limited.
        masking: Model of hearing that limits the mark, or "none".
        level_s: Time constant of the stream's running level, in seconds.
        name: Name of the artifacts.

    Raises ValueError for sizes that do not fit together.
    """

    task = "mark"
    parts = {
        "mark": "audiomask.models.silentcipher.SilentCipherMarker",
        "detect": "audiomask.models.silentcipher.SilentCipherDetector",
    }
    outputs = (Port("marked"),)

    def __init__(
        self,
        sample_rate: int = 44100,
        size: int = 4096,
        band: int = 1024,
        symbols: int = 4,
        length: int = 21,
        encoder_layers: int = 3,
        decoder_layers: int = 4,
        detector_layers: int = 10,
        width: int = 32,
        detector_width: int = 128,
        sdr: float = 47.0,
        masking: Literal["johnston", "model1", "none"] = "johnston",
        level_s: float = 3.0,
        name: str = "silentcipher",
    ) -> None:
        super().__init__()
        if masking not in (*EARS, "none"):
            raise ValueError(f"no masking {masking!r}: use {', '.join(EARS)} or none")
        if not 0 < band <= size // 2 + 1:
            raise ValueError(f"a band of {band} bins: frames of {size} samples have {size // 2 + 1}")
        if symbols < 2 or length < 2 or min(encoder_layers, decoder_layers, detector_layers) < 2:
            raise ValueError("SilentCipher needs two symbols, a length of two and two layers of each network")
        self.name, self.sample_rate, self.size, self.band = name, sample_rate, size, band
        self.symbols, self.length = symbols, length
        self.bits = math.floor((length - 1) * math.log2(symbols))
        stride, bins = size // 2, size // 2 + 1
        # what lies further above the band than the kernels reach does not change it
        self.bins = min(bins, band + encoder_layers + decoder_layers - 1)
        self.analysis, self.synthesis = Analysis(size, stride, "hann"), Synthesis(size, stride, "hann")
        self.running = RunningLevel(stride, level_s * sample_rate / stride)
        # the mean of |X|^2 over the bins of a frame of noise of power 1
        self.frame_power = float(self.analysis.window.double().square().sum()) * size / (size + 2)
        wide = 3 * width
        first, last = Merging(width, wide, 3, self.bins), Gated(wide, 1, 1, self.bins)
        inner = [Gated(wide, wide, 3, self.bins) for _ in range(decoder_layers - 2)]
        self.encoder = _stack([1, *[width] * encoder_layers], self.bins)
        self.decoder = Sequential(first, *inner, last)
        self.spelling = nn.Linear(symbols + 1, band)
        self.detector = _stack([1, *[detector_width] * (detector_layers - 1), symbols + 1], band)
        self.pooling = nn.Linear(band, 1)
        self.threshold = None if masking == "none" else EARS[masking](sample_rate, size)
        self.connect(sdr)

    def connect(self, sdr: float) -> None:
        """Set the ports, and compose the path between them."""
        self.inputs = (
            Port("audio"),
            Port("message", "control", "int", channels=self.length - 1, minimum=0, maximum=self.symbols - 1),
            Port("sdr", "control", default=sdr, minimum=20.0, maximum=80.0, unit="dB"),
        )
        self.compose(self.analysis, self.encoder, self.decoder, self.synthesis)
        self.synthesis.align(0)  # before the signal its spectra are zero: nothing to gate
        seen = self.encoder.delay + self.decoder.delay
        self.carrier = Delay(int(self.encoder.delay), (1, self.bins))
        self.spectrum = Delay(int(seen), (2, self.size // 2 + 1))

    def named_blocks(self) -> dict[str, nn.Module]:
        names = ("analysis", "running", "encoder", "carrier", "decoder", "spectrum", "synthesis")
        return {name: getattr(self, name) for name in names}

    def _told(self, message: Tensor | None, like: Tensor) -> Tensor:
        message = self.control("message", message, like)
        if message.shape[-1] != self.length - 1:
            raise ValueError(
                f"a message of {message.shape[-1]} symbols; {self.name}'s have {self.length - 1}"
            )
        return message

    def message(self, number: int) -> Tensor:
        """Return the control `message [1, length - 1]` of a number of `bits` bits, or a little more."""
        return torch.tensor([digits(number, self.length - 1, self.symbols)])

    # --- as a stream ---

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        spelt = torch.zeros(batch, self.length, dtype=torch.int64, device=device)  # and the frame's place
        return {**super().initial_state(batch, device, dtype), "spelt": spelt}

    def step(self, x, state, message=None, sdr=None, **controls):
        step = Steps(self, state)
        spectrum, level, carrier = self._heard(x, step, self.bins)
        tokens, step.states["spelt"] = self._tokens(self._told(message, x), state["spelt"], carrier)
        mark = self._mark(carrier, tokens, step)
        y = self._marked(step("spectrum", spectrum), mark, level, self.control("sdr", sdr, x))
        return step("synthesis", y), step.states

    def _heard(self, x: Tensor, step: Steps, bins: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return spectra `[B, 2, T, F]`, their level `[B, 1, T, 1]`, and carriers `[B, 1, T, bins]`."""
        spectrum = step("analysis", x)
        level = step("running", x)[:, :, :: self.size // 2, None]
        carrier = magnitude(spectrum[..., :bins] * (ENERGY**0.5 / level))
        return spectrum, level * self.frame_power**0.5, carrier

    def _tokens(self, message: Tensor, spelt: Tensor, carrier: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens `[B, T]` of the frames that enter the decoder, and the next state.

        That state is the message of the repetition that is under way, and the place in it.
        """
        old, place = spelt[:, :-1], spelt[:, -1:]
        lag = int(self.encoder.delay)
        frames = torch.arange(carrier.shape[2], device=carrier.device)
        places = (place + frames + -lag % self.length) % self.length
        fresh = (places == 0).long().cumsum(1) > 0
        end = torch.zeros_like(place)
        before, after = (torch.cat([symbols + 1, end], 1).gather(1, places) for symbols in (old, message))
        kept = torch.where(fresh[:, -1:], message, old)
        place = (place + carrier.shape[2]) % self.length
        return torch.where(fresh, after, before), torch.cat([kept, place], 1)

    # --- what both ways share ---

    def _mark(self, carrier: Tensor, tokens: Tensor, run: Run) -> Tensor:
        """Return h over its rms, `[B, 1, T, band]`, of carriers `[B, 1, T, bins]`."""
        spelling = F.embedding(tokens, self.spelling.weight.T) + self.spelling.bias
        spelling = F.pad(spelling, (0, carrier.shape[3] - self.band))[:, None]
        merged = torch.cat([run("encoder", carrier), run("carrier", carrier), spelling], 1)
        h = run("decoder", merged)[..., : self.band].abs()
        power = h.square().sum(3, keepdim=True) / (self.size // 2 + 1)  # bins above the band count as zeros
        return h * torch.rsqrt(power.clamp_min(TINY))

    def _marked(self, spectrum: Tensor, mark: Tensor, level: Tensor, sdr: Tensor) -> Tensor:
        """Return marked spectra `[B, 2, T, F]`; `level` is that of the bins of a frame."""
        mark = mark * (level * torch.exp(sdr * (-math.log(10) / 20))[:, None, None, None])
        if self.threshold is not None:
            limit = self.threshold.step(spectrum, None)[0][..., : self.band]
            mark = torch.minimum(mark, limit.sqrt())
        gain = 1 - F.pad(mark / magnitude(spectrum[..., : self.band]), (0, spectrum.shape[3] - self.band))
        return spectrum * gain.relu()

    # --- on whole signals, as the authors ---

    def marked(
        self, x: Tensor, message: Tensor, sdr: Tensor | float | None = None, clip_statistics: bool = False
    ) -> Tensor:
        """Return whole signals x `[B, 1, T]` marked with `message [B, length - 1]`, or one for all.

        Raises ValueError for a message of another length, or of other symbols.
        """
        message = self._told(message, x).expand(len(x), -1)
        if message.min() < 0 or message.max() >= self.symbols:
            raise ValueError(f"{self.name}: symbols of a message are 0 to {self.symbols - 1}")
        spectrum = self._spectra(_padded(x, self.size))
        level = magnitude(spectrum).square().mean((2, 3), keepdim=True).sqrt()
        carrier = magnitude(spectrum * _scale(x)[..., None])
        tokens = self.tokens(message, torch.arange(spectrum.shape[2], device=x.device).expand(len(x), -1))
        bins = carrier.shape[3] if clip_statistics else self.bins
        mark = self._mark(carrier[..., :bins], tokens, self._whole(clip_statistics))
        y = self._marked(spectrum, mark, level, self.control("sdr", sdr, x))
        y = torch.complex(y[:, 0], y[:, 1]).mT
        y = torch.istft(y, self.size, self.size // 2, window=self.analysis.window)
        return y[:, None, : x.shape[2]]

    def learn(self, x: Tensor, message: Tensor | None = None, **inputs: Any):
        """Return whole signals x `[B, 1, T]` marked, with the level of the whole, for training."""
        return self.marked(x, self._told(message, x)), {}

    def tokens(self, message: Tensor, frames: Tensor) -> Tensor:
        """Return the tokens of `message [B, length - 1]` in `frames [B, n]`, -1 in frames below 0."""
        spelt = F.pad(message + 1, (0, 1)).gather(1, frames % self.length)
        return torch.where(frames >= 0, spelt, -1)

    def logits(self, x: Tensor, clip_statistics: bool = False) -> Tensor:
        """Return the logits `[B, symbols + 1, frames]` of whole signals x `[B, 1, T]`."""
        return self._logits(_padded(x * _scale(x), self.size), clip_statistics)

    def _logits(self, x: Tensor, clip_statistics: bool) -> Tensor:
        carrier = magnitude(self._spectra(x)[..., : self.band])
        return self.pooling(self._whole(clip_statistics)("detector", carrier)).squeeze(3)

    @torch.no_grad()
    def read(
        self,
        x: Tensor,
        every: int = 0,
        coarse: int = 1,
        seconds: float = math.inf,
        clip_statistics: bool = False,
    ) -> Reading:
        """Return the message in a whole signal x `[T]`.

        Args:
            x: Samples at `sample_rate`.
            every: Search for where frames begin, at every so many samples over a hop, as after a crop; 0
                takes the start of x. The authors take 10, for which 205 signals are decoded at 44.1 kHz.
            coarse: In a search, first try every so many of these phases, then those about the best.
            seconds: The search listens to so much of x; all of it is then read at the phase that was found.
            clip_statistics: As the released code does.
        """
        x = x[None, None] * _scale(x[None, None])
        phases = list(range(0, min(self.size // 2, x.shape[2]), every)) if every else []
        phases = phases or [0]
        part = x[..., : int(min(seconds * self.sample_rate, x.shape[2]))]
        tried = self._readings(part, phases[::coarse], clip_statistics)
        if coarse > 1:
            at = phases.index(_best(tried))
            around = phases[max(0, at - coarse + 1) : at + coarse]
            tried |= self._readings(part, [p for p in around if p not in tried], clip_statistics)
        best = _best(tried)
        if part.shape[2] < x.shape[2]:
            tried = self._readings(x, [best], clip_statistics)
        return tried[best][1]

    def _readings(
        self, x: Tensor, phases: Sequence[int], clip_statistics: bool
    ) -> dict[int, tuple[float, Reading]]:
        """Return by phase how sure the detector is, and what it reads from there on."""
        found = {}
        for group in _groups(phases, x.shape[2], self.size):
            rows = [_padded(x[..., phase:], self.size) for phase in group]
            logits = self._logits(torch.cat(rows), clip_statistics)
            first, second = logits.topk(2, 1).values.unbind(1)
            tokens, sure = logits.argmax(1).cpu().numpy(), (first - second).mean(1).tolist()
            for i, phase in enumerate(group):
                found[phase] = sure[i], decode(tokens[i], self.length, self.symbols, phase)
        return found

    def _spectra(self, x: Tensor) -> Tensor:
        """Return the spectra `[B, 2, T, F]` of whole signals `[B, 1, n size]`, mirrored at the ends."""
        window = self.analysis.window
        y = torch.stft(x[:, 0], self.size, self.size // 2, window=window, return_complex=True)
        return torch.view_as_real(y).permute(0, 3, 2, 1)

    def _whole(self, clip_statistics: bool) -> Run:
        """Return what runs a network over whole signals, some frames and their neighbours at a time."""

        def run(name: str, x: Tensor) -> Tensor:
            if name == "carrier":
                return x
            layers: list[Gated] = list(getattr(self, name))
            frames, reach = FRAMES, sum(layer.side for layer in layers)
            if clip_statistics or self.training:  # which take statistics of all frames
                frames, reach = x.shape[2], 0
            pieces = []
            for start in range(0, x.shape[2], frames):
                first = max(0, start - reach)
                y = x[:, :, first : start + frames + reach]
                for layer in layers:
                    y = layer.whole(y, clip_statistics)
                pieces.append(y[:, :, start - first :][:, :, :frames])
            return torch.cat(pieces, 2)

        return run


def _stack(channels: Sequence[int], freqs: int) -> Sequential:
    return Sequential(*(Gated(i, o, 3, freqs) for i, o in pairwise(channels)))


def _padded(x: Tensor, size: int) -> Tensor:
    """Return signals `[B, 1, T]` with zeros, one at least, up to a multiple of `size`."""
    return F.pad(x, (0, size - x.shape[2] % size))


def _groups(phases: Iterable[int], length: int, size: int) -> Iterator[list[int]]:
    """Yield phases of signals that are equally long when padded, some `FRAMES` frames at once."""
    for sizes, alike in groupby(phases, lambda phase: (length - phase) // size):
        group, most = list(alike), max(1, FRAMES // (2 * sizes + 3))
        yield from (group[i : i + most] for i in range(0, len(group), most))


def _best(tried: Mapping[int, tuple[float, Reading]]) -> int:
    """Return the phase of most agreement; of several, where the detector is surest."""

    def merit(phase: int) -> tuple[float, float, float]:
        sure, reading = tried[phase]
        return reading.agreement, reading.confidence, sure

    return max(sorted(tried), key=merit)


def _scale(x: Tensor) -> Tensor:
    """Return what gives signals `[B, 1, T]` the mean energy of VCTK, `[B, 1, 1]`."""
    return torch.rsqrt(x.square().mean((1, 2), keepdim=True).clamp_min(TINY)) * ENERGY**0.5


class SilentCipherMarker(SilentCipher):
    """The part of SilentCipher that marks sound."""


class SilentCipherDetector(SilentCipher):
    """The part of SilentCipher that makes logits `[B, symbols + 1, T / hop]` of sound."""

    task = "detect"

    def connect(self, sdr: float) -> None:
        stride = self.size // 2
        labels = ("end", *map(str, range(self.symbols)))
        self.inputs = (Port("audio"),)
        self.outputs = (
            Port("symbols", type="float", rate=Fraction(1, stride), channels=len(labels), labels=labels),
        )
        self.compose(self.analysis, self.detector)

    def named_blocks(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in ("analysis", "running", "detector")}

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        return StreamingModel.initial_state(self, batch, device, dtype)

    def step(self, x, state, **controls):  # type: ignore[override]
        step = Steps(self, state)
        _, _, carrier = self._heard(x, step, self.band)
        return self.pooling(step("detector", carrier)).squeeze(3), step.states


# --- the authors' weights -----------------------------------------------------------------------------------

AUTHORS_CLASS, AUTHORS_LICENCE = "SilentCipher", "MIT"
AUTHORS_FILES = ("enc_c.ckpt", "dec_c.ckpt", "dec_m_0.ckpt", "hparams.yaml")
# What their options say of networks that are built here, and no other.
OPTIONS = {
    "n_messages": 1, "ensure_negative_message": True, "utterance_level_normalization": True,
    "frame_level_normalization": False, "no_normalization": False,
}  # fmt: skip


def _ours(state: Mapping[str, Tensor], network: str, linear: str) -> dict[str, Tensor]:
    """Return the tensors of one of their networks under our names."""
    places = sorted({int(key.split(".")[1]) for key in state if key.startswith("main.")})
    new = {f"{linear}.{key[7:]}": value for key, value in state.items() if key.startswith("linear.")}
    for i, place in enumerate(places):
        theirs, ours = f"main.{place}", f"{network}.{i}"
        for name in ("weight", "bias"):
            new[f"{ours}.{name}"] = torch.cat([state[f"{theirs}.{part}.{name}"] for part in ("conv", "gate")])
        new[f"{ours}.weight"] = new[f"{ours}.weight"].mT  # they have time last
        start = f"{theirs}.bn."
        new |= {f"{ours}.norm.{k.removeprefix(start)}": v for k, v in state.items() if k.startswith(start)}
    return new


def _number(options: Mapping[str, Any], name: str, most: int, kind: type[int] | type[float] = int) -> Any:
    value: Any = options[name]
    if not isinstance(value, int | kind) or not 0 < value <= most:
        raise ValueError(f"{name} is {value!r}, not a number up to {most}")
    return kind(value)


def from_authors(folder: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and state dict of `SilentCipher` from the contents of a published folder."""
    encoder, decoder, detector, options = (folder[name] for name in AUTHORS_FILES)
    rate, size, hop, length = (
        _number(options, name, most)
        for name, most in (("SR", 10**6), ("N_FFT", 2**16), ("HOP_LENGTH", 2**15), ("message_len", 2**12))
    )
    wrong = {key: options[key] for key, value in OPTIONS.items() if options.get(key, value) != value}
    if 2 * hop != size:
        wrong["HOP_LENGTH"] = hop
    if wrong:
        raise ValueError(f"options {wrong} are of a network that is not built here")
    new = _ours(encoder, "encoder", "spelling") | _ours(decoder, "decoder", "")
    new |= _ours(detector, "detector", "pooling")
    band, tokens = new["spelling.weight"].shape
    arguments: dict[str, Any] = {"band": band, "symbols": tokens - 1, "length": length}
    for name in ("encoder", "decoder", "detector"):
        arguments[f"{name}_layers"] = sum(
            re.fullmatch(rf"{name}\.\d+\.weight", key) is not None for key in new
        )
    for name, network in (("width", "encoder"), ("detector_width", "detector")):
        arguments[name] = new[f"{network}.0.weight"].shape[0] // 2
    arguments |= {"sample_rate": rate, "size": size, "sdr": _number(options, "message_sdr", 100, float)}
    return arguments | {"name": f"silentcipher_{rate // 1000}khz"}, new
