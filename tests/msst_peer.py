"""The networks and losses of the package `msst`, without what they import for a training."""

import importlib
import sys
import types
from pathlib import Path

import pytest

from audiomask.frontend import torchaudio_import  # noqa: F401  (msst imports torchaudio)


def msst(module: str):
    """Return `msst.models.MODULE`; skip the test where the package is not installed."""
    package = pytest.importorskip("msst")
    root = Path(package.__path__[0]) / "models"
    for name in ("bandit/core", "bandit/core/loss"):  # their __init__ want asteroid and data sets
        full = "msst.models." + name.replace("/", ".")
        sys.modules.setdefault(full, types.ModuleType(full)).__path__ = [str(root / name)]
    return importlib.import_module(f"msst.models.{module}")
