"""Read generated files with audiomask and with FFmpeg, and print where they differ.

    python tools/compare/files_with_ffmpeg.py --files 2000 --seed 0

Each file is read whole, in blocks and in part, in a process of its own that is stopped after --limit seconds
and whose memory is watched. `equal` is a file whose samples are FFmpeg's (to the bit where the coding is
lossless, to 2e-3 where not), or those that were written, where FFmpeg has others; `refused` one for which
there is a right reason. Where sizes are wrong or files are cut or joined, what is expected follows from the
whole files. FFmpeg 8 (libavformat 62) is not believed where it

- ends or begins Vorbis and MP3 of a few packets wrongly (ffmpeg_referee.py says how),
- rounds predictions of Microsoft's ADPCM otherwise than its inventor (generated_files.microsoft),
- takes RIFX for little-endian or refuses it, and knows no little-endian AU,
- keeps the fine state of IMA4 in AIFF between packets, where libsndfile takes the nine bits that are there:
  the two differ by up to 2 ** -8,
- makes something of half a frame; our reader leaves frames out that are not whole, with a warning.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import pickle
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile as sf
from ffmpeg_referee import decode, decode_opus
from generated_files import Made, make

from audiomask.audio import AudioError, Reader, read

LOSSY = 2e-3
MEMORY_MB = 150


# --- A process of its own -----------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What came of a call: its value, or how it ended; seconds, and MB at most above the start."""

    value: Any = None
    ended: str = ""
    seconds: float = 0.0
    memory_mb: float = 0.0


def memory_mb(name: str) -> float:
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", text)[1]) / 1024


def isolated(call: Callable[..., Any], *arguments: Any, limit: float = 30) -> Outcome:
    """Call a function in a fork, which may crash, hang or eat memory."""
    begin, (end, way) = time.perf_counter(), os.pipe()
    child = os.fork()
    if not child:
        os.close(end)
        try:
            with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123
                file.write("5")  # the peak begins anew
            idle = memory_mb("VmRSS")
            try:
                outcome = Outcome(call(*arguments))
            except BaseException:
                outcome = Outcome(ended=traceback.format_exc())
            outcome.memory_mb = memory_mb("VmHWM") - idle
            with os.fdopen(way, "wb") as pipe:
                pickle.dump(outcome, pipe, 5)
        finally:
            os._exit(0)
    os.close(way)
    data, outcome = bytearray(), None
    while True:
        left = limit - (time.perf_counter() - begin)
        if left <= 0 or not select.select([end], [], [], left)[0]:
            os.kill(child, signal.SIGKILL)
            outcome = Outcome(ended=f"still running after {limit:g} s")
            break
        if not (more := os.read(end, 2**20)):
            break
        data += more
    os.close(end)
    status = os.waitpid(child, 0)[1]
    if outcome is None:
        outcome = pickle.loads(data) if data else Outcome(ended=f"crashed (status {status})")
    outcome.seconds = time.perf_counter() - begin
    return outcome


# --- The two readers ----------------------------------------------------------------------------------------


def by_audiomask(path: str, seed: str) -> dict[str, Any]:
    """The samples and notes, or the refusal; and whether blocks and parts are those of the whole."""
    rng = random.Random(seed)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            x, rate = read(path)
            notes = [str(one.message) for one in caught]
            with Reader(path) as reader:
                info = reader.info
                size = rng.choice((160, 1000, 4096, 65536, max(1, x.shape[1] // 2)))
                blocks = np.concatenate(list(reader.blocks(size)), 1)
                told = reader.notes
                exact = info.frames < 2**62 and all(part.kind != "media" for _, part in reader._parts)
                exact = exact and isinstance(reader._file, sf.SoundFile)
            wrong = [] if same(blocks, x, 0) else [f"blocks of {size}: {difference(blocks, x)}"]
            if told != notes:
                wrong.append(f"blocks say {told}, the whole {notes}")
            if exact and info.frames != x.shape[1] and not notes:
                wrong.append(f"the header says {info.frames} samples, {x.shape[1]} came without a note")
            for _ in range(3):
                start = rng.randrange(x.shape[1])
                if start >= info.frames:
                    continue
                count = rng.choice((1, 160, 5000, -1))
                part = read(path, start, count)[0]
                wanted = x[:, start:] if count < 0 else x[:, start : start + count]
                if not same(part, wanted, 0):
                    wrong.append(f"{count} samples from {start}: {difference(part, wanted)}")
        return {
            "x": x,
            "rate": rate,
            "notes": notes,
            "wrong": wrong,
            "format": info.format,
            "mask": info.mask,
        }
    except AudioError as error:
        return {"refused": str(error).removeprefix(path)}


def by_ffmpeg(path: str, opus_rate: int) -> dict[str, Any]:
    """The samples, or the refusal."""
    try:
        x, rate = decode_opus(path, opus_rate) if opus_rate else decode(path)
    except (av.error.FFmpegError, ValueError, StopIteration, MemoryError, OSError) as error:
        return {"refused": str(error).replace(path, "")}
    x = np.where(np.isfinite(x), x, np.float32(0))
    return {"x": x, "rate": rate} if x.shape[1] else {"refused": "no samples"}


def same(x: np.ndarray, y: np.ndarray, error: float) -> bool:
    """Whether two signals have one shape and, nearly, one content."""
    if x.shape != y.shape:
        return False
    return np.array_equal(x, y) if not error else not x.size or float(np.abs(x - y).max()) <= error


def difference(x: np.ndarray, y: np.ndarray) -> str:
    """How two signals differ, in words."""
    if x.shape[0] != y.shape[0]:
        return f"{x.shape[0]} channels and {y.shape[0]}"
    n = min(x.shape[1], y.shape[1])
    gap = np.abs(x[:, :n] - y[:, :n])
    text = f"{x.shape[1]} samples and {y.shape[1]}"
    if not n or not gap.max() > 0:
        return f"{text}, common part equal"
    first = int(np.argmax(gap.max(0) > min(LOSSY, gap.max() / 2)))
    return f"{text}, off by {gap.max():.3g}, from {first} on"


# --- The verdict --------------------------------------------------------------------------------------------


class Case:
    """One file with the means to ask FFmpeg about it and about the files that it was made of."""

    def __init__(self, made: Made, folder: str, limit: float):
        self.made, self.folder, self.limit = made, folder, limit
        self.error = 2**-7 if "AIFF IMA" in made.words else LOSSY if made.lossy else 0

    def asked(self, data: bytes, like: dict[str, Any], suffix: str = "") -> dict[str, Any]:
        """FFmpeg's decode of a file; of Opus at the rate at which audiomask gave it."""
        path = Path(self.folder) / f"ref{suffix or self.made.suffix}"
        path.write_bytes(data)
        opus = b"OpusHead" in data[:100] and data[:4] == b"OggS"
        outcome = isolated(by_ffmpeg, str(path), like.get("rate", 48000) if opus else 0, limit=self.limit)
        return outcome.value or {"refused": f"FFmpeg {outcome.ended}"}


def judge(case: Case, got: dict[str, Any]) -> tuple[str, str]:
    """The verdict (equal, refused, fault), and why."""
    made, error = case.made, case.error
    theirs = case.asked(made.data, got)
    if "refused" in got:
        return refused(case, got["refused"], theirs)
    if got["wrong"]:
        return "fault", "; ".join(got["wrong"])
    x, rate, notes = got["x"], got["rate"], " ".join(got["notes"])
    if made.change == "none" and notes:
        return "fault", f"says {got['notes']} of a whole file"
    if rate not in (*made.rates, theirs.get("rate")):
        return "fault", f"{rate} Hz, written at {made.rate}, by FFmpeg {theirs.get('rate')}"
    if "x" in theirs and theirs["rate"] == rate and same(x, theirs["x"], error):
        return "equal", "FFmpeg's"
    base = whole(case, got)
    if base is not None:
        if same(x, base, error):
            return "equal", "what was written" if made.written[0] is not None else "FFmpeg's of the parts"
        more, less = x.shape[1] - base.shape[1], base.shape[1] - x.shape[1]
        if made.change == "tail" and not base.size:
            return "equal", "what is behind the header of a recorder that was stopped"
        begins = less >= 0 and same(x, base[:, : x.shape[1]], error)
        goes_on = more > 0 and base.size > 0 and same(x[:, : base.shape[1]], base, error)
        if goes_on and made.change in ("tail", "size") and re.search("stale|truncated", notes):
            return "equal", "and what lies behind a stale size, with a warning"
        if begins and made.change == "cut" and less > 0 and MISSING.search(notes):
            short = theirs["x"].shape[1] - x.shape[1] if "x" in theirs else 0
            if short <= (0 if made.unit else FRAME):
                return "equal", f"as far as it goes; FFmpeg has {short} more of a frame that is cut"
        if made.change == "hurt" and (x.shape == base.shape or MISSING.search(notes)):
            return "equal", "as far as damage shows"
        if made.change == "hurt" and more > 0 and "stale" in notes:
            return "equal", "and a chunk whose name is damaged, which may be samples, with a warning"
    if made.words.startswith("Vorbis") and made.change in ("none", "tail") and "x" in theirs:
        n = min(x.shape[1], theirs["x"].shape[1])
        if x.shape[1] == made.length and same(x[:, :n], theirs["x"][:, :n], error):
            return "equal", "as long as the last page says; FFmpeg leaves off its end"
    if base is None and "left out" in notes:
        first = case.asked(made.parts[0], got, made.suffixes[0])
        if "x" in first and same(x, first["x"], error):
            return "equal", "the first file, and a note of the others"
    words = difference(x, theirs["x"]) if "x" in theirs else theirs["refused"]
    of_whole = f"; of the whole: {difference(x, base)}" if base is not None else ""
    at = f" at {rate} and {theirs['rate']} Hz" if "x" in theirs and rate != theirs["rate"] else ""
    return "fault", f"{words}{at}{of_whole}; notes {got['notes']}"


FRAME = 1152  # samples; FFmpeg makes something of a frame that is cut, too
MISSING = re.compile("truncated|cut off|damaged|left out")


def whole(case: Case, got: dict[str, Any]) -> np.ndarray | None:
    """What is in the files that a file was made of, one behind the other."""
    parts = []
    made = case.made
    for data, written, suffix, rate in zip(made.parts, made.written, made.suffixes, made.rates, strict=True):
        part, theirs = written, {}
        if made.change in ("joined", "mixed") and part is not None and rate != got["rate"]:
            part = part if not part.shape[1] else None
        if part is None:
            theirs = case.asked(data, got, suffix)
            part = theirs.get("x") if theirs.get("rate") == got["rate"] else None
        if part is None and "refused" in theirs:  # a file too short for FFmpeg to know
            path = Path(case.folder) / f"part{suffix}"
            path.write_bytes(data)
            alone = isolated(by_audiomask, str(path), "part", limit=case.limit).value or {}
            part = alone.get("x", got["x"][:, :0])
        if part is not None and not part.shape[1]:
            part = got["x"][:, :0]
        if part is None or len(part) != len(got["x"]):
            return None
        parts.append(part)
    return np.concatenate(parts, 1)


def refused(case: Case, reason: str, theirs: dict[str, Any]) -> tuple[str, str]:
    """Whether a refusal is right."""
    made = case.made
    if "refused" in theirs:
        return "refused", f"so does FFmpeg: {theirs['refused']}"
    empty = [
        not written.shape[1] if written is not None else "refused" in case.asked(part, {}, suffix)
        for written, part, suffix in zip(made.written, made.parts, made.suffixes, strict=True)
    ]
    if "holds no samples" in reason and all(empty):
        return "refused", "none of its parts holds a sample"
    if made.change in ("joined", "mixed") and "joined from files of" in reason:
        kinds = set()
        for data, suffix, rate in zip(made.parts, made.suffixes, made.rates, strict=True):
            part = case.asked(data, {}, suffix)
            opus = b"OpusHead" in data[:100] and data[:4] == b"OggS"  # all Opus is 48 kHz for FFmpeg
            kinds.add((rate if opus else part["rate"], len(part["x"])) if "x" in part else part["refused"])
        if len(kinds) > 1:
            return "refused", "joined from files of other kinds"
    if made.change in ("joined", "mixed") and "refused" in case.asked(made.parts[0], {}, made.suffixes[0]):
        return "refused", "so does FFmpeg its first file"
    if made.change == "hurt" and re.search("damaged|malformed|truncated", reason):
        return "refused", "it is damaged"
    if made.change == "cut" and made.begin and len(made.data) < made.begin + made.unit:
        return "refused", "its header is cut, or all its samples are"
    if made.change == "cut" and MISSING.search(reason) and theirs["x"].shape[1] <= FRAME:
        return "refused", "of one frame that is cut FFmpeg makes something"
    if made.change == "field" and re.search(
        "sample rate .* is outside|channels are more than|contradicts itself", reason
    ):
        return "refused", "the number that is wrong is named"
    return "fault", f"refused ({reason}), FFmpeg reads {theirs['x'].shape} at {theirs['rate']}"


def try_file(job: tuple[int, int, float]) -> dict[str, Any]:
    """Make, read and judge one file."""
    seed, number, limit = job
    made = isolated(make, seed, number, limit=60)
    if made.ended:
        return {"number": number, "verdict": "fault", "why": f"the generator: {made.ended}"}
    with tempfile.TemporaryDirectory(prefix="files-") as folder:
        path = Path(folder) / f"a{made.value.suffix}"
        path.write_bytes(made.value.data)
        got = isolated(by_audiomask, str(path), f"{seed}/{number}", limit=limit)
        result = {
            "seed": seed, "number": number, "words": made.value.words, "change": made.value.change,
            "seconds": got.seconds, "memory_mb": got.memory_mb,
        }  # fmt: skip
        if got.ended:
            return result | {"verdict": "fault", "why": got.ended}
        verdict, why = judge(Case(made.value, folder, limit), got.value)
        if got.memory_mb > MEMORY_MB:
            verdict, why = "fault", f"{got.memory_mb:.0f} MB"
        said = got.value.get("refused") or got.value["notes"]
        return result | {"verdict": verdict, "why": why, "said": said}


OF_OUTPUT = re.compile("cannot be encoded|add --rate|cannot be written here")


def try_command(job: tuple[int, int, float]) -> dict[str, Any]:
    """Denoise one file by the command line; the result is whole, or nothing and a clear error."""
    seed, number, limit = job
    made = isolated(make, seed, number, limit=60).value
    with tempfile.TemporaryDirectory(prefix="files-") as folder:
        path, out = Path(folder) / f"a{made.suffix}", Path(folder) / "out"
        path.write_bytes(made.data)
        out.mkdir()
        target = out / ("b.wav" if number % 2 else f"b{made.suffix}")
        command = [sys.executable, "-m", "audiomask", "enhance", str(path), "-o", str(target)]
        command += ["-m", "sieve_16k", "--threads", "1", "-q"]
        begin = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=4 * limit, check=False)
            code, said = done.returncode, done.stderr.strip()
        except subprocess.TimeoutExpired:
            code, said = -1, f"still running after {4 * limit:g} s"
        left = sorted(file.name for file in out.iterdir())
        got = isolated(by_audiomask, str(path), "input", limit=limit).value
        wrong = []
        if code not in (0, 1, 2) or "Traceback" in said or (code and not said):
            wrong.append(f"exit code {code}")
        if left != ([target.name] if code == 0 else []):
            wrong.append(f"leaves {left}")
        if ("refused" in got) != (code == 1) and not OF_OUTPUT.search(said):
            wrong.append(
                f"exit code {code}, where the file alone {'fails' if 'refused' in got else 'is read'}"
            )
        if code == 0 and not wrong:
            after = isolated(by_audiomask, str(target), "output", limit=limit).value
            if "refused" in after or (target.suffix == ".wav" and after["x"].shape != got["x"].shape):
                wrong.append(f"writes {after.get('refused') or after['x'].shape}")
        verdict = "fault" if wrong else "refused" if code else "equal"
        return {
            "number": number, "words": made.words, "verdict": verdict, "why": "; ".join(wrong),
            "said": said[-1000:], "seconds": time.perf_counter() - begin,
        }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the files (default: %(default)s)")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these numbers of the row only")
    parser.add_argument("--limit", type=float, default=30, help="seconds for one file (default: %(default)s)")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="files at once (default: %(default)s)")
    parser.add_argument("--command", action="store_true", help="denoise them by the command line instead")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write a line of JSON for each file")
    args = parser.parse_args(argv)
    jobs = [(args.seed, number, args.limit) for number in args.only or range(args.files)]
    begin = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        work = try_command if args.command else try_file
        results = list(pool.imap(work, jobs, chunksize=4))
    for one in results:
        if one["verdict"] == "fault" or args.only:
            print(f"{one['number']}: {one.get('words', '')}")
            print(f"    {one['verdict']}: {one['why']}\n    said: {one.get('said')}")
    if args.save:
        args.save.write_text("".join(json.dumps(one) + "\n" for one in results))
    counts = collections.Counter(one["verdict"] for one in results)
    slowest = max(results, key=lambda one: one.get("seconds", 0))
    print(
        f"{len(results)} files of seed {args.seed} in {time.perf_counter() - begin:.0f} s: "
        f"{counts['equal']} equal, {counts['refused']} refused, {counts['fault']} faults; at most "
        f"{max(one.get('memory_mb', 0) for one in results):.0f} MB above an idle start; the slowest took "
        f"{slowest.get('seconds', 0):.2f} s ({slowest['number']}: {slowest.get('words')})\n"
        f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}, "
        f"libsndfile {sf.__libsndfile_version__}"
    )
    return int(counts["fault"] > 0)


if __name__ == "__main__":
    sys.exit(main())
