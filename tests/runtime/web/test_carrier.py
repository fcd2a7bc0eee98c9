"""The page makes the carriers of keys and messages, in Node, as Python does."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from audiomask.runtime.marks.carrier import Carrier
from audiomask.runtime.net.server import PAGE

SCRIPT = """
const { Carrier, newKey, parseKey, parseMessage } = await import(process.argv[2] + "/carrier.js");
const made = [];
for (const [key, messages] of JSON.parse(process.argv[3])) {
  const carrier = await Carrier.of(parseKey(key));
  const spectra = [carrier.pilot, carrier.data].map(({ re, im }) => [[...re], [...im]]);
  const waves = messages.map((text) => [...carrier.wave(parseMessage(text))]);
  made.push({ spectra, signs: messages.map((text) => carrier.codeword(parseMessage(text))), waves });
}
const texts = ["", "00", "g".repeat(32), "0".repeat(31), "0".repeat(33), " " + "0".repeat(32)];
const refused = texts.map(parseKey);
const none = ["", "12345", "0x1f", "-1", "g", "1 "].map(parseMessage);
console.log(JSON.stringify({ made, keys: [newKey(), newKey()], refused, none }));
"""
CASES = [("00112233445566778899aAbBcCdDeEfF", ["0", "BEEF", "ffff", "1", "8000"]), ("0" * 32, ["1234"])]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What Node makes of the cases."""
    if shutil.which("node") is None:
        pytest.skip("needs node")
    script = tmp_path_factory.mktemp("carrier") / "make.mjs"
    script.write_text(SCRIPT)
    words = ["node", script, PAGE.as_uri(), json.dumps(CASES)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_carriers_are_those_of_python(page):
    for (key, messages), got in zip(CASES, page["made"], strict=True):
        carrier = Carrier(bytes.fromhex(key))
        for want, (re, im) in zip((carrier.pilot, carrier.data), got["spectra"], strict=True):
            np.testing.assert_allclose(np.asarray(re) + 1j * np.asarray(im), want, atol=1e-12)
        for n, message in enumerate(messages):
            np.testing.assert_array_equal(got["signs"][n], carrier.codeword(int(message, 16)))
            np.testing.assert_allclose(got["waves"][n], carrier.wave(int(message, 16)), atol=1e-6)


def test_texts_that_are_no_key_or_message(page):
    assert page["refused"] == [None] * 6
    assert page["none"] == [None] * 6
    one, other = page["keys"]
    assert len(bytes.fromhex(one)) == len(bytes.fromhex(other)) == 16
    assert one != other
