"""Import MoisesDB, songs of up to eleven stems."""

from __future__ import annotations

import json
from pathlib import Path

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.data.kaldi.collector import Collector, as_key
from audiomask.data.kaldi.directory import DataDir, DataError, read_text
from audiomask.data.kaldi.stems import chosen, grouped, submixes

OPTIONS = {
    "sums": ("DIR", "where mixtures and sums of several tracks are written", Path),
    "stems": ("NAME,NAME", "tables beside `other`, such as guitar,piano (default: vocals,drums,bass)", str),
}
STEMS = (
    "vocals",
    "bass",
    "drums",
    "guitar",
    "other_plucked",
    "percussion",
    "piano",
    "other_keys",
    "bowed_strings",
    "wind",
)


def song(path: Path) -> tuple[str, dict[Path, str]]:
    """Return the artist and the recordings, with the stem of each, that a data.json names."""
    try:
        about = json.loads(read_text(path, "unpack the corpus again"))
        files = {
            path.parent / stem["stemName"] / f"{track['id']}.{track['extension']}": str(stem["stemName"])
            for stem in about["stems"]
            for track in stem["tracks"]
        }
        return str(about.get("artist") or path.parent.name), files
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not the data of a song ({error!r}); unpack the corpus again") from None


def read(
    folder: str | Path,
    skipped: list[str] | None = None,
    *,
    sums: str | Path | None = None,
    stems: str = "vocals,drums,bass",
) -> DataDir:
    """Return the directory of MoisesDB, which has no parts; `audiomask data split` makes them by artist.

    A song is a folder with data.json, which names the tracks STEM/ID.wav. `stems` get tables; other.scp has
    the rest. The mixture, and stems of several tracks, are sums, written below `sums`; tracks that end
    early go on in silence, and a stem that a song lacks is silence. Reading decodes the whole corpus.
    """
    folder, wanted = Path(folder), chosen(stems, STEMS)
    if sums is None:
        raise ValueError("the layout moisesdb writes sums of tracks; say where with --sums DIR")
    found = Collector(folder, skipped)
    songs = sorted(folder.rglob("data.json"))
    if not songs:
        raise DataError(f"{folder}: no SONG/data.json below it; this is not the layout of MoisesDB")
    for path in songs:
        key = as_key(path.parent.name)
        try:
            artist, tracks = song(path)
            infos = [audio.info(track) for track in tracks]
            if not infos:
                raise DataError(f"{path}: names no tracks; remove the song")
            form = (infos[0].rate, max(i.channels for i in infos), max(i.frames for i in infos))
            groups = {"mixture": list(tracks)} | grouped(tracks, wanted)
            files = submixes(groups, Path(sums).resolve() / key, *form)
        except AudioError as error:
            found.fault(str(error))
            continue
        found.add(key, as_key(artist), files.pop("mixture"), None, **files)
    return found.finish()
