"""Print how fast models run in the browser: the page of ``audiomask serve`` in a real Chromium, one thread.

    python tools/bench/browser.py egs/mini/denoise/corpus/demo/mixture_noisy.flac --model sieve
    python tools/bench/browser.py FILE --live 10 --json

Each model gets the file several times, in pieces of a quarter second, and the table shows the median real-
time factor that the page reports, rate conversion included (below 1 is faster than real time). With --live it
also listens to the file as a microphone, block by block of the audio thread, and shows that factor, the lag
from microphone to loudspeaker at the page's own buffer, and the underruns. Whatever else the machine does
counts against it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import page_driver
import soundfile as sf
import soxr

from audiomask.audio import AudioError
from audiomask.runtime.net.server import PAGE, Service, Settings, offer

MICROPHONE_HZ = 48000
KEY_MS = 500  # in which the page begins to mark with a new key


def measure(
    page: page_driver.Page, model: str, file: Path, runs: int, live_s: float
) -> dict[str, float | str]:
    page.choose("browser", model)
    if page.at.is_visible("#new-key"):
        page.at.click("#new-key")
        page.at.wait_for_timeout(KEY_MS)
        page.wait("ready")
    factors = []
    for _ in range(runs):
        page.open(file)
        if page.text("message"):
            sys.exit(f"{model}: {page.text('message')}")
        factors.append(float(page.text("rtf")))
    row: dict[str, float | str] = {"model": model, "rtf": statistics.median(factors), "worst": max(factors)}
    if live_s:
        page.start()
        page.at.wait_for_timeout(1000 * live_s)
        row |= {"live_rtf": float(page.text("rtf")), "lag": page.text("lag")}
        row["underruns"] = int(page.text("underruns"))
        page.stop()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="a recording")
    parser.add_argument(
        "-m", "--model", action="append", default=[], metavar="NAME|FILE|DIR", help="default: all that ship"
    )
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="over the file (default 5)")
    parser.add_argument(
        "--live", type=float, default=0.0, metavar="S", help="seconds of microphone (default 0)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    if words := page_driver.missing():
        sys.exit(words)
    try:
        families = offer(args.model)
    except AudioError as error:
        sys.exit(str(error))
    sound, rate = sf.read(args.file, dtype="float32", always_2d=True)
    with tempfile.TemporaryDirectory() as folder:
        file, microphone = Path(folder, "file.wav"), Path(folder, "microphone.wav")
        sf.write(file, sound[:, 0], rate, subtype="FLOAT")
        sf.write(microphone, soxr.resample(sound[:, 0], rate, MICROPHONE_HZ), MICROPHONE_HZ)
        service = Service(families, Settings(page=PAGE))
        with page_driver.serving(service) as url, page_driver.chromium(microphone) as browser:
            page = page_driver.Page(browser, url)
            names = list(service.artifacts)
            rows = [measure(page, name, file, args.runs, args.live) for name in names]
            facts = {
                "browser": browser.version,
                "file_hz": rate,
                "file_s": round(len(sound) / rate, 2),
                "rows": rows,
            }
    if args.json:
        print(json.dumps(facts, indent=1))
        return
    print(f"Chromium {facts['browser']}, one thread, {facts['file_s']} s at {rate} Hz, {args.runs} runs\n")
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()
