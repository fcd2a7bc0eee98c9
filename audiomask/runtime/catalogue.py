"""Find models by name, file or folder, among those that ship and those of the user."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from audiomask.runtime.artifact import KEY, Artifact, ArtifactError
from audiomask.runtime.codes.probabilities import Probabilities
from audiomask.runtime.onnx_parser import metadata

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"
_RATE_SUFFIX = re.compile(r"[-_.]?(\d+)k(?:hz)?$", re.IGNORECASE)


def family(artifact: Artifact | str) -> str:
    """Return the name shared at all rates: `denoise` for `denoise_16k` and `denoise_48k`."""
    return _RATE_SUFFIX.sub("", artifact if isinstance(artifact, str) else artifact.name)


def _load_all(paths: Iterable[Path]) -> list[Artifact]:
    return [Artifact.load(path) for path in sorted(paths)]


def shipped() -> list[Artifact]:
    """Return the models in the package."""
    return _load_all(PRETRAINED.glob("*.onnx"))


def _catalogue() -> dict[Path, dict[str, Any]]:
    """Return what chooses among the models in the package, without reading their graphs."""
    found = {}
    for path in sorted(PRETRAINED.glob("*.onnx")):
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            meta = json.loads(metadata(data)[KEY])
            found[path] = {key: meta[key] for key in ("name", "task", "outputs")}
            found[path]["default"] = meta.get("default")
        except (OSError, ValueError, KeyError, TypeError):
            Artifact.load(path)  # raises an error that says what is wrong
    return found


def resolve(name: str | Path | None = None, *, task: str = "enhance") -> list[Artifact]:
    """Return the artifacts that `name` means, by rising sample rate.

    It is a file, a folder of one family, a shipped model or a shipped family (`denoise_48k`, `denoise`); None
    means the default model of `task`. Raises `ArtifactError`, with the names that exist.
    """
    if name is None:
        metas = {path: meta for path, meta in _catalogue().items() if meta["task"] == task}
        if len({family(meta["name"]) for meta in metas.values()}) > 1:
            metas = {path: meta for path, meta in metas.items() if meta["default"]}
        if not metas:
            raise ArtifactError(
                f"no default model for {task} ships with this audiomask; name one with -m FILE"
            )
        found = _load_all(metas)
    elif os.path.isdir(name):  # noqa: PTH112 - Path's test raises for names that are too long
        found = _load_all(Path(name).glob("*.onnx"))
        if not found:
            raise ArtifactError(f"{name}: holds no .onnx file; export a model into it")
    elif os.path.exists(name) or Path(name).suffix.lower() == ".onnx" or "/" in str(name):  # noqa: PTH110
        found = [Artifact.load(name)]
    else:
        metas = _catalogue()
        found = _load_all(
            [path for path, meta in metas.items() if name in (path.stem, meta["name"])]
            or [path for path, meta in metas.items() if name == family(meta["name"])]
        )
        if not found:
            names = " ".join(sorted(path.stem for path in metas)) or "none"
            raise ArtifactError(f"{name}: is neither a file nor a shipped model; shipped are: {names}")
    families = {family(a) for a in found}
    if len(families) > 1:
        raise ArtifactError(f"{name}: holds several models ({' '.join(sorted(families))}); name one file")
    return sorted(found, key=lambda a: a.sample_rate)


def separators(name: str | Path | None = None, stems: Iterable[str] = ()) -> list[Artifact]:
    """Return the artifacts, by rising sample rate, that take out each of `stems`.

    `name` is as in `resolve`; None means the default model to separate if it makes these stems, else one that
    ships and does. Raises `ArtifactError`, with the models and stems that exist.
    """
    wanted = [*dict.fromkeys(stems)]
    kinds: dict[str, list[str]] = {}  # stems of families, that which is the default first
    if name is None:
        metas = {path: meta for path, meta in _catalogue().items() if meta["task"] == "separate"}
        for meta in sorted(metas.values(), key=lambda meta: not meta["default"]):
            kinds.setdefault(family(meta["name"]), [port["name"] for port in meta["outputs"]])
        fitting = [kind for kind, made in kinds.items() if {*wanted} <= {*made}]
        if not kinds or (fitting and not wanted):
            return resolve(None, task="separate")  # or raises
        found = _load_all(path for path, meta in metas.items() if family(meta["name"]) in fitting[:1])
        found.sort(key=lambda artifact: artifact.sample_rate)
    else:
        found = resolve(name)
        for artifact in found:
            if artifact.task != "separate" or not artifact.alike:
                raise ArtifactError(
                    f"{artifact.name}: takes no sound apart into its like; its task is {artifact.task}: see "
                    f"audiomask {artifact.task} --help"
                )
        kinds = {family(found[0]): [port.name for port in found[0].outputs]}
        found = found if {*wanted} <= {*kinds[family(found[0])]} else []
    if not found:
        missing = next((stem for stem in wanted if not any(stem in made for made in kinds.values())), None)
        what = f"no model makes {missing}" if missing else f"no model makes all of {', '.join(wanted)}"
        there = "; ".join(f"{kind}: {' '.join(made)}" for kind, made in kinds.items())
        raise ArtifactError(f"{what}; there are {there}")
    return found


PROBABILITIES = "_prob.safetensors"  # the end of the name of what packs a codec's codes
PARTS = {"enc": "encode", "dec": "decode"}  # of a codec: how their files end, and their tasks


def codec_part(name: str | Path | None, part: str) -> Artifact:
    """Return a part of a codec, `"enc"` or `"dec"`.

    `name` is what `audiomask export` was given (STEM for STEM_enc.onnx and STEM_dec.onnx), either of these
    files, a folder with one such pair, or a shipped codec; None means the shipped one. Raises
    `ArtifactError`.
    """
    text = "" if name is None else str(name)
    if name is None:
        found = resolve(task=PARTS[part])
    else:
        stem = re.sub(r"(_(enc|dec))?(\.onnx)?$", "", text)
        paths = [Path(f"{stem}_{part}.onnx"), PRETRAINED / f"{stem}_{part}.onnx"]
        if os.path.isdir(text):  # noqa: PTH112
            paths = sorted(Path(text).glob(f"*_{part}.onnx"))
            if len(paths) > 1:
                raise ArtifactError(f"{text}: holds {' '.join(p.name for p in paths)}; name one of them")
        elif "/" in text:
            del paths[1]
        paths = [path for path in paths if os.path.exists(path)]  # noqa: PTH110
        if os.path.isfile(text) and not re.search(r"_(enc|dec)\.onnx$", text):  # noqa: PTH113
            paths = [Path(text)]
        if not paths:
            names = (
                " ".join(sorted(p.stem.removesuffix("_enc") for p in PRETRAINED.glob("*_enc.onnx"))) or "none"
            )
            raise ArtifactError(
                f"{text}: there is no {stem}_{part}.onnx, and no such codec ships; shipped are: {names}"
            )
        found = [Artifact.load(paths[0])]
    artifact = found[-1]
    if artifact.task != PARTS[part]:
        raise ArtifactError(
            f"{artifact.path}: its task is {artifact.task}, and a part to {PARTS[part]} is wanted; give the "
            "stem that audiomask export was given"
        )
    codec_hash(artifact)
    return artifact


def is_codec(name: str) -> bool:
    """Return whether a name is that of a codec rather than of a model by itself."""
    stem = re.sub(r"(_(enc|dec))?(\.onnx)?$", "", name)
    if os.path.isfile(name) and not re.search(r"_(enc|dec)\.onnx$", name):  # noqa: PTH113
        return False
    return any(
        os.path.exists(f"{folder}{stem}_{part}.onnx")  # noqa: PTH110
        for folder in ("", f"{PRETRAINED}/")
        for part in PARTS
    )


def codec_hash(artifact: Artifact) -> bytes:
    """Return 8 bytes that only the parts of this codec share; may raise `ArtifactError`."""
    parts = artifact.meta.get("parts")
    if not isinstance(parts, dict) or not set(PARTS) <= set(parts):
        raise ArtifactError(
            f"{artifact.path}: does not say which other part it belongs to; export both at once, with: "
            "audiomask export"
        )
    return hashlib.sha256(" ".join(str(parts[key]) for key in sorted(parts)).encode()).digest()[:8]


def probabilities_path(part: Artifact) -> Path:
    """Return where the probabilities of a codec's codes are, if there are any."""
    return Path(re.sub(r"_(enc|dec)(\.onnx)?$", "", str(part.path)) + PROBABILITIES)


def probabilities_of(part: Artifact, wanted: bytes = b"") -> Probabilities | None:
    """Return the probabilities of a codec's codes, STEM_prob.safetensors beside its parts.

    None stands for none, where no certain ones are `wanted` by their hash. Raises `ArtifactError` for those
    of another codec, and where the wanted ones are not there.
    """
    path = probabilities_path(part)
    try:
        status = path.stat()
    except OSError:
        if not wanted:
            return None
        raise ArtifactError(
            f"{path}: is missing, and packets were coded by the probabilities {wanted.hex()}; put it there"
        ) from None
    found = _probabilities(path, status.st_mtime_ns, status.st_size)
    if found.codec != codec_hash(part):
        raise ArtifactError(
            f"{path}: is of another codec ({found.codec.hex()}) than {part.path} ({codec_hash(part).hex()}); "
            "train and export probabilities for this one, or take the file away"
        )
    if wanted and found.hash != wanted:
        raise ArtifactError(
            f"{path}: are the probabilities {found.hash.hex()}, and packets were coded by {wanted.hex()}; "
            "take the audiomask that wrote them"
        )
    return found


@lru_cache(4)
def _probabilities(path: Path, *changes: int) -> Probabilities:
    return Probabilities.load(path)


class _Rated(Protocol):
    sample_rate: int


_Model = TypeVar("_Model", bound=_Rated)


def choose(artifacts: Sequence[_Model], rate: int) -> _Model:
    """Return the model of the lowest sample rate that is not below `rate`, else of the highest."""
    return next((a for a in artifacts if a.sample_rate >= rate), artifacts[-1])
