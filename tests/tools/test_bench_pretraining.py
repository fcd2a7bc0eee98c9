"""The benchmark of pretraining prints a line for each case, and counts the work that the mask saves."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_measures_every_case(tmp_path):
    words = ["--size", "S", "--frames", "64", "--batch", "1", "--steps", "1", "--warmup", "0"]
    words += ["--ratios", ".5", ".75", "--decoders", "global", "cross", "cross_mae"]
    words += ["--json", str(tmp_path / "rows.json")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/bench_pretraining.py"), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
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
