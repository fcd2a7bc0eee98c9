"""Build codecs: a network that is trained as a whole, and its two parts that run apart.

    class MyCodec(Codec):
        parts = {"enc": "package.MyEncoder", "dec": "package.MyDecoder"}

        def __init__(self):
            super().__init__()
            self.encoder = ...      # streaming block, sound [B, C, T] -> latents [B, D, T / stride]
            self.quantizer = ResidualQuantizer(...)
            self.decoder = ...      # streaming block, latents (and lost: [B, D + 1, T / stride]) -> sound
            self.assemble()

    class MyEncoder(Encodes, MyCodec): ...     # sound -> codes
    class MyDecoder(Decodes, MyCodec): ...     # codes, lost -> sound

Each part holds the weights of the whole and exports what it runs. A code of -1 stands for none, so a decoder
plays any number of the codebooks. What else a decoder needs of an encoder, such as the level of a segment,
goes `beside` the codes: the encoder puts out (latents, *beside), and the decoder takes them so. Streams that
both parts may be `told` besides, such as where a signal ends, are keyword arguments of their steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.streaming import Port, Steps, Streaming, StreamingModel, whole


class Codec(StreamingModel):
    """A base of codecs, sound `[B, C, T]` to codes and back, which is what is trained.

    The decoder of an `informed` one has a stream `lost [B, 1, T / stride]`, 1 for frames that did not arrive.
    The control `books` says how many codebooks are sent, by default all.
    """

    task = "codec"
    informed = False
    channels = 1
    beside: tuple[Port, ...] = ()
    told: tuple[Port, ...] = ()
    encoder: Streaming
    decoder: Streaming
    quantizer: Any  # a ResidualQuantizer, or what has its methods

    def assemble(self) -> None:
        """Set ports, hop and delay, once encoder, quantizer and decoder are there."""
        rate, books = Fraction(self.encoder.rate), self.quantizer.books
        self.audio, self.sound = (
            Port("audio", channels=self.channels),
            Port("decoded", channels=self.channels),
        )
        self.codes = Port("codes", type="codes", rate=rate, channels=books, levels=self.quantizer.levels)
        self.lost = Port("lost", type="lost", rate=rate, doc="1 where a frame of codes did not arrive")
        self.sent = Port(
            "books", "control", "int", default=books, minimum=1, maximum=books, doc="codebooks that are sent"
        )
        self.connect()

    def connect(self) -> None:
        """Set the ports, and compose the path between them."""
        self.inputs = (self.audio, *([self.lost] if self.informed else []), self.sent)
        self.outputs = (self.sound,)
        self.compose(self.encoder, self.decoder)

    def named_blocks(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "decoder": self.decoder}

    def latents(self, x: Tensor, step: Steps, **told: Tensor) -> tuple[Tensor, ...]:
        """Return latents `[B, D, T / stride]` of sound, and what goes beside their codes."""
        z = step("encoder", x, **told)
        return z if isinstance(z, tuple) else (z,)

    def encode(self, x: Tensor, books: Tensor | None, step: Steps, **told: Tensor) -> tuple[Tensor, ...]:
        """Return codes `[B, n, T / stride]`, -1 from codebook `books [B]` on, and what is beside."""
        z, *beside = self.latents(x, step, **told)
        books = self.control("books", books, z)
        return self.sending(self.quantizer.encode(z, books), books), *beside

    def sending(self, codes: Tensor, books: Tensor) -> Tensor:
        """Return `codes [B, n, T]` with -1 from codebook `books [B]` on."""
        order = torch.arange(codes.shape[1], device=codes.device)[None, :, None]
        return torch.where(order < books[:, None, None], codes, -1)

    def decode(self, z: Tensor, lost: Tensor | None, step: Steps, *beside: Tensor, **told: Tensor) -> Tensor:
        """Return the sound of quantized latents `[B, D, T / stride]`."""
        if self.informed:
            lost = torch.zeros_like(z[:, :1]) if lost is None else lost
            z = torch.cat([z * (1 - lost), lost], 1)
        return step("decoder", z, *beside, **told)

    def step(self, x, state, lost=None, books=None, **controls):
        step = Steps(self, state)
        codes, *beside = self.encode(x, books, step)
        return self.decode(self.quantizer.decode(codes), lost, step, *beside), step.states

    def learn(self, x: Tensor, lost: Tensor | None = None, books: Tensor | None = None, **inputs: Any):
        """Return the sound of whole signals `[B, C, T]`, and the term `commitment`."""
        length, late = x.shape[2], whole(self.delay)
        x = F.pad(x, (0, late + -(length + late) % self.hop))
        step = Steps(self, self.initial_state(len(x), x.device, x.dtype))
        z, *beside = self.latents(x, step)
        z, commitment = self.quantizer(z, books)
        if lost is not None:
            lost = F.pad(lost, (0, z.shape[2] - lost.shape[2]))
        y = self.decode(z, lost, step, *beside)[:, :, late : late + length]
        return y, {"commitment": commitment}


class Encodes(Codec):
    """The part of a codec that makes codes of sound."""

    def connect(self) -> None:
        self.task, self.inputs = "encode", (self.audio, *self.told, self.sent)
        self.outputs = (self.codes, *self.beside)
        self.compose(self.encoder)

    def named_blocks(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder}

    def step(self, x, state, lost=None, books=None, **told):
        step = Steps(self, state)
        made = self.encode(x, books, step, **told)
        return (made if self.beside else made[0]), step.states

    def distances(self, port: str, codes: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        x = inputs["audio"]
        step = Steps(self, self.initial_state(len(x), x.device, x.dtype))
        told = {port.name: inputs[port.name] for port in self.told}
        return self.quantizer.distances(self.latents(x, step, **told)[0], codes)


class Decodes(Codec):
    """The part of a codec that makes sound of codes, and of nothing where they are lost."""

    def connect(self) -> None:
        self.task = "decode"
        self.inputs = (self.codes, *self.beside, *self.told, *([self.lost] if self.informed else []))
        self.outputs = (self.sound,)
        self.compose(self.decoder)

    def named_blocks(self) -> dict[str, nn.Module]:
        return {"decoder": self.decoder}

    def step(self, x, state, lost=None, books=None, **given):
        step = Steps(self, state)
        beside = [given.pop(port.name) for port in self.beside]
        return self.decode(self.quantizer.decode(x), lost, step, *beside, **given), step.states
