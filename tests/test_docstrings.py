"""Docstrings begin with a sentence that says what one gets; ruff checks their form (D205, D400, D417)."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1] / "audiomask"
ELLIPTIC = re.compile(r"(What|Of|As|The same|Likewise|Those|How)\b")
KINDS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
LONGEST = 90  # characters of a first line


def first_lines(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, KINDS) and (text := ast.get_docstring(node)):
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", text.splitlines()[0]


def test_first_lines_are_short_sentences_that_stand_alone():
    lines = [line for path in sorted(ROOT.rglob("*.py")) for line in first_lines(path)]
    assert len(lines) > 1000
    assert [place for place, line in lines if ELLIPTIC.match(line)] == []
    assert [place for place, line in lines if len(line) > LONGEST] == []
