"""docs/watermark.md: its commands and its example run, and its table names the keys that there are."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from marking import KEY, speech, wav

from audiomask.runtime.files.marked import Heard
from audiomask.runtime.marks.detector import ALARM, Detection

PAGE = (Path(__file__).parents[2] / "docs/watermark.md").read_text()
FIRST, PIPES = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wav("talk.wav", 8, start=0)
    wav("talks/one.wav", 1.5)
    Path("messages.txt").write_text("one 7\n")
    return tmp_path


def test_the_commands_run(cli, desk):
    lines = [shlex.split(line, comments=True) for line in FIRST.splitlines()]
    assert len(lines) == 5
    said = []
    for number, (_, *words) in enumerate(lines):
        done = cli(*words)
        assert done.code == 0, done.err
        said += done.out.splitlines()
        if number == 0:
            Path("me.key").write_text(KEY)  # by which the page's numbers were made
    shown = re.search(r"^```\n(marked.wav: .*?)^```", PAGE, re.M | re.S)[1].splitlines()
    assert [re.sub(r"p = \S+?(?=[,)])", "p", line) for line in said[:2]] == [
        re.sub(r"p = \S+?(?=[,)])", "p", line) for line in shown
    ]
    assert json.loads(said[2])["message"] == "0007"


def test_the_pipes_run(desk):
    Path("me.key").write_text(KEY)
    Path("talk.pcm").write_bytes(np.rint(32767 * speech()).astype("<i2").tobytes())
    for line in PIPES.splitlines():
        command = line.replace("audiomask ", f"{sys.executable} -m audiomask ")
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    part, whole = map(json.loads, done.stdout.splitlines())
    assert (part["from"], part["to"], part["message"], whole["message"]) == (0, 2, "beef", "beef")


def test_the_example_runs(desk):
    Path("me.key").write_text(KEY)
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(compile(example, "watermark.md", "exec"), {})


def test_the_table_names_every_key():
    found = Detection(True, 0.0, 1, [], [], 1.0, [2])
    entry = Heard(found, False).entry("a.wav")
    table = PAGE.partition("| key | what it is |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == list(entry)
    assert f"less than {entry['p']:.1e}" in table
    assert f"at most {ALARM:.0e}".replace("e-0", "e-") in table


def test_the_options_exist(cli):
    text = cli("mark", "--help").out + cli("detect", "--help").out
    options = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert len(options) > 8
    assert all(option in text for option in options)
