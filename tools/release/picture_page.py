"""Take the pictures of docs/browser.md: the page of ``audiomask serve`` with a file, and live in the dark.

python tools/release/picture_page.py        # writes docs/images/page_file.png and docs/images/page_live.png
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import soundfile as sf
import soxr
from PIL import Image

from audiomask.runtime.net.server import PAGE, Service, Settings, offer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import page_driver

ROOT = Path(__file__).resolve().parents[2]
NOISY = ROOT / "egs/mini/denoise/corpus/demo/mixture_noisy.flac"
WINDOW = {"viewport": {"width": 1080, "height": 1010}}
LIVE_MS = 11_000  # until the picture scrolls
COLOURS = 96  # keeps a noisy picture under 300 kB


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
        service = Service(offer([]), Settings(page=PAGE))
        with page_driver.serving(service) as url, page_driver.chromium(microphone) as browser:
            with page_driver.Page(browser, url, color_scheme="light", **WINDOW) as page:
                page.open(file)
                page.at.screenshot(path=out / "page_file.png")
            with page_driver.Page(browser, url, color_scheme="dark", **WINDOW) as page:
                page.start()
                page.at.wait_for_timeout(LIVE_MS)
                page.at.screenshot(path=out / "page_live.png")
                page.stop()
    for name in ("page_file.png", "page_live.png"):
        Image.open(out / name).convert("RGB").quantize(COLOURS, kmeans=2).save(out / name, optimize=True)
        print(f"{out / name}: {(out / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
