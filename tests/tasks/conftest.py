"""Data directories of the mini corpus for the tests that train."""

from pathlib import Path

import pytest

from audiomask.data.corpora.folder import read as from_folder
from audiomask.data.corpora.librispeech import read as from_librispeech
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.simulate.mixtures import write_mixtures

CORPUS = Path(__file__).parents[2] / "egs/mini/denoise/corpus"


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """`speech_*`, `noise_*`, and two validation pairs."""
    folder = tmp_path_factory.mktemp("data")
    for part in ("train", "valid"):
        from_librispeech(CORPUS / "speech" / part).write(folder / f"speech_{part}")
        from_folder(CORPUS / "noise" / part).write(folder / f"noise_{part}")
    speech, noise = (DataDir.read(folder / f"{kind}_valid") for kind in ("speech", "noise"))
    write_mixtures(speech, noise, folder / "pairs", count=2)
    return folder
