"""Recipes run in a copy that lies in a tree of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(tmp_path):
    """`recipe(NAME)` copies egs/NAME/TASK and returns `run(*words)`, which runs the script there."""

    def make(name, task="denoise"):
        tree = tmp_path / "repo"
        home = tree / f"egs/{name}/{task}"
        home.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(ROOT / "egs/utils", tree / "egs/utils", dirs_exist_ok=True)
        kept = shutil.ignore_patterns("data", "exp", "corpus", ".*")
        shutil.copytree(ROOT / f"egs/{name}/{task}", home, ignore=kept)
        for folder in ("recipes", "tools"):
            if not (tree / folder).exists():
                (tree / folder).symlink_to(ROOT / folder)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

        def run(*words):
            return subprocess.run(
                [home / "run.sh", *map(str, words)],
                capture_output=True,
                text=True,
                env={**os.environ, "PATH": path},
            )

        run.home = home
        return run

    return make
