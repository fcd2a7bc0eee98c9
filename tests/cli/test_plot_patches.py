"""``audiomask plot masks FILE`` draws what each kind hides, saves and replays it, and says what is wrong."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from matplotlib import image

from audiomask import weights
from audiomask.cli import _patches, parser, plot
from audiomask.masks.patches.saved import Drawn, load
from audiomask.models.audio_mae import AudioMae

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "egs/mini/denoise/corpus/demo"
CLEAN, NOISY = DEMO / "mixture_clean.flac", DEMO / "mixture_noisy.flac"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def names():
    return sorted(p.name for p in Path().iterdir())


def test_all_kinds_in_one_picture_or_in_one_each(cli):
    assert cli("plot", "masks", CLEAN, "-o", "all.png", "--seconds", 3).code == 0
    assert image.imread("all.png").std() > 0.1
    assert cli("plot", "masks", CLEAN, "-o", "{kind}.png", "--seconds", 2, "--dpi", 40).code == 0
    assert names() == sorted(["all.png", *(f"{kind}.png" for kind in _patches.KINDS)])
    again = cli("plot", "masks", CLEAN, "-o", "{kind}.png", "--seconds", 2)
    assert again.code == 1
    assert "random.png: exists already" in again.err


@pytest.mark.parametrize("kind", _patches.KINDS)
def test_a_kind_hides_its_share_of_real_sound(kind):
    spectrogram = _patches.features(*soundfile.read(NOISY))
    assert spectrogram.shape == (1, 784, 128)  # 7.97 s, 49 patches
    one = _patches.sampled(kind, spectrogram, 0.6, 3)
    assert one.grid == (49, 8)
    if kind not in _patches.FIXED:
        assert int(one.masked.sum()) == round(0.6 * 49 * 8)
    axes = _patches.figure(spectrogram[0], {kind: one}).axes
    panels = [axis for axis in axes if axis.images]
    assert len(panels) == one.masked[0].numel() // (49 * 8)
    covered = panels[0].images[0].get_array().mask.mean()
    assert covered == pytest.approx(float(one.masked[0].reshape(-1, 49, 8)[0].float().mean()))
    assert kind in panels[0].get_title()


def test_any_seed_of_64_bits_is_drawn():
    spectrogram = _patches.features(*soundfile.read(NOISY))
    for seed in (-(2**63), -1, 2**63 - 1):
        for kind in _patches.KINDS:
            assert _patches.sampled(kind, spectrogram, 0.6, seed).masked.any(), (kind, seed)


def test_dispersion_and_speech_look_at_the_sound():
    rate = 16000
    x = np.zeros(8 * rate)
    x[4 * rate :] = (
        0.1 * np.random.default_rng(0).standard_normal(4 * rate) * (np.arange(4 * rate) // 800 % 2)
    )
    spectrogram = _patches.features(x, rate)
    for kind in ("speech", "dispersion", "confidence"):
        hidden = torch.stack([_patches.sampled(kind, spectrogram, 0.4, seed).masked[0] for seed in range(30)])
        first, second = (half.float().mean() for half in (hidden[:, :24], hidden[:, 26:]))
        assert second > 1.5 * first, kind


def test_a_mask_is_saved_and_replayed(cli):
    made = cli(
        "plot",
        "masks",
        CLEAN,
        "-o",
        "a.png",
        "--kind",
        "speech",
        "--ratio",
        0.5,
        "--seed",
        7,
        "--save",
        "m.npz",
    )
    assert made.code == 0, made.err
    saved = load("m.npz")
    assert saved.masked.float().mean() == 0.5
    assert saved.seeds.tolist() == [7]
    assert cli("plot", "masks", CLEAN, "-o", "b.png", "--replay", "m.npz").code == 0
    a, b = image.imread("a.png"), image.imread("b.png")
    title = round(0.2 * len(a))  # which tells the kind in one and the file in the other
    np.testing.assert_array_equal(a[title:], b[title:])
    other = cli("plot", "masks", CLEAN, "-o", "c.png", "--replay", "m.npz", "--seconds", 2)
    assert other.code == 1
    assert "49 x 8 patches" in other.err
    assert names() == ["a.png", "b.png", "m.npz"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["masks", CLEAN, CLEAN, NOISY, "-o", "a.png"], 2, "one recording, or a clean and a noisy one; 3"),
        (["masks", "absent.wav", "-o", "a.png"], 1, "absent.wav: no such file"),
        (["masks", CLEAN, "-o", "a.txt"], 1, "is not a picture"),
        (["masks", CLEAN, "-o", "a.txt", "--kind", "time", "--save", "m.npz"], 1, "is not a picture"),
        (["masks", CLEAN, "-o", "a.png", "--kind", "bluish"], 2, "--kind bluish: there are all, random"),
        (["masks", CLEAN, "-o", "a.png", "--ratio", "1"], 2, "--ratio 1: the share that is hidden lies"),
        (["masks", CLEAN, "-o", "a.png", "--kind", "disjoint", "--ratio", ".5"], 2, "of disjoint is fixed"),
        (["masks", CLEAN, "-o", "a.png", "--seed", str(2**64)], 2, "no number of 64 bits"),
        (["masks", CLEAN, "-o", "a.png", "--save", "m.npz"], 2, "say which with --kind"),
        (["masks", CLEAN, "-o", "a.png", "--kind", "time", "--save", "no/m.npz"], 1, "folder does not exist"),
        (["masks", CLEAN, "-o", "a.png", "--replay", "m.npz"], 1, "m.npz: no such file"),
        (["masks", CLEAN, "-o", "a.png", "--replay", "m.npz", "--seed", "1"], 2, "leave --seed out"),
        (["masks", CLEAN, "-o", "a.png", "--seconds", "0.1"], 1, "has no 0.16 s, a patch"),
        (["masks", CLEAN, "-o", "a.png", "--start", "100"], 1, "start"),
        (["masks", CLEAN, "-o", "a.png", "--channel", "1"], 1, "no channel 1"),
        (
            ["masks", CLEAN, "-o", "a.png", "--kind", "time_frequency", "--seconds", "0.2"],
            1,
            "1 x 8; some must",
        ),
        (["masks", CLEAN, NOISY, "-o", "a.png", "--kind", "time"], 2, "--kind is for the patches of one"),
    ],
)
def test_bad_requests_end_in_one_line(words, code, says, cli):
    result = cli("plot", *words)
    assert result.code == code
    assert says in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert names() == []


def test_silence_and_one_patch_are_drawn(cli):
    soundfile.write("silence.wav", np.zeros(16000 * 3), 16000)
    soundfile.write("short.wav", 0.1 * np.sin(np.arange(16000 * 0.19)), 16000)
    soundfile.write("low.wav", 0.1 * np.sin(np.arange(8000 * 3)), 8000)
    for name in ("silence", "low"):
        for kind in (*_patches.SCORED, *_patches.NOISE) if name == "silence" else ("random",):
            result = cli(
                "plot", "masks", f"{name}.wav", "-o", f"{name}.png", "--kind", kind, "--dpi", 30, "-f"
            )
            assert result.code == 0, result.err
    assert cli("plot", "masks", "short.wav", "-o", "short.png", "--kind", "random").code == 0


def test_without_torch_the_remedy_is_named(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [n for n in sys.modules if n.startswith("audiomask.masks.patches.patterns")]:
        monkeypatch.delitem(sys.modules, name)
    result = cli("plot", "masks", CLEAN, "-o", "a.png")
    assert result.code == 1
    assert "plot: needs torch, which is not installed; pip install 'audiomask[train]'" in result.err
    assert cli("plot", "spectrogram", CLEAN, "-o", "b.png").code == 0  # other pictures need none
    assert names() == ["b.png"]


def test_the_help_names_every_kind(cli):
    text = " ".join(cli("plot", "masks", "--help").out.split())
    for kind in _patches.KINDS:
        assert kind in text.replace("- ", "-")
    assert isinstance(_patches.sampled("time", torch.zeros(1, 64, 128), 0.5, 0), Drawn)


def test_the_page_shows_every_kind_and_runs(cli):
    page = ROOT / "docs/masks.md"
    text = page.read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    exec(compile(example, str(page), "exec"), {})
    first, guessed, second = re.findall(r"^```bash\n(.*?)^```$", text, re.M | re.S)
    soundfile.write("talk.wav", soundfile.read(CLEAN, frames=48000)[0], 16000)
    sizes = {"frames": 512, "width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_depth": 1}
    config = {"class_path": "audiomask.models.audio_mae.AudioMae", "init_args": {**sizes, "decoder_heads": 2}}
    config["frontend"] = {"class_path": "audiomask.frontend.logmel.LogMel"}
    weights.save("exp/audio_mae", AudioMae(**config["init_args"]), config)
    for line in [*first.splitlines(), *guessed.splitlines()]:
        words = shlex.split(line, comments=True)
        assert words[0] == "audiomask"
        assert cli(*words[1:]).code == 0
    assert {"hidden.png", "block.png", "again.png", "block.npz", "guessed.png", "replayed.png"} <= set(
        names()
    )
    options = parser("plot", plot).parse_args(shlex.split(second)[2:])
    pictures = sorted((ROOT / options.out).parent.iterdir())
    assert [p.stem for p in pictures] == sorted(_patches.KINDS)
    assert sum(p.stat().st_size for p in pictures) < 400_000
    for picture in pictures:
        assert f"({picture.relative_to(page.parent)})" in text
    assert (ROOT / options.files[0]).samefile(CLEAN)
