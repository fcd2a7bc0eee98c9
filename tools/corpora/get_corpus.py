"""Download and unpack the archives of a corpus: resumed, checked, and whole or not there at all.

    python tools/corpora/get_corpus.py egs/voicebank_demand/denoise/conf/archives.tsv data/corpus

The list has a line for each archive, columns separated by tabs: file name, address, size in bytes, checksum
(md5:HEX or sha256:HEX); "-" stands for a size or checksum that nobody publishes. Lines that begin with # are
comments; --only takes some of the lines.

An archive is loaded to OUT/.archives/NAME.part, which a second run continues, checked, renamed, unpacked into
a hidden folder, moved to OUT, and deleted (--keep-archives keeps it). What is finished leaves its mark in
OUT/.archives and is not loaded again. Exit code 1 if anything failed.
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import http.client
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

BLOCK = 1 << 20
MARGIN = 100 << 20  # bytes of the disk that are left alone
JUNK = {"__MACOSX", ".DS_Store"}


class Failure(Exception):
    """What went wrong, with the file and the remedy."""


@dataclass(frozen=True)
class Archive:
    """A line of the list; `size` in bytes, `checksum` as ALGORITHM:HEX, both None if unknown."""

    name: str
    url: str
    size: int | None
    checksum: str | None


def read_list(path: Path) -> list[Archive]:
    """Failure for a line that is none of ours."""
    out = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path}: cannot read ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split("\t")
        try:
            name, url, size, checksum = parts
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{url!r} is no address")
            if checksum != "-":
                kind, _, digits = checksum.partition(":")
                bytes.fromhex(digits)
                if hashlib.new(kind).digest_size * 2 != len(digits):
                    raise ValueError(f"{checksum!r} is no {kind} checksum")
            out.append(
                Archive(
                    name,
                    url,
                    None if size == "-" else int(size),
                    None if checksum == "-" else checksum.lower(),
                )
            )
        except ValueError as error:
            raise Failure(f"{path}:{number}: want NAME, URL, SIZE, CHECKSUM by tabs ({error})") from None
        if PurePosixPath(name).name != name or name.startswith("."):
            raise Failure(f"{path}:{number}: {name!r} is not a plain file name")
    return out


def need_space(folder: Path, size: int, what: str) -> None:
    """Failure if the disk of `folder` has less than `size` bytes (and a margin) to spare."""
    free = shutil.disk_usage(folder).free
    if free < size + MARGIN:
        raise Failure(
            f"{folder}: {what} needs {(size + MARGIN) / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "make room or choose another folder"
        )


def download(archive: Archive, part: Path, timeout: float = 60.0) -> None:
    """Load the rest of `part`. Failure for an address that does not answer, a wrong size, a full disk."""
    there = part.stat().st_size if part.exists() else 0
    if archive.size is not None and there >= archive.size:
        return  # whole, or too long, which the check finds
    request = urllib.request.Request(archive.url, headers={"User-Agent": "audiomask"})
    if there:
        request.add_header("Range", f"bytes={there}-")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            if answer.status != 206:  # the server does not resume: from the start
                there = 0
            length = answer.headers.get("Content-Length")
            total = there + int(length) if length else archive.size
            if archive.size is not None and total != archive.size:
                raise Failure(
                    f"{archive.url}: offers {total} bytes, {archive.size} are expected; it has changed, "
                    "look at its page"
                )
            need_space(part.parent, (total or 0) - there, archive.name)
            with part.open("r+b" if there else "wb") as file:
                file.seek(there)
                start = said = time.monotonic()
                done = there
                while block := answer.read(BLOCK):
                    file.write(block)
                    done += len(block)
                    if time.monotonic() - said > 10:
                        said = time.monotonic()
                        speed = (done - there) / (said - start) / 1e6
                        share = f"{100 * done / total:.0f} %" if total else f"{done / 1e6:.0f} MB"
                        print(f"{archive.name}: {share}, {speed:.1f} MB/s", file=sys.stderr, flush=True)
            if total is not None and done != total:
                raise Failure(
                    f"{archive.url}: ended after {done} of {total} bytes; the same command continues"
                )
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # nothing is left to load, or `part` is of another file
            if archive.size is None and archive.checksum is None:
                raise Failure(f"{part}: does not belong to {archive.url}; remove it and try again") from None
            return
        remedy = (
            "look at the corpus' page for its new address" if error.code in (403, 404, 410) else "try later"
        )
        raise Failure(f"{archive.url}: the server answers {error.code} {error.reason}; {remedy}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise Failure(f"{archive.url}: {reason}; the same command continues where it stopped") from None


def check(archive: Archive, path: Path) -> None:
    """Failure, and no file, if it is not what the list says."""
    found = str(path.stat().st_size)
    good = archive.size is None or found == str(archive.size)
    expected = str(archive.size)
    if good and archive.checksum is not None:
        kind, _, expected = archive.checksum.partition(":")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        good = found == expected
    if not good:
        path.unlink()
        raise Failure(
            f"{archive.name}: size or checksum is {found} and not {expected}; it was removed, load it "
            "again; if it stays so, the archive has changed: look at its page"
        )


def unpacked_size(path: Path) -> int:
    """Bytes that the files of an archive take. Failure for a zip that would write outside its folder."""
    if not zipfile.is_zipfile(path):
        return path.stat().st_size * 3 // 2  # a tar tells only when it is read; recordings shrink by a third
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            name = PurePosixPath(item.filename)
            if name.is_absolute() or ".." in name.parts or "\\" in item.filename:
                raise Failure(f"{path}: {name} leads out of the folder; this archive is not to be trusted")
        return sum(item.file_size for item in archive.infolist())


def unpack(path: Path, out: Path) -> None:
    """Everything in the archive to `out`. A file that is there already must be the same.

    So an interrupted move goes on, and an archive never replaces what another one brought.
    """
    fresh = out / f".unpacking-{path.name}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        if not (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
            raise Failure(f"{path}: neither zip nor tar; look at what the server sent, then remove it")
        need_space(out, unpacked_size(path), f"unpacking {path.name}")
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(fresh)
        else:
            with tarfile.open(path) as archive:
                archive.extractall(fresh, filter="data")  # refuses devices and what leads out of the folder
        found = [p for p in fresh.rglob("*") if not JUNK & set(p.relative_to(fresh).parts)]
        for source in (p for p in found if p.is_symlink()):
            raise Failure(f"{path}: {source.relative_to(fresh)} is a link; this archive is not to be trusted")
        pairs = [(p, out / p.relative_to(fresh)) for p in found if p.is_file()]
        for source, target in pairs:
            if target.exists() and not filecmp.cmp(source, target, shallow=False):
                raise Failure(f"{target}: is there already, and {path.name} has another; remove one of them")
        for source, target in pairs:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise Failure(f"{path}: cannot be unpacked ({error}); remove it and load it again") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def get(archive: Archive, out: Path, keep: bool = False) -> None:
    """One archive, from its address to its files below `out`. Failure says what is to be done."""
    store = out / ".archives"
    store.mkdir(parents=True, exist_ok=True)
    mark, whole, part = (store / f"{archive.name}{end}" for end in (".done", "", ".part"))
    identity = f"{archive.url} {archive.size} {archive.checksum}\n"
    if mark.exists() and mark.read_text() == identity:
        print(f"{archive.name}: done before")
        return
    if not whole.exists():
        print(f"{archive.name}: loading {archive.url}", flush=True)
        download(archive, part)
        check(archive, part)
        part.replace(whole)
    if archive.checksum is None:
        print(f"{archive.name}: no checksum is known; its sha256 is {_sha256(whole)}")
    unpack(whole, out)
    mark.write_text(identity)
    if not keep:
        whole.unlink()
    print(f"{archive.name}: unpacked to {out}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("list", type=Path, help="table of archives")
    parser.add_argument("out", type=Path, help="folder of the unpacked corpus")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="load these archives only")
    parser.add_argument("--keep-archives", action="store_true", help="do not delete what was unpacked")
    args = parser.parse_args(argv)
    try:
        archives = read_list(args.list)
        if unknown := set(args.only or ()) - {a.name for a in archives}:
            raise Failure(f"{args.list}: has no archive {min(unknown)}")
        args.out.mkdir(parents=True, exist_ok=True)
        for archive in archives:
            if args.only is None or archive.name in args.only:
                get(archive, args.out, args.keep_archives)
    except (Failure, OSError) as error:
        print(f"get_corpus: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("get_corpus: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
