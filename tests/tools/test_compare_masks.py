import json
import sys
from pathlib import Path
from types import SimpleNamespace

import inline
import pytest
import torch

from audiomask.data.kaldi.directory import DataDir

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools/compare"))
compare_masks = pytest.importorskip("masks")

SMALL = {
    "model.model": {"frames": 64, "width": 16, "depth": 1, "heads": 2, "decoder_width": 16,
                    "decoder_depth": 1, "decoder_heads": 2},
    "model.frontend": {"frames": 64},
    "model": {"warmup": 1, "shown": 0},
    "data": {"segment": 10000, "batch_size": 4, "steps": 2, "workers": 0},
    "trainer": {"accelerator": "cpu", "precision": "32-true"},
}  # fmt: skip


@pytest.mark.parametrize("mask", compare_masks.MASKS)
def test_every_encoder_sees_as_many(mask):
    words = compare_masks.options(mask, 10)
    module, name = words[1].rsplit(".", 1)
    pairs = zip(words[2::2], words[3::2], strict=True)
    settings = {key.split(".")[-1]: json.loads(value) for key, value in pairs}
    sampler = getattr(__import__(module, fromlist=[name]), name)(**settings)
    hidden = sampler.sample(torch.arange(5), (32, 8)).sum((1, 2))
    assert hidden.tolist() == [round(compare_masks.RATIO * 256)] * 5


def test_intervals():
    # scipy.stats.ttest_rel of the same differences: t = 2, so the interval is just as wide as 4.303 / 2 means
    found = {
        "random": {"0": {"1": 0.5, "2": 0.7}, "1": {"1": 0.6, "2": 0.6}, "2": {"1": 0.6, "2": 0.6}},
        "block": {"0": {"1": 0.6, "2": 0.8}, "1": {"1": 0.6, "2": 0.6}, "2": {"1": 0.7, "2": 0.7}},
    }
    random, block = compare_masks.summary(found)
    assert random == {"mask": "random", "accuracy": pytest.approx(0.6), "within": pytest.approx(0, abs=1e-12)}
    assert block["difference"] == pytest.approx(0.2 / 3)
    assert block["difference_within"] == pytest.approx(0.2 / 3 / 2 * 4.302653)


def test_trains_probes_and_goes_on(tmp_path, monkeypatch, capsys):
    files = sorted((ROOT / "egs/mini/denoise/corpus/noise/train").glob("*/*.opus"))[:12]
    table = {path.stem: path for path in files}
    data = {
        "wav.scp": {key: str(path) for key, path in table.items()},
        "utt2spk": {key: key for key in table},
        "utt2label": {key: "ab"[i % 2] for i, key in enumerate(table)},
        "utt2fold": {key: "12"[i // 2 % 2] for i, key in enumerate(table)},
    }
    DataDir(data).write(tmp_path / "data")
    options = [
        word
        for group, values in SMALL.items()
        for k, v in values.items()
        for word in (f"--{group}.{k}", str(v))
    ]
    words = [
        "compare_masks", str(ROOT / "recipes/pretrain/small.yaml"), "--sounds", str(tmp_path / "data"),
        "--folds", str(tmp_path / "data"), "--masks", "staged", "--seeds", "3", "4",
        "--steps", "2", "--out", str(tmp_path / "exp"), "--json", str(tmp_path / "masks.json"),
        "--", *options,
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    with monkeypatch.context() as patch:  # its words begin with python -m audiomask
        here = SimpleNamespace(run=lambda words, **options: inline.run(*words[3:]))
        patch.setattr(compare_masks, "subprocess", here)
        assert compare_masks.main() == 0
    first = json.loads((tmp_path / "masks.json").read_text())
    assert set(first["folds"]["staged"]) == {"3", "4"}
    assert set(first["folds"]["staged"]["3"]) == {"1", "2"}
    assert "less random" in capsys.readouterr().out

    def refuse(*words, **options):
        raise AssertionError(f"{words} again")

    monkeypatch.setattr(compare_masks, "call", refuse)  # all is there: nothing is trained
    assert compare_masks.main() == 0
    assert json.loads((tmp_path / "masks.json").read_text()) == first
    words[words.index("--steps") + 1] = "3"
    with pytest.raises(SystemExit, match="made with other options"):
        compare_masks.main()
