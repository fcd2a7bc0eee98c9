"""What ships: the encoder guesses what is hidden, the tagger names sounds, the larger denoiser denoises."""

import itertools
import json
from pathlib import Path

import numpy as np
import soxr
import torch

from audiomask import metrics, weights
from audiomask.audio import read
from audiomask.masks.patches.patterns import Random, tokens
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import PRETRAINED, resolve
from audiomask.runtime.player import Player
from audiomask.runtime.session import Session
from audiomask.tasks import encoders

NOISE = Path(__file__).parents[1] / "egs/mini/denoise/corpus/noise"
CLIPS = ("speech/valid/8975-270782-0000.opus", "noise/valid/helicopter/5-177957-A.opus")


def test_the_tagger_names_sounds_that_it_was_trained_on(cli):
    files = sorted(NOISE.glob("*/*/*.opus"))
    done = cli("tag", *files, "--json", "--top", "1", "-q")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    right = [Path(row["file"]).parent.name == row["tags"][0]["label"] for row in rows]
    assert len(right) == len(files) > 30
    assert sum(right) >= 0.9 * len(right)


def test_the_tagger_hears_speech_in_a_second(cli):
    (reader, *_) = sorted((NOISE.parent / "speech/valid").rglob("*.opus"))
    done = cli("tag", reader, "--json", "--every", "1", "-q")
    rows = [json.loads(line) for line in done.out.splitlines()]
    labels = [row["tags"][0]["label"] for row in rows]
    assert labels.count("speech") >= 0.8 * len(labels)
    assert rows[0]["end"] < 1.5


def test_the_encoder_guesses_what_is_hidden_of_sounds_that_it_never_met():
    """1 is a network that knows nothing; it was .66, and .72 with one layer of six spoiled."""
    model, frontend = encoders.load(PRETRAINED / "heed")
    losses = []
    for seed, file in enumerate(sorted(NOISE.glob("*/*/*.opus"))):
        x, rate = read(file)
        mono = soxr.resample(x.mean(0), rate, frontend.sample_rate)
        picture = frontend(torch.from_numpy(mono[None]))
        hidden = Random().sample(torch.tensor([seed]), model.grid_of(picture))
        with torch.inference_mode():
            losses.append(float(model.errors(picture, *tokens(hidden)).mean()))
    assert len(losses) > 30
    assert sum(losses) < 0.7 * len(losses)


def test_weights_beside_the_files_of_a_codec_are_theirs():
    """They are what attacks in training run; another training replaces both."""
    for name, (model, config) in weights.load_parts(PRETRAINED / "gist").items():
        meta = Artifact.load(PRETRAINED / f"gist_{name}.onnx").meta
        assert weights.fingerprint(model, config) == meta["hash"]


def test_the_larger_denoiser_denoises_and_the_small_one_stays_the_default():
    assert [a.name for a in resolve()] == ["sieve_16k", "sieve_48k"]
    assert [a.name for a in resolve("sieve")] == ["sieve_16k", "sieve_48k"]
    (medium,) = resolve("sieve_medium")
    assert medium.latency == 1024
    clean, noisy = (read(NOISE.parent / f"demo/mixture_{kind}.flac")[0][0] for kind in ("clean", "noisy"))
    session = Session(medium)
    out = np.concatenate([session.feed(noisy), session.flush()])
    before, after = (metrics.score(clean, x, 16000, ["pesq_wb", "si_sdr"]) for x in (noisy, out))
    assert after["pesq_wb"] > before["pesq_wb"] + 0.5
    assert after["si_sdr"] > before["si_sdr"] + 6


def test_the_separator_takes_speech_out_of_effects():
    """Of a reader and sounds that it never met, at 0 dB; and its stems sum to what came in."""
    (artifact,) = resolve(task="separate")
    assert [port.name for port in artifact.outputs] == ["speech", "music", "effects"]
    found = (read(NOISE.parent / path) for path in CLIPS)
    speech, effects = (soxr.resample(x[0], rate, 48000) for x, rate in found)
    n = min(len(speech), len(effects))
    pair = [np.stack([x[:n], x[:n]]) * (0.05 / np.sqrt((x[:n] ** 2).mean())) for x in (speech, effects)]
    mixture = np.float32(sum(pair))
    session = Session(artifact)
    made, rest = session.feed(mixture), session.flush()
    stems = {name: np.concatenate([y, rest[name]], 1) for name, y in made.items()}
    np.testing.assert_allclose(sum(stems.values()), mixture, atol=1e-5)
    for name, want in zip(("speech", "effects"), pair, strict=True):
        before, after = (metrics.score(want, x, 48000, ["si_sdr"])["si_sdr"] for x in (mixture, stems[name]))
        assert after > before + 3, name


def test_the_codec_brings_speech_back_the_better_the_more_is_sent():
    """Of readers that it never met; a fifth of the frames lost costs less than their share."""
    encoder, decoder = (Artifact.load(PRETRAINED / f"gist_{part}.onnx") for part in ("enc", "dec"))

    def score(x, books, lost=0.0):
        codes = played(encoder, {"audio": x[None]}, books=books)["codes"]
        gone = (np.random.default_rng(0).random((1, codes.shape[1])) < lost).astype(np.float32)
        y = played(decoder, {"codes": codes, "lost": gone})["decoded"][0, : len(x)]
        return metrics.score(x, y, 16000, ["pesq_wb", "estoi"])

    def played(artifact, streams, **controls):
        player = Player(artifact)
        player.set(controls)
        parts = player.feed(**streams), player.flush()
        return {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}

    def octaves(x):
        """Levels in dB of the octaves from 250 to 4000 Hz."""
        power = np.abs(np.fft.rfft(x)) ** 2
        edges = [round(hz * len(x) / 16000) for hz in (250, 500, 1000, 2000, 4000)]
        return 10 * np.log10([power[a:b].sum() for a, b in itertools.pairwise(edges)])

    clips = [read(path)[0][0] for path in sorted((NOISE.parent / "speech/valid").rglob("*.opus"))[:3]]
    for x in clips:  # PESQ forgives a codec that keeps one octave alone
        codes = played(encoder, {"audio": x[None]}, books=12)["codes"]
        y = played(decoder, {"codes": codes, "lost": np.zeros((1, codes.shape[1]), np.float32)})["decoded"]
        assert np.abs(octaves(y[0, : len(x)]) - octaves(x)).max() < 10
    least, usual, most, lossy = (
        np.mean([list(score(x, *how).values()) for x in clips], 0) for how in ((3,), (12,), (18,), (12, 0.2))
    )
    assert (least < usual).all()
    assert (usual < most + 0.02).all()
    assert usual[0] > 2.2
    assert usual[1] > 0.75
    assert lossy[1] > 0.75 * usual[1]


def test_what_ships_is_small():
    sizes = [p.stat().st_size for p in PRETRAINED.rglob("*") if p.suffix in (".onnx", ".safetensors")]
    assert max(sizes) <= 12 * 2**20
    assert sum(sizes) <= 90 * 2**20
    assert [a.name for a in resolve(task="tag")] == ["heed_16k"]
