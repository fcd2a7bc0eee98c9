"""What the docs show is run as it stands."""

import re
import shlex
import sys
from pathlib import Path

import inline
import pytest

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "egs/mini/denoise/corpus"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.M | re.S)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the page's files, on the Python path."""
    for language in ("python", "yaml"):
        for text in blocks("add_a_model.md", language):
            name = text.partition("\n")[0].removeprefix("# ")
            assert re.fullmatch(r"\w+\.(py|yaml)", name), (
                f"a block must begin with its file name, not {name!r}"
            )
            (tmp_path / name).write_text(text)
    (tmp_path / "corpus").symlink_to(CORPUS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("tinymask", None)


def test_the_model_of_the_page_keeps_the_contract(desk):
    import contract
    import torch
    from tinymask import TinyMask

    torch.manual_seed(0)
    model = TinyMask(filters=8, kernel=8).eval()
    for promise in contract.CONTRACT:
        promise(model)


def test_the_page_runs_from_corpus_to_stream(desk):
    (commands,) = blocks("add_a_model.md", "bash")
    for command in ["python check.py", *commands.splitlines()]:
        program, *words = shlex.split(command)
        assert program in ("python", "audiomask"), f"{command}: this test runs no {program}"
        run = inline.run(*words)
        assert run.returncode == 0, f"{command}\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}"
    assert (desk / "out/mixture_noisy.wav").stat().st_size > 100_000


def test_links_of_the_docs_lead_somewhere():
    for page in [*ROOT.glob("docs/*.md"), ROOT / "README.md", *ROOT.glob("recipes/*/README.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
