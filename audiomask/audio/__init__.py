"""Read and write audio files, whole or in blocks; signals are `[C, T]` float32.

    x, rate = audio.read("in.wav")
    audio.write("out.flac", x, rate)

Whatever is wrong with a file ends in one `AudioError` that names the file, the value and the remedy.
"""

from audiomask.audio.atomic import check_writable, make_folder, remove_parts, replacing
from audiomask.audio.formats import (
    CLIP_POLICIES,
    FORMATS,
    MAX_CHANNELS,
    MAX_RATE,
    MIN_RATE,
    AudioError,
    AudioInfo,
    AudioWarning,
    choose_format,
)
from audiomask.audio.mixing import Mixer, mixed, mono
from audiomask.audio.reader import Reader, info, read, verify
from audiomask.audio.writer import Writer, write
