"""A mask is a value: it is saved, replayed bit for bit, and drawn; a file that is none says so."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from audiomask.audio import AudioError
from audiomask.masks.patches.noise import ColourNoise
from audiomask.masks.patches.patterns import Block, Disjoint, Random, Time, TimeFrequency
from audiomask.masks.patches.saved import KINDS, Drawn, described, draw, load, made

GRID = (20, 6)
SAMPLERS = [
    kind(steps=9, step=4) if name in ("curriculum", "hardest", "staged") else kind()
    for name, kind in KINDS.items()
] + [Random(0.33), Disjoint(Time(0.75), 3), Block(0.5, scale=(0.1, 0.2)), TimeFrequency(0.5, 0.5)]


def drawn(sampler, rows=3, seed=0):
    seeds = torch.arange(seed, seed + rows) * 7_777_777_777 - 5
    scores = None
    if getattr(sampler, "scored", ""):
        shape = GRID if "freq" in sampler.scored else GRID[:1]
        scores = torch.rand(rows, *shape, generator=torch.Generator().manual_seed(0))
    return Drawn.of(sampler, seeds, GRID, scores)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_a_saved_mask_is_replayed_bit_for_bit(sampler, tmp_path):
    one = drawn(sampler)
    one.save(tmp_path / "mask.npz")
    again = load(tmp_path / "mask.npz")
    assert torch.equal(again.masked, one.masked)
    assert again.sampler == sampler
    assert torch.equal(again.seeds, one.seeds)
    assert again.grid == GRID
    assert (again.scores is None) == (one.scores is None)
    assert torch.equal(again.sampler.sample(again.seeds, again.grid, again.scores), one.masked)
    assert [p.name for p in tmp_path.iterdir()] == ["mask.npz"]


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 0.95), st.integers(-(2**63), 2**63 - 10))
def test_settings_survive_json(ratio, seed):
    for sampler in (
        Random(ratio),
        ColourNoise(ratio, "red", (0.5, ratio + 1)),
        Disjoint(Random(0.5 + ratio / 2), 2),
    ):
        again = made(json.loads(json.dumps(described(sampler))))
        assert again == sampler
        assert hash(again) == hash(sampler)


def rewrite(path, change):
    with np.load(path) as file:
        arrays = dict(file)
    meta = json.loads(str(arrays["meta"]))
    change(meta, arrays)
    np.savez(path, **(arrays | {"meta": np.array(json.dumps(meta))}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m, a: a["masked"].__setitem__(0, a["masked"][0] ^ 1), "comes out otherwise"),
        (lambda m, a: a["seeds"].__setitem__(0, 1), "comes out otherwise"),
        (lambda m, a: m["sampler"].update(ratio=0.5), "comes out otherwise"),
        (lambda m, a: m["sampler"].update(ratio=3), "ratio is 3"),
        (lambda m, a: m["sampler"].update(kind="magic"), "no kind of mask 'magic'; there are random, time"),
        (lambda m, a: m["sampler"].update(colour="red"), "random has no colour"),
        (lambda m, a: m.update(format=2), "format 2, known is 1"),
        (lambda m, a: m.pop("grid"), "is no saved mask"),
        (lambda m, a: m.update(grid=[10**9, 10**9]), "is no saved mask"),
        (lambda m, a: m.update(shape=[3, 10**9, 10**9], grid=[10**9, 10**9]), "bytes of flags"),
        (lambda m, a: m.update(shape=[2, 20, 6]), "for 3 seeds"),
        (lambda m, a: a.pop("seeds"), "is no saved mask"),
        (lambda m, a: a.update(seeds=a["seeds"].astype(float)), "want .B. int64"),
        (lambda m, a: a.update(seeds=np.array(["a", "b", "c"])), "is no saved mask"),
        (lambda m, a: a.update(seeds=a["seeds"].astype(object)), "is no saved mask"),
    ],
)
def test_a_changed_file_is_refused(change, says, tmp_path):
    path = tmp_path / "mask.npz"
    drawn(Random()).save(path)
    rewrite(path, change)
    with pytest.raises(AudioError, match=says) as error:
        load(path)
    assert str(path) in str(error.value)


def test_what_is_no_file_of_masks_is_refused(tmp_path):
    path = tmp_path / "mask.npz"
    with pytest.raises(AudioError, match="no such file; --save writes one"):
        load(path)
    drawn(Random()).save(path)
    whole = path.read_bytes()
    for bad in (b"", b"RIFF", whole[: len(whole) // 2], whole[:100] + bytes(60) + whole[160:]):
        path.write_bytes(bad)
        with pytest.raises(AudioError, match=r"is no saved mask|comes out otherwise"):
            load(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(AudioError, match="is no saved mask"):
        load(tmp_path / "array.npy")


def test_a_picture_covers_what_is_hidden():
    spectrogram = torch.arange(40.0)[:, None] + torch.arange(12.0)
    mask = torch.zeros(20, 6, dtype=torch.bool)
    mask[3, 1] = True
    axes = Figure().subplots()
    image = draw(mask, axes, spectrogram, 2.0, "one patch")
    shown = image.get_array()
    assert shown.shape == (12, 40)
    assert shown.mask.sum() == 4
    assert shown.mask[2:4, 6:8].all()
    np.testing.assert_array_equal(shown.data, spectrogram.T)
    assert image.get_extent() == [0.0, 2.0, 0.0, 12]
    assert axes.get_title() == "one patch"
    with pytest.raises(ValueError, match="20 x 6 patches for a spectrogram of 40 x 13"):
        draw(mask, axes, torch.zeros(40, 13))
