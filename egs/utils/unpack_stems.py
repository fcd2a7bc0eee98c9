#!/usr/bin/env python3
"""Usage: unpack_stems.py CORPUS OUT. Unpacks PART/SONG.stem.mp4 as OUT/PART/SONG/{mixture,drums,...}.wav.

A song that is there already is left; without any .stem.mp4 nothing happens. It takes PyAV, which comes with
pip install 'audiomask[media]'.
"""

import sys
from pathlib import Path

import numpy as np

from audiomask import audio

SUFFIX = ".stem.mp4"
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # in the order of MUSDB18


def unpack(path: Path, folder: Path) -> None:
    """Write each stream of `path` below `folder`, block by block; the mixture last, which marks the end."""
    import av

    for number in reversed(range(len(STREAMS))):
        with av.open(str(path)) as container:
            tracks = container.streams.audio
            if len(tracks) != len(STREAMS):
                sys.exit(f"{path}: has {len(tracks)} sound tracks, and a song of MUSDB18 has {len(STREAMS)}")
            track, context = tracks[number], tracks[number].codec_context
            out = folder / f"{STREAMS[number]}.wav"
            with audio.Writer(out, context.sample_rate, context.channels, overwrite=True) as writer:
                for frame in container.decode(track):
                    writer.write(np.atleast_2d(frame.to_ndarray()))


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    corpus, out = map(Path, sys.argv[1:])
    songs = sorted(corpus.glob(f"*/*{SUFFIX}"))
    for path in songs:
        folder = out / path.parent.name / path.name.removesuffix(SUFFIX)
        if not (folder / "mixture.wav").exists():
            folder.mkdir(parents=True, exist_ok=True)
            unpack(path, folder)
    print(f"{len(songs)} songs unpacked" if songs else f"{corpus}: no {SUFFIX} files, nothing to unpack")


if __name__ == "__main__":
    main()
