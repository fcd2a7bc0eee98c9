"""Take pictures for the docs of the page of ``audiomask serve``: a file, live in the dark, a codec, a mark.

python tools/release/picture_page.py    # writes page_file.png, page_live.png, page_codec.png, page_mark.png
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from PIL import Image

from audiomask.runtime.marks.carrier import Carrier
from audiomask.runtime.net.server import PAGE, Service, Settings, offer, offer_codecs
from audiomask.runtime.session import Session

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import page_driver

ROOT = Path(__file__).resolve().parents[2]
CLEAN = ROOT / "egs/mini/denoise/corpus/demo/mixture_clean.flac"
NOISY = ROOT / "egs/mini/denoise/corpus/demo/mixture_noisy.flac"
WINDOW = {"viewport": {"width": 1080, "height": 1010}}
TALL = {"viewport": {"width": 1080, "height": 1130}}  # for a codec's controls and figures
PARTLY_S = 2, 6  # of the speech: marked
LIVE_MS = 11_000  # until the picture scrolls
COLOURS = 96  # keeps a noisy picture under 300 kB


PICTURES = ("page_file.png", "page_live.png", "page_codec.png", "page_mark.png")


def marked(x: np.ndarray, rate: int, key: str) -> np.ndarray:
    """Return sound `[T]` that is marked in part."""
    carrier = Carrier(bytes.fromhex(key)).wave(0xBEEF)
    session = Session("hallmark", sample_rate=rate, controls={"carrier": carrier})
    y = np.concatenate((session.feed(x), session.flush()), axis=None)
    start, stop = (second * rate for second in PARTLY_S)
    return np.concatenate((x[:start], y[start:stop], x[stop:]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=ROOT / "docs/images", metavar="DIR", help="default docs/images"
    )
    out = parser.parse_args().out
    if words := page_driver.missing():
        sys.exit(words)
    out.mkdir(parents=True, exist_ok=True)
    sound, rate = sf.read(NOISY, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        file, microphone = Path(folder, "helicopter.wav"), Path(folder, "microphone.wav")
        sf.write(file, sound, rate, subtype="FLOAT")
        sf.write(microphone, soxr.resample(sound, rate, 48000), 48000)
        speech, rate = sf.read(CLEAN, dtype="float32")
        sf.write(Path(folder, "speech.wav"), speech, rate, subtype="FLOAT")
        service = Service(offer([]), Settings(page=PAGE), codecs=offer_codecs([]))
        with page_driver.serving(service) as url, page_driver.chromium(microphone) as browser:
            with page_driver.Page(browser, url, color_scheme="light", **WINDOW) as page:
                page.open(file)
                page.at.screenshot(path=out / "page_file.png")
            with page_driver.Page(browser, url, color_scheme="dark", **WINDOW) as page:
                page.start()
                page.at.wait_for_timeout(LIVE_MS)
                page.at.screenshot(path=out / "page_live.png")
                page.stop()
            with page_driver.Page(browser, url, color_scheme="light", **TALL) as page:
                page.choose(model="gist")
                page.open(Path(folder, "speech.wav"))
                with page.working():
                    page.at.get_by_label("Packets lost").fill("0.05")
                page.at.screenshot(path=out / "page_codec.png")
            with page_driver.Page(browser, url, color_scheme="light", **WINDOW) as page:
                key = secrets.token_hex(16)
                sf.write(Path(folder, "speech.wav"), marked(speech, rate, key), rate, subtype="FLOAT")
                page.choose(model="hallmark")
                page.at.check("[name=do][value=detect]", force=True)
                page.wait("ready")
                page.at.fill("#key", key)
                page.open(Path(folder, "speech.wav"))
                page.at.screenshot(path=out / "page_mark.png", full_page=True)
    for name in PICTURES:
        Image.open(out / name).convert("RGB").quantize(COLOURS, kmeans=2).save(out / name, optimize=True)
        print(f"{out / name}: {(out / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
