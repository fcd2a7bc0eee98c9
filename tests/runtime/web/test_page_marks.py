"""Marks in the page of audiomask serve, in a real browser: made there or on the server, and detected."""

import re

import numpy as np
import pytest
import soundfile as sf
import soxr
from pages import CARD, MODES, REASON, ROOT, page_driver, same

from audiomask.runtime.marks.carrier import Carrier
from audiomask.runtime.marks.detector import Detector
from audiomask.runtime.net.server import PAGE, Service, Settings, offer
from audiomask.runtime.session import Session

pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(REASON), reason=REASON)]
SPEECH = ROOT / "egs/mini/denoise/corpus/demo/mixture_clean.flac"
KEY, OTHER = "00112233445566778899aAbBcCdDeEfF", "ffeeddccbbaa99887766554433221100"
ELSEWHERE = "elsewhere.test"  # a name of this machine that browsers do not trust as they trust localhost
STORED = """async () => [
    location.href, document.cookie, JSON.stringify([localStorage, sessionStorage, history.state]),
    JSON.stringify(await indexedDB.databases()), JSON.stringify(await caches.keys()),
    document.documentElement.outerHTML,
]"""


def marked(x, rate, message=0xBEEF, key=KEY, **controls):
    """What a session makes of sound `[C, T]`."""
    controls = {"carrier": Carrier(bytes.fromhex(key)).wave(message), **controls}
    session = Session("hallmark", sample_rate=rate, channels=len(x), controls=controls)
    return np.concatenate([np.atleast_2d(y) for y in (session.feed(x), session.flush())], 1)


def detected(x, rate, key=KEY):
    detector = Detector(bytes.fromhex(key), rate, len(x))
    detector.feed(x)
    return detector.flush()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    x, rate = sf.read(SPEECH, dtype="float32")
    sf.write(folder / "speech.wav", x[:80001], rate, subtype="FLOAT")
    stereo = np.stack((x[:50001], x[40000:90001]), 1)
    sf.write(folder / "stereo.wav", soxr.resample(stereo, rate, 44100), 44100, subtype="FLOAT")
    wide = soxr.resample(x, rate, 48000)[None]
    sf.write(folder / "mic.wav", marked(wide, 48000)[0], 48000)
    spliced = np.tile(wide, 2)
    cut = slice(4 * 48000, 9 * 48000)
    spliced[:, cut] = marked(spliced, 48000)[:, cut]
    sf.write(folder / "splice.wav", spliced.T, 48000, subtype="FLOAT")
    sf.write(folder / "short.wav", x[:8000], rate)
    return folder


@pytest.fixture(scope="module")
def browser(folder):
    rules = f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"
    with page_driver.chromium(folder / "mic.wav", rules) as browser:
        yield browser


@pytest.fixture(scope="module")
def models():
    return offer(["sieve", "hallmark"])


@pytest.fixture(scope="module")
def site(models):
    with page_driver.serving(Service(models, Settings(page=PAGE))) as url:
        yield url


def marking(page, mode="browser", key=KEY, message="BEEF"):
    page.choose(mode, "hallmark")
    page.at.fill("#key", key)
    page.at.fill("#mark-message", message)


def detecting(page, key=KEY):
    page.choose(model="hallmark")
    page.at.check("[name=do][value=detect]", force=True)
    page.wait("ready")
    page.at.fill("#key", key)


def bands(page, seconds):
    """From where to where the picture is marked, in seconds."""
    spans = page.at.eval_on_selector_all(
        ".segment", "all => all.map(({ style }) => [parseFloat(style.left), parseFloat(style.width)])"
    )
    return [(left * seconds / 100, (left + width) * seconds / 100) for left, width in spans]


@pytest.mark.parametrize("mode", MODES)
def test_a_file_is_marked(page, folder, mode):
    sockets = []
    page.at.on("websocket", lambda socket: sockets.append(socket.url))
    marking(page, mode)
    assert page.at.locator("#controls input").count() == 3  # strength, dry, buffer: the carrier is the key's
    place = {"browser": "Nothing leaves this machine.", "server": "Sound and key are sent to this server."}
    assert page.text("where") == place[mode]
    for name in ("stereo", "speech"):
        page.open(folder / f"{name}.wav")
        x, rate = sf.read(folder / f"{name}.wav", dtype="float32", always_2d=True)
        got, got_rate = page.saved()
        assert got_rate == rate
        same(got, marked(x.T, rate))
        added, wanted = got - x.T, marked(x.T, rate) - x.T
        assert np.abs(added - wanted).max() < 1e-3 * np.abs(wanted).max()
        found = detected(got, rate)
        assert (found.message, found.p < 1e-20) == (0xBEEF, True)
        assert not detected(got, rate, OTHER).present
    with page.working():
        page.at.get_by_label("Strength").fill("2")
    same(page.saved()[0], marked(x.T, rate, strength=2.0))
    with page.working():
        page.at.fill("#mark-message", "1")
    same(page.saved()[0], marked(x.T, rate, 1, strength=2.0))
    with page.at.expect_download() as download:
        page.at.click("#save")
    assert download.value.suggested_filename == "speech_mark.wav"
    assert bool(sockets) == (mode == "server")
    page.choose(model="sieve_16k")
    assert page.at.locator("#marks").is_hidden()


def test_a_splice_is_shown_where_it_is_marked(page, folder):
    detecting(page)
    assert page.text("where") == "Sound and key are sent to this server, which does the detecting."
    page.open(folder / "splice.wav")
    assert page.text("message") == ""
    assert page.text("verdict") == "Marked"
    assert page.text("said") == "beef"
    assert page.text("bits") == f"{0xBEEF:016b}"
    assert page.at.locator("#bits span").first.get_attribute("title") == "bit 15: 100.00 %"
    assert page.text("speed") == "100 %"
    assert re.fullmatch(r"\de-\d+", page.text("chance"))
    ((start, end),) = bands(page, 16)
    assert abs(start - 4) < 0.1
    assert abs(end - 9) < 0.1
    assert page.text("segments") == f"{start:.2f}\u2013{end:.2f} s"
    # What marks alone make is out of sight, and nothing of it can be saved.
    for name in ("modes", "save", "after", "listen", "message-field"):
        assert page.at.locator(f"#{name}").is_hidden()
    page.at.keyboard.press("d")
    with page.working():
        page.at.fill("#key", OTHER)  # looks once more
    assert page.text("verdict") == "No mark of this key"
    assert float(page.text("chance")) > 1e-3
    assert (page.text("said"), page.text("segments"), bands(page, 16)) == ("–", "–", [])
    assert page.at.locator("#bits").is_hidden()
    page.open(folder / "short.wav")
    assert page.text("verdict") == "Too short to tell"
    with page.working():
        page.at.check("[name=do][value=mark]", force=True)
    assert page.at.locator("#found").is_hidden()
    assert page.at.locator("#after").is_visible()


def test_what_is_marked_here_is_detected_here(page, folder):
    """With a key of the page's own, which one can save, and which is nowhere else."""
    page.choose("browser", "hallmark")
    for _ in range(2):
        page.at.click("#new-key")
        with page.at.expect_download() as download:
            page.at.click("#save-key")
        key = download.value.path().read_text()
        assert re.fullmatch("[0-9a-f]{32}\n", key)
        assert download.value.suggested_filename == "audiomask.key"
    assert page.at.get_attribute("#key", "type") == "password"
    page.open(folder / "speech.wav")
    x, rate = page.saved()
    assert detected(x, rate, key.strip()).message == 1
    sf.write(folder / "out.wav", x.T, rate, subtype="FLOAT")
    page.at.check("[name=do][value=detect]", force=True)
    page.wait("ready")
    page.open(folder / "out.wav")
    assert (page.text("verdict"), page.text("said")) == ("Marked", "0001")
    stored = " ".join(page.at.evaluate(STORED)) + str(page.context.cookies())
    assert key.strip() not in stored.lower()
    assert page.at.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
    page.at.reload()
    page.wait("ready")
    assert page.at.input_value("#key") == ""


def test_a_key_is_in_no_address_and_no_output(browser, models, folder, capfd):
    asked, said = [], []
    with (
        page_driver.serving(Service(models, Settings(page=PAGE))) as url,
        page_driver.Page(browser, url) as page,
    ):
        page.at.on("request", lambda request: asked.append(request.url + str(request.post_data)))
        page.at.on("websocket", lambda socket: asked.append(socket.url))
        page.at.on("console", lambda message: said.append(message.text))
        marking(page)
        page.open(folder / "speech.wav")
        detecting(page)
        page.open(folder / "speech.wav")
        metrics = page.at.evaluate("fetch('/metrics').then((answer) => answer.text())")
    assert [url for url in asked if "/ws" in url]
    everything = " ".join([*asked, *said, metrics, *capfd.readouterr()]).lower()
    assert KEY.lower()[:16] not in everything


def test_what_is_missing_is_said(page, folder):
    page.choose("browser", "hallmark")
    for key, message, words in (
        ("", "1", "Give a key of 32 hex digits, or make a new one and save it."),
        (KEY + "0", "1", "Give a key of 32 hex digits, or make a new one and save it."),
        (KEY, "12345", "Give a message of 1 to 4 hex digits."),
    ):
        page.at.fill("#key", key)
        page.at.fill("#mark-message", message)
        page.at.set_input_files("#file", folder / "speech.wav")
        page.at.locator("#message", has_text=words).wait_for()
        page.wait("ready")
    page.at.fill("#key", "")
    page.at.click("#save-key")
    assert "There is no key of 32 hex digits to save" in page.text("message")
    with page.working():  # once all is there, the sound that waits is put through
        page.at.fill("#key", KEY)
        page.at.fill("#mark-message", "BEEF")
    x, rate = page.saved()
    assert detected(x, rate).message == 0xBEEF
    assert page.text("message") == ""


@pytest.mark.parametrize("mode", MODES)
def test_the_microphone_is_marked(browser, site, mode):
    with page_driver.Page(browser, site, scripts=(CARD.replace("RATE", "16000"),)) as page:
        marking(page, mode, OTHER, "1234")
        page.start()
        for one in ("#key", "#new-key", "#mark-message", "[name=do][value=detect]"):
            assert page.at.is_disabled(one)
        page.at.wait_for_timeout(3500)
        page.stop()
        assert not page.at.is_disabled("#key")
        x, rate = page.saved("save-input")
        got, _ = page.saved()
        if "dropped" not in page.text("length"):  # by a machine that is busy; the mark begins anew there
            same(got, marked(x, rate, 0x1234, OTHER))
        assert detected(got, rate, OTHER).message == 0x1234
        assert page.errors == []


def test_marks_are_detected_live(page):
    """The microphone hears marked speech."""
    detecting(page)
    page.start()
    page.at.locator("#verdict", has_text="Marked").wait_for()
    page.at.wait_for_timeout(500)
    page.stop()
    assert page.text("said") == "beef"
    x, rate = page.saved("save-input")
    ((start, end), *_) = bands(page, x.shape[1] / rate)
    want = detected(x, rate).segments[0]
    np.testing.assert_allclose((start, end), want, atol=0.1)


def test_over_plain_http_from_elsewhere_the_server_marks(browser, models, folder):
    with (
        page_driver.serving(Service(models, Settings(page=PAGE, loopback=False))) as url,
        page_driver.Page(browser, url.replace("127.0.0.1", ELSEWHERE), microphone=False) as page,
    ):
        marking(page)
        page.at.set_input_files("#file", folder / "speech.wav")
        page.at.locator("#message", has_text="only in pages from localhost or over https").wait_for()
        page.wait("ready")
        with page.working():
            page.at.check("[name=mode][value=server]", force=True)
        x, rate = page.saved()
        assert detected(x, rate).message == 0xBEEF
