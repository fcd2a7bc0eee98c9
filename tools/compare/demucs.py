"""Stream Demucs with the authors' streamer and with ours, in turn, and print speed, latency and exactness.

    pip install --no-deps denoiser      (0.1.5, CC-BY-NC-4.0: for comparison only)
    python tools/compare/demucs.py --hidden 48 --runs 5

Both run the same random weights over the same noise, one hop of 256 samples at a time, on one thread. The
last column is the difference from the authors' own file mode, as SNR: theirs resamples with a short
look-ahead and takes another level than its file mode, ours is given the level of the file.
CleanUNet, of which there is no other streamer, is timed along.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the table is about one thread

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from audiomask.export import onnx_file
from audiomask.models.cleanunet import CleanUNet
from audiomask.models.demucs import Demucs
from audiomask.runtime.session import Session
from audiomask.streaming import StreamingModel

HOP = 256


def artifact(model: StreamingModel, folder: str) -> Path:
    path = Path(folder) / f"{model.name}.onnx"
    onnx_file.export(model, path, {})
    return path


def timed(step: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Output, and the time of each block in ms."""
    out, times = [], []
    for block in x.reshape(-1, HOP):
        start = time.perf_counter()
        y = step(block)
        times.append(1000 * (time.perf_counter() - start))
        out.append(y)
    return np.concatenate(out), np.array(times)


def snr_db(reference: np.ndarray, other: np.ndarray) -> float:
    n = min(len(reference), len(other))
    error = reference[:n] - other[:n]
    return 10 * float(np.log10((reference[:n] ** 2).sum() / max(1e-20, (error**2).sum())))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, nargs="+", default=[48], help="48 and 64 are published")
    parser.add_argument("--seconds", type=float, default=4.0, help="of sound in each run")
    parser.add_argument("--runs", type=int, default=5, help="interleaved runs; the table has their medians")
    parser.add_argument("--cleanunet", action="store_true", help="time CleanUNet too")
    args = parser.parse_args(argv)
    try:
        theirs = importlib.import_module("denoiser.demucs")
    except ImportError as error:
        parser.exit(1, f"compare_demucs: {error}; pip install --no-deps denoiser, then run this again\n")

    torch.manual_seed(0)
    torch.set_num_threads(1)
    x = 0.1 * np.random.default_rng(0).standard_normal(int(args.seconds * 16000) // HOP * HOP).astype(
        np.float32
    )
    level = float(x.std(ddof=1))
    print("| system | ms per 16 ms, median | p99 | RTF | latency ms | dB from file mode |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for hidden in args.hidden:
            network = theirs.Demucs(hidden=hidden).eval()
            file_mode = network(torch.from_numpy(x)[None, None])[0, 0].numpy()
            ours = Demucs(hidden, name=f"demucs{hidden}").eval()
            ours.load_state_dict(network.state_dict())
            path = artifact(ours, folder)
            spent: dict[str, list[np.ndarray]] = {"theirs": [], "ours": []}
            exact: dict[str, float] = {}
            for _ in range(args.runs):
                streamer = theirs.DemucsStreamer(network)
                y, times = timed(lambda b, s=streamer: s.feed(torch.from_numpy(b)[None])[0].numpy(), x)
                spent["theirs"].append(times)
                exact["theirs"] = snr_db(file_mode, y)
                session = Session(path, controls={"level": level})
                y, times = timed(session.feed, x)
                spent["ours"].append(times)
                exact["ours"] = snr_db(file_mode, y)
            latency = {"theirs": streamer.total_length / 16, "ours": session.latency / 16}
            rtf = {}
            for name, times in spent.items():
                rtf[name] = float(np.median([t.mean() for t in times])) / 16
                flat = np.concatenate(times)
                print(
                    f"| Demucs H{hidden}, {name} | {np.median(flat):.2f} | {np.percentile(flat, 99):.2f} | "
                    f"{rtf[name]:.3f} | {latency[name]:.1f} | {exact[name]:.1f} |"
                )
            print(f"Demucs H{hidden}: ours is {rtf['theirs'] / rtf['ours']:.2f} times as fast.")
        if args.cleanunet:
            session = Session(artifact(CleanUNet().eval(), folder))
            times = np.concatenate([timed(session.feed, x)[1] for _ in range(args.runs)])
            print(
                f"| CleanUNet, ours | {np.median(times):.2f} | {np.percentile(times, 99):.2f} | "
                f"{times.mean() / 16:.3f} | {session.latency / 16:.1f} | - |"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
