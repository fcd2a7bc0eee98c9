#!/usr/bin/env python3
"""Times pretraining steps of Audio-MAE: forward, backward and AdamW, at several mask ratios and decoders.

    python tools/bench/pretraining.py --size B --batch 8 --ratios .5 .8 .9 --decoders window cross
    python tools/bench/pretraining.py --device cuda --precision bf16 --compile --batch 64

The first line is Audio-MAE's own design at the first ratio: the decoder of 16 shifted-window blocks, with
attention that keeps its weights (torch's MATH kernel). "global" has 8 blocks, "cross" has 8 and guesses half
of what is hidden, and so does "cross_mae", whose 12 read mixes of the encoder's layers. All lines are of one
run, their steps in turn, and the median counts. FLOP are counted by torch for a forward and a backward pass;
--peak gives the share of what the device can do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from audiomask.masks.patches.patterns import tokens
from audiomask.models.audio_mae import SIZES, AudioMae

DECODERS: dict[str, dict[str, Any]] = {
    "window": {"decoder": "window", "decoder_depth": 16},
    "global": {"decoder": "global", "decoder_depth": 8},
    "cross": {"decoder": "cross", "decoder_depth": 8},
    "cross_mae": {"decoder": "cross", "decoder_depth": 12, "mixes": True},
}


class Case:
    """One network with its optimizer and a batch."""

    def __init__(self, name: str, decoder: str, ratio: float, fused: bool, args: argparse.Namespace) -> None:
        self.name, self.ratio, self.fused, self.device = name, ratio, fused, args.device
        self.autocast = torch.bfloat16 if args.precision == "bf16" else None
        torch.manual_seed(0)
        model = AudioMae(frames=args.frames, **DECODERS[decoder], **SIZES[args.size])
        self.model = model.to(args.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4, (0.9, 0.95))
        self.x = torch.randn(args.batch, args.frames, 128, device=args.device)
        places = self.model.grid[0] * self.model.grid[1]
        hidden = torch.rand(args.batch, places, device=args.device).argsort(1).argsort(1)
        mask = hidden < round(ratio * places)
        self.visible, self.hidden = tokens(mask.view(-1, *self.model.grid))
        if decoder.startswith("cross"):  # half of what is hidden, as CrossMAE may
            self.hidden = self.hidden[:, ::2].contiguous()
        if args.compile and fused:
            self.model.compile()
        self.seconds: list[float] = []

    def loss(self) -> torch.Tensor:
        kernels = contextlib.nullcontext() if self.fused else sdpa_kernel(SDPBackend.MATH)
        with kernels, torch.autocast(self.device, self.autocast, enabled=self.autocast is not None):
            guess, target = self.model(self.x, self.visible, self.hidden)
        return (guess.float() - target).square().mean()

    def step(self) -> None:
        self._wait()
        start = time.perf_counter()
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._wait()
        self.seconds.append(time.perf_counter() - start)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def flop(self) -> int:
        """Of a step, without the optimizer."""
        with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
            self.loss().backward()
        self.optimizer.zero_grad()
        return counter.get_total_flops()


def rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What was measured, a row for each case, the reference first."""
    cases = [Case("Audio-MAE's design", "window", args.ratios[0], False, args)]
    cases += [Case(decoder, decoder, ratio, True, args) for decoder in args.decoders for ratio in args.ratios]
    flop = [case.flop() for case in cases]
    for _ in range(args.warmup + args.steps):
        for case in cases:
            case.step()
    found = []
    for case, work in zip(cases, flop, strict=True):
        seconds = statistics.median(case.seconds[args.warmup :])
        row = {
            "decoder": case.name,
            "ratio": case.ratio,
            "ms": 1000 * seconds,
            "clips_per_s": args.batch / seconds,
            "gflop": work / 1e9,
            "tflop_per_s": work / seconds / 1e12,
        }
        if args.peak:
            row["of_peak"] = row["tflop_per_s"] / args.peak
        found.append(row)
    for row in found:
        row["speed"] = found[0]["ms"] / row["ms"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(SIZES), default="B")
    parser.add_argument("--frames", type=int, default=1024, help="of a clip (default: 1024, which is 10 s)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.8], metavar="SHARE")
    parser.add_argument("--decoders", nargs="+", choices=list(DECODERS), default=list(DECODERS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true", help="all but the first line")
    parser.add_argument("--peak", type=float, default=0.0, metavar="TFLOP/S", help="of the device")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    args = parser.parse_args()
    found = rows(args)
    print(f"{'decoder':<20}{'ratio':>7}{'ms':>10}{'clips/s':>10}{'GFLOP':>10}{'TFLOP/s':>10}{'speed':>8}")
    for row in found:
        print(
            f"{row['decoder']:<20}{row['ratio']:>7.2f}{row['ms']:>10.1f}{row['clips_per_s']:>10.2f}"
            f"{row['gflop']:>10.1f}{row['tflop_per_s']:>10.3f}{row['speed']:>7.2f}x"
            + (f"  {row['of_peak']:.1%} of peak" if args.peak else "")
        )
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
