"""Data directories of the mini corpus for the tests that train."""

from pathlib import Path

import pytest
from corpus_trees import mini

from audiomask.data.simulate.mixtures import write_mixtures


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """`speech_*`, `noise_*`, and two validation pairs."""
    folder = tmp_path_factory.mktemp("data")
    for part in ("train", "valid"):
        speech, noise = mini(part)
        speech.write(folder / f"speech_{part}")
        noise.write(folder / f"noise_{part}")
    write_mixtures(speech, noise, folder / "pairs", count=2)
    return folder
