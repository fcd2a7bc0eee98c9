"""docs/attacks.md: its table is the code's, its example and its commands run."""

import re
import shlex
from pathlib import Path

import numpy as np
import soundfile as sf

from audiomask.data.simulate.attacks import markdown

PAGE = (Path(__file__).parents[2] / "docs/attacks.md").read_text()


def test_the_table_is_that_of_the_code():
    assert PAGE.count(markdown()) == 1, (
        "make it anew: python -c 'from audiomask.data.simulate.attacks import markdown; print(markdown())'"
    )


def test_the_example_runs():
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(compile(example, "attacks.md", "exec"), {})


def test_the_commands_run(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "marked").mkdir()
    x = 0.1 * np.random.default_rng(0).standard_normal(3 * 16000)
    for name in ("marked.wav", "marked/one.wav"):
        sf.write(tmp_path / name, x, 16000)
    block, report = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert len(lines) == 5
    for _, *words in lines:
        done = cli(*words, "-f")
        assert done.code == 0, done.err
    assert (tmp_path / "attacked/one.wav").exists()
    for line in report.splitlines():  # of peers, which have to be installed; tests/tools runs it on others
        assert shlex.split(line)[:2] == ["python", "tools/attack_report.py"]
