"""The page of audiomask serve in a real browser: what its tests share."""

import base64
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools/bench"))
import page_driver  # noqa: E402 - beside the tools that use it too

REASON = page_driver.missing()
MODES = ("browser", "server")

DROP = """([name, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
    const drop = (type) => document.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true }));
    drop("dragenter");
    const shown = document.body.classList.contains("dropping");
    drop("drop");
    return [shown, document.body.classList.contains("dropping")];
}"""

# The sound card runs at a rate of ours.
CARD = """const Made = AudioContext;
window.AudioContext = class extends Made {
    constructor(options) { super({ ...options, sampleRate: RATE }); }
};"""


def same(got, want):
    """Equal to 1e-4 of peak."""
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


def dropped(page, name, data):
    """Drop a file on the page, and return whether it shows that one may, before and after."""
    return page.at.evaluate(DROP, [name, base64.b64encode(data).decode()])
