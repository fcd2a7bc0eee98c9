"""Drive the page of ``audiomask serve`` in a real Chromium without a screen: for its tests, measurements and
pictures.

Needs Debian's chromium, the Python package playwright (which brings no browser of its own here), and the
runtime of ``tools/release/vendor_web.py``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from audiomask.runtime.net import listener
from audiomask.runtime.net.server import PAGE, Service

# Nothing may go out to the network, and no card may be needed for sound or pictures.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
]
# A state may be too short for a look from outside.
ONCE_READY = """window.onceReady = new Promise((done) => {
    const look = () => document.body.dataset.state === "ready" && done();
    new MutationObserver(look).observe(document.body, { attributeFilter: ["data-state"] });
}), undefined"""
WAIT_MS = 60_000  # for what takes a second where nothing else runs


def missing() -> str:
    """What the machine lacks to drive the page, with the remedy, or ""."""
    if shutil.which("chromium") is None:
        return "chromium is not installed: apt-get install chromium"
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed: pip install 'audiomask[dev]'"
    if not (PAGE / "vendor").is_dir():
        return "onnxruntime-web is not there: python tools/release/vendor_web.py"
    return ""


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """The service on a free port of this machine, as its address."""
    socket = listener.bind("127.0.0.1", 0)
    server = listener.server(service, certificate=None, key=None, say=lambda text: None)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[socket])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def chromium(microphone: Path, *flags: str) -> Iterator[Any]:
    """A browser with a fresh profile, whose microphone plays a WAV file again and again."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        microphone_flag = f"--use-file-for-fake-audio-capture={microphone}"
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[*FLAGS, microphone_flag, *flags]
        )
        try:
            yield browser
        finally:
            browser.close()


class Page:
    """The page at ``url`` in a window of its own. ``errors``: what the console complained about; ``at``: the
    page of playwright."""

    def __init__(
        self, browser, url: str, *, microphone: bool = True, scripts: tuple[str, ...] = (), **window
    ):
        self.context = browser.new_context(permissions=["microphone"] if microphone else [], **window)
        for script in scripts:
            self.context.add_init_script(script)
        self.errors: list[str] = []
        self.at = self.context.new_page()
        self.at.set_default_timeout(WAIT_MS)
        self.at.on("console", lambda m: m.type in ("error", "warning") and self.errors.append(m.text))
        self.at.on("pageerror", lambda error: self.errors.append(str(error)))
        self.at.goto(url)
        self.wait("ready", "failed")

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_) -> None:
        self.context.close()

    def wait(self, *states: str) -> None:
        self.at.wait_for_selector(", ".join(f"body[data-state={state}]" for state in states))

    def text(self, name: str) -> str:
        return self.at.text_content(f"#{name}").strip()

    def choose(self, mode: str | None = None, model: str | None = None) -> None:
        if mode:
            self.at.check(f"[name=mode][value={mode}]", force=True)
        if model:
            self.at.select_option("#model", model)
        self.wait("ready", "failed")

    def open(self, path: Path) -> None:
        """Put a file through, to its end."""
        with self.working():
            self.at.set_input_files("#file", path)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Wait until what is begun in here is done."""
        self.at.evaluate(ONCE_READY)
        yield
        self.at.evaluate("window.onceReady")

    def start(self) -> None:
        """Start the microphone."""
        self.at.click("#mic")
        self.wait("live")

    def stop(self) -> None:
        self.at.click("#mic")
        self.wait("ready")

    def saved(self, button: str = "save") -> tuple[np.ndarray, int]:
        """What a download holds: ``[channels, T]`` and its rate."""
        with self.at.expect_download() as download:
            self.at.click(f"#{button}")
        sound, rate = sf.read(download.value.path(), dtype="float32", always_2d=True)
        return sound.T, rate
