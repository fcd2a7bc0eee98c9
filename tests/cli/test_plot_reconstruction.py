"""``audiomask plot reconstruction`` shows what a network guesses, for any mask, and says what is wrong."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from matplotlib import image

from audiomask import weights
from audiomask.cli import _patches, _reconstruction
from audiomask.masks.patches.patterns import tokens
from audiomask.masks.patches.saved import load
from audiomask.models.a_jepa import AJepa
from audiomask.models.audio_mae import AudioMae
from audiomask.models.eat import Eat
from audiomask.models.hpm import HPM
from audiomask.models.vit_tagger import ViTTagger
from audiomask.tasks import encoders

SMALL = {"frames": 128, "bands": 128, "width": 16, "depth": 2, "heads": 2}
DECODER = {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}


def saved(folder, kind=AudioMae, arguments=SMALL | DECODER):
    torch.manual_seed(0)
    config = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}
    config["frontend"] = {"class_path": "audiomask.frontend.logmel.LogMel"}
    weights.save(folder, kind(**arguments), config)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved("exp")
    random = np.random.default_rng(0)
    sf.write("talk.wav", 0.1 * random.standard_normal(2 * 22050), 22050)
    sf.write("short.wav", 0.1 * random.standard_normal(2000), 16000)
    sf.write("silence.wav", np.zeros(16000), 16000)
    return tmp_path


def test_a_picture_and_its_loss(cli, here):
    done = cli("plot", "reconstruction", "exp", "talk.wav", "-o", "a.png", "--kind", "block", "--seed", 4)
    assert done.code == 0, done.err
    assert "the first 1.28 s, which is what the network is made for" in done.err
    assert image.imread("a.png").std() > 0.1
    model, frontend = encoders.load("exp")
    cut = _patches.features(*sf.read("talk.wav"))[:, :128]
    visible, hidden = tokens(_patches.sampled("block", cut, 0.8, 4).masked)
    with torch.no_grad():
        guess, target = model((cut - frontend.mean) / (2 * frontend.std), visible, hidden)
    loss = float((guess - target).square().mean())
    assert f"a.png: loss {loss:.4f} over 51 of 64 patches" in done.out
    again = cli("plot", "reconstruction", "exp", "talk.wav", "-o", "a.png")
    assert "a.png: exists already" in again.err
    for kind in ("strips", "segments", "confidence"):
        done = cli("plot", "reconstruction", "exp", "talk.wav", "-o", f"{kind}.png", "--kind", kind)
        assert done.code == 0, done.err


def test_a_saved_mask_is_replayed(cli, here):
    words = ["--kind", "time", "--save", "m.npz", "--seconds", 1]
    assert cli("plot", "masks", "talk.wav", "-o", "m.png", *words).code == 0
    replay = ["-o", "r.png", "--replay", "m.npz"]
    done = cli("plot", "reconstruction", "exp", "talk.wav", *replay, "--seconds", 1)
    assert done.code == 0, done.err
    assert f"over {int(load('m.npz').masked.sum())} of 48 patches" in done.out
    done = cli("plot", "reconstruction", "exp", "talk.wav", *replay, "-f")
    assert done.code == 1
    assert "m.npz: its mask is of 6 x 8 patches, talk.wav has 8 x 8" in done.err


def test_panels_share_a_scale_and_cover_what_they_should():
    x = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    masked = torch.zeros(8, 8, dtype=torch.bool)
    masked[2:5] = True
    errors, guess = torch.arange(24.0), x + masked.repeat_interleave(16, 0).repeat_interleave(16, 1)
    panels = [axis for axis in _reconstruction.figure(x, masked, errors, guess, 1.28).axes if axis.images]
    pictures = [axis.images[0] for axis in panels]
    assert len({picture.get_clim() for picture in pictures[:3]}) == 1
    covered = [np.ma.getmaskarray(picture.get_array()) for picture in pictures]
    assert [c.mean() for c in covered] == [0, 24 / 64, 0, 40 / 64]
    assert np.array_equal(np.asarray(pictures[2].get_array()), guess.numpy().T)
    assert pictures[3].get_array().T.compressed().tolist() == list(range(24))
    bare = [axis for axis in _reconstruction.figure(x, masked, errors, None, 1.28).axes if axis.images]
    assert len(bare) == 3


def test_other_networks(cli, here):
    saved("hpm", HPM, SMALL | DECODER | {"predictor_depth": 1})
    saved("a_jepa", AJepa, SMALL | {"predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2})
    saved("eat", Eat, SMALL | {"decoder_width": 16, "decoder_depth": 1, "groups": 4})
    for name in ("hpm", "a_jepa", "eat"):
        done = cli("plot", "reconstruction", name, "talk.wav", "-o", f"{name}.png")
        assert done.code == 0, done.err
    for name in ("a_jepa", "eat"):  # they predict embeddings, so there is no third panel
        assert image.imread(f"{name}.png").shape[0] < image.imread("hpm.png").shape[0]


def test_silence_is_drawn(cli, here):
    done = cli("plot", "reconstruction", "exp", "silence.wav", "-o", "a.png")
    assert done.code == 0, done.err
    assert "nan" not in done.out


def test_what_makes_no_sense(cli, here):
    saved("tagger", ViTTagger, SMALL | {"classes": 2})
    for words, code, message in (
        (["exp"], 2, "arguments are required: FILE"),
        (["exp", "talk.wav", "--kind", "disjoint"], 2, "one mask of a clip"),
        (["exp", "talk.wav", "--kind", "random", "--save", "m.npz"], 2, "unrecognized arguments: --save"),
        (["talk.wav", "talk.wav"], 1, "no config.json"),
        (["tagger", "talk.wav"], 1, "a ViTTagger guesses nothing that is hidden"),
        (["exp", "short.wav"], 1, "has no 0.16 s, a patch"),
        (["exp", "talk.wav", "--ratio", "0.001"], 1, "talk.wav: random: ratio 0.001 hides 0"),
        (["exp", "talk.wav", "--corpus", "mine"], 1, "no constants for the corpus"),
    ):
        done = cli("plot", "reconstruction", *words, "-o", "a.png")
        assert done.code == code, (words, done.err)
        assert message in done.err
        assert not Path("a.png").exists()
    done = cli("plot", "spectrogram", "talk.wav", "-o", "a.png", "--corpus", "esc")
    assert done.code == 2
    assert "unrecognized arguments: --corpus" in done.err
