"""Stems turned by faders in the page of audiomask serve, in a real browser, against the session in Python."""

import struct
from math import inf

import numpy as np
import pytest
import small_artifacts
import soundfile as sf
import soxr
from pages import MODES, REASON, ROOT, page_driver, same

from audiomask.audio.layout import mask_of
from audiomask.runtime.net.server import PAGE, Service, Settings, offer
from audiomask.runtime.session import Session

pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(REASON), reason=REASON)]
SPEECH = ROOT / "egs/mini/denoise/corpus/demo/mixture_noisy.flac"
SURROUND = "FL FR FC LFE BL BR"


def write_extensible(path, x, rate, speakers):
    """Write x `[C, T]` as floats in a WAV file that names its speakers."""

    channels, data = len(x), np.ascontiguousarray(x.T, "<f4").tobytes()
    floats = bytes.fromhex("0300000000001000800000aa00389b71")
    width = 4 * channels
    form = struct.pack("<HHIIHHHHI", 0xFFFE, channels, rate, rate * width, width, 32, 22, 32, speakers)
    body = b"WAVEfmt " + struct.pack("<I", 40) + form + floats
    body += b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    x, rate = sf.read(SPEECH, dtype="float32")
    sf.write(folder / "mic.wav", soxr.resample(x, rate, 48000), 48000)
    stereo = np.stack((x[:50001], x[40000:90001]), 1)
    sf.write(folder / "stereo.wav", soxr.resample(stereo, rate, 44100), 44100, subtype="FLOAT")
    sf.write(folder / "mono.wav", x[:30001], rate, subtype="FLOAT")
    channels = np.stack([x[7000 * n : 7000 * n + 20001] for n in range(6)])
    write_extensible(folder / "surround.wav", channels, rate, mask_of(SURROUND))
    return folder


@pytest.fixture(scope="module")
def browser(folder):
    with page_driver.chromium(folder / "mic.wav") as browser:
        yield browser


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    names = ("cinema", "stems", "stereo_stems")
    return offer([str(small_artifacts.build(folder, name, task="separate")) for name in names])


@pytest.fixture(scope="module")
def site(models):
    with page_driver.serving(Service(models, Settings(page=PAGE))) as url:
        yield url


def whole(model, x, rate, **options):
    session = Session(model, sample_rate=rate, channels=len(x), **options)
    return np.concatenate([np.atleast_2d(y) for y in (session.feed(x), session.flush())], 1)


@pytest.mark.parametrize("mode", MODES)
def test_faders_solo_and_mute(page, folder, models, mode):
    page.choose(mode, "cinema")
    x, rate = sf.read(folder / "stereo.wav", dtype="float32", always_2d=True)
    page.open(folder / "stereo.wav")
    np.testing.assert_array_equal(page.saved()[0], x.T)  # nothing is turned yet

    def turned(act, **gains):
        with page.working():  # by itself, once the faders are at rest
            act()
        same(page.saved()[0], whole(models[0][0], x.T, rate, gains=gains))

    at = page.at
    turned(lambda: at.get_by_label("Music", exact=True).fill("-12"), music=-12)
    assert at.get_by_label("Music", exact=True).get_attribute("aria-valuetext") == "-12 dB"
    turned(lambda: at.get_by_role("button", name="Mute effects").click(), music=-12, effects=-inf)
    turned(lambda: at.get_by_role("button", name="Solo music").click(), speech=-inf, music=-12, effects=-inf)
    turned(
        lambda: at.get_by_role("button", name="Mute effects").click(), speech=-inf, music=-12, effects=-inf
    )
    turned(lambda: at.get_by_role("button", name="Solo music").click(), music=-12)
    turned(lambda: at.get_by_label("Music", exact=True).fill("-40"), music=-inf)
    assert at.get_by_label("Music", exact=True).get_attribute("aria-valuetext") == "off"
    turned(lambda: at.get_by_label("Music", exact=True).dblclick())
    with page.working():
        at.select_option("#output", "speech")
    assert at.locator("#faders").is_hidden()
    same(page.saved()[0], whole(models[0][0], x.T, rate, output="speech"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "speakers"), [("mono", 0), ("surround", mask_of(SURROUND))])
def test_any_channels_play(page, folder, models, mode, name, speakers):
    """A model of two channels hears one twice, and of 5.1 the centre by itself."""
    page.choose(mode, "cinema")
    x, rate = sf.read(folder / f"{name}.wav", dtype="float32", always_2d=True)
    page.open(folder / f"{name}.wav")
    with page.working():
        page.at.get_by_label("Speech", exact=True).fill("-20")
    want = whole(models[0][0], x.T, rate, gains={"speech": -20}, speakers=speakers)
    same(page.saved()[0], want)
    if speakers:
        other = whole(models[0][0], x.T, rate, gains={"speech": -20})
        assert np.abs(other - want).max() > 0.01


@pytest.mark.parametrize("mode", MODES)
def test_faders_move_while_the_microphone_runs(page, models, mode):
    page.choose(mode, "cinema")
    page.start()
    page.at.wait_for_timeout(700)
    page.at.get_by_role("button", name="Mute speech").click()
    page.at.wait_for_timeout(700)
    page.stop()
    heard, rate = page.saved("save-input")
    got = page.saved()[0]
    assert len(heard) == 2
    before = np.abs(got - heard).max(0) < 1e-6
    after = np.abs(got - whole(models[0][0], heard, rate, gains={"speech": -inf})).max(0) < 1e-6
    turn = int(np.argmin(before))  # the first sample that is not as it came
    ramp = rate // 100
    assert rate // 4 < turn < len(before) - rate // 4
    assert before[:turn].all()
    assert after[turn + ramp :].all()


def test_stems_that_are_no_kin_of_the_sound_have_no_faders(page):
    """And what is set of a stem holds for another model that makes it."""
    page.choose("browser", "stems")
    page.at.get_by_label("Bass", exact=True).fill("-6")
    page.choose(model="stereo_stems")
    assert page.at.locator("#faders").is_hidden()
    page.choose(model="stems")
    assert page.at.get_by_label("Bass", exact=True).input_value() == "-6"
