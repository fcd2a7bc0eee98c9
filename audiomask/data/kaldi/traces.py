"""Fix the losses of each utterance of a data directory, so that all methods meet the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from audiomask.audio import make_folder
from audiomask.data.kaldi.directory import DataDir, DataError, names_files
from audiomask.masks.packets import TRACE_MS, Bursts, LossModel, statistics, write_trace


def write_traces(
    data: DataDir, out: str | Path, model: LossModel, seed: int = 0, allow_pipes: bool = False
) -> tuple[DataDir, Bursts]:
    """Write OUT/traces/KEY.txt for every utterance, in packets of 20 ms, and the directory OUT.

    OUT has the tables of `data`, utt2trace, and clean.scp, which is wav.scp: the signal sent is the
    reference. The losses of an utterance depend on `seed` and its key alone. The total losses are returned
    too. DataError for a key that cannot name a file, AudioError for a recorded trace that is too short.
    """
    out = Path(out)
    tables = {name: dict(table) for name, table in data.tables.items()}
    tables["clean.scp"], tables["utt2trace"] = dict(tables["wav.scp"]), {}
    durations = data.durations(allow_pipes)
    traces = []
    make_folder(out / "traces")
    for u in data.utterances():
        if "/" in u.key or u.key.startswith("."):
            raise DataError(f"{data.path}: {u.key} cannot name a file; rename it")
        seconds = (durations[u.recording] if u.end is None else u.end) - u.start
        number = hashlib.sha256(f"{seed} {u.key}".encode()).digest()[:8]
        count = max(1, int(np.ceil(seconds * 1000 / TRACE_MS - 1e-6)))
        traces.append(model.sample(np.frombuffer(number, "<i8"), count)[0])
        write_trace(out / "traces" / f"{u.key}.txt", traces[-1])
        tables["utt2trace"][u.key] = f"traces/{u.key}.txt"
    for name, table in tables.items():
        if names_files(name) and name != "utt2trace":
            table.update({key: data.relocated(entry, out) for key, entry in table.items()})
    made = DataDir(tables, out)
    made.write(out)
    return made, statistics(traces)
