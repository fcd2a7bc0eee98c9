"""Write files that are whole or absent: hidden beside their name first, then renamed."""

from __future__ import annotations

import glob as globbing
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audiomask.audio.formats import AudioError

EXISTS = "exists already; give -f to overwrite it, or another name with -o"
LONGEST = 100  # bytes of a name that a hidden one keeps: file systems count bytes, and allow 255


def _kept(path: Path) -> str:
    return os.fsencode(path.name)[:LONGEST].decode("utf-8", "ignore")


def hidden(path: Path) -> Path:
    """Return a new name beside `path`, for a file that becomes `path` once it is whole."""
    return path.with_name(f".{_kept(path)}.{os.urandom(4).hex()}.part")


@contextmanager
def replacing(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Give a hidden path beside `path` to write to, and rename it to `path` at the end.

        with replacing("scores.json") as part:
            part.write_text(text)

    An exception removes the hidden file, and an old file stays as it was. Raises `AudioError` for a path
    that cannot be written, or that exists without `overwrite`.
    """
    path = Path(os.path.realpath(path))  # through links: the rename must not replace the link
    check_writable(path, overwrite=overwrite)
    part = hidden(path)
    try:
        yield part
        rename(part, path, overwrite=overwrite)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.filename not in (None, str(part)):
            raise  # something else that the caller did meanwhile has failed
        raise AudioError(f"{path}: cannot be written ({error.strerror}); {remedy(error)}") from None
    finally:
        part.unlink(missing_ok=True)


def rename(part: Path, path: Path, *, overwrite: bool) -> None:
    """Give a hidden file its name; `AudioError` if it was taken meanwhile, unless `overwrite`."""
    if not overwrite:
        try:
            os.link(part, path)  # fails where a rename would replace
        except FileExistsError:
            raise AudioError(f"{path}: {EXISTS}") from None
        except OSError:  # a disk that knows no links: what was free at the beginning is taken for free
            check_writable(path, overwrite=False)
        else:
            part.unlink()
            return
    part.replace(path)


def remove_parts(path: str | Path) -> None:
    """Remove what `replacing` or a `Writer` left beside `path` when its process was killed.

    It must not be called while another process may still be writing there.
    """
    path = Path(os.path.realpath(path))
    if _kept(path) == path.name:  # a cut name may be somebody else's
        for part in path.parent.glob(f".{globbing.escape(path.name)}.{'[0-9a-f]' * 8}.part"):
            part.unlink(missing_ok=True)


def remedy(error: OSError) -> str:
    return (
        "check the rights of the folder" if isinstance(error, PermissionError) else "choose another with -o"
    )


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it, unless it is there; `AudioError` where that fails."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudioError(f"{path}: cannot become a folder ({error.strerror}); choose another -o") from None


def check_writable(path: str | Path, *, overwrite: bool) -> None:
    """Raise `AudioError` unless `path` may become an output.

    Its folder must exist, and it must be new, or a regular file with `overwrite` set.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise AudioError(f"{path}: its folder does not exist; mkdir -p {path.parent}") from None
        return
    except OSError as error:
        raise AudioError(f"{path}: cannot be written ({error.strerror}); {remedy(error)}") from None
    if stat.S_ISDIR(mode):
        raise AudioError(f"{path}: is a folder, and a file is wanted; name a file in it")
    if not stat.S_ISREG(mode):  # a rename would replace the device itself
        raise AudioError(f"{path}: is a device or a pipe; give '-' to write to standard output")
    if not overwrite:
        raise AudioError(f"{path}: {EXISTS}")
