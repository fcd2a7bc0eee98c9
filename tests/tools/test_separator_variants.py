import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audiomask.data.corpora.folder import read as from_folder

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools/compare"))
variants = pytest.importorskip("separator_variants")


def test_differences_have_two_intervals():
    # scipy.stats.ttest_rel of the means .5, .5, 1.5 of each seed: 1 / 1.5 +- 4.303 / 3
    found = {
        "a": [{"bass": [1.0, 3.0]}, {"bass": [2.0, 4.0]}, {"bass": [1.0, 2.0]}],
        "b": [{"bass": [1.0, 4.0]}, {"bass": [3.0, 4.0]}, {"bass": [2.0, 4.0]}],
    }
    rows = variants.summary(found)
    assert [row[0] for row in rows] == ["a", "b", "b less a"]
    assert rows[0][1].startswith("2.17 +- ")
    assert rows[2][1].startswith("+0.83 +- 1.43 (+0.67 .. +1.00)")


def test_variants_are_read(capsys):
    words = [
        "r.yaml",
        "--train",
        "t",
        "--valid",
        "v",
        "--mixes",
        "m",
        "--out",
        "o",
        "--variant",
        "a",
        "--x.y=1",
    ]
    args = variants.parse(
        [*words, "--x.z=2", "--variant", "b", "--seeds", "0", "1", "--", "--data.batch_size", "4"]
    )
    assert args.variants == {"a": ["--x.y=1", "--x.z=2"], "b": []}
    assert args.options == ["--data.batch_size", "4"]
    for wrong in (words, [*words, "--variant", "b", "--seeds", "3"], [*words, "--x.z", "2"]):
        with pytest.raises(SystemExit):
            variants.parse(wrong)


def test_trains_separates_and_goes_on(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for part in ("train", "valid"):
        for stem in ("drums", "bass"):
            folder = tmp_path / f"{part}_{stem}"
            folder.mkdir()
            for n in range(2):
                sf.write(folder / f"{n}.wav", 0.1 * rng.standard_normal((24000, 2)), 16000)
            from_folder(folder).write(tmp_path / part / stem)
    for n in range(2):
        folder = tmp_path / f"mixes/{n}"
        folder.mkdir(parents=True)
        stems = {stem: 0.1 * rng.standard_normal((16000, 2)) for stem in ("drums", "bass")}
        for stem, x in (*stems.items(), ("mixture", sum(stems.values()))):
            sf.write(folder / f"{stem}.wav", x, 16000, subtype="FLOAT")
    words = [
        "x", str(ROOT / "recipes/separate/complex_unet.yaml"), "--train", str(tmp_path / "train"),
        "--valid", str(tmp_path / "valid"), "--mixes", str(tmp_path / "mixes"), "--steps", "2",
        "--seeds", "0", "1", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "all.json"),
        "--variant", "complex", "--variant", "magnitude", "--model.model.mask=magnitude", "--",
        "--model.model.stems", "[drums, bass]", "--model.model.widths", "[4, 6]", "--model.model.size", "64",
        "--model.model.hop_length", "16", "--model.model.sample_rate", "16000", "--model.warmup", "1",
        "--data.segment", "8000", "--data.batch_size", "2", "--data.steps", "2", "--data.clips", "2",
        "--data.workers", "0", "--data.together", "0", "--trainer.accelerator", "cpu",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    assert variants.main() == 0
    said = capsys.readouterr().out
    assert "magnitude less complex" in said
    found = json.loads((tmp_path / "all.json").read_text())
    assert {
        name: [{k: len(v) for k, v in seed.items()} for seed in seeds] for name, seeds in found.items()
    } == {name: [{"drums": 2, "bass": 2}] * 2 for name in ("complex", "magnitude")}
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("model.onnx")}
    assert len(made) == 4
    assert variants.main() == 0
    assert capsys.readouterr().out == said
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("model.onnx")}
    monkeypatch.setattr("sys.argv", [*words, "--data.num_nothing", "1"])
    with pytest.raises(SystemExit, match="give another --out"):
        variants.main()
