"""The page of ``audiomask serve`` in a real browser, in both of its ways, against the session in Python."""

import re
import shutil

import numpy as np
import pytest
import small_artifacts
import soundfile as sf
import soxr
from options import keywords
from pages import CARD, MODES, REASON, ROOT, dropped, page_driver, same
from starlette.responses import PlainTextResponse

from audiomask.runtime.codes.files import AmkFile
from audiomask.runtime.net import server
from audiomask.runtime.net.server import PAGE, Service, Settings, offer, offer_codecs
from audiomask.runtime.session import Session

pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(REASON), reason=REASON)]
NOISY = ROOT / "egs/mini/denoise/corpus/demo/mixture_noisy.flac"
ELSEWHERE = "elsewhere.test"  # a name of this machine that browsers do not trust as they trust localhost


class NoSockets(Service):
    """A server whose websocket route was deleted."""

    async def _websocket(self, scope, receive, send):
        await PlainTextResponse("", 404)(scope, receive, send)


def whole(model, x, rate, **options):
    session = Session(model, sample_rate=rate, channels=len(x), **keywords(options))
    return np.concatenate((session.feed(x), np.reshape(session.flush(), (session.outputs, -1))), 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    speech, rate = sf.read(NOISY, dtype="float32")
    sf.write(folder / "mic.wav", soxr.resample(speech, rate, 48000), 48000)
    sf.write(folder / "speech.wav", speech[: 4 * rate], rate, subtype="FLOAT")
    stereo = np.stack((speech[: 2 * rate], speech[rate : 3 * rate]), 1)
    sf.write(folder / "stereo.wav", soxr.resample(stereo, rate, 44100), 44100, subtype="PCM_24")
    (folder / "broken.wav").write_bytes(b"RIFF of nothing")
    return folder


@pytest.fixture(scope="module")
def browser(folder):
    with page_driver.chromium(
        folder / "mic.wav", f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"
    ) as browser:
        yield browser


@pytest.fixture(scope="module")
def models(toy, array3):
    return offer(["sieve", str(toy), str(array3), "darn_blind"])


@pytest.fixture(scope="module")
def site(models):
    with page_driver.serving(Service(models, Settings(page=PAGE))) as url:
        yield url


@pytest.mark.parametrize("mode", MODES)
def test_a_file_comes_out_as_offline(page, folder, models, mode):
    page.choose(mode)
    assert page.text("message") == ""
    artifacts = {a.path.stem: a for group in models for a in group}
    for name, file in (
        ("sieve_16k", "speech.wav"),
        ("sieve_48k", "stereo.wav"),
        ("toy_48k", "speech.wav"),
        ("darn_blind_48k", "stereo.wav"),
    ):
        page.choose(model=name)
        page.open(folder / file)
        x, rate = sf.read(folder / file, dtype="float32", always_2d=True)
        got, got_rate = page.saved()
        assert got_rate == rate
        same(got, whole(artifacts[name], x.T, rate))
        np.testing.assert_array_equal(page.saved("save-input")[0], x.T)
    factor = page.text("rtf")
    assert float(factor) > 0 if mode == "browser" else factor == "on the server"


@pytest.mark.parametrize("mode", MODES)
def test_every_control_is_a_slider(page, folder, models, mode):
    page.choose(mode, "sieve_16k")
    assert page.at.locator("#controls input[type=range]").count() == 4  # strength, atten_lim, dry, buffer
    page.open(folder / "speech.wav")
    x, rate = sf.read(folder / "speech.wav", dtype="float32", always_2d=True)
    before = page.saved()[0]
    with page.working():  # by itself, once the controls are at rest
        page.at.get_by_label("Atten lim").fill("12")
        page.at.get_by_label("Dry").fill("0.25")
    got = page.saved()[0]
    same(got, whole(models[0][0], x.T, rate, atten_lim=12.0, dry=0.25))
    assert np.abs(got - before).max() > 0.01
    page.at.get_by_label("Dry").fill("0.75")
    page.at.wait_for_timeout(400)
    page.at.get_by_label("Dry").fill("0.5")  # while it works
    page.at.wait_for_timeout(1500)
    page.wait("ready")
    same(page.saved()[0], whole(models[0][0], x.T, rate, atten_lim=12.0, dry=0.5))


@pytest.mark.parametrize("mode", MODES)
def test_the_microphone_comes_out_as_offline(page, folder, models, mode):
    page.choose(mode, "sieve_48k")
    page.at.check("#hear")
    page.start()
    page.at.wait_for_timeout(2500)
    page.at.get_by_label("Buffer").fill("60")
    assert page.text("lag").endswith(" ms")
    assert page.text("underruns").isdigit()
    page.stop()
    heard, rate = page.saved("save-input")
    same(page.saved()[0], whole(models[0][1], heard, rate))
    # And what was heard is what the microphone plays.
    played, played_rate = sf.read(folder / "mic.wav", dtype="float32")
    played = np.tile(soxr.resample(played, played_rate, rate), 2)
    piece = heard[0, -rate:]
    size = len(played) + len(piece)
    match = np.fft.irfft(np.fft.rfft(played, size) * np.conj(np.fft.rfft(piece, size)), size)
    energy = np.cumsum(np.pad(played.astype(np.float64) ** 2, (1, 0)))
    power = energy[len(piece) :] - energy[: -len(piece)]
    match = match[: len(power)] / np.sqrt(power * (piece**2).sum() + 1e-9)
    assert match.max() > 0.9


@pytest.mark.parametrize("mode", MODES)
def test_controls_turn_while_the_microphone_runs(page, models, mode):
    page.choose(mode, "sieve_48k")
    page.start()
    page.at.wait_for_timeout(700)
    page.at.get_by_label("Strength").fill("0")
    page.at.wait_for_timeout(700)
    page.stop()
    heard, rate = page.saved("save-input")
    got = page.saved()[0]
    last = slice(-rate // 4, -rate // 20)
    assert np.abs(got - whole(models[0][1], heard, rate))[:, last].max() > 1e-3
    same(got[:, last], whole(models[0][1], heard, rate, strength=0.0)[:, last])


# The worker stands still for 2.5 s, once, after the first second.
STALL = """tap.before(block);
      if (at > rate && !globalThis.stood) {
        globalThis.stood = true;
        for (const end = performance.now() + 2500; performance.now() < end; );
      }
"""


@pytest.mark.parametrize("mode", MODES)
def test_sound_that_is_more_than_a_second_late_is_given_up(browser, models, tmp_path, mode):
    """It is silence on both sides; before and after it all is as offline, and the live sound goes on."""
    shutil.copytree(PAGE, tmp_path / "web")
    worker = tmp_path / "web" / "worker.js"
    before, begin, after = worker.read_text().partition("await mine.feed(block);\n      tap.send();")
    assert begin
    at = before.rindex("tap.before(block);\n")
    worker.write_text(before[:at] + STALL + before[at + len("tap.before(block);\n") :] + begin + after)
    with (
        page_driver.serving(Service(models, Settings(page=tmp_path / "web"))) as url,
        page_driver.Page(browser, url) as page,
    ):
        page.choose(mode, "sieve_48k")
        page.start()
        page.at.locator("#length", has_text="dropped").wait_for()
        page.at.wait_for_timeout(1500)
        lost = int(re.search(r"(\d+) samples dropped", page.text("length"))[1])
        assert int(page.text("underruns")) >= 1
        page.stop()
        heard, rate = page.saved("save-input")
        got = page.saved()[0]
        assert rate < lost < 5 * rate
        edges = np.flatnonzero(np.diff(np.pad((heard[0] == 0).astype(int), 1)))
        runs = edges.reshape(-1, 2)  # of samples that are 0
        start, stop = next(run for run in runs if np.ptp(run) >= lost)
        silence = np.zeros((1, lost), np.float32)
        for cut in range(start, stop - lost + 1):  # a sample beside it may be 0 too
            ends = heard[:, :cut], heard[:, cut + lost :]
            first, last = (whole(models[0][1], end, rate) for end in ends)
            want = np.concatenate((first, silence, last), 1)
            if np.abs(got - want).max() < 1e-4 * np.abs(want).max():
                break
        same(got, want)
        assert last.shape[1] > rate
        assert page.errors == []


# The question for the microphone is answered after a while.
ASKED = """const ask = MediaDevices.prototype.getUserMedia;
MediaDevices.prototype.getUserMedia = async function (wishes) {
    await new Promise((done) => (window.allow = done));
    return ask.call(this, wishes);
};"""


def test_nothing_else_begins_while_the_microphone_is_asked_for(browser, site, folder):
    """A slider that is moved shortly before, or meanwhile, would put the last file through once more."""
    with page_driver.Page(browser, site, scripts=(ASKED,)) as page:
        page.choose("browser", "sieve_16k")
        page.open(folder / "speech.wav")
        page.at.get_by_label("Dry").fill("0.25")
        page.at.click("#mic")
        page.at.wait_for_timeout(600)
        assert page.text("status") == "Asking for the microphone"
        page.at.get_by_label("Dry").fill("0.5")
        page.at.wait_for_timeout(600)
        assert page.text("status") == "Asking for the microphone"
        page.at.evaluate("window.allow()")
        page.wait("live")
        page.stop()
        assert page.errors == []


def test_rings_hold_any_lag(empty):
    """Of a model that is later than the rings are long by themselves."""
    asked = """async () => {
        const { Runner } = await import("/runner.js");
        globalThis.AudioWorkletNode = class { constructor(context, name, made) { throw made; } };
        const info = { channels: 1, outputs: 1 };
        const context = { sampleRate: 16000 };
        const made = await new Runner().live(context, null, info, { lag: 160000 }).catch((e) => e);
        return [made.processorOptions.capacity, made.processorOptions.input.byteLength];
    }"""
    capacity, held = empty.evaluate(asked)
    assert capacity >= 2 * 160000
    assert held >= 4 * capacity


def test_without_a_network_and_without_the_socket(browser, folder, models):
    """Once it is loaded, the server may go: nothing is asked of it any more."""
    with page_driver.serving(NoSockets(models, Settings(page=PAGE))) as url:
        page = page_driver.Page(browser, url)
        asked = []
        page.at.on("request", lambda request: asked.append(request.url))
        page.at.on("websocket", lambda socket: asked.append(socket.url))
        page.context.set_offline(True)
        page.context.route("**", lambda route: route.abort())
    with page:
        name = page.at.input_value("#model")
        artifact = next(a for group in models for a in group if a.path.stem == name)
        page.open(folder / "speech.wav")
        x, rate = sf.read(folder / "speech.wav", dtype="float32", always_2d=True)
        same(page.saved()[0], whole(artifact, x.T, rate))
        page.start()
        page.at.wait_for_timeout(1500)
        page.stop()
        heard, rate = page.saved("save-input")
        assert heard.shape[1] > rate
        same(page.saved()[0], whole(artifact, heard, rate))
        assert [url for url in asked if not url.startswith("blob:")] == []
        assert page.errors == []


def test_without_isolation_samples_travel_in_messages(browser, models, monkeypatch):
    kept = {k: v for k, v in server.HEADERS.items() if not k.startswith("Cross-Origin")}
    monkeypatch.setattr(server, "HEADERS", kept)
    with (
        page_driver.serving(Service(models, Settings(page=PAGE))) as url,
        page_driver.Page(browser, url) as page,
    ):
        assert page.at.evaluate("crossOriginIsolated") is False
        page.choose("browser", "sieve_16k")
        page.start()
        page.at.wait_for_timeout(1500)
        page.stop()
        heard, rate = page.saved("save-input")
        assert heard.shape[1] > rate
        same(page.saved()[0], whole(models[0][0], heard, rate))
        assert page.errors == []


def test_over_plain_http_from_elsewhere_files_work(browser, models, folder):
    """No microphone, no AudioWorklet and no shared memory there; the rest of the page does without."""
    with (
        page_driver.serving(Service(models, Settings(page=PAGE, loopback=False))) as url,
        page_driver.Page(browser, url.replace("127.0.0.1", ELSEWHERE), microphone=False) as page,
    ):
        assert page.at.evaluate("isSecureContext") is False
        page.choose("browser", "sieve_16k")
        page.open(folder / "speech.wav")
        x, rate = sf.read(folder / "speech.wav", dtype="float32", always_2d=True)
        same(page.saved()[0], whole(models[0][0], x.T, rate))
        page.at.click("#mic")
        page.at.wait_for_selector("#message:not([hidden])")
        assert "only to pages from localhost or over https" in page.text("message")


def test_an_array_needs_its_microphones(page, folder, models, tmp_path, noise, toys):
    page.choose("browser", "array3")
    x = noise(3, 8000)
    sf.write(tmp_path / "three.wav", x.T, 16000, subtype="FLOAT")
    page.open(tmp_path / "three.wav")
    same(page.saved()[0], toys.lowpass(np.asarray(toys.gains, np.float32) @ x)[None].astype(np.float32))
    page.at.set_input_files("#file", folder / "stereo.wav")
    page.at.wait_for_selector("#message:not([hidden])")
    assert page.text("message") == "Array3 takes 3 channels, and this sound has 2."


def test_keys_and_labels(page, folder):
    after = page.at.get_by_role("radio", name="B after")
    assert after.is_checked()
    page.at.keyboard.press(" ")
    assert page.at.get_by_role("radio", name="A before").is_checked()
    page.at.keyboard.press(" ")
    assert after.is_checked()
    page.open(folder / "speech.wav")
    page.at.keyboard.press("p")
    page.at.wait_for_timeout(700)
    assert page.text("play") == "Pause"
    assert float(page.at.input_value("#seek")) > 0
    page.at.keyboard.press("p")
    assert page.text("play") == "Play"
    page.at.focus("#open")
    page.at.keyboard.press(" ")  # a button's own key: A and B stay
    assert after.is_checked()
    with page.at.expect_download() as download:
        page.at.keyboard.press("d")
    assert download.value.suggested_filename == "speech_enhance.wav"
    page.at.keyboard.press("m")
    page.wait("live")
    page.at.keyboard.press("m")
    page.wait("ready")
    nameless = page.at.evaluate("""() => [...document.querySelectorAll("button, input, select, canvas")]
        .filter((e) => !e.hidden && !(e.labels?.length || e.textContent.trim() || e.ariaLabel
            || e.getAttribute("aria-labelledby"))).map((e) => e.id || e.outerHTML)""")
    assert nameless == []


def test_a_file_is_dropped(page, folder):
    assert dropped(page, "two channels.wav", (folder / "stereo.wav").read_bytes()) == [True, False]
    page.at.wait_for_selector("#save:enabled")
    assert page.text("status") == "Ready: two channels, 0:02"
    assert page.saved()[0].shape[0] == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone(browser, site, scheme):
    window = {"viewport": {"width": 340, "height": 700}, "color_scheme": scheme}
    with page_driver.Page(browser, site, **window) as page:
        wide = page.at.evaluate("document.documentElement.scrollWidth")
        assert wide <= 340
        paper = page.at.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(paper[4:].split(",")[0]) < 128) == (scheme == "dark")


# What goes wrong is said


def test_a_refused_microphone(browser, site):
    with page_driver.Page(browser, site, microphone=False) as page:
        page.at.click("#mic")
        page.at.wait_for_selector("#message:not([hidden])")
        assert page.text("message").startswith("The microphone was refused. Allow it")
        page.wait("ready")


def test_no_microphone(browser, site):
    script = "MediaDevices.prototype.getUserMedia = () => Promise.reject({ name: 'NotFoundError' })"
    with page_driver.Page(browser, site, scripts=(script,)) as page:
        page.at.click("#mic")
        page.at.wait_for_selector("#message:not([hidden])")
        assert page.text("message").startswith("No microphone was found. Connect one")


def test_a_file_that_is_no_sound(page, folder):
    page.at.set_input_files("#file", folder / "broken.wav")
    page.at.wait_for_selector("#message:not([hidden])")
    words = "this browser cannot decode it; convert it first, as in: ffmpeg -i FILE out.wav."
    assert page.text("message") == f"broken.wav cannot be used: {words}"


def test_a_file_whose_header_lies_is_used_and_the_lie_named(page, folder, tmp_path):
    data = (folder / "speech.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[: len(data) // 2])
    page.open(tmp_path / "cut.wav")
    assert page.text("message").startswith("cut.wav: its header promises ")
    page.open(folder / "speech.wav")
    assert page.text("message") == ""


def test_a_model_that_is_gone(browser, site):
    with page_driver.Page(browser, site) as page:
        page.at.route("**/models/sieve_16k.onnx", lambda route: route.fulfill(status=404))
        page.choose("browser", "sieve_16k")
        page.wait("failed")
        assert page.text("message") == "The model sieve_16k.onnx was not found: the server answers 404."
        page.choose(model="sieve_48k")
        page.wait("ready")
        assert page.text("message") == ""


def test_a_server_that_goes_while_it_works(browser, models):
    with page_driver.serving(Service(models, Settings(page=PAGE))) as url:
        page = page_driver.Page(browser, url)
        page.choose("server")
        page.start()
        page.at.wait_for_timeout(1500)
    with page:
        page.wait("ready")
        assert page.text("message").startswith("The server closed the connection")
        heard, rate = page.saved("save-input")  # what came until then is kept
        assert heard.shape == page.saved()[0].shape
        assert heard.shape[1] > rate / 2


def test_a_server_that_does_not_answer_holds_nobody(browser, models):
    service = Service(models, Settings(page=PAGE))
    with page_driver.serving(service) as url, page_driver.Page(browser, url) as page:
        page.choose("server")
        page.start()
        page.at.wait_for_timeout(1500)
        service.workers[0]._start = lambda: None  # no further turn begins
        page.at.wait_for_timeout(500)
        page.stop()
        assert page.text("message") == "The connection was closed."
        heard, rate = page.saved("save-input")  # what came until then is kept
        assert heard.shape == page.saved()[0].shape
        assert heard.shape[1] > rate / 2


def test_a_server_without_the_socket_says_so(browser, models, folder):
    with (
        page_driver.serving(NoSockets(models, Settings(page=PAGE))) as url,
        page_driver.Page(browser, url) as page,
    ):
        page.choose("server")
        page.open(folder / "speech.wav")
        assert page.text("message") == "The server cannot be reached."


def test_a_token(browser, models, folder):
    token = "a token of some length"
    with page_driver.serving(Service(models, Settings(page=PAGE, token=token))) as url:
        with page_driver.Page(browser, url) as page:
            assert page.text("message") == "This server asks for a token."
            page.at.fill("#token", token)
            page.at.keyboard.press("Enter")
            page.wait("ready")
            for mode in MODES:
                page.choose(mode)
                page.open(folder / "speech.wav")
                assert page.text("message") == ""
        with page_driver.Page(browser, f"{url}#token={token.replace(' ', '%20')}") as page:
            page.wait("ready")


def test_without_the_runtime_the_server_still_works(browser, models, folder, tmp_path):
    shutil.copytree(PAGE, tmp_path / "web", ignore=shutil.ignore_patterns("vendor"))
    with (
        page_driver.serving(Service(models, Settings(page=tmp_path / "web"))) as url,
        page_driver.Page(browser, url) as page,
    ):
        assert "python tools/release/vendor_web.py" in page.text("message")
        assert page.at.locator("[name=mode][value=browser]").is_disabled()
        assert page.at.get_by_label("Buffer").input_value() == "100"  # what goes by way of the server needs
        page.open(folder / "speech.wav")
        x, rate = sf.read(folder / "speech.wav", dtype="float32", always_2d=True)
        name = page.at.input_value("#model")
        same(page.saved()[0], whole(next(a for a in models[0] if a.path.stem == name), x.T, rate))


@pytest.fixture(scope="module")
def empty(browser, site):
    context = browser.new_context()
    page = context.new_page()
    page.goto(site)
    yield page
    context.close()


def test_the_examples_of_the_docs(browser, models, tmp_path, noise):
    shutil.copytree(PAGE, tmp_path / "web")
    for text in re.findall(r"^```js\n(.*?)^```$", (ROOT / "docs/browser.md").read_text(), re.M | re.S):
        (tmp_path / "web" / re.match(r"// (\w+\.js)", text)[1]).write_text(text)
    x = noise(1, 24000)
    service = Service(models, Settings(page=tmp_path / "web"), codecs=offer_codecs(["gist"]))
    with page_driver.serving(service) as url, page_driver.Page(browser, url) as page:
        call = """async (x) => {
            const { talk } = await import("/talk.js");
            const { sound, file } = await talk(Float32Array.from(x));
            return [sound, [...file]];
        }"""
        sound, file = page.at.evaluate(call, x[0].tolist())
        (tmp_path / "talk.amk").write_bytes(bytes(file))
        assert len(sound) == AmkFile(tmp_path / "talk.amk").info.frames == 24000
        assert np.abs(sound).max() > 0.1
        call = """async (x) => {
            const { denoise } = await import("/denoise.js");
            return (await denoise(Float32Array.from(x))).flatMap((part) => [...part]);
        }"""
        got = page.at.evaluate(call, x[0].tolist())
        same(np.float32(got)[None], whole(models[0][0], x, 48000, strength=0.9))
        call = """async () => {
            const live = await (await import("/live.js")).start();
            const meter = new AnalyserNode(live.node.context, { fftSize: 32768 });
            live.node.connect(meter);
            await new Promise((done) => setTimeout(done, 1500));
            const heard = new Float32Array(32768);
            meter.getFloatTimeDomainData(heard);
            await live.stop();
            return Math.max(...heard);
        }"""
        assert page.at.evaluate(call) > 0.01  # the microphone speaks
        assert page.errors == []


# The audio thread

PUMP = """async ([lag, delay, stall]) => {
    const port = { postMessage: (data) => (port.said = data) };
    let Pump;
    globalThis.sampleRate = 16000;
    globalThis.AudioWorkletProcessor = class { port = port };
    globalThis.registerProcessor = (name, made) => (Pump = made);
    await import(`/worklet.js?${stall}`); // not the one that was imported before
    const { Ring } = await import("/ring.js");
    const input = Ring.buffer(1, 16000, true);
    const output = Ring.buffer(1, 16000, true);
    const processorOptions = { channels: 1, outputs: 1, capacity: 16000, input, output, lag };
    const pump = new Pump({ processorOptions });
    port.onmessage({ data: { enhanced: true } });
    const [source, sink] = [new Ring(input, 1), new Ring(output, 1)];
    const heard = [];
    let at = 0;
    for (let n = 0; n < 100; n++) {
        const block = Float32Array.from({ length: 128 }, (_, i) => n * 128 + i + 1);
        const out = new Float32Array(128);
        pump.process([[block]], [[out]]);
        heard.push(...out);
        // The engine gives every sample back, negative, once `delay` more are in, but stands still at times.
        if (n >= stall[0] && n < stall[1]) continue;
        const ready = Math.max(0, source.written - delay - at);
        const row = new Float32Array(ready);
        source.read(at, 0, row, ready);
        at += ready;
        sink.write([row.map((value) => -value)]);
    }
    return { heard, ...port.said };
}"""


def test_the_lag_is_kept_and_a_stall_costs_only_itself(empty):
    done = empty.evaluate(PUMP, [1000, 512, [0, 0]])
    heard = np.array(done["heard"])
    want = np.concatenate((np.zeros(1000), -np.arange(1, 11801)))
    np.testing.assert_array_equal(heard, want)
    assert done["underruns"] == done["missed"] == 0
    # 20 blocks long nothing comes: the spare 1000 - 512 - 128 samples cover the first of it.
    done = empty.evaluate(PUMP, [1000, 512, [40, 60]])
    heard = np.array(done["heard"])
    lost = heard != want
    assert done["underruns"] == 1
    assert done["missed"] == lost.sum() == 20 * 128 - (1000 - 512 - 128)
    assert not heard[lost].any()  # silence, and after it everything in its place
    assert not lost[60 * 128 + 128 :].any()


@pytest.fixture(scope="module")
def ported(tmp_path_factory):
    """The models with other ports than one sound in and one out, and the address of a server of them."""
    folder, names = tmp_path_factory.mktemp("ported"), ("stems", "upsampler", "dither", "marker")
    models = offer([str(small_artifacts.build(folder, name)) for name in names])
    with page_driver.serving(Service(models, Settings(page=PAGE))) as url:
        yield {group[0].name: group[0] for group in models}, url


@pytest.mark.parametrize("mode", MODES)
def test_of_several_sounds_one_is_chosen(browser, ported, folder, mode):
    models, url = ported
    x, rate = sf.read(folder / "speech.wav", dtype="float32", always_2d=True)
    with page_driver.Page(browser, url) as page:
        page.choose(mode, "stems")
        names = page.at.eval_on_selector_all("#output option", "all => all.map((one) => one.value)")
        assert names == ["", "vocals", "drums", "bass", "other"]
        page.at.select_option("#output", "vocals")
        page.wait("ready")
        assert page.at.locator("#faders").is_hidden()
        page.open(folder / "speech.wav")
        same(page.saved()[0], whole(models["stems"], x.T, rate, output="vocals"))
        with page.working():
            page.at.select_option("#output", "bass")
        same(page.saved()[0], whole(models["stems"], x.T, rate, output="bass"))
        page.start()
        page.at.wait_for_timeout(1000)
        page.stop()
        heard, heard_rate = page.saved("save-input")
        same(page.saved()[0], whole(models["stems"], heard, heard_rate, output="bass"))
        assert page.errors == []


@pytest.mark.parametrize("mode", MODES)
def test_noise_and_a_message(browser, ported, folder, mode):
    """A stream of noise that nobody gives, and a control of 16 values."""
    models, url = ported
    x, rate = sf.read(folder / "speech.wav", dtype="float32", always_2d=True)
    with page_driver.Page(browser, url) as page:
        for name in ("dither", "marker"):
            page.choose(mode, name)
            assert page.at.locator("#output-field").is_hidden()
            page.open(folder / "speech.wav")
            same(page.saved()[0], whole(models[name], x.T, rate))
        message = [1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 1]
        with page.working():
            page.at.get_by_label("Message", exact=True).fill(" ".join(map(str, message)))
        same(page.saved()[0], whole(models["marker"], x.T, rate, message=message))
        assert page.errors == []


@pytest.mark.parametrize("mode", MODES)
def test_an_output_at_another_rate(browser, ported, folder, mode):
    """It is saved and heard at its own, and lasts as long as what went in."""
    models, url = ported
    with page_driver.Page(browser, url, scripts=(CARD.replace("RATE", "48000"),)) as page:
        page.choose(mode, "upsampler")
        page.open(folder / "stereo.wav")
        x, rate = sf.read(folder / "stereo.wav", dtype="float32", always_2d=True)
        got, got_rate = page.saved()
        assert (rate, got_rate) == (44100, 48000)
        same(got, whole(models["upsampler"], x.T, rate))
        assert page.saved("save-input")[1] == 44100
        page.at.click("#play")
        page.at.wait_for_timeout(500)
        assert page.text("play") == "Pause"
        page.at.locator("#play", has_text="Play").wait_for()  # its 2 s are over
        assert page.text("clock").endswith("/ 0:02")
        page.start()
        page.at.wait_for_timeout(1000)
        page.stop()
        heard, rate = page.saved("save-input")
        assert rate == 48000
        same(page.saved()[0], whole(models["upsampler"], heard, rate))
        assert page.errors == []
    with page_driver.Page(browser, url, scripts=(CARD.replace("RATE", "44100"),)) as page:
        page.choose(mode, "upsampler")
        page.at.click("#mic")
        page.at.wait_for_selector("#message:not([hidden])")
        assert page.text("message").startswith(
            "Upsampler makes sound at 48000 Hz and this sound card runs at 44"
        )


def test_models_that_are_told_of_losses_are_not_offered(browser, toy, repeats, folder):
    """The page loses nothing; and a server that has no other model says so."""
    service = Service(offer([str(repeats), str(toy)]), Settings(page=PAGE))
    with page_driver.serving(service) as url, page_driver.Page(browser, url) as page:
        names = page.at.eval_on_selector_all("#model option", "all => all.map((one) => one.value)")
        assert names == ["toy_16k", "toy_48k"]
        reason = "informed of lost packets, and the page loses those of codecs only"
        assert page.text("refused") == f"Not for this page: repeat_16k, repeat_48k ({reason})."
        for mode in MODES:
            page.choose(mode)
            page.open(folder / "speech.wav")
            assert page.text("message") == ""
    service = Service(offer([str(repeats)]), Settings(page=PAGE))
    with page_driver.serving(service) as url, page_driver.Page(browser, url) as page:
        assert page.text("message") == "The server offers no model for the page; start it with -m FILE."
