"""The benchmark of pretraining prints a line for each case, and counts the work that the mask saves."""

import json
from pathlib import Path

import inline

from audiomask.models.audio_mae import SIZES

ROOT = Path(__file__).parents[2]


def test_it_measures_every_case(tmp_path, monkeypatch):
    small = {"width": 48, "depth": 12, "heads": 2, "decoder_width": 64, "decoder_heads": 2}  # S by 8
    monkeypatch.setitem(SIZES, "S", small)
    words = ["--size", "S", "--frames", "64", "--batch", "1", "--steps", "1", "--warmup", "0"]
    words += ["--ratios", ".5", ".75", "--decoders", "global", "cross", "cross_mae"]
    words += ["--json", str(tmp_path / "rows.json")]
    done = inline.run(ROOT / "tools/bench/pretraining.py", *words)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["decoder"], row["ratio"]) for row in rows] == [
        ("Audio-MAE's design", 0.5), ("global", 0.5), ("global", 0.75), ("cross", 0.5), ("cross", 0.75),
        ("cross_mae", 0.5), ("cross_mae", 0.75),
    ]  # fmt: skip
    assert len(done.stdout.splitlines()) == 8
    work = [row["gflop"] for row in rows]
    assert work[0] > work[1] > work[2] > 0
    assert work[3] > work[4] > 0
    assert work[5] > work[6] > 0
    assert work[5] > work[3]
    assert rows[0]["speed"] == 1
