"""The commands and code of the README and of the pages for users run as printed, on small recordings that
bear the names they use.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "egs/mini/denoise/corpus/demo"
PAGES = ("README.md", *(f"docs/{name}.md" for name in ("denoise", "live", "train", "pretrain")))
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}


def blocks(language: str, page: str = "") -> list[str]:
    """The blocks of a page, or of all of them."""
    text = TEXTS[page] if page else "\n".join(TEXTS.values())
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(verb: str, page: str = "") -> list[str]:
    lines = [line.partition("  #")[0].strip() for b in blocks("bash", page) for line in b.splitlines()]
    return [line for line in lines if line.startswith(f"audiomask {verb} ")]


@pytest.fixture
def folder(tmp_path) -> Path:
    """What the commands find: noisy.wav, reference.wav, talk.wav, recordings/."""
    where = tmp_path
    for source, name in (("mixture_noisy", "noisy"), ("mixture_clean", "reference")):
        x, rate = sf.read(DEMO / f"{source}.flac", frames=40000)
        sf.write(where / f"{name}.wav", x, rate)
    sf.write(where / "talk.wav", x, rate)
    (where / "recordings").mkdir()
    sf.write(where / "recordings" / "one.wav", x, rate)
    return where


def shell(line: str, folder: Path) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        line,
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_film_is_taken_apart(folder):
    x, rate = sf.read(folder / "talk.wav", frames=8000)
    sf.write(folder / "film.wav", np.stack([x, x[::-1]], 1), rate)
    (line,) = commands("separate", "README.md")
    done = shell(line, folder)
    assert done.returncode == 0, done.stderr
    stems = {path.stem: sf.read(path)[0] for path in (folder / "stems/film").iterdir()}
    assert set(stems) == {"speech", "music", "effects"}
    assert all(y.shape == (8000, 2) for y in stems.values())


def test_the_denoising_commands_run_in_their_order(folder):
    done = [line for block in blocks("bash") for line in block.splitlines() if "pip install ." in line]
    assert done, "the README says how to install"
    page = "docs/denoise.md"
    first = [line for verb in ("enhance", "plot", "score") for line in commands(verb, page)]
    assert len(first) == 5
    for line in first:
        result = shell(line, folder)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
    assert sf.info(folder / "clean.wav").frames == 40000
    assert (folder / "cleaned" / "one.wav").exists()
    assert (folder / "before_after.png").stat().st_size > 10_000


def test_the_stream_command_runs_without_its_decoder(folder):
    line = next(line for block in blocks("bash") for line in block.splitlines() if "audiomask stream" in line)
    decoder, _, stream = line.partition("|")
    assert "ffmpeg" in decoder
    x, _ = sf.read(folder / "noisy.wav", dtype="int16")
    (folder / "noisy.pcm").write_bytes(x.tobytes())
    result = shell(f"cat noisy.pcm | {stream}", folder)
    assert result.returncode == 0, result.stderr
    assert (folder / "clean.pcm").stat().st_size == 2 * len(x)


def test_the_first_steps_run(folder):
    for line in [
        *commands("enhance", "README.md"),
        *commands("plot", "README.md"),
        *commands("tag", "README.md"),
        *commands("mark", "README.md"),
        *commands("detect", "README.md"),
    ]:
        result = shell(f"{line} -f" if " -o " in line else line, folder)
        assert result.returncode == 0, f"{line}\n{result.stderr}"


def test_the_python_example_runs():
    (example,) = blocks("python", "README.md")
    exec(compile(example, "README.md", "exec"), {})


def test_every_option_and_verb_that_is_named_exists():
    """Training takes too long here: its options are parsed, not run (egs/mini runs them)."""
    import importlib

    from audiomask.cli import VERBS, parser

    for verb in VERBS:
        module = importlib.import_module(f"audiomask.cli.{verb}")
        for line in commands(verb):
            parser(verb, module).parse_args(shlex.split(line)[2:])  # exits with 2 for what it does not know


def test_files_that_are_linked_exist():
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
