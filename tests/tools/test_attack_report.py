"""The report of what a mark survives: by markers that are made of tones, so that all is known beforehand."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import corpus_trees
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import mark_peers
from attack_report import main, quality, roc, summary

from audiomask.data.simulate.attacks import SUITES

RATE, CUT = 16000, "crop:0.5..0.9"
PRESENT, BITS = 4500, (5000, 5500, 6000, 6500)  # Hz


class Tones(mark_peers.Marker):
    """A mark that one hears: a tone says that it is there, and four others are ones."""

    name, bits, rate, threshold = "tones", len(BITS), RATE, 10.0

    def mark(self, x, rate, message):
        t = np.arange(len(x)) / rate
        hz = [PRESENT, *(hz for hz, bit in zip(BITS, message, strict=True) if bit)]
        return x + sum(0.02 * np.sin(2 * np.pi * f * t) for f in hz)

    def detect(self, x, rate):
        level = np.abs(np.fft.rfft(x * np.hanning(len(x))))
        hz = np.fft.rfftfreq(len(x), 1 / rate)

        def over(f):
            return 20 * np.log10(level[abs(hz - f) < 10].max() / np.median(level[abs(hz - f) < 200]))

        floor = np.array([over(f) for f in (PRESENT, *BITS)])
        return float(floor[0] - 20), floor[1:] > 30


class Useless(Tones):
    """A mark that is not there; what it says is the same of all sound."""

    name, score, message = "useless", 0.0, None

    def mark(self, x, rate, message):
        return x

    def detect(self, x, rate):
        return self.score, self.message


class Parrot(Useless):
    score, message = 100.0, np.ones(4, bool)


class Choosy(Tones):
    def mark(self, x, rate, message):
        raise mark_peers.Refused("too loud")


class Halves(Useless):
    """A mark without a message, whose score is no number for what is marked."""

    bits, threshold = 0, 0.5

    def mark(self, x, rate, message):
        assert message.shape == (0,)
        return 0.5 * x

    def detect(self, x, rate):
        return (float("nan") if np.abs(x).max() < 0.2 else 1.0), None


MADE_UP = {"tones": Tones, "useless": Useless, "parrot": Parrot, "choosy": Choosy, "halves": Halves}


@pytest.fixture(autouse=True)
def markers(monkeypatch):
    for name, marker in MADE_UP.items():
        monkeypatch.setitem(mark_peers.MARKERS, name, marker)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    for i in range(4):
        corpus_trees.put(folder / f"{i}.wav", corpus_trees.excerpt("speech", i, 2.0))
    return folder


def report(capsys, *words):
    """Return the cells of the table by attack, and all that was said; the report must succeed."""
    assert main([*map(str, words)]) == 0
    out, err = capsys.readouterr()
    lines = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("|")]
    rows = {line[0].strip("`"): dict(zip(lines[0][1:], line[1:], strict=True)) for line in lines[2:]}
    return rows, out, err


def test_a_mark_that_survives_and_one_that_does_not(speech, capsys):
    attacks = ("crop:0.5", "shift:0.2", "polarity", "gain:-20", "noise:-20")
    rows, out, _ = report(capsys, speech, "--marker", "tones", "--seconds", "1.5", "--attacks", *attacks)
    assert list(rows) == ["none", *attacks]
    for spec in ("none", "crop:0.5", "shift:0.2", "polarity", "gain:-20"):
        row = rows[spec]
        assert (row["found"], row["false"], row["message"]) == ("100 %", "0 %", "100 %"), spec
        assert (row["bits"], row["AUC"]) == ("1.000", "1.000")
        assert float(row["marked"]) > 10 > float(row["unmarked"])
    assert (rows["noise:-20"]["found"], rows["noise:-20"]["message"]) == ("0 %", "0 %")
    assert float(rows["noise:-20"]["bits"]) < 1
    assert out.startswith("tones, 4 bits: 4 clips of 1.5 s, 0 refused\n")


@pytest.mark.parametrize(("name", "says"), [("useless", "0 %"), ("parrot", "100 %")])
def test_a_mark_that_is_not_there(speech, capsys, name, says):
    rows, out, _ = report(capsys, speech, "--marker", name, "--seconds", "1", "--attacks", "gain:-6")
    for row in rows.values():
        assert (row["found"], row["false"], row["AUC"]) == (says, says, "0.500")
    assert "SNR 100" in out
    assert "gain 0.00 dB (0.00 at worst), bins over the masking threshold 0.00 %" in out
    if name == "useless":  # no message is no right one, and knows half of the bits
        assert (rows["none"]["bits"], rows["none"]["message"]) == ("0.500", "0 %")


def test_what_is_written(speech, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SUITES, "small", ("gain:-6", "polarity"))
    where = (tmp_path / "s.json", tmp_path / "roc.png")
    words = (speech, "--marker", "tones", "--seconds", 1, "--clips", 2, "--attacks", "small", CUT)
    rows, _, err = report(capsys, *words, "--json", where[0], "--picture", where[1])
    assert where[1].read_bytes().startswith(b"\x89PNG")
    about = json.loads(where[0].read_text())
    assert list(rows) == ["none", "gain:-6", "polarity", CUT]
    assert list(about["attacks"]) == list(about["clips"][1]["attacks"]) == list(rows)
    assert [Path(clip["file"]).name for clip in about["clips"]] == ["0.wav", "3.wav"]
    assert "2 of 2" in err
    assert about["speed"]["detect"] > 1
    heard = [clip["attacks"][CUT]["marked"] for clip in about["clips"]]
    assert f"{np.mean(heard):.3f}" == rows[CUT]["marked"]
    report(capsys, *words, "--json", where[0])
    assert json.loads(where[0].read_text())["clips"] == about["clips"]
    report(capsys, *words, "--json", where[0], "--seed", 1)
    again = json.loads(where[0].read_text())["clips"]
    assert all(a["begin"] != b["begin"] for a, b in zip(again, about["clips"], strict=True))


def test_a_score_that_is_no_number_is_no_yes(speech, tmp_path, capsys):
    words = ("--marker", "halves", "--seconds", 2, "--attacks", "polarity", "--json", tmp_path / "s.json")
    rows, out, _ = report(capsys, speech, *words)
    assert "gain -6.02 dB" in out
    assert "presence alone" in out
    for row in rows.values():
        assert (row["found"], row["false"], row["message"], row["bits"]) == ("0 %", "100 %", "-", "-")
        assert (row["AUC"], row["unmarked"]) == ("0.000", "1.000")
    clip = json.loads((tmp_path / "s.json").read_text())["clips"][0]
    assert clip["attacks"]["none"] == {"marked": None, "unmarked": 1.0, "bits": None}


def test_the_area_is_how_often_a_marked_clip_has_more():
    random = np.random.default_rng(0)
    for _ in range(50):
        marked, unmarked = (random.integers(0, 5, random.integers(1, 9)).astype(float) for _ in range(2))
        more = np.subtract.outer(marked, unmarked)
        false, true = roc(marked, unmarked)
        assert np.trapezoid(true, false) == pytest.approx(np.mean((more > 0) + 0.5 * (more == 0)))
        assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


def test_a_message_counts_where_the_mark_is_found():
    def clip(marked, unmarked, bits):
        return {"attacks": {"none": {"marked": marked, "unmarked": unmarked, "bits": bits}}}

    rows = [clip(0.9, 0.1, 1.0), clip(0.4, 0.6, 1.0), clip(0.5, 0.2, 0.75), clip(float("nan"), 0.3, 0.5)]
    assert summary(rows, "none", 0.5) == {
        "found": 0.5, "false": 0.25, "message": 0.25, "bits": 0.8125,
        "marked": pytest.approx(0.6), "unmarked": pytest.approx(0.3), "AUC": 10 / 16,
    }  # fmt: skip


def test_what_is_heard():
    x = corpus_trees.excerpt("speech", 0, 2.0)
    noise = np.random.default_rng(0).standard_normal(len(x)).astype(np.float32)
    noise *= np.sqrt(np.square(x).mean() / np.square(noise).mean())
    soft, loud = (quality(x, 0.5 * (x + level * noise), RATE) for level in (1e-4, 0.1))
    assert soft["gain_db"] == pytest.approx(-6.02, abs=0.01)
    assert soft["snr_db"] == pytest.approx(80, abs=0.1)
    assert loud["snr_db"] == pytest.approx(20, abs=0.1)
    assert soft["over"] == 0
    assert 30 < loud["over"] < 100
    assert soft["pesq_wb"] > 4.6 > 3 > loud["pesq_wb"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--attacks", "opus:12", "tickle:3"], 2, "tickle:3: is no attack; there are noise"),
        (["--attacks", "opus:900"], 2, "opus:900: KBPS '900' is no number from"),
        (["--marker", "nobody"], 1, "nobody_mark.onnx: cannot be read"),
        (["--rate", "48000"], 2, "--rate 48000: tones takes 16000 Hz"),
        (["--seconds", "0"], 2, "0 is not more than 0"),
        (["--seconds", "3"], 1, "no recording is 3 s long; give fewer --seconds"),
        (["--attacks", "crop:2"], 1, "2 s cannot be cut out of 1 s"),
        (["--marker", "choosy", "--attacks", "none"], 1, "too loud"),
        (["--picture", "roc.txt"], 1, "is not a picture"),
    ],
)
def test_wrong_requests(speech, tmp_path, monkeypatch, capsys, words, code, says):
    monkeypatch.chdir(tmp_path)
    words = [str(speech), "--marker", "tones", "--seconds", "1", *words]
    if code == 2:
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
    else:
        assert main(words) == 1
    assert says in capsys.readouterr().err


def test_an_attack_that_cannot_be_made_says_so_before_the_work(speech, monkeypatch, capsys):
    monkeypatch.setattr(Tones, "mark", lambda *given: pytest.fail("marked before"))
    assert main([str(speech), "--marker", "tones", "--seconds", "1", "--attacks", "crop:2"]) == 1


@pytest.mark.parametrize(("name", "package"), [("perth", "resemble-perth"), ("aware", "aware")])
def test_a_package_that_is_missing(speech, monkeypatch, capsys, name, package):
    for module in ("perth", "aware"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main([str(speech), "--marker", name]) == 1
    said = capsys.readouterr().err
    assert f"{package} does not import" in said
    assert "pip install" in said
    assert package in said.split("pip install", 1)[1]


def test_silence_is_left_out(tmp_path, capsys):
    corpus_trees.put(tmp_path / "a.wav", np.zeros(RATE))
    corpus_trees.put(tmp_path / "b.wav", corpus_trees.excerpt("speech", 0, 2.0), 48000)
    words = (
        tmp_path,
        "--marker",
        "tones",
        "--seconds",
        1,
        "--attacks",
        "none",
        "--json",
        tmp_path / "s.json",
    )
    _, out, err = report(capsys, *words)
    assert "1 clips" in out
    assert "a.wav: left out, as good as silent" in err
    assert json.loads((tmp_path / "s.json").read_text())["clips"][0]["rate"] == RATE


def test_exported_parts_are_a_marker(monkeypatch):
    """The graphs are toys: one adds a constant, which says all bits, and the other looks for it."""

    def play(part, controls):
        if part.name == "mark":
            return lambda x: {"marked": x + 0.25 + 0 * controls["bits"].sum()}
        return lambda x: {"present": (x > 0.2) * 1.0, "message": np.repeat(x, 3, 0) * [[1], [-1], [1]]}

    class Toy:
        def __init__(self, part, controls):
            self.feed = play(part, controls)

        def flush(self):
            return {name: y[:, :0] for name, y in self.feed(np.zeros((1, 1))).items()}

    def load(path):
        kind = path.removeprefix("some/stem_").removesuffix(".onnx")
        port = SimpleNamespace(name="bits", type="bits", channels=3)
        return SimpleNamespace(name=kind, sample_rate=RATE, controls={"bits": port})

    monkeypatch.setattr(mark_peers, "Artifact", SimpleNamespace(load=load))
    monkeypatch.setattr(mark_peers, "Player", Toy)
    marker = mark_peers.marker_of("some/stem")
    assert (marker.bits, marker.rate) == (3, RATE)
    y = marker.mark(np.zeros(100), RATE, np.ones(3, bool))
    found, bits = marker.detect(y, RATE)
    assert (found, bits.tolist()) == (1.0, [True, False, True])
    assert marker.detect(np.zeros(100), RATE)[0] == 0 < marker.threshold < found


@pytest.mark.peer
@pytest.mark.parametrize("name", ["perth", "aware"])
def test_peers_find_their_own_mark(name):
    try:
        marker = mark_peers.MARKERS[name]()
    except mark_peers.MissingPeer as missing:
        pytest.skip(str(missing))
    x = corpus_trees.excerpt("speech", 0, 2.0)
    message = np.arange(marker.bits) % 3 == 0
    y = marker.mark(x, RATE, message)
    assert len(x) - 256 < len(y) <= len(x)  # AWARE drops what fills no hop
    found, given = marker.detect(y, RATE)
    assert found >= marker.threshold > marker.detect(x, RATE)[0]
    assert given is None if not marker.bits else (given == message).all()
