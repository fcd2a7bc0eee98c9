"""Code speech at 24 kHz to .14 to 4.4 kbit/s and back, 80 ms at a time: Mimi.

Défossez et al., "Moshi: a speech-text foundation model for real-time dialogue" (2024, arXiv 2410.00037):

    x -> SEANet, hop 960 -> transformer -> conv 4 of stride 2 -> 12.5 frames a second
      -> 1 codebook and, beside it, 31 of 2048 codewords: 11 bits each, 137.5 bit/s
    codes -> transposed conv 4 of stride 2, channel by channel -> transformer -> SEANet -> y

SEANet is that of EnCodec (`nn.seanet`), of 64 filters and ratios 8 6 5 4, without LSTM and weight norm; the
shortcuts are the identity. A transformer has 8 layers, which see the last 250 frames, 10 s. There are
79,308,609 parameters, and 16.8 M numbers in codebooks. The codes of the first 8 books, 1.1 kbit/s, are what
Moshi speaks.

Everything is causal and padded with zeros, but the convolution of stride 2, before which the first frame is
repeated; so all of it streams without delay, and the state is that of the convolutions and the keys and
values of 249 frames. It is for import: the first codebook learns from WavLM, and the authors published no
training. `Mimi.encoded` runs over a whole signal as transformers does, which pads each layer at the end; the
stream is what moshi does, which pads the signal to whole frames. They differ where the last frame is not
full.

Moshi's own stream keeps 250 keys and writes before it reads: once 10 s have passed, the first of the two
frames of a step sees 249 frames, and the stream differs from moshi's own offline result. Ours does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audiomask.nn.codec import Codec, Decodes, Encodes
from audiomask.nn.conv import Conv1d, ConvTranspose1d
from audiomask.nn.quantize import SplitQuantizer
from audiomask.nn.seanet import Style, seanet_decoder, seanet_encoder, whole
from audiomask.nn.transformer import RotaryTransformer
from audiomask.streaming import Sequential

HEAD = 64  # channels of a head of the published transformers, which no weight tells


class Halve(Conv1d):
    """A convolution of stride 2 over `[B, C, T]`, before which the first frame is repeated."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 4, 2, bias=False)

    def gate_state(self, batch, device=None) -> dict[str, Tensor]:
        return {"seen": torch.zeros(batch, dtype=torch.int64, device=device)}

    def step(self, x, state, **controls):
        window = torch.cat([state["past"], x], 2)
        after = {"past": window[:, :, -self.memory :], "seen": state["seen"] + x.shape[2]}
        first = self.memory + self.lag - state["seen"]  # where the signal begins in the window
        place = torch.arange(window.shape[2] - self.unread, device=x.device)
        place = torch.maximum(place, first[:, None]).clamp_max(window.shape[2] - 1)
        window = window.gather(2, place[:, None].expand(-1, x.shape[1], -1))
        y = F.conv1d(window, self.weight, None, self.hop)
        if self.lag:  # what comes before the signal may not hang on how much is there to be repeated
            end = self.hop * torch.arange(y.shape[2], device=x.device) + self.extent - 1
            y = torch.where((end < first[:, None])[:, None], 0.0, y)
        return y, after

    def whole(self, x: Tensor) -> Tensor:
        """Return the output for a whole signal, whose last frame makes their number even."""
        return F.conv1d(F.pad(x, (2, x.shape[2] % 2), mode="replicate"), self.weight, None, self.hop)


class Mimi(Codec):
    """A codec of speech `[B, 1, T]`, in the parts `MimiEncoder` and `MimiDecoder`.

    Args:
        filters, ratios, latent: See `nn.seanet.seanet_encoder`.
        layers, heads, hidden, window: See `nn.transformer.RotaryTransformer`.
        dim, stages, levels: See `nn.quantize.SplitQuantizer`.
        sample_rate: Rate in Hz.
        name: Name of the artifacts.
    """

    parts = {"enc": "audiomask.models.mimi.MimiEncoder", "dec": "audiomask.models.mimi.MimiDecoder"}

    def __init__(
        self,
        filters: int = 64,
        ratios: Sequence[int] = (8, 6, 5, 4),
        latent: int = 512,
        layers: int = 8,
        heads: int = 8,
        hidden: int = 2048,
        window: int = 250,
        dim: int = 256,
        stages: int = 32,
        levels: int = 2048,
        sample_rate: int = 24000,
        name: str = "mimi",
    ) -> None:
        super().__init__()
        self.name, self.sample_rate = name, sample_rate
        style, size = Style(norm="none"), (1, filters, tuple(ratios), latent, False, 0, 3)
        transformers = [RotaryTransformer(latent, heads, hidden, layers, window) for _ in range(2)]
        self.encoder = Sequential(
            {
                "seanet": Sequential(*seanet_encoder(style, *size)),
                "transformer": transformers[0],
                "down": Halve(latent),
            }
        )
        self.quantizer = SplitQuantizer(latent, dim, stages, levels)
        self.decoder = Sequential(
            {
                "up": ConvTranspose1d(latent, latent, 4, 2, groups=latent, bias=False),
                "transformer": transformers[1],
                "seanet": Sequential(*seanet_decoder(style, *size)),
            }
        )
        self.assemble()

    def encoded(self, x: Tensor, books: int | None = None) -> Tensor:
        """Return the codes `[B, n, F]` of a whole signal, as transformers pads it."""
        return self.quantizer.encode(whole(self.encoder, x))[:, :books]

    def decoded(self, codes: Tensor, length: int) -> Tensor:
        """Return the sound `[B, 1, length]` of codes `[B, n, F]`."""
        codes = F.pad(codes, (0, 0, 0, self.quantizer.books - codes.shape[1]), value=-1)
        return whole(self.decoder, self.quantizer.decode(codes))[:, :, :length]


class MimiEncoder(Encodes, Mimi):
    """The part of Mimi that makes codes of sound."""


class MimiDecoder(Decodes, Mimi):
    """The part of Mimi that makes sound of codes."""


AUTHORS_CLASS, AUTHORS_LICENCE = "Mimi", "CC-BY-4.0 (Kyutai's weights)"

# Names of moshi and of transformers, without what says the side, the layer and the projection, and ours.
LAYER = {
    "out_projs.0.weight": "out.weight", "out_proj.weight": "out.weight", "o_proj.weight": "out.weight",
    "norm1.weight": "norm1.weight", "input_layernorm.weight": "norm1.weight",
    "norm1.bias": "norm1.bias", "input_layernorm.bias": "norm1.bias",
    "norm2.weight": "norm2.weight", "post_attention_layernorm.weight": "norm2.weight",
    "norm2.bias": "norm2.bias", "post_attention_layernorm.bias": "norm2.bias",
    "linear1.weight": "up.weight", "fc1.weight": "up.weight",
    "linear2.weight": "down.weight", "fc2.weight": "down.weight",
    "layer_scale_1.scale": "scale1", "self_attn_layer_scale.scale": "scale1",
    "layer_scale_2.scale": "scale2", "mlp_layer_scale.scale": "scale2",
}  # fmt: skip
BOOK = {
    "_initialized": "inited", "initialized": "inited", "inited": "inited",
    "cluster_usage": "cluster_size", "cluster_size": "cluster_size",
    "embedding_sum": "embed_avg", "embed_sum": "embed_avg", "embed_avg": "embed_avg",
}  # fmt: skip
STACKS = {"rvq_first": "first", "semantic_residual_vector_quantizer": "first",
          "rvq_rest": "rest", "acoustic_residual_vector_quantizer": "rest"}  # fmt: skip
PROJECTIONS = {"input_proj": "into", "output_proj": "out"}


def _paired(weight: Tensor) -> Tensor:
    """Return rows of queries or keys, of which moshi turns neighbours, as halves of each head."""
    return weight.unflatten(0, (-1, HEAD // 2, 2)).transpose(1, 2).flatten(0, 2)


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and state dict of `Mimi` from one of moshi or of transformers."""
    new: dict[str, Tensor] = {}
    books: dict[tuple[str, str], dict[int, Tensor]] = {}
    heads: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        # transformers 5.24 puts a side's parts in one module
        name = re.sub(
            r"^(en|de)coder\.((en|de)coder_(seanet|transformer)|downsample|upsample)\.", r"\2.", key
        )
        name = re.sub(
            r"^(en|de)coder_seanet\.", r"\1coder.layers.", name.replace("_seanet.layers.", "_seanet.")
        )
        if found := re.fullmatch(r"quantizer\.(\w+)\.(?:vq\.)?layers\.(\d+)\._?codebook\.(\w+)", name):
            books.setdefault((STACKS[found[1]], BOOK[found[3]]), {})[int(found[2])] = value
        elif found := re.fullmatch(r"quantizer\.(\w+)\.(\w+)\.weight", name):
            new[f"quantizer.{STACKS[found[1]]}.{PROJECTIONS[found[2]]}.weight"] = value
        elif found := re.fullmatch(r"(en|de)coder\.(?:model|layers)\.(\d+)\.(?:block\.(\d)\.)?(.*)", name):
            unit = f"branches.1.{found[3]}." if found[3] else ""
            new[f"{found[1]}coder.seanet.{found[2]}.{unit}{found[4].rpartition('.')[2]}"] = value
        elif found := re.fullmatch(r"(downsample|upsample)\.[\w.]*weight", name):
            new["encoder.down.weight" if found[1] == "downsample" else "decoder.up.weight"] = value
        elif found := re.fullmatch(r"(en|de)coder_transformer\.(?:transformer\.)?layers\.(\d+)\.(.*)", name):
            home = f"{found[1]}coder.transformer.layers.{found[2]}"
            own = re.sub(r"^(self_attn|mlp)\.", "", found[3])
            if own in ("in_projs.0.weight", "in_proj_weight", "in_proj.weight"):
                q, k, v = value.chunk(3)
                new[f"{home}.qkv.weight"] = torch.cat([_paired(q), _paired(k), v])
            elif match := re.fullmatch(r"([qkv])_proj\.weight", own):
                heads.setdefault(home, {})[match[1]] = value
            else:
                new[f"{home}.{LAYER[own]}"] = value
        else:
            raise KeyError(key)
    for home, parts in heads.items():
        new[f"{home}.qkv.weight"] = torch.cat([parts[name] for name in "qkv"])
    for (stack, name), rows in books.items():
        value = torch.stack([rows[i] for i in range(len(rows))])
        new[f"quantizer.{stack}.{name}"] = value.reshape(-1) > 0 if name == "inited" else value[:, None]
    for stack in ("first", "rest"):
        size = new[f"quantizer.{stack}.cluster_size"]
        new[f"quantizer.{stack}.embed"] = (
            new[f"quantizer.{stack}.embed_avg"] / size.clamp_min(1e-5)[..., None]
        )
    places = sorted({int(key.split(".")[2]) for key in new if key.startswith("encoder.seanet.")})
    strided = [i for i in places[1:-1] if f"encoder.seanet.{i}.bias" in new]
    latent, dim = new["quantizer.first.out.weight"].shape[:2]
    hidden, _ = new["encoder.transformer.layers.0.up.weight"].shape
    stages, _, levels = new["quantizer.rest.cluster_size"].shape
    arguments = {
        "filters": new["encoder.seanet.0.weight"].shape[0],
        "ratios": [new[f"encoder.seanet.{i}.weight"].shape[2] // 2 for i in reversed(strided)],
        "latent": latent, "layers": len({key for key in new if key.endswith(".scale1")}) // 2,
        "heads": latent // HEAD, "hidden": hidden, "dim": dim, "stages": 1 + stages, "levels": levels,
    }  # fmt: skip
    return arguments, new
