"""Print the table that compares a model for an array with beamformers, on scenes of known speech.

    python tools/compare/beamformers.py data/array_valid --model ca_dense_unet.onnx

The scenes are those of `tools/corpora/simulate_array.py scenes`: wav.scp holds all microphones, clean.scp the
speech at the reference, utt2delay when its direct sound reaches each microphone. The beamformers are told
things that a model has to find out, and see the whole clip:

  delay and sum  the true delays of the talker, from utt2delay
  MVDR (oracle)  true ratio masks of speech and noise at the reference, in torchaudio's SoudenMVDR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiomask import metrics
from audiomask.audio import AudioError
from audiomask.data.crops.pairs import Pairs
from audiomask.data.kaldi.directory import DataError
from audiomask.frontend.torchaudio_import import torchaudio
from audiomask.masks.gains import ratio
from audiomask.runtime.session import Session

SIZE, HOP = 1024, 256  # samples: the beamformers' transform
HEADINGS = {"pesq_wb": "PESQ-WB", "estoi": "ESTOI", "si_sdr": "SI-SDR"}


def stft(x: Tensor) -> Tensor:
    """`[..., T]` -> `[..., F, frames]`."""
    return torch.stft(x, SIZE, HOP, window=torch.hann_window(SIZE), return_complex=True)


def istft(spectrum: Tensor, length: int) -> np.ndarray:
    return torch.istft(spectrum, SIZE, HOP, window=torch.hann_window(SIZE), length=length).numpy()


def delay_and_sum(noisy: Tensor, delays: Tensor, reference: int) -> np.ndarray:
    """Microphones `[M, T]` turned back by their `delays [M]` (samples) against the reference, averaged."""
    turns = torch.fft.rfftfreq(SIZE)[:, None] * (delays - delays[reference])  # [F, M], of a circle
    weights = torch.polar(torch.full_like(turns, 1 / len(noisy)), -2 * torch.pi * turns)
    return istft(torchaudio.functional.apply_beamforming(weights, stft(noisy)), noisy.shape[1])


def oracle_mvdr(noisy: Tensor, clean: Tensor, reference: int) -> np.ndarray:
    """Minimum variance, distortionless (Souden et al. 2010), by masks from the true speech `clean [T]`."""
    speech, rest = stft(clean), stft(noisy[reference] - clean)
    spectrum, psd = stft(noisy).to(torch.complex128), torchaudio.transforms.PSD()
    masks = (ratio(speech, rest).double(), ratio(rest, speech).double())
    beam = torchaudio.transforms.SoudenMVDR()
    estimate = beam(spectrum, *(psd(spectrum, mask) for mask in masks), reference)
    return istft(estimate.to(torch.complex64), noisy.shape[1])


def through(session: Session) -> Callable[[Tensor], np.ndarray]:
    """A model that takes all microphones, hop by hop as live."""

    def run(noisy: Tensor) -> np.ndarray:
        parts = session.feed(noisy.numpy()), session.flush()
        return np.concatenate(parts, axis=1)[0]

    return run


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", help="data directory")
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME|FILE", help="artifact; may be repeated"
    )
    parser.add_argument("--reference", type=int, default=0, metavar="N", help="microphone, from 0")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N scenes")
    args = parser.parse_args(argv)
    try:
        rate = 16000
        pairs = Pairs(args.scenes, rate, array=True)
        table = pairs.data.tables.get("utt2delay")
        if table is None:
            raise DataError(f"{args.scenes}: no utt2delay; make scenes with tools/corpora/simulate_array.py")
        models = {}
        for name in args.model:
            session = Session(name, sample_rate=rate)
            models[f"{session.artifact.name} ({Path(name).stem})"] = through(session)
        scores: dict[str, list[dict[str, float]]] = {}
        count = min(len(pairs), args.limit or len(pairs))
        for i in range(count):
            pair = pairs[i]
            noisy, clean = pair["noisy"], pair["clean"]
            delays = torch.tensor([float(d) for d in table[pair["key"]].split()])
            estimates = {
                "unprocessed": noisy[args.reference].numpy(),
                "delay and sum, true delays": delay_and_sum(noisy, delays, args.reference),
                "MVDR, oracle masks": oracle_mvdr(noisy, clean, args.reference),
            } | {name: run(noisy) for name, run in models.items()}
            for name, estimate in estimates.items():
                row = metrics.score(clean.numpy(), estimate, rate, tuple(HEADINGS))
                scores.setdefault(name, []).append(dict(row))
    except AudioError as error:
        sys.exit(f"compare_beamformers: {error}")
    print(f"{count} scenes at {rate} Hz\n")
    print("| system | " + " | ".join(HEADINGS.values()) + " |\n|" + "---|" * (len(HEADINGS) + 1))
    for name, rows in scores.items():
        means = {k: metrics.summarize(row[k] for row in rows).mean for k in HEADINGS}
        cells = [f"{means[k]:.{3 if k == 'estoi' else 2}f}" for k in HEADINGS]
        print("| " + " | ".join([name, *cells]) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
