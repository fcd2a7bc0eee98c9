import runpy
import sys
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[2] / "tools").rglob("*.py"))
TOOLS = [path for path in FILES if "ArgumentParser" in path.read_text()]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda p: p.stem)
def test_help(tool, monkeypatch, capsys):
    """Every tool that takes arguments explains them: argparse formats its texts only when asked."""
    monkeypatch.setattr(sys, "argv", [str(tool), "--help"])
    monkeypatch.syspath_prepend(str(tool.parent))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(tool), run_name="__main__")
    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out
