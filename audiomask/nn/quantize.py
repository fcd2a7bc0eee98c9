"""Quantize vectors by codebooks that code what others leave, or number by number.

    quantizer = ResidualQuantizer(dim=128, stages=8, levels=1024)
    codes = quantizer.encode(z)                       # [B, 128, T] -> [B, 8, T] int64
    z = quantizer.decode(codes)                       # the sum of the codewords

Residual vector quantization as in SoundStream (Zeghidour et al. 2021) and EnCodec (Défossez et al. 2022):
with r_0 = z, stage i takes the codeword q_i nearest to r_(i-1) and leaves r_i = r_(i-1) - q_i. Codebooks
follow exponential averages of the vectors that they code; codewords that code next to nothing start anew.

The nearest codeword is the one of the highest score <r, q> - |q|^2 / 2, and of equal scores the one of the
lowest index. Scores are float32, and sums of other lengths, threads or frameworks differ in their last bits;
where two scores are that close the codes may differ, and only there (`distances`, which the proof of an
exported graph looks at). `ScalarQuantizer` has the same methods, and a code for each channel.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from audiomask.losses import processes
from audiomask.streaming import either, to_onnx

# Multiply-adds of the stages that are always made: to leave out less saves no more than it costs to ask.
ALWAYS = 150_000
EPS = 1e-5  # of the Laplace smoothing of the usage


class ResidualQuantizer(nn.Module):
    """A stack of codebooks, trained by averages.

    With `groups`, the channels are divided among as many quantizers side by side, whose codes of a stage
    follow one another: of 2 stages and 3 groups, books 0 1 2 are the first stage's.

    Args:
        dim: Channels D of a vector.
        stages: Stages S of each group; there are `books` = S G codebooks.
        levels: Codewords of a codebook.
        groups: Groups G.
        decay: Decay of the exponential averages.
        expire: Mean number of vectors a batch below which a codeword starts anew, from one of the batch.
        means: Steps of k-means that make the first codewords of the first batch.
        global_estimator: One straight-through estimator around all stages, as in audiocraft; false: one for
            each, as in the encodec package, whose commitment loss then teaches the first stage alone.
    """

    embed: Tensor
    embed_avg: Tensor
    cluster_size: Tensor
    inited: Tensor

    def __init__(
        self,
        dim: int,
        stages: int,
        levels: int = 1024,
        groups: int = 1,
        decay: float = 0.99,
        expire: float = 2.0,
        means: int = 50,
        global_estimator: bool = True,
    ) -> None:
        super().__init__()
        if dim % groups:
            raise ValueError(f"{dim} channels cannot be divided among {groups} groups")
        self.dim, self.stages, self.levels, self.groups = dim, stages, levels, groups
        self.decay, self.expire, self.means = decay, expire, means
        self.global_estimator = global_estimator
        self.certain = 1  # stages that are always made
        while self.certain * dim * levels < ALWAYS:
            self.certain *= 2
        shape = (stages, groups, levels)
        bound = math.sqrt(3 * groups / dim)
        self.register_buffer("embed", torch.empty(*shape, dim // groups).uniform_(-bound, bound))
        self.register_buffer("embed_avg", self.embed.clone())
        self.register_buffer("cluster_size", torch.ones(shape))
        self.register_buffer("inited", torch.zeros(stages, dtype=torch.bool))

    @property
    def books(self) -> int:
        return self.stages * self.groups

    def _rows(self, z: Tensor) -> Tensor:
        """Return vectors `[B, D, T]` as rows `[G, B T, D / G]`."""
        return z.unflatten(1, (self.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)

    def _back(self, rows: Tensor, batch: int) -> Tensor:
        return rows.unflatten(1, (batch, -1)).permute(1, 0, 3, 2).flatten(1, 2)

    def _search(self, rest: Tensor, stage: int) -> tuple[Tensor, Tensor]:
        """Return indices `[.., G, N]` and codewords `[.., G, N, d]` nearest to `rest [.., G, N, d]`."""
        book = self.embed[stage]
        weight = 0.5 * book.square().sum(2)[:, None]
        # one matrix for all rows is the faster product
        score = rest @ (book.mT if self.groups > 1 else book[0].T) - weight
        index = score.argmax(-1)
        first = torch.arange(self.groups, device=rest.device)[:, None] * self.levels
        return index, F.embedding(index + first if self.groups > 1 else index, book.flatten(0, 1))

    def encode(self, z: Tensor, books: Tensor | None = None) -> Tensor:
        """Return codes `[B, books, T]` of `z [B, D, T]`.

        Where no row wants as many as `books [B]` (None: all) the last stages are left out and their codes are
        -1: those after `certain` times a power of two.
        """
        # time first: what a branch of a graph gives may have its symbolic length in no stride
        rest = z.permute(2, 0, 1).unflatten(2, (self.groups, 1, -1)).contiguous()
        most = torch.tensor(self.books, device=z.device) if books is None else books.max()
        (codes,) = self._from(rest, None, most, 0, self.certain, to_onnx())
        return codes.permute(1, 2, 0, 3).squeeze(3)

    def _from(
        self, rest: Tensor, index: Tensor | None, most: Tensor, first: int, last: int, graph: bool
    ) -> tuple[Tensor]:
        """Return codes `[T, B, n, 1]` of what is left to stage `first`, `[T, B, G, 1, d]`.

        The stages up to `last` are made, and those after them where `most` codebooks need them. `index` are
        the codes of the stage before.
        """
        found, last = [], min(last, self.stages)
        for stage in range(first, last):
            index, word = self._search(rest, stage)
            rest = rest - word
            found.append(index)
        if last < self.stages:
            more = partial(self._from, first=last, last=2 * last, graph=graph)
            none = partial(self._none, first=last)
            found += either(most > last * self.groups, more, none, (rest, found[-1], most), graph)
        return (torch.cat(found, 2),)

    def _none(self, rest: Tensor, index: Tensor, most: Tensor, first: int) -> tuple[Tensor]:
        """Return what `_from` does where nobody wants any."""
        return (torch.cat([index.clamp_max(-1)] * (self.stages - first), 2),)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the sum of codewords `[B, D, T]` of `codes [B, books, T]`, of those from 0 up."""
        words = F.pad(self.embed.flatten(0, 1), (0, 0, 1, 0))  # before each codebook's a word of zeros
        first = torch.arange(self.books, device=codes.device)[:, None] * (self.levels + 1) + 1
        found = F.embedding(codes.clamp_min(-1) + first, words.flatten(0, 1))  # [B, books, T, d]
        return found.unflatten(1, (-1, self.groups)).sum(1).mT.flatten(1, 2)

    def distances(self, z: Tensor, codes: Tensor) -> Tensor:
        """Return the squared distances `[B, n, T]` that `codes [B, n, T]` leave of `z [B, D, T]`."""
        found, rest = [], list(z.unflatten(1, (self.groups, -1)).unbind(1))
        for i in range(codes.shape[1]):
            stage, group = divmod(i, self.groups)
            rest[group] = rest[group] - self.embed[stage, group][codes[:, i].clamp_min(0)].mT
            found.append(rest[group].square().sum(1) * (codes[:, i] >= 0))
        return torch.stack(found, 1)

    def forward(self, z: Tensor, books: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Quantize `z [B, D, T]` with the first `books [B]` codebooks of each row (None: all).

        Returns:
            The quantized z, through which the gradient passes straight, and the commitment loss: the mean
            square of what a stage is given minus its codeword, over channels, places and stages, whose
            gradient moves z alone. In training the codebooks follow z.
        """
        if books is None:
            books = torch.full((len(z),), self.books, device=z.device)
        start = rest = self._rows(z)
        total, commitment = torch.zeros_like(rest), z.new_zeros(())
        order = torch.arange(self.books, device=z.device).view(self.stages, self.groups, 1)
        used = (order < books).repeat_interleave(z.shape[2], 2)[..., None].to(z.dtype)  # [S, G, B T, 1]
        stages = -(-int(books.max()) // self.groups)
        for stage in range(stages):
            if self.training:
                self._begin(rest.detach(), stage)
            with torch.no_grad():
                index, word = self._search(rest.detach(), stage)
            if self.training:
                self._follow(rest.detach(), index, stage)
            commitment = commitment + ((rest - word).square() * used[stage]).mean() / stages
            passed = word if self.global_estimator else rest + (word - rest).detach()
            total = total + passed * used[stage]
            rest = rest - (word if self.global_estimator else passed)
        if self.global_estimator:
            total = start + (total - start).detach()
        return self._back(total, len(z)), commitment

    @torch.no_grad()
    def _begin(self, x: Tensor, stage: int) -> None:
        """Make the first codewords of a stage, by k-means of rows `x [G, N, d]`."""
        if bool(self.inited[stage]):
            return
        words = self._some(x)
        size = torch.ones_like(self.cluster_size[stage])
        for _ in range(self.means):
            index = (x @ words.mT - 0.5 * words.square().sum(2)[:, None]).argmax(2)
            size, total = self._sums(x, index)
            words = torch.where(size[..., None] > 0, total / size.clamp_min(1)[..., None], words)
        processes.share([words, size])
        self.embed[stage], self.cluster_size[stage] = words, size
        self.embed_avg[stage] = words * size[..., None]
        self.inited[stage] = True

    def _some(self, x: Tensor) -> Tensor:
        """Return `levels` of the rows `x [G, N, d]` at random, none twice where there are enough."""
        n = x.shape[1]
        picks = [
            torch.randperm(n)[: self.levels] if n >= self.levels else torch.randint(n, (self.levels,))
            for _ in range(self.groups)
        ]
        return torch.stack([rows[pick.to(x.device)] for rows, pick in zip(x, picks, strict=True)])

    def _sums(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many rows of `x [G, N, d]` each codeword codes, `[G, K]`, and their sums."""
        flat = (index + torch.arange(self.groups, device=x.device)[:, None] * self.levels).flatten()
        size = torch.bincount(flat, minlength=self.groups * self.levels).to(x.dtype)
        total = x.new_zeros(len(size), x.shape[2]).index_add_(0, flat, x.flatten(0, 1))
        return size.view(self.groups, -1), total.view(self.groups, self.levels, -1)

    @torch.no_grad()
    def _follow(self, x: Tensor, index: Tensor, stage: int) -> None:
        """Move the codebooks of a stage towards the rows `x [G, N, d]` that they code."""
        size, total = self._sums(x, index)
        processes.average([size, total])
        size, total = size * processes.world(), total * processes.world()
        if self.expire:
            dead = self.cluster_size[stage] < self.expire
            fresh = self._some(x)
            processes.share([fresh])
            # a codeword that starts anew has usage and sum of a mean one, so that it stays for a while
            fair = size.sum(1, keepdim=True) / self.levels
            self.cluster_size[stage] = torch.where(dead, fair, self.cluster_size[stage])
            self.embed_avg[stage] = torch.where(
                dead[..., None], fresh * fair[..., None], self.embed_avg[stage]
            )
        self.cluster_size[stage].lerp_(size, 1 - self.decay)
        self.embed_avg[stage].lerp_(total, 1 - self.decay)
        count = self.cluster_size[stage]
        whole = count.sum(1, keepdim=True)
        smooth = (count + EPS) / (whole + self.levels * EPS) * whole
        self.embed[stage] = self.embed_avg[stage] / smooth[..., None]


class ProjectedQuantizer(ResidualQuantizer):
    """A stack of codebooks of `dim` channels, between projections of `channels` to it and back."""

    def __init__(self, channels: int, dim: int, stages: int, levels: int) -> None:
        super().__init__(dim, stages, levels)
        self.into, self.out = (nn.Conv1d(*pair, 1, bias=False) for pair in ((channels, dim), (dim, channels)))

    def encode(self, z: Tensor, books: Tensor | None = None) -> Tensor:
        return super().encode(self.into(z), books)

    def decode(self, codes: Tensor) -> Tensor:
        return self.out(super().decode(codes))

    def distances(self, z: Tensor, codes: Tensor) -> Tensor:
        return super().distances(self.into(z), codes)

    def forward(self, z: Tensor, books: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, commitment = super().forward(self.into(z), books)
        return self.out(z), commitment


class SplitQuantizer(nn.Module):
    """Two stacks of codebooks that code the same vectors, and whose decoded vectors are added.

    Each has projections of its own. In Mimi (Défossez et al. 2024) the one book of the first stack learns to
    say what is spoken, and the rest how it sounds. Codebooks are counted over both.

    Args:
        channels: Channels C of a vector.
        dim: Channels of a codeword.
        stages: Codebooks in all.
        levels: Codewords of a codebook.
        first: Codebooks of the first stack, which are always sent.
    """

    def __init__(self, channels: int, dim: int, stages: int, levels: int, first: int = 1) -> None:
        super().__init__()
        if not 0 < first < stages:
            raise ValueError(f"{first} of {stages} codebooks in the first stack: want one at least in each")
        self.books, self.levels = stages, levels
        self.first = ProjectedQuantizer(channels, dim, first, levels)
        self.rest = ProjectedQuantizer(channels, dim, stages - first, levels)

    def encode(self, z: Tensor, books: Tensor | None = None) -> Tensor:
        """Return codes `[B, books, T]` of `z [B, C, T]`; see `ResidualQuantizer.encode`."""
        more = None if books is None else books - self.first.books
        return torch.cat([self.first.encode(z), self.rest.encode(z, more)], 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the vectors `[B, C, T]` of `codes [B, books, T]`, of those from 0 up."""
        first, rest = codes.split([self.first.books, self.rest.books], 1)
        return self.first.decode(first) + self.rest.decode(rest)

    def distances(self, z: Tensor, codes: Tensor) -> Tensor:
        """Return the squared distances `[B, n, T]` that `codes [B, n, T]` leave of `z [B, C, T]`."""
        first, rest = codes.split([self.first.books, self.rest.books], 1)
        return torch.cat([self.first.distances(z, first), self.rest.distances(z, rest)], 1)

    def forward(self, z: Tensor, books: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Quantize z, and return the commitment loss, the mean over codebooks; see the stacks."""
        more = None if books is None else (books - self.first.books).clamp_min(0)
        (y, first), (other, rest) = self.first(z), self.rest(z, more)
        share = self.first.books / self.books
        return y + other, share * first + (1 - share) * rest


class ScalarQuantizer(nn.Module):
    """A quantizer of each channel by itself, trained by noise.

    It is WaLLoC's (Jacobellis and Yadwadkar 2024). A map that makes a Gaussian of deviation s even, u =
    L (2 Phi(z / s) - 1), comes first, and its inverse last. In training u gets noise, even from -1/2 to 1/2;
    else it is rounded, to the even number where it lies between two. With 8 bits, u is within L = 127.499, s
    is 127 / 1.85, and there are 255 levels.

    Args:
        dim: Channels, each of which is a codebook.
        bits: Bits of a code.
    """

    SPREAD, SLACK = 1.85, 0.499  # top / s; by how much u passes the last level, so that it is never exceeded
    LEAST = 1e-4  # probability at which the inverse ends

    table: Tensor

    def __init__(self, dim: int, bits: int = 8) -> None:
        super().__init__()
        if not 2 <= bits <= 16:
            raise ValueError(f"codes of {bits} bits; want 2 to 16")
        self.dim = self.books = dim
        self.top = 2 ** (bits - 1) - 1
        self.levels, self.scale, self.limit = 2 * self.top + 1, self.top / self.SPREAD, self.top + self.SLACK
        table = self._normal(torch.arange(-self.top, self.top + 1, dtype=torch.float32))
        self.register_buffer("table", table, persistent=False)

    def _even(self, z: Tensor) -> Tensor:
        return self.limit * torch.erf(z * (math.sqrt(0.5) / self.scale))

    def _normal(self, u: Tensor) -> Tensor:
        p = (0.5 + 0.5 / self.limit * u).clamp(self.LEAST, 1 - self.LEAST)
        return self.scale * torch.special.ndtri(p)

    def encode(self, z: Tensor, books: Tensor | None = None) -> Tensor:
        """Return codes `[B, D, T]` of `z [B, D, T]`; `books` changes nothing."""
        return self._even(z).round().clamp(-self.top, self.top).long() + self.top

    def decode(self, codes: Tensor) -> Tensor:
        """Return the vectors `[B, D, T]` of codes, with 0 where a code is below 0."""
        return F.embedding(codes.clamp_min(0), self.table[:, None])[..., 0] * (codes >= 0)

    def distances(self, z: Tensor, codes: Tensor) -> Tensor:
        """Return the squared distances `[B, D, T]` of `codes` from `z [B, D, T]`."""
        return (self._even(z) - (codes - self.top)).square() * (codes >= 0)

    def forward(self, z: Tensor, books: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return `z [B, D, T]` with noise, or out of training quantized, and a commitment loss of 0.

        Of each row the channels from `books [B]` on are 0 (None: none).
        """
        u = self._even(z)
        made = self._normal(u + torch.rand_like(u) - 0.5) if self.training else self.decode(self.encode(z))
        if books is not None:
            order = torch.arange(self.dim, device=z.device)[:, None]
            made = made * (order < books[:, None, None])
        return made, z.new_zeros(())


class FactorizedQuantizer(nn.Module):
    """A stack of codebooks whose few channels are learned by gradients, and compared by angle.

    It is that of DAC (Kumar et al. 2023, after Yu et al. 2022). With r_0 = z, stage i projects r_(i-1) to e
    of `dim` channels, takes the codeword c with the greatest cosine to it, and leaves r_i = r_(i-1) - p_i(c),
    where p_i projects back.

    Args:
        channels: Channels C of a vector.
        dim: Channels of a codeword.
        stages: Codebooks.
        levels: Codewords of a codebook.
        commitment: Weight of |e - c|^2 that moves e, in the loss beside the one that moves c.
    """

    def __init__(
        self, channels: int, dim: int, stages: int, levels: int = 1024, commitment: float = 0.25
    ) -> None:
        super().__init__()
        self.books, self.levels, self.commitment = stages, levels, commitment
        self.into = nn.ModuleList(weight_norm(nn.Conv1d(channels, dim, 1)) for _ in range(stages))
        self.out = nn.ModuleList(weight_norm(nn.Conv1d(dim, channels, 1)) for _ in range(stages))
        self.words = nn.Parameter(torch.randn(stages, levels, dim))

    def _search(self, e: Tensor, stage: int) -> Tensor:
        """Return the indices `[B, T]` of the codewords closest to `e [B, dim, T]`."""
        book = F.normalize(self.words[stage])
        return (F.normalize(e).mT @ book.T - 0.5 * book.square().sum(1)).argmax(2)

    def _word(self, codes: Tensor, stage: int) -> Tensor:
        """Return the codewords `[B, dim, T]` of `codes [B, T]`; of -1, one that is to be left out."""
        return F.embedding(codes.clamp_min(0), self.words[stage]).mT

    def encode(self, z: Tensor, books: Tensor | None = None) -> Tensor:
        """Return codes `[B, stages, T]` of `z [B, C, T]`, always of all codebooks: they are cheap."""
        found = []
        for stage in range(self.books):
            found.append(self._search(self.into[stage](z), stage))
            z = z - self.out[stage](self._word(found[-1], stage))
        return torch.stack(found, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the vectors `[B, C, T]` of `codes [B, stages, T]`, of those from 0 up."""
        parts = [
            self.out[stage](self._word(codes[:, stage], stage)) * (codes[:, stage, None] >= 0)
            for stage in range(self.books)
        ]
        return torch.stack(parts).sum(0)

    def distances(self, z: Tensor, codes: Tensor) -> Tensor:
        """Return the squared distances `[B, n, T]`, between unit vectors, of `codes [B, n, T]` of z."""
        found = []
        for stage in range(codes.shape[1]):
            e, word = self.into[stage](z), self._word(codes[:, stage], stage)
            found.append((F.normalize(e) - F.normalize(word)).square().sum(1) * (codes[:, stage] >= 0))
            z = z - self.out[stage](word)
        return torch.stack(found, 1)

    def forward(self, z: Tensor, books: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Quantize `z [B, C, T]` with the first `books [B]` codebooks of each row (None: all).

        Returns:
            The quantized z, through which the gradient passes straight at every stage, and the loss: summed
            over stages, the mean square of e minus its codeword, once to move the codeword and once,
            weighted, to move e.
        """
        if books is None:
            books = torch.full((len(z),), self.books, device=z.device)
        rest, total, loss = z, torch.zeros_like(z), z.new_zeros(())
        for stage in range(self.books):
            e = self.into[stage](rest)
            word = self._word(self._search(e.detach(), stage), stage)
            used = (stage < books).to(z.dtype)
            apart = (word - e.detach()).square() + self.commitment * (e - word.detach()).square()
            loss = loss + (apart.mean((1, 2)) * used).mean()
            passed = self.out[stage](e + (word - e).detach())
            total = total + passed * used[:, None, None]
            rest = rest - passed
        return total, loss
