"""Predict EnCodec's codes, to code them in fewer bits: its language model.

Défossez et al. 2023, section 3.3: a causal transformer over frames, that gets the sum of the embeddings of a
frame's codes and gives, for each codebook of the next frame alone, the probabilities of its codewords. As
published it has 5 layers of 200 channels and sees 3.5 s: 15,559,768 parameters for the 32 codebooks of
24 kHz, 8,986,584 for the 16 of 48 kHz. Parameters bear the authors' names, so state dicts load unchanged.

It is here to read and write the authors' files with it: `Predictions`, for `runtime.codes.ecdc`. Its
probabilities are floating point. They differ in their last bits between processors and numbers of threads,
and then what one has written another cannot read; on the same they are the package's to the last bit, frame
by frame, because the same operators of torch run in the same order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask import weights

Memory = list[Tensor]  # what each layer was given, `[B, frames, dim]`


class Layer(nn.Module):
    """A transformer layer, normalised after additions, that attends to `context` frames before."""

    def __init__(self, dim: int, heads: int, hidden: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output for `x [B, T, dim]`, and what it is to be given as `past` next."""
        every = torch.cat([past, x], 1)
        query = torch.arange(past.shape[1], every.shape[1], device=x.device)[:, None]
        distance = query - torch.arange(every.shape[1], device=x.device)
        hidden = (distance < 0) | (distance > self.context)
        y, _ = self.self_attn(x, every, every, attn_mask=hidden, need_weights=False)
        x = self.norm1(x + y)
        return self.norm2(x + self.linear2(F.gelu(self.linear1(x)))), every[:, -self.context :]


class Transformer(nn.Module):
    """A stack of layers over frames with sines and cosines of their number added."""

    def __init__(self, dim: int, heads: int, hidden: int, layers: int, context: int) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(Layer(dim, heads, hidden, context) for _ in range(layers))

    def forward(self, x: Tensor, memory: Memory | None, start: int) -> tuple[Tensor, Memory]:
        """Run frames `x [B, T, dim]`, the first of which has the number `start`."""
        half, after = x.shape[2] // 2, []
        # all layers begin with one frame of zeros, which they attend to
        memory = [torch.zeros_like(x[:, :1]) for _ in self.layers] if memory is None else memory
        rate = 10000.0 ** (torch.arange(half, device=x.device) / (half - 1))
        phase = torch.arange(start, start + x.shape[1], device=x.device)[:, None] / rate
        x = self.norm_in(x) + torch.cat([phase.cos(), phase.sin()], 1)
        for layer, past in zip(self.layers, memory, strict=True):
            x, kept = layer(x, past)
            after.append(kept)
        return x, after


class EnCodecLM(nn.Module):
    """A model of the probabilities of codes `[B, books, T]`.

    Args:
        books, levels: Codebooks, and codewords of each.
        dim, heads, hidden, layers: Sizes of the transformer.
        context: Frames that a layer sees: 262 at 24 kHz, 525 at 48 kHz.
    """

    def __init__(
        self,
        books: int = 32,
        levels: int = 1024,
        dim: int = 200,
        heads: int = 8,
        hidden: int = 800,
        layers: int = 5,
        context: int = 262,
    ) -> None:
        super().__init__()
        self.transformer = Transformer(dim, heads, hidden, layers, context)
        self.emb = nn.ModuleList(nn.Embedding(levels + 1, dim) for _ in range(books))
        self.linears = nn.ModuleList(nn.Linear(dim, levels) for _ in range(books))

    def forward(self, before: Tensor, memory: Memory | None = None, start: int = 0) -> tuple[Tensor, Memory]:
        """Return the probabilities `[B, n, T, levels]` of the codes of frames.

        Args:
            before: The codes `[B, n, T]` of the frame before each, of the first n codebooks; -1 before the
                first frame.
            memory: What this returned with the frames before; None at the start.
            start: Number of those frames.
        """
        first, *others = (e(code + 1) for e, code in zip(self.emb, before.unbind(1), strict=False))
        x, memory = self.transformer(sum(others, first), memory, start)
        heads = self.linears[: before.shape[1]]
        logits = torch.stack([head(x) for head in heads], 1).permute(0, 3, 1, 2)  # the order decides on bits
        return logits.softmax(1).permute(0, 2, 3, 1), memory


CONTEXT = {32: 262, 16: 525}  # frames of 3.5 s, by the codebooks of 24 and 48 kHz
AUTHORS_CLASS, AUTHORS_LICENCE = "EnCodecLM", "MIT (the weights of the package encodec)"


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and state dict of `EnCodecLM` from a published state dict."""
    books = sum(bool(re.fullmatch(r"emb\.\d+\.weight", key)) for key in state)
    hidden, dim = state["transformer.layers.0.linear1.weight"].shape
    arguments = {
        "books": books, "levels": state["linears.0.weight"].shape[0], "dim": dim, "hidden": hidden,
        "layers": sum(key.endswith(".linear1.weight") for key in state), "context": CONTEXT[books],
    }  # fmt: skip
    return arguments, dict(state)


class Predictions:
    """A language model that predicts frame after frame, with a fixed number of threads.

    Args:
        folder: Its config and weights, as `audiomask import encodec_lm FILE --weights FOLDER` writes them.
        threads: Threads of torch: a file is read with as many as it was written with.

    Raises `WeightsError` for a folder that holds no such model.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        config, state = weights.read(folder)
        wanted = f"{__name__}.{AUTHORS_CLASS}"
        if config.get("class_path") != wanted:
            raise weights.WeightsError(f"{folder}: holds {config.get('class_path')!r}, not {wanted}")
        self.model = weights.load_model(config, EnCodecLM)
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise weights.WeightsError(f"{folder}: the weights do not fit the config: {error}") from error
        self.model.eval()
        self.books, self.threads = len(self.model.emb), threads
        self.levels = self.model.linears[0].out_features
        self._memory: Memory | None = None
        self._frames = 0

    def begin(self) -> None:
        """Go to the start of a signal."""
        self._memory, self._frames = None, 0

    @torch.no_grad()
    def after(self, codes: np.ndarray) -> np.ndarray:
        """Return probabilities `[n, levels]` after a frame of codes `[n]`, -1 before the first."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            before = torch.from_numpy(codes.astype(np.int64))[None, :, None]
            found, self._memory = self.model(before, self._memory, self._frames)
        finally:
            torch.set_num_threads(threads)
        self._frames += 1
        return found[0, :, 0].numpy()
