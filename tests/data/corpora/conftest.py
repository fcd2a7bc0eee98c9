"""Small corpora as distributed, and data directories that must be sound."""

import corpus_trees
import pytest

from audiomask.data.kaldi.health import validate


@pytest.fixture
def tree(tmp_path):
    return lambda kind: getattr(corpus_trees, kind)(tmp_path / kind)


@pytest.fixture
def sound(tmp_path):
    """A function that writes data directories, each of which must be sound, and returns them."""

    def written(parts):
        for name, data in parts.items():
            data.write(tmp_path / "out" / name)
            assert validate(tmp_path / "out" / name) == []
        return parts

    return written
