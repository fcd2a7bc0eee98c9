"""Predict the codes of a codec, so that they take fewer bits: Hunch.

Hunch is our own. It is small, since it runs for each code on its own, in Python and in the browser, and does
so in whole numbers alone (`runtime/codes/probabilities.py`, which has the equations). It sees the frames
before in a packet, and the books before in the frame; packets stand for themselves.

In training, weights and activations are rounded as they will be in the file, and the gradient passes straight
through the rounding (Bengio et al. 2013).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNIT = 32  # vectors and activations are whole multiples of 1 / UNIT
FINE = 256  # and so are the weights of both layers, of 1 / FINE
SCORE = 64  # and those of the scores, whose unit is a bit
MOST, CEILING = 127, 255  # of a weight of 8 bits, and of what a layer gives


def rounded(x: Tensor, scale: int, most: float = math.inf) -> Tensor:
    """Return `x` in whole multiples of 1 / `scale`; the gradient passes straight."""
    whole = (x * scale + 0.5).floor().clamp(-most, most) / scale
    return x + (whole - x).detach()


def held(z: Tensor) -> Tensor:
    """Return r(z), see `runtime/codes/probabilities.py`."""
    return rounded(z.clamp(0, CEILING / UNIT), UNIT)


class Hunch(nn.Module):
    """A network that gives the bits of codes `[B, books, T]` of packets.

    Args:
        books, levels, groups: Codebooks of the codec, codewords of each, and groups of books.
        width: Components of a code's vector.
        past: Frames that are looked back at.
        hidden, inner: Outputs of the layer over frames, and of that of each book.
        codec, name: Hash of the codec in hexadecimal, and its name; the data know them.
    """

    def __init__(
        self,
        books: int = 18,
        levels: int = 1024,
        groups: int = 3,
        width: int = 32,
        past: int = 2,
        hidden: int = 192,
        inner: int = 48,
        codec: str = "",
        name: str = "",
    ) -> None:
        super().__init__()
        self.books, self.levels, self.groups = books, levels, groups
        self.codec, self.name = codec, name
        wide, seen = groups * width, past * groups * width
        self.embed = nn.Parameter(0.3 * torch.randn(books, levels, width))
        self.start = nn.Parameter(torch.zeros(past, wide))
        self.past = nn.Parameter(torch.randn(hidden, seen) / seen**0.5)
        self.past_bias = nn.Parameter(torch.zeros(hidden))
        self.into = nn.Parameter(torch.randn(books, inner, hidden + wide) / (hidden + wide) ** 0.5)
        self.into_bias = nn.Parameter(torch.zeros(books, inner))
        self.score = nn.Parameter(0.05 * torch.randn(books, levels, inner))
        self.score_bias = nn.Parameter(torch.zeros(books, levels))

    @torch.no_grad()
    def begin(self, counts: Tensor) -> None:
        """Begin with codes as likely as they are often, `counts [books, levels]`."""
        often = counts.to(self.score_bias) + 1
        self.score_bias.copy_((often / often.mean(1, keepdim=True)).log2())

    def forward(self, codes: Tensor, scored: list[int] | None = None) -> Tensor:
        """Return the bits `[B, books, T]` of codes `[B, n, T]` of packets.

        `scored` are the books that are wanted; None stands for all n.
        """
        rows, books, frames = codes.shape
        first = torch.arange(books, device=codes.device)[:, None] * self.levels
        vectors = F.embedding(codes + first, rounded(self.embed, UNIT, MOST).flatten(0, 1))
        vectors = F.pad(vectors.movedim(1, 2), (0, 0, 0, -books % self.groups))  # [B, T, books, D]
        sums = vectors.unflatten(2, (-1, self.groups)).cumsum(2)  # [B, T, stages, groups, D]
        sums = F.pad(sums, (0, 0, 0, 0, 1, 0)).clamp(-CEILING / UNIT, CEILING / UNIT)
        start = rounded(self.start, UNIT, MOST).flip(0).expand(rows, -1, -1)
        before = torch.cat([start, sums[:, :, -1].flatten(2)], 1)
        reach = len(self.start)
        seen = torch.cat([before[:, reach - 1 - n : reach - 1 - n + frames] for n in range(reach)], 2)
        wide = UNIT * FINE
        y = held(F.linear(seen, rounded(self.past, FINE, MOST), rounded(self.past_bias, wide)))
        found = []
        for book in range(books) if scored is None else scored:
            stage, group = divmod(book, self.groups)
            beside = torch.cat([sums[:, :, stage + 1, :group], sums[:, :, stage, group:]], 2)
            into = rounded(self.into[book], FINE, MOST)
            x = torch.cat([y, beside.flatten(2)], 2)
            x = held(F.linear(x, into, rounded(self.into_bias[book], wide)))
            score = rounded(self.score[book], SCORE, MOST)
            scores = F.linear(x, score, rounded(self.score_bias[book], UNIT * SCORE)) * math.log(2)
            bits = F.cross_entropy(scores.flatten(0, 1), codes[:, book].flatten(), reduction="none")
            found.append(bits.view(rows, frames) / math.log(2))
        return torch.stack(found, 1)
