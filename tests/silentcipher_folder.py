"""A folder of random weights as SilentCipher's authors publish theirs."""

from itertools import pairwise
from pathlib import Path

import torch
import yaml
from torch import nn

PUBLISHED = {
    "44_1_khz": {"SR": 44100, "N_FFT": 4096, "HOP_LENGTH": 2048, "message_band_size": 1024, "message_dim": 5,
                 "message_len": 21},
    "16_khz": {"SR": 16000, "N_FFT": 2048, "HOP_LENGTH": 1024, "message_band_size": 512, "message_dim": 4,
               "message_len": 16},
    "small": {"SR": 8000, "N_FFT": 128, "HOP_LENGTH": 64, "message_band_size": 30, "message_dim": 5,
              "message_len": 9},
}  # fmt: skip
COMMON = {
    "n_messages": 1, "model_type": "n_msgs", "message_sdr": 47, "enc_n_layers": 3, "dec_c_n_layers": 4,
    "ensure_negative_message": True, "ensure_constrained_message": False, "no_normalization": False,
    "frame_level_normalization": False, "utterance_level_normalization": True,
}  # fmt: skip
FILES = ("enc_c.ckpt", "dec_c.ckpt", "dec_m_0.ckpt")


def _layers(channels: list[int], first: int = 0, every: int = 1, kernels: tuple[int, ...] = ()) -> dict:
    state = {}
    for i, (inputs, outputs) in enumerate(pairwise(channels)):
        norm = nn.BatchNorm2d(outputs)
        nn.init.uniform_(norm.running_var, 0.02, 0.2)
        nn.init.normal_(norm.running_mean, 0, 0.2)
        nn.init.normal_(norm.weight, 1, 0.2)
        nn.init.normal_(norm.bias, 0, 0.2)
        kernel = kernels[i] if kernels else 3
        parts = {
            "conv": nn.Conv2d(inputs, outputs, kernel),
            "gate": nn.Conv2d(inputs, outputs, kernel),
            "bn": norm,
        }
        for name, module in parts.items():
            place = f"main.{first + every * i}.{name}"
            state |= {f"{place}.{key}": value for key, value in module.state_dict().items()}
    return state


def _linear(inputs: int, outputs: int) -> dict:
    return {f"linear.{key}": value for key, value in nn.Linear(inputs, outputs).state_dict().items()}


def write(
    folder: Path, size: str, width: int = 32, wide: int = 128, layers: tuple[int, int, int] = (3, 4, 10)
) -> Path:
    """Write random weights to `folder`, under the names and the prefix of the published ones."""
    torch.manual_seed(0)
    encoder, decoder, detector = layers
    hparams = COMMON | PUBLISHED[size] | {"enc_n_layers": encoder, "dec_c_n_layers": decoder}
    band, dim = hparams["message_band_size"], hparams["message_dim"]
    states = (
        _layers([1] + [width] * encoder) | _linear(dim, band),
        _layers([3 * width] * decoder + [1], kernels=(3,) * (decoder - 1) + (1,)),
        _layers([1] + [wide] * (detector - 1) + [dim], first=1, every=2) | _linear(band, 1),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, state in zip(FILES, states, strict=True):
        torch.save({f"module.{key}": value for key, value in state.items()}, folder / name)
    (folder / "hparams.yaml").write_text(yaml.safe_dump(hparams))
    return folder
