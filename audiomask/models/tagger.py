"""Tag sound as it comes by a vision transformer: `ViTTagger` with its front end.

    samples -> Kaldi fbank -> a column of patches every 16 frames (.16 s), embedded once
            -> the last `window` columns, kept as state -> transformer over them at each hop
            -> mean of their tokens (or the cls token) -> norm: embedding -> linear -> probabilities

    sound    |  hop 0  |  hop 1  |  hop 2  |  hop 3  |      a hop is `every` columns, here 1
    columns   [ 0       ][ 1       ][ 2       ][ 3   ...     each reaches 15 ms into the next hop
    output   |none     |0        |0 1      |0 1 2    |      window 3: then 1 2 3, 2 3 4 ...

Output n is made from the columns that are complete at the end of hop n; nothing waits for later sound, so
there is no delay. Until the window is full, its empty places are left out of attention and of the mean, and
the columns that are there have the positions of the first ones. So the output is that of `ViTTagger` on the
clip up to here: on a spectrogram of whole patches, `LogMel(frames=0)`. Later it is that of `ViTTagger` on the
last `window` columns alone. Audio-MAE takes the mean off the whole clip first, which changes nothing, because
`Fbank` takes it off every frame. Names and shapes of the weights are `ViTTagger`'s.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from audiomask.frontend.logmel import LogMel
from audiomask.models.vit_tagger import ViTTagger
from audiomask.streaming import Delay, Port, Sequential, State, StreamingModel


class Tagger(ViTTagger, StreamingModel):
    """A tagger of samples `[B, 1, T]`, which puts out probabilities and embeddings.

    These are `[B, classes, T / hop]` and `[B, width, T / hop]`, 0 before the first column is complete. A hop
    has `every` columns; 6 are .96 s. `window` columns are seen at a time, at most those of `frames`; 0: as
    many. `frontend` makes the spectrograms as in training, whatever its `frames`; `net` is `ViTTagger`'s.
    """

    task = "tag"
    inputs = (Port("audio"),)

    def __init__(
        self,
        classes: int,
        frontend: LogMel,
        window: int = 0,
        every: int = 6,
        name: str = "tagger",
        **net: Any,
    ) -> None:
        super().__init__(classes, **net)
        if (frontend.bands, frontend.patch) != (self.bands, self.patch):
            raise ValueError(
                f"frontend has {frontend.bands} bands and patches of {frontend.patch}, the network "
                f"{self.bands} and {self.patch}; make them equal"
            )
        self.window = window or self.grid[0]
        if not 0 < every < self.window <= self.grid[0]:
            raise ValueError(
                f"window {self.window}, every {every}: need 0 < every < window <= {self.grid[0]}, the "
                "columns that the network is made for"
            )
        self.name, self.sample_rate, self.every = name, frontend.sample_rate, every
        self.mean, self.std = frontend.mean, frontend.std
        fbank = frontend.fbank
        column = self.patch * fbank.hop
        wait = -int(fbank.delay) % column  # so that columns end where hops do
        self.fbank = Sequential({"wait": Delay(wait, 1), "fbank": fbank})
        self.late = self.fbank.lag_out // self.patch  # columns
        self.hop = every * column
        rate, span = Fraction(1, self.hop), self.window * column + fbank.length - fbank.hop
        names = tuple(self.labels or (f"class {i}" for i in range(classes)))
        self.outputs = (
            Port("probabilities", type="probabilities", rate=rate, channels=classes, labels=names, span=span),
            Port("embedding", type="embedding", rate=rate, channels=self.width, span=span),
        )

    forward = StreamingModel.forward  # type: ignore[assignment]

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        kept = self.window - self.every
        return {
            "fbank": self.fbank.initial_state(batch, device, dtype),
            "ring": torch.zeros(batch, kept, self.grid[1] * self.width, device=device, dtype=dtype),
            "seen": torch.zeros(batch, dtype=torch.int64, device=device),  # hops
        }

    def step(self, x, state, **controls):
        batch, window, bands = x.shape[0], self.window, self.grid[1]
        mel, fbank = self.fbank.step(x, state["fbank"])
        mel = (mel[:, 0] - self.mean) / (2 * self.std)
        new = self.patch_embed(self.patches(mel)).reshape(batch, -1, bands * self.width)
        columns = torch.cat([state["ring"], new], 1)
        hops = new.shape[1] // self.every
        hop = torch.arange(hops, device=x.device)
        slot = torch.arange(window, device=x.device)
        # [B, hops]: columns of the window that there are
        count = ((state["seen"][:, None] + hop + 1) * self.every - self.late).clamp(0, window)
        tokens = columns[:, hop[:, None] * self.every + slot]  # [B, hops, window, bands C]
        pooled = self._pool_columns(tokens.flatten(0, 1), count.flatten())
        y = self.probabilities(self.head(pooled))
        heard = (count > 0)[:, None]
        after = {"fbank": fbank, "ring": columns[:, self.every - window :], "seen": state["seen"] + hops}
        parts = (part.reshape(batch, -1, part.shape[1]).transpose(1, 2) * heard for part in (y, pooled))
        return tuple(parts), after

    def _pool_columns(self, columns: Tensor, count: Tensor) -> Tensor:
        """Return the normalised mean of the tokens, or the cls token, `[N, C]`.

        The last `count [N]` of the embedded `columns [N, window, bands C]` are there.
        """
        window, bands = self.window, self.grid[1]
        absent = window - count[:, None]
        place = self.pos_embed[0, 1 : window * bands + 1].reshape(window, -1)
        slot = torch.arange(window, device=columns.device)
        tokens = (columns + place[(slot - absent).clamp_min(0)]).reshape(-1, window * bands, self.width)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([first, tokens], 1)
        if self.norm_pre is not None:
            tokens = self.norm_pre(tokens)
        token = torch.arange(1 + window * bands, device=columns.device)
        there = token > absent * bands  # [N, 1 + window bands]
        mask = (there | (token == 0))[:, None, None, :].expand(-1, -1, token.shape[0], -1)
        for block in self.blocks:
            tokens = block(tokens, mask)
        if self.pool == "cls":
            return self.fc_norm(tokens[:, 0])
        total = torch.where(there[:, :, None], tokens, 0.0).sum(1)
        return self.fc_norm(total / (count * bands).clamp_min(1)[:, None])
