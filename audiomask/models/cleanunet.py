"""Denoise by a U-Net on the waveform with self-attention at its bottom: CleanUNet.

Kong, Ping, Dantrey and Catanzaro, "Speech Denoising in the Waveform Domain with Self-Attention" (ICASSP 2022,
arXiv 2202.07790), with masked attention in the U-Net of `nn.unet`:

    x / (.001 + level) -> encoder 1..8 (kernel 4, stride 2) -> 1x1 -> norm -> attention 1..5 -> 1x1
      -> decoder 8..1 -> y (.001 + level)
      attention i: norm(x + heads(x)), then norm(x + feed-forward(x))

It has 46,071,937 parameters with five attention blocks, 39,771,265 with three, as published. Differences:

- Attention reaches back over `window` frames of 16 ms, so that a stream runs in constant memory. Where the
  signal fits the window it is the authors', who attend to all that came before.
- Level and the end of a file are as in `models.demucs`, where a given `level` gives the authors' numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from audiomask.nn.attention import CausalAttention
from audiomask.nn.norm import FrameNorm
from audiomask.nn.unet import Levelled, scale_weights, waveform_unet
from audiomask.streaming import Residual, Sequential

AUTHORS_CLASS, AUTHORS_LICENCE = "CleanUNet", "MIT"


class CleanUNet(Levelled):
    """A denoiser that maps speech `[B, 1, T]` at 16 kHz to the same.

    The control `level` is the RMS of the signal, where it is known; 0 takes the running level, which
    remembers `memory` seconds. `hidden` channels of the first layer double in each up to `most`. `blocks`,
    `width`, `heads` and `feed_forward` are the attention's, which sees `window` frames, its own among them.
    """

    floors = (0.001, 0.001)

    def __init__(
        self,
        hidden: int = 64,
        most: int = 768,
        depth: int = 8,
        kernel_size: int = 4,
        stride: int = 2,
        blocks: int = 5,
        width: int = 512,
        heads: int = 8,
        feed_forward: int = 2048,
        window: int = 512,
        memory: float = 10.0,
        sample_rate: int = 16000,
        name: str = "cleanunet",
    ):
        super().__init__()
        self.name, self.sample_rate = name, sample_rate
        widths = [min(most, hidden * 2**i) for i in range(depth)]
        layers: list[nn.Module] = [FrameNorm(width, eps=1e-6)]
        for _ in range(blocks):
            ff = [nn.Conv1d(width, feed_forward, 1), nn.ReLU(), nn.Conv1d(feed_forward, width, 1)]
            layers += [
                Residual(CausalAttention(width, heads, window, bias=False), shape=width),
                FrameNorm(width, eps=1e-6),
                Residual(*ff, shape=width),
                FrameNorm(width, eps=1e-6),
            ]
        self.attention = Sequential(nn.Conv1d(widths[-1], width, 1), *layers, nn.Conv1d(width, widths[-1], 1))
        self.encoder, self.decoder, net = waveform_unet(widths, kernel_size, stride, self.attention)
        scale_weights(self.encoder)
        scale_weights(self.decoder)
        self._wrap(net, memory)


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and tensors of `CleanUNet` from the authors' (8 heads); else KeyError."""
    blocks = len([key for key in state if key.endswith("slf_attn.fc.weight")])
    parts = {"tsfm_conv1": "0", "tsfm_encoder.layer_norm": "1", "tsfm_conv2": f"{2 + 4 * blocks}"}
    new: dict[str, Tensor] = {}
    for i in range(blocks):
        theirs, first = f"tsfm_encoder.layer_stack.{i}", 2 + 4 * i
        three = [state[f"{theirs}.slf_attn.{name}.weight"] for name in ("w_qs", "w_ks", "w_vs")]
        new[f"attention.{first}.branches.1.in_proj_weight"] = torch.cat(three)
        parts |= {
            f"{theirs}.slf_attn.fc": f"{first}.branches.1.out_proj",
            f"{theirs}.slf_attn.layer_norm": f"{first + 1}",
            f"{theirs}.pos_ffn.w_1": f"{first + 2}.branches.1.0",
            f"{theirs}.pos_ffn.w_2": f"{first + 2}.branches.1.2",
            f"{theirs}.pos_ffn.layer_norm": f"{first + 3}",
        }
    for key, value in state.items():
        part, _, kind = key.rpartition(".")
        if key.startswith(("encoder.", "decoder.")):
            new[key] = value
        elif not part.endswith((".w_qs", ".w_ks", ".w_vs")):
            linear = ".pos_ffn.w_" in key and value.ndim == 2  # theirs is a linear layer, ours a 1x1 conv
            new[f"attention.{parts[part]}.{kind}"] = value[:, :, None] if linear else value
    convs = [key for key in new if key.startswith("encoder.") and key.endswith(".0.weight")]
    arguments = {
        "hidden": new["encoder.0.0.weight"].shape[0],
        "most": max(new[key].shape[0] for key in convs),
        "depth": len(convs),
        "kernel_size": new["encoder.0.0.weight"].shape[2],
        "blocks": blocks,
        "width": state["tsfm_conv1.weight"].shape[0],
        "feed_forward": state["tsfm_encoder.layer_stack.0.pos_ffn.w_1.weight"].shape[0],
    }
    return arguments, new
