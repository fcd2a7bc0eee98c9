"""Import Slakh2100, songs rendered from MIDI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.data.kaldi.collector import Collector
from audiomask.data.kaldi.directory import DataDir, DataError, read_text
from audiomask.data.kaldi.stems import chosen, grouped, submixes

OPTIONS = {
    "sums": ("DIR", "where the sums of several instruments are written", Path),
    "stems": (
        "NAME,NAME",
        "tables beside `other`, such as drums,bass,piano,guitar (default: drums,bass)",
        str,
    ),
}
PARTS = {"train": "train", "validation": "valid", "test": "test"}
CLASSES = (  # of instruments, as metadata.yaml writes them but for capitals and blanks
    "bass",
    "brass",
    "chromatic_percussion",
    "drums",
    "ethnic",
    "guitar",
    "organ",
    "percussive",
    "piano",
    "pipe",
    "reed",
    "sound_effects",
    "strings",
    "synth_lead",
    "synth_pad",
)


def instruments(track: Path) -> dict[Path, str]:
    """Return the recordings of a track with the class of each; DataError if metadata.yaml is of no use."""
    import yaml

    path = track / "metadata.yaml"
    try:
        about: dict[str, dict[str, Any]] = yaml.safe_load(read_text(path, "unpack the corpus again"))["stems"]
        return {
            track / "stems" / f"{name}.flac": str(stem["inst_class"]).split(" (")[0].lower().replace(" ", "_")
            for name, stem in about.items()
            if stem["audio_rendered"]
        }
    except (yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not the metadata of a song ({error!r}); unpack the corpus again") from None


def read(
    folder: str | Path,
    skipped: list[str] | None = None,
    *,
    sums: str | Path | None = None,
    stems: str = "drums,bass",
) -> dict[str, DataDir]:
    """Return the directories of Slakh2100, which are train, valid and test; `omitted` is passed over.

    A song is PART/TRACK/mix.flac with stems/S00.flac and so on beside it, whose instruments metadata.yaml
    names. `stems` are classes of instruments that get tables; other.scp has the rest. A stem of several
    instruments is their sum, written below `sums`, and one that a song lacks is silence. Reading decodes the
    whole corpus. Each song is its own speaker.
    """
    folder, wanted = Path(folder), chosen(stems, CLASSES)
    if sums is None:
        raise ValueError("the layout slakh writes sums of instruments; say where with --sums DIR")
    out: dict[str, DataDir] = {}
    for place, part in PARTS.items():
        tracks = sorted(path.parent for path in (folder / place).glob("*/metadata.yaml"))
        if not tracks:
            continue
        found = Collector(folder / place, skipped)
        for track in tracks:
            mix = track / "mix.flac"
            try:
                info = audio.verify(mix)
                groups = grouped(instruments(track), wanted)
                form = (info.rate, info.channels, info.frames)
                files = submixes(groups, Path(sums).resolve() / track.name, *form)
            except AudioError as error:
                found.fault(str(error))
                continue
            found.add(track.name, track.name, mix, None, **files)
        out[part] = found.finish()
    if not out:
        raise DataError(f"{folder}: no {'/*/metadata.yaml, '.join(PARTS)}/*/metadata.yaml; not Slakh2100")
    return out
