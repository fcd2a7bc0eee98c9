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

from audiomask.losses import processes
from audiomask.streaming import either, to_onnx

FIRST = 2  # stages that are always made
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
        score = rest @ book.mT - 0.5 * book.square().sum(2)[:, None]
        index = score.argmax(-1)
        first = torch.arange(self.groups, device=rest.device)[:, None] * self.levels
        return index, F.embedding(index + first, book.flatten(0, 1))

    def encode(self, z: Tensor, books: Tensor | None = None) -> Tensor:
        """Return codes `[B, books, T]` of `z [B, D, T]`.

        Where no row wants as many as `books [B]` (None: all) the last stages are left out, 2, 4, 8, 16 ... of
        them having been made, and their codes are -1.
        """
        graph, first, found = to_onnx(), 0, []
        # time first: what a branch of a graph gives may have its symbolic length in no stride
        rest = z.permute(2, 0, 1).contiguous()
        while first < self.stages:
            last = min(self.stages, 2 * first or FIRST)
            if books is None or not first:
                codes, rest = self._stages(rest, first, last)
            else:
                wanted = books.max() > first * self.groups
                run = partial(self._stages, first=first, last=last)
                codes, rest = either(wanted, run, partial(self._none, count=last - first), (rest,), graph)
            found.append(codes)
            first = last
        return torch.cat(found, 2).permute(1, 2, 0)

    def _stages(self, rest: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return codes `[T, B, n]` of stages `first` to `last`, and what they leave, `[T, B, D]`."""
        rows = rest.flatten(0, 1).unflatten(1, (self.groups, -1)).transpose(0, 1)  # [G, T B, d]
        found = []
        for stage in range(first, last):
            index, word = self._search(rows, stage)
            rows = rows - word
            found.append(index)
        return torch.cat(found).T.reshape(*rest.shape[:2], -1), rows.transpose(0, 1).reshape(rest.shape)

    def _none(self, rest: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return what `_stages` does for `count` stages that nobody wants."""
        none = torch.full_like(rest[:, :, :1], -1, dtype=torch.int64)
        return none.expand(-1, -1, count * self.groups).contiguous(), torch.zeros_like(rest)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the sum of codewords `[B, D, T]` of `codes [B, books, T]`, of those from 0 up."""
        first = torch.arange(self.books, device=codes.device)[:, None] * self.levels
        words = F.embedding((codes + first).clamp_min(0), self.embed.flatten(0, 2))
        words = words * (codes >= 0)[..., None]
        return words.unflatten(1, (-1, self.groups)).sum(1).transpose(2, 3).flatten(1, 2)

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
