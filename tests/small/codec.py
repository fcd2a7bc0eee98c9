"""A codec of 320 samples a frame: convolutions, and codebooks that quantize what the ones before leave."""

from fractions import Fraction

import torch
from torch import Tensor, nn

from audiomask.nn.conv import Conv1d, ConvTranspose1d
from audiomask.ports import Port
from audiomask.streaming import Sequential, StreamingModel

STRIDES = (8, 8, 5)
FRAMES = Fraction(1, 320)  # a sample


class Unit(nn.Module):
    """Brings each frame to an RMS of 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-6).rsqrt()


class Codec(nn.Module):
    """The network that is trained: sound, codes, sound."""

    parts = {"enc": "small.codec.Encoder", "dec": "small.codec.Decoder"}

    def __init__(self, width: int = 8, books: int = 3, levels: int = 16) -> None:
        super().__init__()
        self.books = nn.Parameter(
            torch.randn(books, levels, width) * 0.5 ** torch.arange(books)[:, None, None]
        )
        down = [Conv1d(1 if i == 0 else width, width, 2 * s, s, bias=False) for i, s in enumerate(STRIDES)]
        self.down = Sequential(
            *(block for conv in down for block in (conv, nn.Tanh())),
            Conv1d(width, width, 1, bias=False),
            Unit(),
        )
        up = [ConvTranspose1d(width, width, 2 * s, s, trim=s // 2) for s in reversed(STRIDES)]
        self.up = Sequential(*(block for conv in up for block in (conv, nn.ELU())), Conv1d(width, 1, 7))

    def _nearest(self, rest: Tensor, book: Tensor) -> Tensor:
        """Indices `[B, T]` of the codewords nearest to `rest [B, width, T]`."""
        return (2 * book @ rest - book.square().sum(1)[:, None]).argmax(1)


class Encoder(Codec, StreamingModel):
    """Sound `[B, 1, T]` to codes `[B, books, T / 320]`."""

    name, task = "small_enc", "encode"
    forward = StreamingModel.forward

    def __init__(self, width: int = 8, books: int = 3, levels: int = 16) -> None:
        super().__init__(width, books, levels)
        self.outputs = (Port("codes", type="codes", rate=FRAMES, channels=books, levels=levels),)
        self.compose(self.down)

    def initial_state(self, *how):
        return self.down.initial_state(*how)

    def step(self, x, state, **inputs):
        rest, state = self.down.step(x, state)
        codes = []
        for book in self.books:
            codes.append(self._nearest(rest, book))
            rest = rest - book[codes[-1]].transpose(1, 2)
        return torch.stack(codes, 1), state

    def distances(self, port, codes, inputs):
        rest, _ = self.down.step(inputs["audio"], self.down.initial_state(len(inputs["audio"])))
        found = []
        for i, book in enumerate(self.books):
            rest = rest - book[codes[:, i]].transpose(1, 2)
            found.append(rest.square().sum(1))
        return torch.stack(found, 1)


class Decoder(Codec, StreamingModel):
    """Codes `[B, books, T]`, of which some are lost, to sound `[B, 1, 320 T]`."""

    name, task = "small_dec", "decode"
    outputs = (Port("decoded"),)
    forward = StreamingModel.forward

    def __init__(self, width: int = 8, books: int = 3, levels: int = 16) -> None:
        super().__init__(width, books, levels)
        self.inputs = (
            Port("codes", type="codes", rate=FRAMES, channels=books, levels=levels),
            Port("lost", type="lost", rate=FRAMES, doc="1 where a frame is lost: its sound fades to none"),
        )
        self.compose(self.up)

    def initial_state(self, *how):
        return self.up.initial_state(*how)

    def step(self, codes, state, lost=None, **inputs):
        x = sum(book[codes[:, i]] for i, book in enumerate(self.books)).transpose(1, 2)
        return self.up.step(x * (1 - lost), state)
