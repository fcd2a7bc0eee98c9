"""tools/bench/localisation.py: what it calls agreement, and a mark with a hole."""

import sys
from pathlib import Path

import numpy as np
import pytest
from marking import speech

sys.path.insert(0, str(Path(__file__).parents[2] / "tools/bench"))
from localisation import agreement, measured


def test_agreement_of_stretches():
    assert agreement([(0, 2), (3, 5)], [(0, 2), (3, 5)]) == 1
    assert agreement([(0, 4)], [(2, 6)]) == pytest.approx(2 / 6)
    assert agreement([(0, 4)], [(0, 1), (3, 5)]) == pytest.approx(2 / 5)
    assert agreement([(0, 1)], [(2, 3)]) == agreement([(0, 1)], []) == 0


def test_a_hole_is_found_and_where_nothing_is_marked_none():
    x = np.concatenate((speech(6.0)[:, 0], speech(6.0)[::-1, 0]))
    iou, edges = measured(x, 16000, np.random.default_rng(0))
    assert iou > 0.93
    assert edges < 0.1
    assert measured(0 * x, 16000, np.random.default_rng(0)) == (0, np.inf)
