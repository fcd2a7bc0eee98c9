"""Hide sixteen bits in speech and find them again, sample by sample: AudioSeal.

San Roman, Fernandez, Elsahar, Défossez, Furon and Tran, "Proactive Detection of Voice Cloning with Localized
Watermarking" (ICML 2024, arXiv 2401.17264), in its two networks at 16 kHz:

    generator: z = encoder(x),  z' = z + sum over bits k of table[2k + bit k],  y = x + strength decoder(z')
    detector:  z = encoder(x) -> transposed conv of the whole stride -> conv 1 -> 2 + 16 values a sample

    parameters: 14,675,873 and 8,647,298, as published (weight norm folded)

Encoder and decoder are those of `nn.seanet`. The first two values of the detector say by their softmax
whether a sample is marked (`present`), the others are the logits of the bits (`message`): a bit is 1 where
their mean over time is positive.

The published base networks are padded with zeros at both ends, and stream with the delay of their look-ahead
(see `models.dac`); the streaming ones are causal and have no delay. `AudioSealGenerator.watermark` and
`AudioSealDetector.detected` run over a whole signal as the authors do. The stream differs from them at its
end, as far as the look-ahead goes, or in its last frame of 320 samples, where that is not full.

The message is a control, which may change while sound is running. The package draws one where none is given;
here it is all zeros. Its normaliser of envelopes, which no published network uses, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiomask.nn.conv import WEIGHT_NORM, ConvTranspose1d
from audiomask.nn.seanet import Style, authors_name, seanet_decoder, seanet_encoder
from audiomask.nn.seanet import whole as run_whole
from audiomask.streaming import Delay, Port, Sequential, Steps, StreamingModel, whole

Norm = Literal["weight_norm", "none"]


class AudioSeal(StreamingModel):
    """Both networks, to be trained together; it runs as the generator, and `detect` beside it.

    Args:
        bits, filters, ratios, latent, lstm, causal, norm, sample_rate: See `AudioSealGenerator`.
    """

    name, task = "audioseal", "watermark"
    parts = {
        "mark": "audiomask.models.audioseal.AudioSealGenerator",
        "detect": "audiomask.models.audioseal.AudioSealDetector",
    }

    def __init__(
        self,
        bits: int = 16,
        filters: int = 32,
        ratios: Sequence[int] = (8, 5, 4, 2),
        latent: int = 128,
        lstm: int = 2,
        causal: bool = False,
        norm: Norm = "none",
        sample_rate: int = 16000,
    ) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        sizes: dict[str, Any] = {
            "bits": bits, "filters": filters, "ratios": ratios, "latent": latent, "lstm": lstm,
            "causal": causal, "norm": norm, "sample_rate": sample_rate,
        }  # fmt: skip
        self.mark, self.detect = AudioSealGenerator(**sizes), AudioSealDetector(**sizes)
        self.inputs, self.outputs = self.mark.inputs, self.mark.outputs
        self.compose(self.mark)

    def named_blocks(self) -> dict[str, nn.Module]:
        return {"mark": self.mark}

    def step(self, x, state, **controls):
        step = Steps(self, state)
        return step("mark", x, **controls), step.states


class AudioSealGenerator(StreamingModel):
    """A network that adds a message to sound `[B, 1, T]`.

    Args:
        bits: Bits of a message.
        filters, ratios, latent, lstm: See `nn.seanet.seanet_encoder`.
        causal: Pad before the signal only, as the streaming networks do.
        norm: "weight_norm" to train it as published.
        sample_rate: Rate in Hz.
        name: Name of the artifact.
    """

    task = "mark"

    def __init__(
        self,
        bits: int = 16,
        filters: int = 32,
        ratios: Sequence[int] = (8, 5, 4, 2),
        latent: int = 128,
        lstm: int = 2,
        causal: bool = False,
        norm: Norm = "none",
        sample_rate: int = 16000,
        name: str = "audioseal_generator",
    ) -> None:
        super().__init__()
        self.name, self.sample_rate = name, sample_rate
        style = Style(causal, norm)
        self.encoder = Sequential(*seanet_encoder(style, 1, filters, ratios, latent, False, lstm))
        self.decoder = Sequential(*seanet_decoder(style, 1, filters, ratios, latent, False, lstm))
        self.table = nn.Embedding(2 * bits, latent)
        self.inputs = (
            Port("audio"),
            Port("message", "control", "bits", channels=bits, default=(0,) * bits),
            Port("strength", "control", default=1.0, minimum=0.0, maximum=2.0, doc="gain of the mark"),
        )
        self.outputs = (Port("marked"),)
        self.compose(self.encoder, self.decoder)
        self.dry = Delay(whole(self.delay), 1)

    def embedded(self, message: Tensor) -> Tensor:
        """Return what a message `[B, bits]` adds to each frame of latents, `[B, latent, 1]`."""
        zero, one = self.table.weight.unflatten(0, (-1, 2)).unbind(1)
        return torch.where(message[..., None] > 0, one, zero).sum(1)[..., None]

    def step(self, x, state, message=None, strength=None, **controls):
        step = Steps(self, state)
        z = step("encoder", x) + self.embedded(self.control("message", message, x))
        gain = self.control("strength", strength, x)[:, None, None]
        return step("dry", x) + gain * step("decoder", z), step.states

    def watermark(self, x: Tensor, message: Tensor) -> Tensor:
        """Return what the authors add to whole signals `[B, 1, T]`, for messages `[B, bits]`."""
        z = run_whole(self.encoder, x) + self.embedded(message)
        return run_whole(self.decoder, z)[:, :, : x.shape[2]]


class AudioSealDetector(StreamingModel):
    """A network that tells which samples of sound `[B, 1, T]` are marked, and with what.

    It puts out `present [B, 1, T]`, probabilities, and `message [B, bits, T]`, logits.

    Args:
        width: Channels of a sample, of which a linear layer makes the output.
        bits, filters, ratios, latent, lstm, causal, norm, sample_rate, name: See `AudioSealGenerator`.
    """

    task = "detect"

    def __init__(
        self,
        bits: int = 16,
        filters: int = 32,
        ratios: Sequence[int] = (8, 5, 4, 2),
        latent: int = 128,
        lstm: int = 2,
        width: int = 32,
        causal: bool = False,
        norm: Norm = "none",
        sample_rate: int = 16000,
        name: str = "audioseal_detector",
    ) -> None:
        super().__init__()
        self.name, self.sample_rate = name, sample_rate
        style = Style(causal, norm)
        self.encoder = Sequential(*seanet_encoder(style, 1, filters, ratios, latent, False, lstm))
        stride = int(1 / self.encoder.rate)
        self.samples = ConvTranspose1d(latent, width, stride, stride)
        self.head = nn.Conv1d(width, 2 + bits, 1)
        self.outputs = (
            Port("present", type="probabilities", doc="whether a sample is marked"),
            Port("message", type="float", channels=bits, doc="logits of the bits"),
        )
        self.compose(self.encoder, self.samples)

    def step(self, x, state, raw=False, **controls):
        step = Steps(self, state)
        return self.judged(step("samples", step("encoder", x)), raw), step.states

    def judged(self, y: Tensor, raw: bool = False) -> tuple[Tensor, Tensor]:
        """Return `present`, or if `raw` its logit, and `message` of samples `[B, width, T]`."""
        y = self.head(y)
        score = y[:, 1:2] - y[:, :1]
        return score if raw else score.sigmoid(), y[:, 2:]

    def detected(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `present` and `message` of whole signals `[B, 1, T]` as the authors' network does."""
        return self.judged(self.samples(run_whole(self.encoder, x))[:, :, : x.shape[2]])


def _class(arguments: Mapping[str, Any]) -> str:
    """Return which of the two networks has these arguments."""
    return "AudioSealDetector" if "width" in arguments else "AudioSealGenerator"


AUTHORS_CLASS, AUTHORS_LICENCE = _class, "MIT (Meta's weights of AudioSeal)"
AUTHORS_OPTIONS = {"causal": ("xp.cfg", "seanet", "causal")}


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and state dict of a generator or a detector from a published one.

    Weight norm is folded, as the package does. Whether a network is causal is not in its weights.
    """
    whole_names = {
        "msg_processor.msg_processor.weight": "table.weight",
        "detector.0.reverse_convolution.weight": "samples.weight",
        "detector.0.reverse_convolution.bias": "samples.bias",
        "detector.1.weight": "head.weight",
        "detector.1.bias": "head.bias",
    }
    new: dict[str, Tensor] = {}
    for key, value in state.items():
        own = key.replace("detector.0.model.", "encoder.model.")
        if key in whole_names:
            new[whole_names[key]] = value
        elif re.match(r"(en|de)coder\.model\.\d+\.", own):
            new[authors_name(own)] = value
        else:
            raise KeyError(key)
    for key in [key for key in new if key.endswith(WEIGHT_NORM["weight_g"])]:
        home = key.removesuffix(WEIGHT_NORM["weight_g"])
        gain, v = new.pop(key), new.pop(home + WEIGHT_NORM["weight_v"])
        new[f"{home}weight"] = v * (gain / v.norm(dim=(1, 2), keepdim=True))
    places = {int(key.split(".")[1]) for key in new if re.fullmatch(r"encoder\.\d+\.weight", key)}
    first, *strided, last = sorted(places)
    arguments: dict[str, Any] = {
        "filters": new[f"encoder.{first}.weight"].shape[0],
        "ratios": [new[f"encoder.{place}.weight"].shape[2] // 2 for place in reversed(strided)],
        "latent": new[f"encoder.{last}.weight"].shape[0],
        "lstm": len([key for key in new if re.match(r"encoder\.\d+\.branches\.1\.weight_ih_l", key)]),
    }
    if "table.weight" in new:
        return arguments | {"bits": len(new["table.weight"]) // 2}, new
    return arguments | {"bits": len(new["head.weight"]) - 2, "width": new["head.weight"].shape[1]}, new
