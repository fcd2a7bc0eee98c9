"""Many live sessions in one call of the graph.

    artifact = resolve("denoise_16k")[0]
    a, b = Session(artifact), Session(artifact, sample_rate=48000, channels=2)
    y_a, y_b = feed_all([(a, block_a), (b, block_b)])     # as a.feed(block_a), b.feed(block_b)
    rest_a, y_b = feed_all([(a, None), (b, next_block)])  # a's signal ends: as a.flush()

A small model spends about half of its time on what a call costs, however many rows it has; stacked, the
sessions share that (tools/bench_sessions.py). Sessions stack that were made of the same `Artifact` object
with the same ``threads``; any others may be in the list and run in calls of their own. Rates, channels,
controls and lengths of blocks may differ; what has the same number of hops to do at a time goes together.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from audiomask.runtime.engine import Step, run

if TYPE_CHECKING:
    from audiomask.runtime.session import Session

Work = Generator[list[Step], None, np.ndarray]  # wishes that wait, then a result


def feed_all(
    pairs: Sequence[tuple[Session, np.ndarray | None] | tuple[Session, np.ndarray | None, np.ndarray | None]],
) -> list[np.ndarray | Exception]:
    """What `Session.feed` gives for each block (`Session.flush` for None; a third member is its ``lost``),
    within 1e-5 of its peak, or the exception it raises: ValueError for a block of a wrong shape,
    `ArtifactError` for a graph that fails, after which that session has to be reset; RuntimeError for a
    session that is in use already, twice in the list or in another thread. No session feels the errors of
    another.

    A session belongs to one thread at a time; lists without a common session may run at once.
    """
    return drive(
        [
            session.flushing() if block is None else session.feeding(block, *lost)
            for session, block, *lost in pairs
        ]
    )


def drive(works: Sequence[Work]) -> list[np.ndarray | Exception]:
    """Bring every work to its end, the steps that they wait for stacked. An exception is a result."""
    results: dict[int, np.ndarray | Exception] = {}
    waiting = dict(enumerate(works))
    while waiting:
        steps: list[Step] = []
        for n, work in list(waiting.items()):
            try:
                steps += next(work)
            except StopIteration as end:
                results[n] = end.value
            except Exception as error:  # of one session; the others go on
                results[n] = error
            if n in results:
                del waiting[n]
        run(steps)
    return [results[n] for n in range(len(works))]
