"""Measure on real speech what a variant of an artifact costs and gains, and set its bars.

Twelve mixtures of 4 s at 0 to 15 dB are drawn, always the same, from a folder laid out as
`egs/mini/denoise/corpus`: readers and noises that no model that ships was trained on. Both files run over
them; speed is measured one hop at a time on one thread, alternating between the files. A model that is
informed of losses has a tenth of the packets of 20 ms lost, always the same ones.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.data.corpora.folder import read as from_folder
from audiomask.data.corpora.librispeech import read as from_librispeech
from audiomask.data.simulate.mixtures import MixSettings, Mixture, mixtures
from audiomask.metrics import score
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.engine import Engine, Step, run
from audiomask.runtime.player import BULK_HOPS
from audiomask.runtime.session import Session

CORPUS = Path(__file__).resolve().parents[2] / "egs/mini/denoise/corpus"
COUNT, SECONDS = 12, 4.0
PESQ_DROP = 0.03  # the bar: a variant that loses that much is refused
GAIN = 1.05  # of int8 in speed, of float16 in size: less is within what two measurements differ by
ROUNDS, HOPS = 15, 25  # of the timing: each round times so many hops of the one file, then of the other


def pairs(rate: int, corpus: Path = CORPUS, count: int = COUNT, seconds: float = SECONDS) -> list[Mixture]:
    """Return mixtures at `rate` Hz from `corpus`/{speech,noise}/valid; DataError without them."""
    speech, noise = from_librispeech(corpus / "speech/valid"), from_folder(corpus / "noise/valid")
    settings = MixSettings(sample_rate=rate, seconds=(seconds, seconds))
    return list(mixtures(speech, noise, count, settings=settings))


def losses(artifact: Artifact, samples: int) -> np.ndarray | None:
    """Return flags `[samples]` of lost samples; None for a model that is not informed."""
    if not artifact.lost:
        return None
    size = artifact.sample_rate // 50
    return np.repeat(np.random.default_rng(0).random(samples // size + 1) < 0.1, size)[:samples]


def play(artifact: Artifact, noisy: np.ndarray, hops: int = BULK_HOPS) -> np.ndarray:
    """Play noisy `[T]` at every microphone; return the first channel of each output, `[N, T]`."""
    session = Session(artifact)
    x = np.repeat(noisy[None], session.channels, 0)
    step, lost = hops * artifact.hop, losses(artifact, x.shape[1])
    parts = [slice(i, i + step) for i in range(0, x.shape[1], step)]
    made = [session.feed(x[:, part], None if lost is None else lost[part]) for part in parts]
    blocks = [y if isinstance(y, dict) else {"": y} for y in [*made, session.flush()]]
    return np.stack([np.concatenate([np.atleast_2d(y[name])[0] for y in blocks]) for name in blocks[0]])


def speed(original: Artifact, variant: Artifact, noisy: np.ndarray) -> dict[str, float]:
    """Return median times in us of a one-hop step of each, and their ratio's median over rounds."""
    audio, hop = original.streams[0], original.hop
    if len(noisy) < hop:
        raise ValueError(f"{len(noisy)} samples are less than the {hop} of a hop")
    lost, inputs = losses(original, len(noisy)), []
    for i in range(0, len(noisy) - hop + 1, hop):
        inputs.append({audio.name: np.resize(noisy[i : i + hop], (1, audio.channels, hop))})
        if lost is not None and original.lost:
            inputs[-1][original.lost.name] = lost[None, None, i : i + hop].astype(np.float32)
    runs = [(Engine(artifact), itertools.cycle(inputs)) for artifact in (original, variant)]
    rounds = []
    for number in range(ROUNDS + 1):
        times: list[list[float]] = [[], []]
        for k in (0, 1) if number % 2 else (1, 0):
            engine, feeds = runs[k]
            for given in itertools.islice(feeds, HOPS):
                step = Step(engine, given)
                start = time.perf_counter()
                run([step])
                times[k].append(time.perf_counter() - start)
        rounds.append([float(np.median(t)) for t in times])
    us = np.array(rounds[1:]) * 1e6  # the first round warms up
    ratio, (theirs, ours) = float(np.median(us[:, 0] / us[:, 1])), np.median(us, 0).tolist()
    return {"ratio": ratio, "original_us": theirs, "variant_us": ours}


def cost(original: Artifact, variant: Artifact, given: Sequence[Mixture]) -> dict[str, Any]:
    """Return the metadata: error, PESQ, speed and size of `variant` beside `original`.

    `error`: greatest difference over all mixtures relative to the peak, SNR in dB over all of them, and
    `calls`, the difference of the variant from itself between one hop and 64 hops a call; of all outputs.
    `pesq`: means over the mixtures that PESQ can judge in both, wide band, of the first output; None where
    there are none.
    """

    def greatest(difference: np.ndarray, reference: np.ndarray) -> float:
        return float(np.abs(difference).max() / max(np.abs(reference).max(), 1e-20))

    played = [[play(artifact, pair.noisy) for pair in given] for artifact in (original, variant)]
    theirs, ours = (np.concatenate(parts, 1, dtype=np.float64) for parts in played)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = float(10 * np.log10(np.square(theirs).sum() / np.square(ours - theirs).sum()))
    by_calls = played[1][0]
    calls = greatest(play(variant, given[0].noisy, 1) - by_calls, by_calls)
    marks = [
        [score(pair.clean, y[0], original.sample_rate, ("pesq_wb",))["pesq_wb"] for y in both]
        for pair, *both in zip(given, *played, strict=True)
    ]
    judged = np.array([row for row in marks if np.isfinite(row).all()])
    before, after = judged.mean(0) if len(judged) else (math.nan, math.nan)
    pesq = {"original": before, "variant": after, "drop": before - after, "pairs": len(judged)}
    return {
        "error": {"peak": greatest(ours - theirs, theirs), "snr_db": snr, "calls": calls},
        "pesq": pesq if len(judged) else None,
        "speed": speed(original, variant, given[0].noisy),
        "bytes": {"original": len(original.data), "variant": len(variant.data)},
    }


def faults(kind: str, measured: dict[str, Any]) -> list[str]:
    """Return why a variant must not be written, with figures; nothing where it pays."""
    found = []
    pesq, speed, size = measured["pesq"], measured["speed"], measured["bytes"]
    if pesq is None:
        found.append("PESQ can judge none of the outputs, so nobody knows what it costs")
    elif not pesq["drop"] < PESQ_DROP:
        found.append(f"PESQ drops by {pesq['drop']:.3f}, the limit is {PESQ_DROP}")
    if kind == "int8" and not speed["ratio"] >= GAIN:
        found.append(
            f"one hop takes {speed['variant_us']:.0f} us instead of {speed['original_us']:.0f}: "
            f"{speed['ratio']:.2f} x the speed, {GAIN} is the least that counts as a gain"
        )
    if kind == "float16" and not size["original"] / size["variant"] >= GAIN:
        found.append(f"it has {size['variant']} bytes instead of {size['original']}")
    return found


def words(measured: dict[str, Any]) -> str:
    """Return the figures in one line."""
    error, speed, size, pesq = (measured[key] for key in ("error", "speed", "bytes", "pesq"))
    drop = f"PESQ {pesq['original']:.3f} -> {pesq['variant']:.3f}" if pesq else "no PESQ"
    snr = "no error" if error["snr_db"] is None else f"SNR {error['snr_db']:.1f} dB"  # see `rounded`
    return (
        f"{snr}, greatest error {error['peak']:.1e} of the peak, {drop}, "
        f"{speed['ratio']:.2f} x the speed "
        f"({speed['original_us']:.0f} -> {speed['variant_us']:.0f} us a hop), "
        f"{size['variant'] / 1e6:.2f} of {size['original'] / 1e6:.2f} MB"
    )


def rounded(value: Any) -> Any:
    """Return figures for a document: four significant digits, no infinities (JSON has none)."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, float | np.floating):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value
