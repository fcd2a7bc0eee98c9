import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pesq
import pystoi
import pytest
import soundfile
import soxr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audiomask import metrics
from audiomask.audio import AudioError
from audiomask.metrics import score, score_files, summarize, workers

DEMO = Path(__file__).parents[1] / "egs/mini/denoise/corpus/demo"
RATE = 16000
HERE = [name for name in metrics.METRICS if name != "csdr" or importlib.util.find_spec("museval")]
REFERENCED = [name for name in HERE if metrics.METRICS[name].reference]


@pytest.fixture(scope="module")
def clean():
    return soundfile.read(DEMO / "mixture_clean.flac")[0][: 5 * RATE]


@pytest.fixture(scope="module")
def noisy():
    return soundfile.read(DEMO / "mixture_noisy.flac")[0][: 5 * RATE]


# --- parity with the packages and tools called directly -----------------------------------------------------


def test_pesq_and_stoi_equal_the_packages(clean, noisy):
    row = score(clean, noisy, RATE, ["pesq_wb", "pesq_nb", "stoi", "estoi"])
    assert row["pesq_wb"] == pesq.pesq(RATE, clean, noisy, "wb")
    assert row["pesq_nb"] == pesq.pesq(RATE, clean, noisy, "nb")
    assert row["stoi"] == pytest.approx(pystoi.stoi(clean, noisy, RATE), abs=1e-9)
    # the package adds noise of 1e-16 to what it normalises
    assert row["estoi"] == pytest.approx(pystoi.stoi(clean, noisy, RATE, extended=True), abs=1e-9)
    assert not row.reasons


@pytest.mark.parametrize("seconds", [2.3, 11.2])
def test_dnsmos_equals_the_published_tool(noisy, seconds):
    """Beyond 9.01 s: the mean over its windows, every second from the start, and one at the end."""
    from speechmos import dnsmos

    x = np.resize(noisy, int(seconds * RATE)).astype(np.float32)
    starts = [0] if seconds < 9.01 else [0, RATE, len(x) - 144160]
    parts = [dnsmos.run(x[start : start + 144160], RATE) for start in starts]
    theirs = {name: np.mean([part[name] for part in parts]) for name in parts[0]}
    row = score(None, x, RATE, ["dnsmos", "dnsmos_p808"])
    for ours, name in [("sig", "sig_mos"), ("bak", "bak_mos"), ("ovrl", "ovrl_mos"), ("p808", "p808_mos")]:
        assert row[f"dnsmos_{ours}"] == pytest.approx(theirs[name], abs=1e-4)


def test_dnsmos_hears_the_end(noisy):
    x = np.resize(noisy, 11 * RATE).astype(np.float32)
    x[10 * RATE :] = np.random.default_rng(0).uniform(-1, 1, RATE)
    clean = score(None, np.resize(noisy, 10 * RATE).astype(np.float32), RATE, ["dnsmos"])
    assert score(None, x, RATE, ["dnsmos"])["dnsmos_ovrl"] < clean["dnsmos_ovrl"] - 0.05


def test_scores_leave_the_global_generator_alone_and_do_not_depend_on_it(clean, noisy):
    np.random.seed(1)  # noqa: NPY002
    first = score(clean, noisy, RATE, ["estoi", "plcmos"])
    np.random.seed(2)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert score(clean, noisy, RATE, ["estoi", "plcmos"]) == first
    assert np.random.random() == expected  # noqa: NPY002


def test_plcmos_equals_the_published_tool_at_its_seed(noisy):
    from speechmos import plcmos

    x = noisy.astype(np.float32)
    x[20000:22000] = 0.0  # a lost packet: bins of digital silence
    np.random.seed(23)  # noqa: NPY002 - as the challenge's own script does
    theirs = plcmos.run(x, RATE)["plcmos"]
    assert score(None, x, RATE, ["plcmos"])["plcmos"] == pytest.approx(theirs, abs=1e-4)


# Measured with pesq 0.0.4, pystoi 0.4.1 and speechmos 0.0.1.1. The published PLCMOS values of the three
# examples of microsoft/PLC-Challenge (4.497762, 4.123963, 2.740757) come out to six digits too; those files
# do not ship here.
def test_golden_numbers(clean, noisy):
    row = score(clean, noisy, RATE, HERE)
    assert row == pytest.approx({name: GOLDEN[name] for name in metrics.columns(HERE)}, abs=2e-3)


GOLDEN = {
    "pesq_wb": 1.4183,
    "pesq_nb": 2.8645,
    "stoi": 0.9502,
    "estoi": 0.8965,
    "si_sdr": 6.0479,
    "sdr": 6.0510,
    "csdr": 4.4776,
    "snr": 6.0510,
    "lsd": 0.7322,
    "dnsmos_sig": 2.6624,
    "dnsmos_bak": 2.3121,
    "dnsmos_ovrl": 2.058,
    "dnsmos_p808": 3.4349,
    "plcmos": 4.3374,
}


def stereo(seed=0, seconds=5):
    """Reference and estimate `[2, T]`, the estimate worse on the right and from second to second."""
    random = np.random.default_rng(seed)
    ref = random.standard_normal((2, seconds * RATE + 700)) * [[0.2], [0.05]]
    error = random.standard_normal(ref.shape) * np.linspace(0.001, 0.1, ref.shape[1])
    return ref, ref + error


@pytest.mark.peer
@pytest.mark.parametrize("silent", [None, "reference", "estimate"])
def test_csdr_equals_museval_with_its_filters(silent):
    """There the filters have 512 taps, and take long."""
    if "csdr" not in HERE:
        pytest.skip("needs museval")
    evaluate = metrics._bss_eval()
    ref, est = stereo()
    if silent:
        (ref if silent == "reference" else est)[:, RATE : 2 * RATE] = 0
    theirs = evaluate(ref.T[None], est.T[None], window=RATE, hop=RATE, filters_len=512)[0][0]
    assert np.isnan(theirs).sum() == (silent is not None)
    assert score(ref, est, RATE, ["csdr"])["csdr"] == pytest.approx(np.nanmedian(theirs), abs=1e-6)


@pytest.mark.peer
def test_a_stem_among_others_scores_as_by_itself():
    if "csdr" not in HERE:
        pytest.skip("needs museval")
    pairs = [stereo(seed) for seed in (1, 2)]
    refs, ests = (np.stack([pair[i].T for pair in pairs]) for i in (0, 1))
    theirs = metrics._bss_eval()(refs, ests, window=RATE, hop=RATE, filters_len=64)[0]
    for (ref, est), values in zip(pairs, theirs, strict=True):
        assert score(ref, est, RATE, ["csdr"])["csdr"] == pytest.approx(np.median(values), abs=1e-6)


def test_sdr_and_snr_equal_torchmetrics():
    torch = pytest.importorskip("torch")
    torchmetrics = pytest.importorskip("torchmetrics.functional.audio")
    ref, est = stereo()
    row = score(ref, est, RATE, ["sdr", "snr"])
    theirs = torchmetrics.signal_noise_ratio(torch.from_numpy(est), torch.from_numpy(ref))
    assert row["snr"] == pytest.approx(theirs.mean().item(), abs=1e-6)
    flat = torchmetrics.signal_noise_ratio(torch.from_numpy(est).flatten(), torch.from_numpy(ref).flatten())
    assert row["sdr"] == pytest.approx(flat.item(), abs=1e-6)


@pytest.mark.peer
def test_sdr_is_that_of_mir_eval_where_nothing_can_be_filtered():
    """Its filters forgive what is linear in the reference; noise that is not is judged alike."""
    mir_eval = pytest.importorskip("mir_eval.separation")
    random = np.random.default_rng(0)
    ref = random.standard_normal((2, 20 * RATE))
    est = ref + 0.3 * random.standard_normal(ref.shape)
    sdr, *_ = mir_eval.bss_eval_sources(ref, est, compute_permutation=False)
    ours = [score(r, e, RATE, ["sdr"])["sdr"] for r, e in zip(ref, est, strict=True)]
    assert ours == pytest.approx(sdr.tolist(), abs=0.05)


# --- own metrics --------------------------------------------------------------------------------------------


@given(snr_db=st.floats(-30, 60), gain=st.floats(0.01, 0.5), offset=st.floats(-0.1, 0.1))
@settings(max_examples=40, deadline=None)
def test_si_sdr_is_the_ratio_of_orthogonal_parts(snr_db, gain, offset):
    time = np.arange(8000) / 8000
    s, n = np.sin(2 * np.pi * 100 * time), np.sin(2 * np.pi * 333 * time)
    degraded = gain * (s + n * 10 ** (-snr_db / 20)) + offset
    assert score(s, degraded, 8000, ["si_sdr"])["si_sdr"] == pytest.approx(snr_db, abs=1e-6)


def test_si_sdr_of_the_reference_itself_is_the_limit(clean):
    assert score(clean, 0.5 * clean, RATE, ["si_sdr"])["si_sdr"] == 100.0


def test_sdr_sums_over_channels_and_snr_averages_them():
    ref = np.stack([np.ones(RATE), np.full(RATE, 0.01)])
    row = score(ref, ref + np.array([[0.1], [0.01]]), RATE, ["snr", "sdr"])
    assert list(row) == ["snr", "sdr"]
    assert row["snr"] == pytest.approx(10)  # 20 and 0 dB
    assert row["sdr"] == pytest.approx(10 * math.log10(1.0001 / 0.0101))
    assert score(ref, ref, RATE, ["sdr", "snr"]) == {"sdr": 100.0, "snr": 100.0}
    one_silent = score(ref * [[1], [0]], ref, RATE, ["sdr", "snr"])
    assert one_silent["sdr"] == pytest.approx(10 * math.log10(1 / 0.0001))
    assert one_silent.reasons == {"snr": "channel 1: the reference signal is silent"}


@pytest.mark.skipif("csdr" not in HERE, reason="needs museval")
def test_csdr_is_the_median_over_whole_seconds_that_both_are_heard_in(clean):
    ref = np.tile(0.1 * np.sign(np.sin(np.arange(RATE) + 0.5)), 5)
    est = ref + np.repeat([0.1, 0.01, 0.001, 1e-4, 1e-5], RATE)  # 0, 20, 40, 60, 80 dB
    assert score(ref, est, RATE, ["csdr"])["csdr"] == pytest.approx(40, abs=1e-6)
    assert score(ref[: 3 * RATE - 1], est[: 3 * RATE - 1], RATE, ["csdr"])["csdr"] == pytest.approx(10)
    assert score(np.stack([ref, ref]), np.stack([est, est]), RATE, ["csdr"])["csdr"] == pytest.approx(40)
    early, late = ref * (np.arange(len(ref)) < 2 * RATE), ref * (np.arange(len(ref)) >= 2 * RATE)
    assert "no window" in score(early, late, RATE, ["csdr"]).reasons["csdr"]
    assert score(ref, ref, RATE, ["csdr"])["csdr"] == 100.0


def test_without_museval_csdr_says_what_is_missing(clean, monkeypatch):
    metrics._bss_eval.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps museval"):
        score(clean, clean, RATE, ["csdr"])


def test_lsd_of_a_gain_is_its_logarithm(noisy):
    # noise far above the floor: a gain of 10 dB moves the log10 power of each bin by 1
    x = np.random.default_rng(0).standard_normal(RATE)
    assert score(x, x * math.sqrt(10), RATE, ["lsd"])["lsd"] == pytest.approx(1.0, abs=1e-6)
    assert score(noisy, noisy, RATE, ["lsd"])["lsd"] == 0.0


# --- the policy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HERE)
def test_silence_has_no_value_and_says_so(name, clean):
    quiet = np.full_like(clean, 1e-5)
    row = score(clean, quiet, RATE, [name])
    assert all(math.isnan(v) for v in row.values())
    assert set(row.reasons.values()) == {"the degraded signal is silent"}
    if metrics.METRICS[name].reference:
        assert set(score(quiet, clean, RATE, [name]).reasons.values()) == {"the reference signal is silent"}
        assert set(score(None, clean, RATE, [name]).reasons.values()) == {"there is no reference"}


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_a_number_has_no_value_and_says_so(name, bad, clean):
    spoilt = clean.copy()
    spoilt[:3] = bad
    row = score(clean, spoilt, RATE, [name])
    assert set(row.reasons.values()) == {"the degraded signal has 3 samples that are not finite"}
    assert all(math.isnan(v) for v in row.values())


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("samples", [0, 1, 1300])
def test_short_signals_have_a_value_or_a_reason(name, samples, clean, noisy):
    row = score(clean[RATE:][:samples], noisy[RATE:][:samples], RATE, [name])
    assert set(row.reasons) == {column for column, value in row.items() if math.isnan(value)}
    if name in ("pesq_wb", "pesq_nb", "stoi", "estoi", "lsd") or samples < 1:
        assert row.reasons


def test_speech_too_short_for_stoi_is_not_a_hundred_thousandth(clean):
    ref = np.zeros(RATE)
    ref[:2000] = clean[RATE : RATE + 2000]
    row = score(ref, ref + 1e-3, RATE, ["stoi", "estoi"])
    assert math.isnan(row["stoi"])
    assert "0.4 s of speech" in row.reasons["estoi"]


def test_lengths_that_differ_spare_the_metrics_without_reference(clean, noisy):
    row = score(clean, noisy[:-1], RATE, ["si_sdr", "plcmos"])
    assert row.reasons == {"si_sdr": "lengths differ: reference 80000, degraded 79999 samples"}
    assert 1 <= row["plcmos"] <= 5


def test_pesq_of_a_long_signal_is_the_mean_of_its_pieces_without_the_silent_ones(clean, noisy):
    quiet = np.zeros(len(clean))
    ref, deg = np.concatenate([clean] * 4 + [quiet] * 4), np.concatenate([noisy] * 4 + [quiet] * 4)
    expected = pesq.pesq(RATE, ref[: 20 * RATE], deg[: 20 * RATE], "wb")
    assert score(ref, deg, RATE, ["pesq_wb"])["pesq_wb"] == pytest.approx(expected)


def test_pesq_of_a_long_signal_with_one_muted_piece_is_a_failure(clean, noisy):
    ref, deg = np.concatenate([clean] * 8), np.concatenate([noisy] * 4 + [0 * noisy] * 4)
    row = score(ref, deg, RATE, ["pesq_wb"])
    assert math.isnan(row["pesq_wb"])  # speech that was taken away is not left out of the mean
    assert row.reasons["pesq_wb"].startswith("PESQ: no")


def test_a_worker_that_dies_is_an_error_of_ours():
    with pytest.raises(AudioError, match="-j 1"), workers(2) as mapper:
        list(mapper(os._exit, [3]))


def test_pesq_survives_more_utterances_than_the_itu_code_holds():
    random = np.random.default_rng(0)
    burst = np.concatenate([random.standard_normal(3400), np.zeros(3400)]) * 0.1
    x = np.tile(burst, 140)  # 140 utterances in a minute, at nearly the densest that it separates
    code = "import numpy as np, sys; from audiomask.metrics import score; x = np.load(sys.argv[1]); "
    code += "print(score(x, x + 0.001, 16000, ['pesq_wb'])['pesq_wb'])"
    assert _run(code, x) > 3


def _run(code, x):
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, x)
        done = subprocess.run([sys.executable, "-c", code, file.name], stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def test_levels_beyond_full_scale_are_judged_as_a_file_would_play(noisy):
    loud = noisy * (2.0 / np.abs(noisy).max())
    names = ["dnsmos", "plcmos"]
    judged = score(None, loud, RATE, names)
    assert judged == score(None, np.clip(loud, -1, 1), RATE, names)
    assert judged != score(None, noisy, RATE, names)


def test_other_rates_are_resampled_and_narrow_ones_refused(clean, noisy):
    up = [soxr.resample(x, RATE, 48000) for x in (clean, noisy)]
    names = ["pesq_wb", "stoi", "dnsmos", "si_sdr"]
    here, there = score(clean, noisy, RATE, names), score(*up, 48000, names)
    assert there == pytest.approx(here, abs=0.03)
    down = [soxr.resample(x, RATE, 8000) for x in (clean, noisy)]
    row = score(*down, 8000, ["pesq_wb", "pesq_nb"])
    assert "8000 Hz" in row.reasons["pesq_wb"]
    assert row["pesq_nb"] == pesq.pesq(8000, *down, "nb")


def test_channels_are_averaged_and_one_failure_is_seen(clean, noisy):
    names = ["si_sdr", "stoi"]
    left, right = score(clean, noisy, RATE, names), score(clean, clean, RATE, names)
    both = score(np.stack([clean, clean]), np.stack([noisy, clean]), RATE, names)
    assert both == pytest.approx({k: (left[k] + right[k]) / 2 for k in names})
    broken = score(np.stack([clean, clean]), np.stack([noisy, 0 * clean]), RATE, names)
    assert math.isnan(broken["si_sdr"])
    assert broken.reasons["si_sdr"] == "channel 1: the degraded signal is silent"


def test_unknown_metrics_and_shapes_are_refused(clean):
    with pytest.raises(ValueError, match=r"no metric pesk; there are pesq_wb"):
        score(clean, clean, RATE, ["pesk"])
    with pytest.raises(ValueError, match=r"\[C, T\]"):
        score(None, clean[None, None], RATE, ["plcmos"])
    with pytest.raises(ValueError, match="2 reference and 1 degraded"):
        score(np.stack([clean, clean]), clean[None], RATE, ["si_sdr"])


# --- the table ----------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.floats(-100, 100), st.just(math.nan)), max_size=30))
@example([])
@settings(max_examples=60, deadline=None)
def test_summary_counts_everything(values):
    s = summarize(values, resamples=50)
    kept = [v for v in values if not math.isnan(v)]
    assert (s.n, s.failed) == (len(kept), len(values) - len(kept))
    if kept:
        assert s.mean == pytest.approx(np.mean(kept))
        assert min(kept) - 1e-9 <= s.low <= s.high <= max(kept) + 1e-9
    else:
        assert all(math.isnan(v) for v in (s.mean, s.low, s.high))


def test_stems_are_averaged_over_songs_and_then_over_stems():
    table = metrics.Table(["sdr"])
    for key, value in {"a/bass": 1.0, "a/drums": 5.0, "b/drums": 7.0, "c/drums": 15.0}.items():
        table.rows[key] = metrics.Scores(sdr=value)
    table.fail("d/drums", "unreadable")
    found = {stem: row["sdr"] for stem, row in table.by_stem().items()}
    figures = {stem: (s.mean, s.median, s.n, s.failed) for stem, s in found.items()}
    assert figures == {"bass": (1.0, 1.0, 1, 0), "drums": (9.0, 7.0, 3, 1), "mean": (5.0, 4.0, 3, 1)}
    assert 5.0 <= found["drums"].low < 9.0 < found["drums"].high <= 15.0
    table.rows["lonely"] = metrics.Scores(sdr=1.0)
    with pytest.raises(KeyError):
        table.by_stem()


def test_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(1)
    found = [summarize(random.normal(3, 1, 40), 200, i) for i in range(200)]
    hits = sum(s.low <= 3.0 <= s.high for s in found)
    assert 0.89 <= hits / 200 <= 0.99  # 95 % less what a percentile bootstrap loses at 40 files


def test_files_are_scored_past_bad_ones_and_alike_in_processes(tmp_path, clean, noisy):
    for name, x, rate in [("clean", clean, RATE), ("noisy", noisy, RATE), ("slow", noisy, 8000)]:
        soundfile.write(tmp_path / f"{name}.wav", x, rate)
    (tmp_path / "junk.wav").write_bytes(b"RIFFjunk")
    ref = tmp_path / "clean.wav"
    pairs = [(k, ref, tmp_path / f"{k}.wav") for k in ("noisy", "junk", "absent", "slow", "clean")]
    heard = []
    table = score_files(pairs, ["si_sdr", "stoi"], on_file=heard.append)
    assert heard == list(table.rows) == ["noisy", "junk", "absent", "slow", "clean"]
    assert set(table.errors) == {"junk", "absent", "slow"}
    assert "8000 Hz" in table.errors["slow"]
    summary = table.summary()["si_sdr"]
    assert (summary.n, summary.failed) == (2, 3)
    why = ("si_sdr, stoi", "the file could not be read or paired")
    assert table.reasons() == {why: ["junk", "absent", "slow"]}
    data = json.loads(json.dumps(table.to_json(), allow_nan=False))
    assert data["files"]["junk"]["scores"]["si_sdr"] is None
    assert data["files"]["noisy"]["scores"]["stoi"] == table.rows["noisy"]["stoi"]
    with workers(2) as mapper:
        again = score_files(pairs, ["si_sdr", "stoi"], mapper)
    assert again.to_json() == table.to_json()


def test_networks_are_loaded_once_and_torch_never(noisy):
    code = (
        "import numpy as np, sys; from audiomask import metrics; x = np.load(sys.argv[1]); "
        "[metrics.score(x, x * .9, 16000, ['pesq_wb', 'stoi', 'si_sdr', 'plcmos']) for _ in range(2)]; "
        "assert 'torch' not in sys.modules and 'librosa' not in sys.modules; "
        "print(metrics._network.cache_info().misses)"
    )
    assert _run(code, noisy[: 2 * RATE]) == 1
