"""A codec in the page of audiomask serve, in a real browser and both of its ways, against Python."""

import json
import re
import urllib.request
from dataclasses import replace

import codes
import numpy as np
import pytest
import soundfile as sf
import soxr
from pages import CARD, MODES, REASON, ROOT, dropped, page_driver, same

from audiomask.runtime.catalogue import codec_hash, codec_part
from audiomask.runtime.codes.files import AmkFile
from audiomask.runtime.net.server import PAGE, Service, Settings, offer, offer_codecs
from audiomask.runtime.player import Player
from audiomask.runtime.session import Session

pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(REASON), reason=REASON)]
SPEECH = ROOT / "egs/mini/denoise/corpus/demo/mixture_clean.flac"


def there_and_back(x, rate, books):
    """Encode and decode in Python."""
    encoder, decoder = (codec_part("gist", part) for part in ("enc", "dec"))
    options = {"sample_rate": rate, "channels": len(x)}
    player = Player(encoder, outputs=["codes"], controls={"books": books}, **options)
    found = np.concatenate((player.feed(x)["codes"], player.flush()["codes"]), axis=1)
    player = Player(decoder, sample_rate=rate, channels=len(found))
    y = np.concatenate((player.feed(found)["decoded"], player.flush()["decoded"]), axis=1)
    return y[:, : x.shape[1]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    speech, rate = sf.read(SPEECH, dtype="float32")
    sf.write(folder / "mic.wav", soxr.resample(speech, rate, 48000), 48000)
    sf.write(folder / "speech.wav", speech[: 4 * rate], rate, subtype="FLOAT")
    stereo = np.stack((speech[:20001], speech[20000:40001]), 1)
    sf.write(folder / "stereo.wav", soxr.resample(stereo, rate, 44100), 44100, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def browser(folder):
    with page_driver.chromium(folder / "mic.wav") as browser:
        yield browser


@pytest.fixture(scope="module")
def site():
    service = Service(offer(["sieve"]), Settings(page=PAGE), codecs=offer_codecs(["gist"]))
    with page_driver.serving(service) as url:
        yield url


@pytest.fixture
def decoded(cli, tmp_path):
    """`audiomask decode` of bytes, and the file that it read."""

    def run(data):
        (tmp_path / "one.amk").write_bytes(data)
        how = ("--subtype", "FLOAT", "-f")
        assert cli("decode", tmp_path / "one.amk", "-o", tmp_path / "one.wav", *how).code == 0
        sound, rate = sf.read(tmp_path / "one.wav", dtype="float32", always_2d=True)
        return sound.T, rate, AmkFile(tmp_path / "one.amk")

    return run


def downloaded(page):
    with page.at.expect_download() as download:
        page.at.click("#save-codes")
    return download.value.path().read_bytes()


def bytes_a_second(page):
    """Return what the page shows: the bytes, and those of plain bits."""
    return [int(n) for n in re.fullmatch(r"(\d+) \(plain (\d+)\)", page.text("bytes")).groups()]


@pytest.mark.parametrize("mode", MODES)
def test_a_file_there_and_back(page, folder, decoded, mode):
    page.choose(mode, "gist")
    assert page.text("message") == ""
    assert page.at.get_by_label("Dry").count() == 0  # a codec has no untouched sound
    rate_label = page.at.locator(".control", has_text="Bit rate").locator("output")
    assert rate_label.text_content() == "6 kbit/s"
    for file, kbps, books in (("speech.wav", "6", 12), ("stereo.wav", "3", 6)):
        page.at.get_by_label("Bit rate").fill(str(books))
        assert rate_label.text_content() == f"{kbps} kbit/s"
        page.open(folder / file)
        x, rate = sf.read(folder / file, dtype="float32", always_2d=True)
        got, got_rate = page.saved()
        assert got_rate == rate
        same(got, there_and_back(x.T, rate, books))
        data = downloaded(page)
        sound, _, amk = decoded(data)
        same(sound, got)  # of the same length too
        assert {packet.books for packet in amk.packets()} == {books}
        shown, plain = bytes_a_second(page)
        seconds = amk.frames / 50
        assert shown < plain
        assert abs(plain - len(x.T) * 50 * books * 10 / 8 - 14 * -(-amk.frames // 25) / seconds) < 2
        assert 0 <= len(data) - shown * seconds < 160  # header, end and index
    assert page.text("packets") == f"0 of {amk.frames}"
    page.choose(model="sieve_16k")
    assert page.at.locator("#bytes").is_hidden()
    assert page.at.locator("#save-codes").is_hidden()


# Whether packets can be saved, at each change of what the page says of itself.
SAVABLE = """window.savable = [], new MutationObserver(() => window.savable.push(
    [document.body.dataset.state, !document.querySelector("#save-codes").disabled]
)).observe(document.body, { attributeFilter: ["data-state"] })"""


def made_once(page):
    *busy, last = page.at.evaluate("savable")
    assert {tuple(state) for state in busy} == {("busy", False)}
    assert last == ["ready", True]


def test_packets_that_are_not_made_yet_cannot_be_saved(page, folder, decoded):
    page.choose("browser", "gist")
    page.open(folder / "speech.wav")
    page.at.evaluate(SAVABLE)
    with page.working():
        page.at.get_by_label("Bit rate").fill("4")
    made_once(page)
    assert {packet.books for packet in decoded(downloaded(page))[2].packets()} == {4}
    # What opening a file does at once is not done a second time when the slider has come to rest.
    page.at.evaluate("savable.length = 0")
    page.at.get_by_label("Bit rate").fill("6")
    page.open(folder / "stereo.wav")
    page.at.wait_for_timeout(600)
    made_once(page)


@pytest.mark.parametrize("mode", MODES)
def test_the_bit_rate_changes_while_sound_runs(page, decoded, mode):
    page.choose(mode, "gist")
    page.start()
    page.at.wait_for_timeout(2300)
    assert page.text("lag").endswith(" ms")
    many = bytes_a_second(page)
    page.at.get_by_label("Bit rate").fill("4")
    page.at.keyboard.press(" ")  # A, and B again
    assert page.at.get_by_role("radio", name="A before").is_checked()
    page.at.wait_for_timeout(2300)
    page.at.keyboard.press(" ")
    few = bytes_a_second(page)
    assert many[1] == 50 * 12 * 10 // 8 + 28
    assert few[1] == 50 * 4 * 10 // 8 + 28
    assert few[0] < many[0] / 2
    page.at.get_by_label("Packets lost").fill("0.3")
    page.at.wait_for_timeout(1000)
    page.stop()
    lost, sent = map(int, page.text("packets").split(" of "))
    heard, rate = page.saved("save-input")
    got, _ = page.saved()
    assert got.shape == heard.shape
    amk = decoded(downloaded(page))[2]
    assert sent == amk.frames == -(-heard.shape[1] * 50 // rate)
    assert 0.02 < lost / sent < 0.2  # of the last second, three in ten
    books = [packet.books for packet in amk.packets()]
    assert books[0] == 12
    assert books[-1] == 4
    # A and B are aligned: nowhere else do they agree as well.
    size = 2 * heard.shape[1]
    match = np.fft.irfft(np.fft.rfft(got[0], size) * np.conj(np.fft.rfft(heard[0], size)), size)
    late = match.argmax()
    assert min(late, size - late) < 0.001 * rate


@pytest.mark.parametrize("mode", MODES)
def test_a_sound_card_at_another_rate(browser, site, decoded, mode):
    with page_driver.Page(browser, site, scripts=(CARD.replace("RATE", "44100"),)) as page:
        page.choose(mode, "gist")
        page.start()
        page.at.wait_for_timeout(1700)
        page.stop()
        heard, rate = page.saved("save-input")
        assert rate == 44100
        got, _ = page.saved()
        sound, decoded_rate, amk = decoded(downloaded(page))
        assert (decoded_rate, amk.end.samples) == (44100, heard.shape[1])
        same(got, sound)
        assert heard.shape[1] > rate
        assert page.errors == []


# What a source plays, and what comes out of a live session of a codec, of which A is heard after 2 s.
SWITCHED = """async (sound) => {
    const { Runner } = await import("/runner.js");
    const [{ encoder, decoder, hash }] = await (await fetch("/codecs")).json();
    const context = new AudioContext({ sampleRate: 16000 });
    const buffer = new AudioBuffer({ length: sound.length, sampleRate: 16000 });
    buffer.copyToChannel(Float32Array.from(sound), 0);
    const source = new AudioBufferSourceNode(context, { buffer });
    const runner = new Runner();
    const codec = { encoder: encoder.url, decoder: decoder.url, hash, probabilities: null };
    const place = { mode: "browser", codec, rate: 16000, channels: 1, controls: { books: 18 } };
    const info = await runner.open(place);
    const lag = info.latency + 3200;
    const live = await runner.live(context, source, info, { lag });
    const [merger, tap] = [new ChannelMergerNode(context), context.createScriptProcessor(4096, 2, 1)];
    const heard = [[], []];
    tap.onaudioprocess = ({ inputBuffer }) => {
        heard.forEach((row, c) => row.push(...inputBuffer.getChannelData(c)));
    };
    source.connect(merger, 0, 0);
    live.node.connect(merger, 0, 1);
    merger.connect(tap).connect(context.destination);
    await context.resume();
    source.start();
    await new Promise((done) => setTimeout(done, 2000));
    live.setEnhanced(false);
    await new Promise((done) => setTimeout(done, 2300));
    await live.stop();
    return [lag, heard];
}"""


def test_a_and_b_are_heard_at_the_same_moment(page, folder):
    x, _ = sf.read(folder / "speech.wav", dtype="float32")
    lag, heard = page.at.evaluate(SWITCHED, x.tolist())
    page.errors.clear()  # a ScriptProcessorNode is deprecated, and needs no file of its own
    played, out = np.array(heard)
    size = 2 * len(out)
    begin = np.flatnonzero(played)[0]

    def late(first, last):
        """By how much the output between two seconds is behind what was played."""
        piece = np.zeros_like(out)
        span = slice(begin + int(first * 16000), begin + int(last * 16000))
        piece[span] = out[span]
        match = np.fft.irfft(np.fft.rfft(piece, size) * np.conj(np.fft.rfft(played, size)), size)
        return match.argmax()

    assert late(2.4, 4) == lag  # A
    assert abs(late(0.3, 1.7) - lag) < 16  # B, to a millisecond


def test_packets_are_lost_alike_in_both_ways(page, folder):
    page.choose("browser", "gist")
    page.open(folder / "speech.wav")
    whole = page.saved()[0]
    with page.working():
        page.at.get_by_label("Packets lost").fill("0.2")
    lossy = page.saved()[0]
    assert np.abs(lossy - whole).max() > 0.05 * np.abs(whole).max()
    lost, sent = map(int, page.text("packets").split(" of "))
    assert sent == 200
    assert 25 < lost < 55
    page.choose("server")  # puts it through again
    same(page.saved()[0], lossy)
    assert page.text("packets") == f"{lost} of 200"
    with page.working():
        page.at.get_by_label("Packets lost").fill("0")
    same(page.saved()[0], whole)


@pytest.mark.parametrize("plain", [True, False])
def test_a_file_of_codes_is_opened(page, folder, cli, tmp_path, plain):
    amk, wav = tmp_path / "talk.amk", tmp_path / "talk.wav"
    how = ("--plain",) if plain else ()
    assert cli("encode", folder / "stereo.wav", "-o", amk, *how).code == 0
    assert cli("decode", amk, "-o", wav, "--subtype", "FLOAT").code == 0
    want, rate = sf.read(wav, dtype="float32", always_2d=True)
    page.choose("browser", "gist")
    page.open(amk)
    assert page.text("message") == ""
    assert page.text("status") == "Ready: talk, 0:01"
    for button in ("save", "save-input"):
        got, got_rate = page.saved(button)
        assert got_rate == rate
        same(got, want.T)
    data = amk.read_bytes()
    hole = data.index(b"\xb5K", 60)
    damaged = data[:hole] + b"." + data[hole + 1 :]
    amk.write_bytes(damaged)
    assert cli("decode", amk, "-o", wav, "--subtype", "FLOAT", "-f").code == 0
    dropped(page, "damaged.amk", damaged)
    page.at.locator("#status", has_text="damaged").wait_for()
    assert re.fullmatch(
        r"damaged.amk: \d+ bytes are no packet, 0.50 s are missing and were concealed.", page.text("message")
    )
    same(page.saved()[0], sf.read(wav, dtype="float32", always_2d=True)[0].T)
    # A model that is no codec takes its sound like that of any file.
    page.choose(model="sieve_16k")
    page.open(amk)
    x = sf.read(wav, dtype="float32", always_2d=True)[0].T
    session = Session(offer(["sieve"])[0][0], sample_rate=rate, channels=2)
    same(page.saved()[0], np.concatenate((session.feed(x), session.flush()), axis=1))


# What goes wrong is said


def test_files_of_codes_that_cannot_be_played(page):
    header = replace(codes.HEADER, name="else")
    other = codes.packed(codes.drawn(header), header)
    ours = replace(codes.HEADER, hash=codec_hash(codec_part("gist", "dec")), books=17)
    odd = codes.packed(codes.drawn(ours), ours)
    page.choose("browser", "gist")
    for data, words in (
        (other, "it was made by else, and no such codec is offered here; try: audiomask decode"),
        (odd, "it was made by another gist than the one that is offered here"),
        (other[:200], "there is no whole packet in it"),
        (b"AMK of nothing", "it is no .amk, or its header is damaged, and so is its copy"),
    ):
        dropped(page, "one.amk", data)
        page.at.locator("#message", has_text=words).wait_for()
        page.wait("ready")
        assert page.text("message") == f"one.amk cannot be used: {words}."


@pytest.mark.parametrize("file", ["gist_enc.onnx", "gist_dec.onnx", "gist_prob.safetensors"])
def test_a_part_that_is_gone(browser, site, file):
    with page_driver.Page(browser, site) as page:
        page.at.route(f"**/codecs/{file}", lambda route: route.fulfill(status=404))
        page.choose("browser", "gist")
        page.wait("failed")
        assert page.text("message") == f"The model {file} was not found: the server answers 404."
        page.choose(model="sieve_16k")
        page.wait("ready")
        assert page.text("message") == ""


def test_a_server_without_a_codec(browser, folder):
    service = Service(offer(["sieve"]), Settings(page=PAGE), codecs=offer_codecs(["gist"]))
    with page_driver.serving(service) as url, page_driver.Page(browser, url) as page:
        page.choose("server", "gist")
        service.codecs.clear()
        page.open(folder / "speech.wav")
        assert page.text("message") == "The server says: no codec is offered here (bad_value)."
        page.choose("browser")  # which has all that it needs
        assert page.text("message") == ""
        assert page.saved()[0].shape == (1, 64000)
    with (
        page_driver.serving(Service(offer(["sieve"]), Settings(page=PAGE))) as url,
        page_driver.Page(browser, url) as page,
    ):
        names = page.at.eval_on_selector_all("#model option", "all => all.map((one) => one.value)")
        assert names == ["sieve_16k", "sieve_48k"]
        assert page.at.locator("#refused").is_hidden()


def test_a_server_that_goes_while_it_codes(browser):
    service = Service(offer(["sieve"]), Settings(page=PAGE), codecs=offer_codecs(["gist"]))
    with page_driver.serving(service) as url:
        page = page_driver.Page(browser, url)
        page.choose("server", "gist")
        page.start()
        page.at.wait_for_timeout(1500)
    with page:
        page.wait("ready")
        assert page.text("message").startswith("The server closed the connection")
        heard, rate = page.saved("save-input")  # what came until then is kept
        assert heard.shape == page.saved()[0].shape
        assert heard.shape[1] > rate / 2
        assert downloaded(page).startswith(b"AMK")


def test_codecs_that_need_more_than_codes_are_refused(browser, site):
    """As the decoder of EnCodec at 48 kHz does, which is told the level and the length of each second."""
    with urllib.request.urlopen(f"{site}codecs") as answer:
        (entry,) = json.load(answer)
    more = json.loads(json.dumps(entry)) | {"name": "segments"}
    segment = {"name": "length", "kind": "stream", "type": "int", "rate": "1/320", "channels": 1}
    more["decoder"]["inputs"] += [segment, segment | {"name": "scale", "type": "float"}]
    strange = json.loads(json.dumps(entry)) | {"name": "strange"}
    strange["decoder"]["inputs"][0]["levels"] = 512
    told = json.loads(json.dumps(entry)) | {"name": "told"}
    told["encoder"]["inputs"].append(segment | {"name": "words", "type": "text"})
    body = json.dumps([more, entry, strange, told])
    with page_driver.Page(browser, site) as page:
        page.at.route("**/codecs", lambda route: route.fulfill(body=body, content_type="application/json"))
        page.at.reload()
        page.wait("ready", "failed")
        names = page.at.eval_on_selector_all("#model option", "all => all.map((one) => one.value)")
        assert names == ["sieve_16k", "sieve_48k", "gist"]
        assert page.text("refused") == (
            "Not for this page: segments (its decoder needs length and scale beside the codes), strange (its "
            "encoder and its decoder do not fit each other), told (its encoder needs words beside the sound)."
        )


def test_it_fits_a_telephone(browser, site):
    with page_driver.Page(browser, site, viewport={"width": 340, "height": 700}) as page:
        page.choose("browser", "gist")
        assert page.at.evaluate("document.documentElement.scrollWidth") <= 340
