"""Score degraded against reference sound, in one table with one policy for missing scores.

| column | metric | works at | range, better is higher unless said |
|---|---|---|---|
| pesq_wb, pesq_nb | PESQ, ITU-T P.862.2 and P.862.1 (package pesq) | 16 kHz | 1.04..4.64, 1.02..4.55 |
| stoi, estoi | Taal 2011, Jensen & Taal 2016 (package pystoi) | 10 kHz | 0..1 |
| si_sdr | Le Roux 2019, mean removed | the given rate | dB, limited to 100 |
| sdr | global SDR, of all samples of all channels: s^2 / (s - e)^2 | the given rate | dB, limited to 100 |
| csdr | SDR of BSS Eval v4, median over seconds (package museval) | the given rate | dB, limited to 100 |
| snr | `sdr` of one channel | the given rate | dB, limited to 100 |
| lsd | log-spectral distance, FFT 2048, hop 512, log10 power | the given rate | 0.., lower is better |
| dnsmos_sig, _bak, _ovrl | DNSMOS P.835 (Reddy 2022), no reference | 16 kHz | 1..5 |
| dnsmos_p808 | DNSMOS P.808 (Reddy 2021), no reference | 16 kHz | 1..5 |
| plcmos | PLCMOS v2 (Diener 2023), no reference | 16 kHz | 1..5 |

A value that cannot be had is NaN with a reason, and every table counts it; nothing is dropped in silence:

- Silence: a signal whose peak is below one 16-bit step has no score, as reference or as degraded.
- Length: reference and degraded must have the same number of samples; neither is cut. PESQ needs 0.25 s,
  STOI 0.4 s of speech, LSD one frame, PLCMOS 0.1 s. DNSMOS repeats clips shorter than 9.01 s and slides by
  1 s over longer ones, as published, with one more window for the end, which the published tool leaves out.
  PESQ above 20 s is the mean over equal pieces of at most 20 s, without those that have no speech in the
  reference: the ITU code holds 50 utterances and crashes beyond.
- Level: never changed. DNSMOS and PLCMOS judge what a 16-bit file would play: samples clamped to full scale.
- Rate: others are resampled (soxr); wide-band PESQ of a signal below 16 kHz is refused, not upsampled.
- Not a number: a signal with NaN or infinite samples has no score.
- Channels `[C, T]` are scored one by one and averaged; one NaN makes the average NaN. `sdr` and `csdr` sum
  over the channels of a signal instead, so that a quiet channel counts for little.
- Windows of `csdr` are not silent in reference nor estimate, others are left out, and so is what follows the
  last whole one. Each stem is judged alone, where museval leaves out a window as soon as any stem of the song
  is silent in it. Published tables have the median over songs; so has `Summary.median`.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.audio import AudioError
from audiomask.audio.sources import Source
from audiomask.runtime.artifact import open_graph

Array = np.ndarray
SILENCE_PEAK = 2.0**-15  # one step of a 16-bit file
RATIO_LIMIT_DB = 100.0  # the ratio of identical signals is infinite; float32 carries little more
PESQ_PIECE_S = 20.0  # 50 utterances of at least 0.2 s with pauses of at least 0.2 s cannot be shorter
DNSMOS_WINDOW = 144160  # samples that both DNSMOS models were trained on, 9.01 s
PLCMOS_FRAMES = 7  # what its pooling layers need to leave one frame
PLCMOS_RATERS = 15  # imagined listeners that the published tool averages over


class Unscorable(ValueError):
    """An error that says why a metric has no value for these signals."""


class Scores(dict[str, float]):
    """A dict from column to value; `reasons` says by column why a value is NaN."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reasons: dict[str, str] = {}

    def fail(self, columns: Iterable[str], why: str) -> None:
        for column in columns:
            self[column], self.reasons[column] = math.nan, why


def _to_16k(x: Array, rate: int) -> Array:
    if rate == 16000:
        return x
    import soxr

    return soxr.resample(x, rate, 16000)


def _pesq(ref: Array, deg: Array, rate: int, mode: str) -> float:
    from pesq import PesqError, pesq

    if mode == "wb" and rate < 16000:
        raise Unscorable(f"wide-band PESQ needs 16 kHz or more, the signals have {rate} Hz")
    if rate != 8000:
        ref, deg, rate = _to_16k(ref, rate), _to_16k(deg, rate), 16000
    pieces = max(1, math.ceil(len(ref) / (PESQ_PIECE_S * rate)))
    values = []
    for r, d in zip(np.array_split(ref, pieces), np.array_split(deg, pieces), strict=True):
        if _silent(r) or (pieces > 1 and pesq(rate, r, r, mode, PesqError.RETURN_VALUES) < 0):
            continue  # no speech in this piece of the reference
        value = pesq(rate, r, d, mode, PesqError.RETURN_VALUES)
        if not value > 0:  # an error code, or NaN
            codes = {
                PesqError.BUFFER_TOO_SHORT: "shorter than 0.25 s",
                PesqError.NO_UTTERANCES_DETECTED: "no speech",
            }
            raise Unscorable(f"PESQ: {codes.get(value, 'no result')}")
        values.append(value)
    if not values:
        raise Unscorable("PESQ: no speech in the reference")
    return float(np.mean(values))


def _stoi(ref: Array, deg: Array, rate: int, extended: bool) -> float:
    from pystoi import stoi

    if len(ref) < 0.4 * rate:  # 30 frames of 25.6 ms every 12.8 ms
        raise Unscorable(f"{len(ref) / rate:.2f} s is too short for STOI, which needs 0.4 s of speech")
    state = np.random.get_state()  # noqa: NPY002 - the extended one draws from numpy's global generator
    try:
        with warnings.catch_warnings(action="error", category=RuntimeWarning):  # it warns, and returns 1e-5
            np.random.seed(0)  # noqa: NPY002
            return float(stoi(ref, deg, rate, extended=extended))
    except RuntimeWarning as warning:
        raise Unscorable("less than 0.4 s of speech in the reference") from warning
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _si_sdr(ref: Array, deg: Array, rate: int) -> float:
    ref, deg = ref.astype(np.float64), deg.astype(np.float64)
    ref, deg = ref - ref.mean(), deg - deg.mean()
    power, common = np.dot(ref, ref), np.dot(deg, ref)
    target = common / power * ref if power else ref
    wanted, unwanted = np.dot(target, target), np.square(deg - target).sum()
    if wanted == 0:
        raise Unscorable("the degraded signal holds nothing of the reference")
    return _ratio_db(wanted, unwanted)


def _ratio_db(wanted: float, unwanted: float) -> float:
    return 10 * math.log10(wanted / max(unwanted, wanted * 10 ** (-RATIO_LIMIT_DB / 10)))


def _sdr(ref: Array, deg: Array, rate: int) -> float:
    ref, deg = ref.astype(np.float64), deg.astype(np.float64)
    return _ratio_db(np.square(ref).sum(), np.square(ref - deg).sum())


@lru_cache(maxsize=1)
def _bss_eval() -> Callable[..., Any]:
    """Return museval's measure, from its file alone.

    Its package imports musdb, which asks for FFmpeg.
    """
    found = importlib.util.find_spec("museval")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("csdr needs museval: pip install --no-deps museval scipy", name="museval")
    file = Path(found.submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("museval_metrics", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.bss_eval


def _csdr(ref: Array, deg: Array, rate: int) -> float:
    # Within a window SDR sums over samples and channels alike, so channels may lie side by side in time; and
    # the distortion filters, 512 taps that take a third of the song's duration, cancel out of it.
    window = rate * len(np.atleast_2d(ref))
    ref, deg = (x.T.reshape(1, -1, 1).astype(np.float64) for x in (ref, deg))
    with np.errstate(divide="ignore"):  # windows that are equal
        values = _bss_eval()(ref, deg, window=window, hop=window, filters_len=1)[0][0]
    if np.isnan(values).all():
        raise Unscorable("reference and estimate are in no window of 1 s both heard")
    return min(float(np.nanmedian(values)), RATIO_LIMIT_DB)


def _lsd(ref: Array, deg: Array, rate: int) -> float:
    size, hop = 2048, 512
    if len(ref) < size:
        raise Unscorable(f"{len(ref)} samples are too short for LSD, which needs {size}")

    def log_power(x: Array) -> Array:
        frames = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), size)[::hop]
        # floor: 16-bit rounding noise (step^2 / 12 times the window's energy) is about 6e-8 here
        return np.log10(np.square(np.abs(np.fft.rfft(frames * np.hanning(size + 1)[:-1]))) + 1e-8)

    return float(np.sqrt(np.square(log_power(ref) - log_power(deg)).mean(axis=1)).mean())


@lru_cache(maxsize=8)
def _network(path: str) -> Any:
    """Return an ONNX Runtime session, on one thread, of a model in the speechmos package."""
    # It is found, not imported: its modules pull in librosa and requests, which its models do not need.
    spec = importlib.util.find_spec("speechmos")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "DNSMOS and PLCMOS need speechmos: pip install 'audiomask[score]'", name="speechmos"
        )
    return open_graph(Path(spec.submodule_search_locations[0]) / path)


def _dnsmos_windows(x: Array) -> list[Array]:
    last = len(x) - DNSMOS_WINDOW  # the published tool leaves up to two seconds at the end unheard
    while len(x) < DNSMOS_WINDOW:
        x = np.concatenate([x, x])
    starts = [*range(0, (int(len(x) // 16000 - 9.01) + 1) * 16000, 16000), *[last] * (last > 0)]
    return [x[s : s + DNSMOS_WINDOW] for s in sorted(set(starts)) if s + DNSMOS_WINDOW <= len(x)]


def _dnsmos(x: Array) -> tuple[float, ...]:
    network = _network("dnsmos_models/sig_bak_ovr.onnx")
    raw = np.concatenate([network.run(None, {"input_1": w[None]})[0] for w in _dnsmos_windows(x)])
    # from the network's outputs to the listeners' scale (microsoft/DNS-Challenge, dnsmos_local.py)
    quadratics = (
        (-0.08397278, 1.22083953, 0.0052439),
        (-0.13166888, 1.60915514, -0.39604546),
        (-0.06766283, 1.11546468, 0.04602535),
    )
    return tuple(float(np.polyval(p, raw[:, i]).mean()) for i, p in enumerate(quadratics))


def _dnsmos_p808(x: Array) -> float:
    import librosa

    network = _network("dnsmos_models/model_v8.onnx")
    values = []
    for window in _dnsmos_windows(x):
        mel = librosa.feature.melspectrogram(y=window[:-160], sr=16000, n_fft=321, hop_length=160, n_mels=120)
        feature = (librosa.power_to_db(mel, ref=np.max) + 40) / 40
        values.append(network.run(None, {"input_1": feature.T[None].astype(np.float32)})[0][0, 0])
    return float(np.mean(values))


def _plcmos(x: Array) -> float:
    size, hop = 512, 256
    count = math.ceil((len(x) + hop) / hop)
    if count < PLCMOS_FRAMES:
        raise Unscorable(f"{len(x)} samples at 16 kHz are too short for PLCMOS, which needs 1281")
    padded = np.pad(x, (hop, (count - 1) * hop + size - hop - len(x)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * np.hamming(size + 1)[:-1]
    power = np.square(np.abs(np.fft.rfft(frames)))
    # bins of digital silence are set 120 dB below the smallest other one
    floor = np.log(power[power > 0].min()) - 12 * math.log(10)
    feature = np.where(power > 0, np.log(np.where(power > 0, power, 1)), floor) / 20
    feature = feature[None, None].astype(np.float32)
    # the challenge's own listeners, the same for every file (microsoft/PLC-Challenge, plc_mos.py)
    raters = np.random.RandomState(23).normal(size=(PLCMOS_RATERS, 1, 64)).astype(np.float32)
    network = _network("plcmos_models/plcmos_v2.onnx")
    votes = [network.run(None, {"degraded_audio": feature, "rater_embed": r})[0] for r in raters]
    return float(np.mean(votes))


@dataclass(frozen=True)
class Metric:
    """A measurement that fills `columns`, and may compare with a reference.

    It is of one channel, the mean being taken over several, or `joint`, of `[C, T]`.
    """

    columns: tuple[str, ...]
    compute: Callable[..., float | tuple[float, ...]]  # of reference, degraded, rate; or of samples at 16 kHz
    reference: bool = True
    joint: bool = False


METRICS: dict[str, Metric] = {
    "pesq_wb": Metric(("pesq_wb",), partial(_pesq, mode="wb")),
    "pesq_nb": Metric(("pesq_nb",), partial(_pesq, mode="nb")),
    "stoi": Metric(("stoi",), partial(_stoi, extended=False)),
    "estoi": Metric(("estoi",), partial(_stoi, extended=True)),
    "si_sdr": Metric(("si_sdr",), _si_sdr),
    "sdr": Metric(("sdr",), _sdr, joint=True),
    "csdr": Metric(("csdr",), _csdr, joint=True),
    "snr": Metric(("snr",), _sdr),
    "lsd": Metric(("lsd",), _lsd),
    "dnsmos": Metric(("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl"), _dnsmos, reference=False),
    "dnsmos_p808": Metric(("dnsmos_p808",), _dnsmos_p808, reference=False),
    "plcmos": Metric(("plcmos",), _plcmos, reference=False),
}
DEFAULT = ("pesq_wb", "stoi", "estoi", "si_sdr", "dnsmos")
STEMS = ("sdr", "si_sdr", "csdr")  # what is asked of separated sounds by default


def columns(metrics: Iterable[str]) -> list[str]:
    """Return the columns that these metrics fill; raise ValueError for an unknown metric."""
    names = list(metrics)
    unknown = [m for m in names if m not in METRICS]
    if unknown:
        raise ValueError(f"no metric {', '.join(unknown)}; there are {', '.join(METRICS)}")
    return [column for m in names for column in METRICS[m].columns]


def _silent(x: Array) -> bool:
    return x.size == 0 or float(np.abs(x).max()) < SILENCE_PEAK


def _fault(name: str, x: Array) -> str | None:
    bad = int(np.count_nonzero(~np.isfinite(x)))
    if bad:
        return f"the {name} signal has {bad} samples that are not finite"
    return f"the {name} signal is silent" if _silent(x) else None


def score(
    reference: Array | None, degraded: Array, sample_rate: int, metrics: Sequence[str] = DEFAULT
) -> Scores:
    """Return the scores of one signal, by the policy above.

    The `reference` and `degraded` are `[T]` or `[C, T]`, full scale 1.0, at `sample_rate` Hz; the former is
    None where no metric needs it. Each of `metrics`, names out of `METRICS`, has a value per column; the
    reasons of NaN are in `.reasons`. Raises ValueError for unknown metrics and shapes that are not signals,
    ImportError for a package that is not installed.
    """
    wanted = columns(metrics)
    degraded = np.asarray(degraded)
    reference = None if reference is None else np.asarray(reference)
    if degraded.ndim == 2:
        refs = reference if reference is not None and reference.ndim == 2 else [reference] * len(degraded)
        if len(refs) != len(degraded):
            raise ValueError(f"{len(refs)} reference and {len(degraded)} degraded channels")
        joint = [m for m in metrics if METRICS[m].joint]
        whole = _measure(None if reference is None else np.asarray(refs), degraded, sample_rate, joint)
        alone = [m for m in metrics if not METRICS[m].joint]
        rows = [_measure(r, d, sample_rate, alone) for r, d in zip(refs, degraded, strict=True)]
        mean = {c: float(np.mean([row[c] for row in rows])) for c in columns(alone)} | whole
        scores = Scores({c: mean[c] for c in wanted})
        scores.reasons = whole.reasons
        for i, row in enumerate(rows):
            where = f"channel {i}: " if len(rows) > 1 else ""
            scores.reasons |= {c: where + why for c, why in row.reasons.items()}
        return scores
    if degraded.ndim != 1 or (reference is not None and reference.ndim != 1):
        raise ValueError(f"signals of shape {degraded.shape}; score takes [T] or [C, T]")
    return _measure(reference, degraded, sample_rate, metrics)


def _measure(reference: Array | None, degraded: Array, sample_rate: int, metrics: Iterable[str]) -> Scores:
    """Return the scores of a channel `[T]`, or of `[C, T]` by metrics that are joint."""
    fault = _fault("degraded", degraded)
    ref_fault = "there is no reference" if reference is None else _fault("reference", reference)
    if reference is not None and reference.shape[-1] != degraded.shape[-1]:
        ref_fault = f"lengths differ: reference {reference.shape[-1]}, degraded {degraded.shape[-1]} samples"
    scores = Scores()
    for name in metrics:
        metric = METRICS[name]
        why = (ref_fault if metric.reference else None) or fault
        try:
            if why is not None:
                raise Unscorable(why)
            if metric.reference:
                found = metric.compute(reference, degraded, sample_rate)
            else:
                found = metric.compute(np.clip(_to_16k(degraded, sample_rate), -1, 1).astype(np.float32))
            scores.update(zip(metric.columns, np.atleast_1d(found).tolist(), strict=True))
        except Unscorable as reason:
            scores.fail(metric.columns, str(reason))
    return scores


@dataclass(frozen=True)
class Summary:
    """A summary that has a column's mean over `n` files, 95 % bootstrap interval and failures."""

    mean: float
    low: float
    high: float
    n: int
    failed: int
    median: float = math.nan


def summarize(values: Iterable[Any], resamples: int = 1000, seed: int = 0) -> Summary:
    """Return mean and percentile bootstrap interval over files (Efron 1979); NaN without values.

    `values` are a number for each file, or several, whose means over files are averaged, and so their
    medians; in the interval files stay whole.
    """
    given = np.asarray(list(values), dtype=np.float64)
    given = given[:, None] if given.ndim == 1 else given
    failed = int(np.isnan(given).sum())
    x = given[~np.isnan(given).all(1)]
    if len(x) == 0:
        return Summary(math.nan, math.nan, math.nan, 0, failed)

    def average(x: Array, over_files: Callable[..., Array] = np.nanmean) -> float:
        return float(np.mean(over_files(x[:, ~np.isnan(x).all(0)], axis=0)))

    random = np.random.default_rng(seed)
    mean = average if np.isnan(x).any() else np.mean  # which is the same, and quick
    means = [float(mean(x[random.integers(len(x), size=len(x))])) for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Summary(average(x), float(low), float(high), len(x), failed, average(x, np.nanmedian))


def _plain(entry: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(x) else x for name, x in entry.items()}


def plain_summaries(summaries: Mapping[str, Summary]) -> dict[str, dict[str, float | None]]:
    """Return summaries by column as plain data, in which None replaces NaN."""
    return {column: _plain(vars(summary)) for column, summary in summaries.items()}


@dataclass
class Table:
    """A table that holds the scores of many files, by key."""

    columns: list[str]
    rows: dict[str, Scores] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)  # why a file has only NaN
    notes: dict[str, list[str]] = field(default_factory=dict)  # what had to be mended in a file

    def fail(self, key: str, error: str) -> None:
        """Enter a file that has no scores."""
        self.rows[key] = Scores()
        self.rows[key].fail(self.columns, "the file could not be read or paired")
        self.errors[key] = error

    def summary(self) -> dict[str, Summary]:
        return {c: summarize(row[c] for row in self.rows.values()) for c in self.columns}

    def by_stem(self) -> dict[str, dict[str, Summary]]:
        """Return by stem, of keys SONG/STEM, its `summary`; and as `mean` that of all stems' means.

        A song without a stem counts where it has one. Raises KeyError for a key that names no song.
        """
        songs: dict[str, dict[str, Scores]] = {}
        for key, row in self.rows.items():
            song, slash, stem = key.rpartition("/")
            if not slash:
                raise KeyError(key)
            songs.setdefault(song, {})[stem] = row
        stems = sorted({stem for rows in songs.values() for stem in rows})
        none = dict.fromkeys(self.columns, math.nan)
        found: dict[str, dict[str, Summary]] = {stem: {} for stem in [*stems, "mean"]}
        for c in self.columns:
            for stem in stems:
                found[stem][c] = summarize(rows[stem][c] for rows in songs.values() if stem in rows)
            mean = summarize([rows.get(stem, none)[c] for stem in stems] for rows in songs.values())
            found["mean"][c] = replace(mean, failed=sum(found[stem][c].failed for stem in stems))
        return found

    def reasons(self) -> dict[tuple[str, str], list[str]]:
        """Return by columns and reason the keys of files without a value there for this reason."""
        files: dict[tuple[str, str], list[str]] = {}
        for key, row in self.rows.items():
            for reason in dict.fromkeys(row.reasons.values()):
                names = ", ".join(c for c, why in row.reasons.items() if why == reason)
                files.setdefault((names, reason), []).append(key)
        return files

    def to_json(self) -> dict[str, Any]:
        """Return plain data, in which None replaces NaN."""
        return {
            "summary": plain_summaries(self.summary()),
            "files": {k: {"scores": _plain(row), "reasons": row.reasons} for k, row in self.rows.items()},
            "errors": self.errors,
            "notes": self.notes,
        }


@contextmanager
def workers(jobs: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """Give a `map` over `jobs` processes, which several calls of `score_files` may share."""
    if jobs <= 1:
        yield map
        return
    # "spawn", since a fork would copy ONNX Runtime's threads in any state
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    try:
        yield pool.map
    except BrokenProcessPool:
        why = "a process died while scoring, of a crash or for memory; try again with -j 1"
        raise AudioError(why) from None
    finally:
        pool.shutdown(cancel_futures=True)


def score_files(
    pairs: Iterable[tuple[str, Source | Path | None, Source | Path]],
    metrics: Sequence[str] = DEFAULT,
    mapper: Callable[..., Iterable[Any]] = map,
    on_file: Callable[[str], None] | None = None,
) -> Table:
    """Score many files, `pairs` of key, reference or None, degraded; go on past unreadable ones.

    `mapper` does the work, here or elsewhere (`workers`); `on_file` gets each finished key, in order.
    """
    table = Table(columns(metrics))
    for key, found, notes in mapper(partial(_score_pair, tuple(metrics)), list(pairs)):
        if isinstance(found, str):
            table.fail(key, found)
        else:
            table.rows[key] = found
        if notes:
            table.notes[key] = notes
        if on_file is not None:
            on_file(key)
    return table


def read_source(source: Source | Path, notes: list[str]) -> tuple[Array, int]:
    """Return a whole recording `[C, T]` and its rate; `notes` gets what had to be mended in it."""
    source = source if isinstance(source, Source) else Source(str(source), Path(source).name)
    with source.open() as reader:
        x = np.concatenate(list(reader.blocks()), axis=1)
        notes += reader.notes
        return x, reader.info.rate


def _score_pair(
    metrics: tuple[str, ...], pair: tuple[str, Source | Path | None, Source | Path]
) -> tuple[str, Scores | str, list[str]]:
    """Return the key, the scores or why there are none, and notes on the files."""
    key, reference_file, degraded_file = pair
    notes: list[str] = []
    try:
        degraded, rate = read_source(degraded_file, notes)
        reference = None
        if reference_file is not None:
            reference, its_rate = read_source(reference_file, notes)
            if (rate, len(degraded)) != (its_rate, len(reference)):
                raise AudioError(
                    f"{degraded_file}: {rate} Hz and {len(degraded)} channels, but {reference_file}, its "
                    f"reference, has {its_rate} Hz and {len(reference)}; bring them to one format"
                )
        return key, score(reference, degraded, rate, metrics), notes
    except AudioError as error:
        return key, str(error), notes
