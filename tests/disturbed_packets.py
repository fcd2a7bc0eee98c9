"""Packets as a network delivers them: shuffled, doubled, dropped."""

import numpy as np


def disturbed(count, depth, seed, dropped=0.0, doubled=0.05, moved=0.1):
    """Numbers from 0 in an order in which each comes before the one ``depth`` further on, some twice or not
    at all, and what was dropped."""
    rng = np.random.default_rng(seed)
    gone = set(np.flatnonzero(rng.random(count) < dropped).tolist())
    moves = np.where(rng.random(count) < moved, rng.uniform(0, depth - 0.001, count), 0)
    arrivals = [(n + moves[n], n) for n in range(count) if n not in gone]
    arrivals += [(at + rng.uniform(0, 3 * depth), n) for at, n in arrivals if rng.random() < doubled]
    return [n for _, n in sorted(arrivals)], gone
