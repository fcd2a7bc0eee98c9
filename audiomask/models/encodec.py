"""Code sound to a few kilobits a second and back: EnCodec.

Défossez, Copet, Synnaeve and Adi, "High Fidelity Neural Audio Compression" (TMLR 2023, arXiv 2210.13438), and
the shapes that audiocraft has of it:

                      24 kHz       48 kHz             audiocraft 32 kHz   16 kHz
    sound             mono         stereo             mono                mono
    convolutions      causal       not, by segments   not causal          not causal
    norm              weight norm  time group norm    weight norm         weight norm
    filters           32           32                 64                  64
    ratios            8 5 4 2      8 5 4 2            8 5 4 4             8 5 4 2
    codebooks         32 of 1024   16 of 1024         4 of 2048           4 of 2048
    a codebook        .75 kbit/s   1.5 kbit/s         .55 kbit/s          .55 kbit/s
    shortcut, padding conv, mirror conv, mirror       identity, zeros     identity, zeros

The networks are those of `nn.seanet`, the codebooks those of `nn.quantize`. They have 14,851,810 parameters
at 24 kHz and 14,856,294 at 48 kHz, as published (weight norm counted). The causal network streams 320 samples
at a time, and those of audiocraft with the delay of their look-ahead. That of 48 kHz works on segments of a
second, each 1 % over the next, and divides each by 1e-8 + the RMS of its mono mix, which goes beside the
codes as `scale`; where two overlap they are cross-faded. Its parts may be told the `length` of a segment at
the end of a signal, which is then coded as the authors do.

Padding with zeros streams without delay. Padding with the mirror image, by which the authors trained, waits
for what is mirrored: 7 frames in the encoder and 6 in the decoder (173 ms in all).

`EnCodec.encoded` and `EnCodec.decoded` run over a whole signal as the authors do. They differ from the stream
where a signal ends within a frame or a segment: see `nn.seanet`. They also code lengths that the authors' own
cannot, whose last segment is too short to be padded by its mirror image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiomask.nn.codec import Codec, Decodes, Encodes
from audiomask.nn.quantize import ResidualQuantizer
from audiomask.nn.seanet import (
    Style,
    authors_name,
    before_end,
    ending,
    ends,
    seanet_decoder,
    seanet_encoder,
    whole,
)
from audiomask.streaming import Port, Residual, Sequential, State, either, to_onnx

QUIET = 1e-8  # added to the level of a segment
TINY = 1e-24  # least power of a segment, below which its root has no slope


def _levelled(x: Tensor, length: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return segments `[N, C, T]` over their level, and that level `[N, 1, 1]`.

    Of a segment with a `length [N, 1, 1]`, what follows is silent and does not count.
    """
    power = x.mean(1, keepdim=True).square().mean(2, keepdim=True)
    power = power if length is None else power * (x.shape[2] / length)
    scale = QUIET + power.clamp_min(TINY).sqrt()
    return x / scale, scale


def _used(length: Tensor, segment: int) -> tuple[Tensor, Tensor]:
    """Return the samples `[N, 1, 1]` of segments that count, and whether all of all do.

    Of `length [B, n]`, 0 and what is beyond the segment mean all of it.
    """
    short = (length > 0) & (length < segment)
    return torch.where(short, length, segment).flatten()[:, None, None], ~short.any()


def _triangle(length: int, like: Tensor) -> Tensor:
    """Return the weights `[length]` of a segment where others overlap it."""
    t = torch.arange(1, length + 1, device=like.device, dtype=like.dtype) / (length + 1)
    return 0.5 - (t - 0.5).abs()


class _Segments(Sequential):
    """A base of the networks that run over segments, `stride` samples apart and `over` longer."""

    def __init__(self, *blocks: nn.Module, segment: int, stride: int, frames: int, channels: int) -> None:
        super().__init__(*blocks)
        self.stride, self.over, self.frames, self.channels = stride, segment - stride, frames, channels
        self.segment = segment
        self.path = ()  # the blocks see segments and have no clock

    def run_ending(self, x: Tensor, length: Tensor, full: Tensor) -> Tensor:
        """Return `whole` of segments x `[N, C, T]`, or `ending` if a `length [N, 1, 1]` is short.

        The latter takes longer. `full []` says whether none is.
        """
        for forwards, group in groupby(self.children(), lambda child: isinstance(child, Residual)):
            blocks = tuple(group)
            if forwards:  # in time, so the end does not matter; an LSTM is in no branch of a graph
                x = _whole(x, length, blocks)[0]
            else:
                ways = partial(_whole, blocks=blocks), partial(_ending, blocks=blocks)
                (x,) = either(full, *ways, (x, length), to_onnx())
            for block in blocks:
                length = ends(block, length)
        return x


def _whole(x: Tensor, length: Tensor, blocks: Sequence[nn.Module]) -> tuple[Tensor]:
    for block in blocks:
        x = whole(block, x)
    return (x,)


def _ending(x: Tensor, length: Tensor, blocks: Sequence[nn.Module]) -> tuple[Tensor]:
    for block in blocks:
        x, length = ending(block, x, length), ends(block, length)
    return (x,)


class SegmentEncoder(_Segments):
    """A block that maps sound `[B, C, T]` to latents and scales of its segments."""

    def __init__(self, *blocks: nn.Module, **sizes: int) -> None:
        super().__init__(*blocks, **sizes)
        self.hop = self.delay = self.stride
        self.rate = Fraction(self.frames, self.stride)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        return {
            "past": torch.zeros(batch, self.channels, self.stride, device=device, dtype=dtype),
            "length": torch.zeros(batch, 1, dtype=torch.int64, device=device),  # of the segment under way
        }

    def step(self, x, state, length=None, **controls):
        batch, begun = x.shape[0], state["length"]
        length = (
            torch.zeros_like(x[:, 0, :: self.stride], dtype=torch.int64) if length is None else length[:, 0]
        )
        length = torch.cat([begun, length], 1)
        x = torch.cat([state["past"], x], 2)
        hops = x.unflatten(2, (-1, self.stride)).transpose(1, 2)  # [B, n + 1, C, stride]
        segments = torch.cat([hops[:, :-1], hops[:, 1:, :, : self.over]], 3).flatten(0, 1)
        used, full = _used(length[:, :-1], self.segment)
        segments, scale = _levelled(torch.where(before_end(used, segments), segments, 0.0), used)
        z = self.run_ending(segments, used, full)
        z = torch.where(before_end(ends(self, used), z), z, 0.0)
        z = z.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2)
        return (z, scale.view(batch, 1, -1)), {"past": x[:, :, -self.stride :], "length": length[:, -1:]}


class SegmentDecoder(_Segments):
    """A block that maps latents `[B, D, T]`, scales `[B, 1, T / frames]` of segments to sound."""

    def __init__(self, *blocks: nn.Module, **sizes: int) -> None:
        super().__init__(*blocks, **sizes)
        self.hop, self.delay, self.rate = self.frames, 0, Fraction(self.stride, self.frames)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        tail = torch.zeros(batch, self.channels, self.over, device=device, dtype=dtype)
        # how much the segment before weighs in what it shares with the next: nothing before the first
        return {"tail": tail, "weight": tail[:, :1].clone(), **self.gate_state(batch, device)}

    def step(self, x, state, *beside, length=None, **controls):
        batch, over, (scale,) = x.shape[0], self.over, beside
        before = self.before(x, state)
        z = x.unflatten(2, (-1, self.frames)).transpose(1, 2).flatten(0, 1)
        length = torch.zeros_like(scale, dtype=torch.int64) if length is None else length
        used, full = _used(length[:, 0], self.segment)
        frame = self.segment // self.frames
        used = (used + frame - 1) // frame
        z = torch.where(before_end(used, z), z, 0.0)
        y = self.run_ending(z, used, full)
        real = before_end(used * frame, y)
        weight = torch.where(real, _triangle(self.segment, y), 0.0).unflatten(0, (batch, -1))
        y = torch.where(real, y, 0.0).unflatten(0, (batch, -1)) * scale.mT[..., None]  # [B, n, C, segment]
        rise, fall = weight[..., :over], weight[..., self.stride :]
        if before is not None:
            heard = (~before[:, :: self.frames, None, None]).to(y.dtype)
            y, fall = y * heard, fall * heard
        tails = torch.cat([state["tail"][:, None], y[..., self.stride :] * fall], 1)
        weights = torch.cat([state["weight"][:, None], fall], 1)
        shared = (tails[:, :-1] + y[..., :over] * rise) / (weights[:, :-1] + rise).clamp_min(TINY)
        y = torch.cat([shared, y[..., over : self.stride]], 3).transpose(1, 2).flatten(2)
        return y, {"tail": tails[:, -1], "weight": weights[:, -1], **self.advance(x, state)}


class EnCodec(Codec):
    """A codec of sound `[B, C, T]`, in the parts `EnCodecEncoder` and `EnCodecDecoder`.

    Args:
        channels: Channels of the sound.
        filters, ratios, latent, shortcut, lstm: See `nn.seanet.seanet_encoder`.
        stages, levels: Codebooks, and codewords of each.
        causal, norm, reflect: See `nn.seanet.Style`.
        segment: Samples of the segments that are coded one by one, with a scale; 0: it streams.
        overlap: Fraction of a segment that the next one begins before its end.
        global_estimator: See `nn.quantize.ResidualQuantizer`; false as in the package encodec.
        sample_rate: Rate in Hz.
        name: Name of the artifacts.
    """

    parts = {
        "enc": "audiomask.models.encodec.EnCodecEncoder",
        "dec": "audiomask.models.encodec.EnCodecDecoder",
    }

    def __init__(
        self,
        channels: int = 1,
        filters: int = 32,
        ratios: Sequence[int] = (8, 5, 4, 2),
        latent: int = 128,
        shortcut: bool = True,
        lstm: int = 2,
        stages: int = 32,
        levels: int = 1024,
        causal: bool = True,
        norm: Literal["weight_norm", "time_group_norm", "none"] = "weight_norm",
        reflect: bool = False,
        segment: int = 0,
        overlap: float = 0.01,
        global_estimator: bool = True,
        sample_rate: int = 24000,
        name: str = "encodec",
    ) -> None:
        super().__init__()
        self.name, self.sample_rate, self.channels, self.segment = name, sample_rate, channels, segment
        style, size = Style(causal, norm, reflect), (channels, filters, tuple(ratios), latent, shortcut, lstm)
        encoder, decoder = seanet_encoder(style, *size), seanet_decoder(style, *size)
        self.quantizer = ResidualQuantizer(latent, stages, levels, global_estimator=global_estimator)
        if segment:
            frame, self.step_samples = 1, max(1, int((1 - overlap) * segment))
            for ratio in ratios:
                frame *= ratio
            if segment % frame or not segment <= 2 * self.step_samples < 2 * segment:
                raise ValueError(
                    f"segments of {segment} samples that overlap by {overlap}: want whole frames of {frame}, "
                    "and an overlap of one sample at least and half of them at most"
                )
            sizes = {"segment": segment, "stride": self.step_samples, "frames": segment // frame}
            self.encoder = SegmentEncoder(*encoder, **sizes, channels=channels)
            self.decoder = SegmentDecoder(*decoder, **sizes, channels=channels)
            rate = Fraction(1, self.step_samples)
            doc = "samples of the segment that count; 0: all of them"
            self.told = (Port("length", type="int", rate=rate, levels=segment + 1, doc=doc),)
            self.beside = (Port("scale", type="float", rate=rate, doc="level of the mono mix of a segment"),)
        elif norm == "time_group_norm":
            raise ValueError("time_group_norm looks at a whole signal: give the samples of a segment")
        else:
            self.encoder, self.decoder = Sequential(*encoder), Sequential(*decoder)
        self.assemble()

    def learn(self, x, lost=None, books=None, **inputs):
        if not self.segment or not self.training:
            return super().learn(x, lost, books, **inputs)
        y, scale = _levelled(x)  # a row is one segment, as in the authors' training
        z, commitment = self.quantizer(whole(self.encoder, y), books)
        return whole(self.decoder, z)[:, :, : x.shape[2]] * scale, {"commitment": commitment}

    def encoded(self, x: Tensor, books: int | None = None) -> list[tuple[Tensor, Tensor | None]]:
        """Return codes `[B, n, F]` and scale `[B, 1, 1]`, if any, of each segment of a whole signal.

        It is what the authors' `encode` does; without segments there is one entry.
        """
        length, found = x.shape[2], []
        for start in range(0, length, self.step_samples if self.segment else max(1, length)):
            part, scale = x[:, :, start : start + (self.segment or length)], None
            if self.segment:
                part, scale = _levelled(part)
            codes = self.quantizer.encode(whole(self.encoder, part))
            found.append((codes[:, :books], scale))
        return found

    def decoded(self, frames: Sequence[tuple[Tensor, Tensor | None]], length: int) -> Tensor:
        """Return the sound `[B, C, length]` of what `encoded` returned."""
        parts = []
        for codes, scale in frames:
            y = whole(self.decoder, self.quantizer.decode(codes))
            parts.append(y if scale is None else y * scale)
        if len(parts) == 1:
            return parts[0][:, :, :length]
        step, first = self.step_samples, parts[0]
        total = step * (len(parts) - 1) + parts[-1].shape[2]
        y, weights = first.new_zeros(*first.shape[:2], total), first.new_zeros(total)
        triangle = _triangle(self.segment, first)
        for i, part in enumerate(parts):
            weight, at = triangle[: part.shape[2]], slice(i * step, i * step + part.shape[2])
            y[:, :, at] += weight * part
            weights[at] += weight
        return (y / weights)[:, :, :length]


class EnCodecEncoder(Encodes, EnCodec):
    """The part of EnCodec that makes codes, and scales of segments, of sound."""


class EnCodecDecoder(Decodes, EnCodec):
    """The part of EnCodec that makes sound of codes, and scales of segments."""


def _licence(arguments: Mapping[str, Any]) -> str:
    """Return the licence of the published weights of these sizes."""
    if arguments["levels"] == 2048:
        return "CC-BY-NC-4.0 (audiocraft's weights: not for commercial use)"
    return "MIT (the weights of the package encodec)"


AUTHORS_CLASS, AUTHORS_LICENCE = "EnCodec", _licence


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and state dict of `EnCodec` from a published state dict.

    It is one of encodec, audiocraft or transformers. Rate, causality and padding are not in the weights, and
    follow from the sizes: see the table above.
    """
    new, books = {}, {}
    for key, value in state.items():
        if found := re.fullmatch(r"quantizer(?:\.vq)?\.layers\.(\d+)\._?codebook\.(\w+)", key):
            books[int(found[1]), found[2]] = value
        elif re.match(r"(en|de)coder\.(model|layers)\.\d+\.", key):
            new[authors_name(key)] = value
        else:
            raise KeyError(key)
    stages = 1 + max(i for i, _ in books)
    for name in ("embed", "embed_avg", "cluster_size"):
        new[f"quantizer.{name}"] = torch.stack([books[i, name] for i in range(stages)])[:, None]
    new["quantizer.inited"] = torch.stack([books[i, "inited"].reshape(()) for i in range(stages)]) > 0

    def weight(name: str) -> Tensor:
        normed = f"{name}.parametrizations.weight.original1"
        return new[normed] if normed in new else new[f"{name}.weight"]

    places = sorted({int(key.split(".")[1]) for key in new if key.startswith("encoder.")})
    strided = [i for i in places[1:-1] if f"encoder.{i}.bias" in new]
    filters, channels, _ = weight("encoder.0").shape
    lstm = len([key for key in new if key.startswith("encoder.") and ".weight_ih_l" in key])
    ratios = [weight(f"encoder.{i}").shape[2] // 2 for i in reversed(strided)]
    arguments: dict[str, Any] = {
        "channels": channels, "filters": filters, "ratios": ratios, "lstm": lstm, "stages": stages,
        "latent": new["quantizer.embed"].shape[3], "levels": new["quantizer.embed"].shape[2],
        "shortcut": any(key.startswith("encoder.1.branches.0.") for key in new),
    }  # fmt: skip
    kind: dict[str, Any]
    if "encoder.0.norm.weight" in new:
        kind = {"norm": "time_group_norm", "causal": False, "reflect": True, "sample_rate": 48000}
        arguments["segment"] = 48000
    elif arguments["shortcut"]:
        kind = {"norm": "weight_norm", "causal": True, "reflect": True, "sample_rate": 24000}
    else:
        rate = 32000 if ratios == [8, 5, 4, 4] else 16000
        kind = {"norm": "weight_norm", "causal": False, "reflect": False, "sample_rate": rate}
    kind["name"] = f"encodec_{kind['sample_rate'] // 1000}khz"
    return arguments | kind, new
