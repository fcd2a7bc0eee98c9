"""Take dialogue, music and effects apart by masks of bands: Bandit, version 1 and 2.

Watcharasupat, Wu, Ding, Orife, Hipple, Williams, Kramer, Lerch and Wolcott, "A Generalized Bandsplit Neural
Network for Cinematic Audio Source Separation" (IEEE OJSP 2023, arXiv 2309.02539), and Watcharasupat, Wu and
Orife, "Remastering Divide and Remaster" (arXiv 2407.07275), version 2:

    x -> STFT 2048/512 -> for each band: LayerNorm, linear 128
      -> 16 times, over time and over bands in turn: z + (LayerNorm, GRU 256 both ways, linear)
      -> for each stem and band: LayerNorm, linear 512, tanh, linear, GLU -> a complex mask
      -> masks of overlapping bands summed, weighted -> times the spectrum -> inverse STFT

    bands           parameters, speech, music and effects
    vox7 (43)       25,676,176
    musical 48, 64  33,549,328, 37,022,688
    mel 48, 64      32,753,744, 36,053,872
    erb 48, 64      32,631,840, 35,964,048
    bark 48, 64     64,480,864, 82,621,200
    tribark 48, 64  32,670,336, 35,996,128

The encoder is shared. A stem's decoder hangs on it: a network with fewer `stems` loads the weights of one
with more, and costs less. Both versions are one network. Version 2 runs at 48 kHz, reflects the ends (`pad`)
and takes the two parts of a bin side by side, which the importer undoes. Channels are separated each by
itself, with one set of weights.

It looks at all of the signal and cannot stream. Here it runs over windows of twice `segment` seconds that
overlap by half, in constant memory; of each window, its middle half is used, 1/16 of it in a cross-fade, so
the GRUs have 7/16 of a `segment` to warm up on either side. Two windows cover each sample, where the authors
run twelve, of 6 s every .5 s, and average them under a Hann window; `Bandit.whole` is one of theirs. The
length of what it was trained on is 6 s for version 1 and 8 s for version 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiomask.frontend.splits import BANKS, split
from audiomask.frontend.stft import Centred
from audiomask.masks.gains import multiply
from audiomask.nn.recurrent import PlainGRU, PlainLSTM
from audiomask.nn.windowed import Windowed
from audiomask.streaming import Port, Steps, StreamingModel

CELLS = {"GRU": PlainGRU, "LSTM": PlainLSTM}


class Into(nn.Module):
    """A map of a band of spectra to features, `[N, T, 2 W]` -> `[N, T, D]`."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(2 * width), nn.Linear(2 * width, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(x))


class Across(nn.Module):
    """A recurrent layer over axis 2 of `[N, U, A, D]`, in both directions, added to its input."""

    def __init__(self, dim: int, hidden: int, cell: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.rnn = CELLS[cell](dim, hidden, bidirectional=True)
        self.fc = nn.Linear(2 * hidden, dim)

    def forward(self, z: Tensor) -> Tensor:
        y, _ = self.rnn(self.norm(z).flatten(0, 1).transpose(0, 1))
        return z + self.fc(y).transpose(0, 1).unflatten(0, (-1, z.shape[1]))


class OutOf(nn.Module):
    """A map of features to the complex mask of a band, `[N, T, D]` -> `[N, 2, T, W]`."""

    def __init__(self, width: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.hidden = nn.LayerNorm(dim), nn.Linear(dim, hidden)
        self.output = nn.Linear(hidden, 4 * width)

    def forward(self, z: Tensor) -> Tensor:
        y = nn.functional.glu(self.output(self.hidden(self.norm(z)).tanh()), 2)
        return y.unflatten(2, (-1, 2)).permute(0, 3, 1, 2)


class Bandit(StreamingModel):
    """A separator of sound `[B, C, T]` into stems `[B, C, T]`, an output for each.

    Args:
        stems: Names of the outputs, in order.
        split: Kind of bands, see `frontend.splits`.
        bands: Number of them; vox7 has its own.
        dim, hidden, mlp: Sizes of features, of a direction of a recurrent layer, of a mask's hidden layer.
        pairs: Pairs of recurrent layers, one over time and one over bands.
        cell: Kind of the recurrent layers, GRU or LSTM.
        fft, hop_length: Frames of the STFT in samples.
        weighted: Masks of overlapping bands are averaged, else added up.
        pad: What lies beyond the ends of a window: zeros ("constant") or the signal reflected.
        segment: Seconds from one window to the next, half of their length.
        channels: 1 or 2.
        sample_rate: Rate in Hz.
        name: Name of the artifact.
    """

    task = "separate"

    def __init__(
        self,
        stems: Sequence[str] = ("speech", "music", "effects"),
        split: str = "musical",
        bands: int = 64,
        dim: int = 128,
        hidden: int = 256,
        mlp: int = 512,
        pairs: int = 8,
        cell: Literal["GRU", "LSTM"] = "GRU",
        fft: int = 2048,
        hop_length: int = 512,
        weighted: bool = True,
        pad: Literal["constant", "reflect"] = "constant",
        segment: float = 3.0,
        channels: int = 1,
        sample_rate: int = 44100,
        name: str = "bandit",
    ) -> None:
        super().__init__()
        if not stems or len({*stems}) < len(stems):
            raise ValueError(f"stems {list(stems)}: want one or more, each once")
        self.name, self.sample_rate = name, sample_rate
        self.inputs = (Port("audio", channels=channels),)
        self.outputs = tuple(Port(stem, channels=channels) for stem in stems)
        self.split, self.weighted = _split(split, sample_rate, fft, bands), weighted
        widths = [band.stop - band.start for band in self.split]
        weights = torch.cat([torch.from_numpy(band.weights) for band in self.split]).float()
        self.register_buffer("weights", weights, persistent=False)
        self.stft = Centred(fft, hop_length, pad=pad, normalized=True)
        self.band_split = nn.ModuleList(Into(width, dim) for width in widths)
        self.tf_model = nn.ModuleList(Across(dim, hidden, cell) for _ in range(2 * pairs))
        self.mask_estim = nn.ModuleDict(
            {stem: nn.ModuleList(OutOf(width, dim, mlp) for width in widths) for stem in stems}
        )
        hop = hop_length * max(1, round(segment * sample_rate / hop_length))
        self.windows = Windowed(self.whole, hop, hop // 16, channels, channels * len(stems))
        self.compose(self.windows)
        self.register_load_state_dict_pre_hook(_without_other_stems)

    def whole(self, x: Tensor) -> Tensor:
        """Run the network over a whole `[B, C, T]`, as its authors do; return `[B, S C, T]`."""
        spectrum = self.stft.spectra(x.reshape(-1, 1, x.shape[2]))  # [N, 2, T', F]
        z = torch.stack(
            [
                into(spectrum[..., band.start : band.stop].transpose(1, 2).flatten(2))
                for into, band in zip(self.band_split, self.split, strict=True)
            ],
            1,
        )  # [N, bands, T', dim]
        for layer in self.tf_model:
            z = layer(z).transpose(1, 2)
        stems = [multiply(self._mask(z, heads), spectrum) for heads in self.mask_estim.values()]
        y = self.stft.signals(torch.cat(stems, 1), x.shape[2])  # [N, S, T]
        return y.reshape(x.shape[0], x.shape[1], -1, x.shape[2]).transpose(1, 2).flatten(1, 2)

    def _mask(self, z: Tensor, heads: nn.Module) -> Tensor:
        """Return the mask `[N, 2, T', F]` of features `[N, bands, T', dim]`."""
        masks = []
        for i, (head, band) in enumerate(zip(heads.children(), self.split, strict=True)):
            mask = head(z[:, i])
            if self.weighted:
                mask = mask * self.weights_of(i)
            masks.append(nn.functional.pad(mask, (band.start, self.stft.dft.bins - band.stop)))
        return torch.stack(masks).sum(0)

    def weights_of(self, i: int) -> Tensor:
        """Return the weights of band `i` in each of its bins."""
        start = sum(band.stop - band.start for band in self.split[:i])
        return self.get_buffer("weights")[start : start + self.split[i].stop - self.split[i].start]

    def step(self, x, state, **controls):
        step = Steps(self, state)
        return self.parted(step("windows", x)), step.states


_split = split  # the argument of Bandit hides it


def _without_other_stems(model: nn.Module, tensors: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    """Drop the decoders of stems that `model` does not have."""
    assert isinstance(model, Bandit)
    for key in list(tensors):
        part, *place = key.removeprefix(prefix).split(".")
        if part == "mask_estim" and place[0] not in model.mask_estim:
            del tensors[key]


AUTHORS_CLASS = "Bandit"
AUTHORS_LICENCE = "Apache-2.0 for version 1; version 2's weights are CC BY-SA 4.0 (the authors')"


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and state dict of `Bandit` from a state dict of version 1 or 2.

    The kind of bands and the rate are not in the weights; they are those whose bands have the same widths.
    Musical bands have the same at any rate, and take 44.1 kHz in version 1 and 48 in version 2.
    """
    state = {re.sub(r"\b(_orig_mod|model)\.", "", key): value for key, value in state.items()}
    first = any(key.startswith("bsrnn.") for key in state)
    new, shares = dict[str, Tensor](), list[tuple[int, Tensor]]()
    for key, value in state.items():
        key = key.removeprefix("bsrnn.")
        if re.fullmatch(r"i?stft\.window|mask_estim\..*\.combined\..*", key):
            continue  # a window; the layers of a head once more
        if found := re.fullmatch(r"mask_estim\.\w+\.freq_weights/(\d+)", key):
            shares.append((int(found[1]), value))
            continue
        key = key.replace("norm_mlp.", "").replace("norm_fc_modules.", "").replace("seqband.", "")
        key = key.replace("combined.0.", "norm.").replace("combined.1.", "fc.")
        key = re.sub(r"\b(hidden|output)\.0\.", r"\1.", key)
        if not first and (found := re.match(r"tf_model\.(\d+)\.", key)):  # every other one transposes
            key = key.replace(found[0], f"tf_model.{int(found[1]) // 2}.")
        if not first and re.match(r"band_split\.\d+\.(norm|fc\.weight)", key):
            value = value.unflatten(-1, (-1, 2)).transpose(-2, -1).flatten(-2)
        new[key] = value
    widths = [len(new[f"band_split.{i}.norm.weight"]) // 2 for i in range(_count(new, "band_split"))]
    kind, rate = _bands_of(widths, shares, 44100 if first else 48000)
    stems = list(dict.fromkeys(key.split(".")[1] for key in new if key.startswith("mask_estim.")))
    gates, hidden = new["tf_model.0.rnn.weight_hh_l0"].shape
    arguments = {
        "stems": stems, "split": kind, "bands": len(widths), "weighted": bool(shares) or kind == "vox7",
        "dim": new["band_split.0.fc.weight"].shape[0], "hidden": hidden,
        "mlp": new[f"mask_estim.{stems[0]}.0.hidden.weight"].shape[0],
        "pairs": _count(new, "tf_model") // 2, "cell": "LSTM" if gates == 4 * hidden else "GRU",
        "pad": "constant" if first else "reflect", "segment": 3.0 if first else 4.0,
        "sample_rate": rate, "name": "bandit" if first else "bandit_v2",
    }  # fmt: skip
    return arguments, new


def _count(state: Mapping[str, Tensor], part: str) -> int:
    return 1 + max(int(key.split(".")[1]) for key in state if key.startswith(f"{part}."))


def _bands_of(widths: list[int], shares: Sequence[tuple[int, Tensor]], usual: int) -> tuple[str, int]:
    """Return kind and rate of the bands of these widths and weights; `usual` where both fit."""
    for rate in sorted((44100, 48000), key=lambda rate: rate != usual):
        for kind in ("vox7", *BANKS):
            try:
                bands = split(kind, rate, 2048, len(widths))
            except ValueError:
                continue
            if [band.stop - band.start for band in bands] == widths and all(
                torch.allclose(torch.from_numpy(bands[i].weights).to(share), share, atol=1e-4)
                for i, share in shares
            ):
                return kind, rate
    raise ValueError(f"bands of {widths} bins are no known split of an FFT of 2048 at 44.1 or 48 kHz")
