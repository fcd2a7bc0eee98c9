"""Generated files are read as FFmpeg reads them, or refused for a right reason (tools/compare)."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("av")
TOOL = Path(__file__).parents[2] / "tools/compare/files_with_ffmpeg.py"


def compare(*arguments):
    """The tool in a process of its own: it forks, which a process with threads of others must not."""
    done = subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


def test_sixty_files():
    said = compare("--files", "60", "--seed", "18", "--jobs", "1")
    assert "60 files of seed 18" in said
    assert ", 0 faults" in said


@pytest.mark.slow
def test_three_hundred_files():
    assert "300 files" in compare("--files", "300", "--seed", "19")


@pytest.mark.slow
def test_the_command_line_leaves_whole_files_or_none():
    assert "30 files" in compare("--files", "30", "--seed", "20", "--command", "--jobs", "1")


def test_the_tool_tells_right_from_wrong(monkeypatch, tmp_path):
    """One sample that is off, missing, or another rate is a fault."""
    monkeypatch.syspath_prepend(str(TOOL.parent))
    import files_with_ffmpeg as tool
    import generated_files

    numbers = range(40)
    made = next(
        m for n in numbers if (m := generated_files.make(1, n)).change == "none" and ".wav" in m.suffix
    )
    path = tmp_path / f"a{made.suffix}"
    path.write_bytes(made.data)
    got = tool.by_audiomask(str(path), "0")
    theirs = tool.by_ffmpeg(str(path), 0)
    case = tool.Case(made, str(tmp_path), 30)
    monkeypatch.setattr(case, "asked", lambda *_: theirs)
    assert tool.judge(case, got)[0] == "equal"
    off = got["x"].copy()
    off[0, -1] += 2**-20
    for wrong in ({"x": off}, {"x": got["x"][:, 1:]}, {"rate": got["rate"] + 1}, {"notes": ["truncated"]}):
        assert tool.judge(case, got | wrong)[0] == "fault", wrong.keys()
    assert tool.judge(case, {"refused": "not audio"})[0] == "fault"
