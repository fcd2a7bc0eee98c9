"""SilentCipher has the published sizes, streams, equals the released code, and reads what it was told."""

import math
from pathlib import Path

import built_once
import contract
import numpy as np
import pytest
import silentcipher_folder
import soundfile
import torch
import yaml
from torch import nn

from audiomask import checkpoints
from audiomask.checkpoints import CheckpointError
from audiomask.cli import main
from audiomask.frontend.stft import Analysis, power
from audiomask.masks.hearing import EARS, Johnston
from audiomask.models import silentcipher
from audiomask.models.silentcipher import (
    SilentCipher,
    SilentCipherDetector,
    SilentCipherMarker,
    decode,
    digits,
)
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.player import Player

DEMO = Path(__file__).parents[2] / "egs/mini/denoise/corpus/demo"
SIXTEEN = {"sample_rate": 16000, "size": 2048, "band": 512, "symbols": 3, "length": 16}
TINY = {
    "sample_rate": 16000, "size": 16, "band": 5, "symbols": 3, "length": 4, "encoder_layers": 2,
    "decoder_layers": 3, "detector_layers": 2, "width": 4, "detector_width": 6,
}  # fmt: skip
SMALL = {**TINY, "size": 128, "band": 30}
PARTS = [SilentCipherMarker, SilentCipherDetector]
both = pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)


def small(cls=SilentCipher, seed=0, **sizes):
    """A network with random weights and statistics."""
    torch.manual_seed(seed)
    model = cls(**{**SMALL, **sizes}).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.02, 0.2)
            nn.init.normal_(norm.running_mean, 0, 0.2)
            nn.init.normal_(norm.weight, 1, 0.2)
            nn.init.normal_(norm.bias, 0, 0.2)
    return model


def noise(frames, batch=1, seed=0):
    return 0.1 * torch.randn(batch, 1, frames, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("sizes", "counts", "bits", "hop"),
    [({}, (43_968, 499_012, 2_378_773), 40, 2048), (SIXTEEN, (40_384, 499_012, 2_375_953), 23, 1024)],
    ids=["44.1 kHz", "16 kHz"],
)
def test_published_sizes_and_clocks(sizes, counts, bits, hop):
    model = SilentCipherDetector(**sizes)
    found = [
        sum(p.numel() for name, p in model.named_parameters() if name.startswith(of))
        for of in (("encoder.", "spelling."), "decoder.", ("detector.", "pooling."))
    ]
    assert tuple(found) == counts
    assert sum(counts) == sum(p.numel() for p in model.parameters())
    assert (model.bits, model.hop, model.delay) == (bits, hop, 10 * hop)
    marker = SilentCipher(**sizes)
    assert (marker.hop, marker.delay) == (hop, 7 * hop)


# --- streams ------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("promise", [*contract.CONTRACT[:-1], contract.delay_is_composed])
def test_contract(part, promise):
    promise(small(part, **TINY))


def test_output_is_aligned_with_input():
    contract.output_is_aligned_with_input(small(SilentCipherMarker, **TINY))


def test_model1_limits_a_stream_too():
    contract.random_chunking_equals_whole(small(SilentCipherMarker, masking="model1"))


def test_a_new_message_begins_with_a_repetition():
    """Chunks of three hops at a length of four: the change comes in the middle of one."""
    model = small(SilentCipherMarker, masking="none")
    lag, hop, length = model.encoder.delay, model.hop, model.length
    seen = []
    own = model._mark
    model._mark = lambda carrier, tokens, run: (seen.append(tokens), own(carrier, tokens, run))[1]
    state = model.initial_state(1)
    messages = [[0, 1, 2]] * 4 + [[2, 2, 1]] * 5  # after two symbols of the third repetition
    for message in messages:
        _, state = model.step(noise(3 * hop), state, message=torch.tensor([message]))
    tokens = torch.cat(seen, 1)[0, lag:].tolist()
    rows = [tokens[i : i + length] for i in range(0, len(tokens) - length + 1, length)]
    assert rows == [[1, 2, 3, 0]] * 3 + [[3, 3, 2, 0]] * (len(rows) - 3)
    assert len(rows) > 4


def test_the_stream_is_the_whole_signal_once_its_level_is_known():
    """On steady noise, far from both ends, both ways remove the same up to the level's estimate."""
    model = small(masking="none", level_s=1e9)
    x = noise(model.hop * 900)
    message = torch.tensor([[0, 2, 1]])
    with torch.no_grad():
        whole, stream = model.marked(x, message) - x, model(x, message=message) - x
    middle = slice(600 * model.hop, 800 * model.hop)
    error = (whole - stream)[..., middle].square().mean() / whole[..., middle].square().mean()
    assert 10 * math.log10(error) < -30


def test_the_level_follows_with_its_time_constant():
    """A second after a step of 20 dB, the mark of a stream has (1 - 1/e^2) of its new power."""
    model = small(masking="none", level_s=0.5)
    x = noise(model.sample_rate * 6)
    x[..., : 3 * model.sample_rate] *= 0.1
    with torch.no_grad():
        mark = model(x, message=torch.zeros(1, 3, dtype=torch.int64), sdr=20.0) - x

    def level(second):
        return float(mark[..., round(second * 16000) : round((second + 0.2) * 16000)].square().mean())

    late = level(5.7)
    assert level(2.7) / late == pytest.approx(0.01, rel=0.5)
    assert level(3.9) / late == pytest.approx(1 - math.exp(-2), rel=0.1)


# --- the mark -----------------------------------------------------------------------------------------------


def test_the_mark_is_as_strong_as_the_control_says():
    """sdr dB under the sound as magnitudes go; what is heard of it is at most that strong."""
    model = small(masking="none")
    x, message = noise(model.hop * 300), torch.tensor([[0, 2, 1]])
    with torch.no_grad():
        marks = [model.marked(x, message, sdr) - x for sdr in (60.0, 40.0)]
    levels = [10 * math.log10(float(x.square().mean() / mark.square().mean())) for mark in marks]
    assert levels[0] - levels[1] == pytest.approx(20, abs=0.2)
    assert 60 <= levels[0] < 64


@pytest.mark.parametrize("masking", ["johnston", "model1"])
def test_the_mark_stays_under_the_threshold(masking):
    """In speech at 30 dB it would be 3 dB above in a sixth of the band's bins; it is in hardly any.

    Frames overlap, and so the mark of one shows in its neighbours, up to 3 dB above their thresholds.
    """
    x = torch.from_numpy(soundfile.read(DEMO / "apollo11.flac", frames=3 * 16000, dtype="float32")[0])[
        None, None
    ]
    hear = Analysis(512, 256, "hann")
    limit = EARS[masking](16000, 512).step(hear(x), None)[0]
    above = {}
    for kind in ("none", masking):
        model = small(masking=kind, size=512, band=128)
        with torch.no_grad():
            mark = model.marked(x, torch.tensor([[0, 2, 1]]), 30.0) - x
        above[kind] = float((power(hear(mark)) > 2 * limit)[..., : model.band].float().mean())
    assert above["none"] > 0.15
    assert above[masking] < 0.01
    assert mark.square().mean() > 0.5 * 10**-3.5 * x.square().mean()


def test_silence_stays_silent():
    model = small()
    silence = torch.zeros(2, 1, 1000)
    for marked in (
        model.marked(silence, model.message(5)),
        model(silence, message=model.message(5).repeat(2, 1)),
    ):
        assert float(marked.detach().abs().max()) == 0
    assert model.read(silence[0, 0]).confidence == 0


def test_rows_of_whole_signals_are_independent():
    model = small()
    x, messages = noise(3000, 2), torch.tensor([[0, 1, 2], [2, 2, 0]])
    x[1] *= 30
    with torch.no_grad():
        for own in (False, True):
            rows = [model.marked(x[i : i + 1], messages[i : i + 1], None, own) for i in range(2)]
            contract.assert_close([model.marked(x, messages, None, own)], [torch.cat(rows)], "rows")
            rows = [model.logits(x[i : i + 1], own) for i in range(2)]
            contract.assert_close([model.logits(x, own)], [torch.cat(rows)], "rows")


def test_a_short_band_is_that_of_all_bins():
    """What is not computed above the band is what does not reach it."""
    model = small(masking="none", band=12)
    wide = small(masking="none", band=12)
    assert model.bins < 65
    wide.bins = 65
    x, message = noise(2000), torch.tensor([[0, 1, 2]])
    with torch.no_grad():
        ours, theirs = (m.marked(x, message, 20.0) - x for m in (model, wide))
    contract.assert_close([ours], [theirs], "fewer bins", 1e-4)


def test_a_long_signal_is_run_in_pieces_of_the_same_result(monkeypatch):
    model, x, message = small(), noise(64 * 100), torch.tensor([[0, 1, 2]])
    with torch.no_grad():
        once = [model.marked(x, message, 30.0) - x, model.logits(x)]
        monkeypatch.setattr(silentcipher, "FRAMES", 7)
        pieces = [model.marked(x, message, 30.0) - x, model.logits(x)]
        own = model.logits(x, clip_statistics=True)
        monkeypatch.setattr(silentcipher, "FRAMES", 1000)
        contract.assert_close([own], [model.logits(x, clip_statistics=True)], "statistics of the whole clip")
    contract.assert_close(pieces, once, "pieces", 1e-4)  # of the mark, 30 dB weaker


def test_training_takes_the_statistics_of_all_frames(monkeypatch):
    model, x = small().train(), noise(64 * 100)
    once = model.logits(x)
    monkeypatch.setattr(silentcipher, "FRAMES", 7)
    contract.assert_close([model.logits(x).detach()], [once.detach()], "training")


def test_other_messages_are_refused():
    model, x = small(), noise(640)
    for symbols in (2, 4):
        message = torch.zeros(1, symbols, dtype=torch.int64)
        with pytest.raises(ValueError, match="have 3"):
            model.marked(x, message)
        with pytest.raises(ValueError, match="have 3"):
            model(x, message=message)
    for symbol in (-1, 3):
        with pytest.raises(ValueError, match="are 0 to 2"):
            model.marked(x, torch.tensor([[0, symbol, 1]]))
    with pytest.raises(ValueError, match="'message' has no default and must be given"):
        model(x)


def test_sizes_that_do_not_fit_are_refused():
    for sizes, words in (
        ({"masking": "bark"}, "johnston, model1 or none"),
        ({"band": 66}, "65"),
        ({"symbols": 1}, "two symbols"),
    ):
        with pytest.raises(ValueError, match=words):
            small(**sizes)


# --- messages -----------------------------------------------------------------------------------------------


def test_numbers_are_digits():
    assert digits(0b11_01_00_10, 5, 4) == (0, 3, 1, 0, 2)  # bytes as the authors write them, two bits each
    assert digits(3**15 - 1, 15, 3) == (2,) * 15
    for number in (-1, 4**5):
        with pytest.raises(ValueError, match="0 to 1023"):
            digits(number, 5, 4)
    assert small(length=4, symbols=3).message(11).tolist() == [[1, 0, 2]]


def test_decoding_votes_and_turns_to_the_end_token():
    token = np.array([1, 3, 2, 0] * 5)
    heard = np.roll(token, 3)
    heard[[1, 6, 11]] = (3, 1, 2)  # another place of the message each
    reading = decode(heard, 4, 3)
    assert (reading.symbols, reading.number) == ((0, 2, 1), 7)
    assert reading.repetitions == 5
    assert reading.agreement == pytest.approx(17 / 20)
    assert 0.5 < reading.confidence < 0.7
    assert decode(token, 4, 3).confidence == pytest.approx(1)


def test_what_proves_nothing_has_no_confidence():
    generator = np.random.default_rng(0)
    single = decode(np.array([2, 1, 3, 0]), 4, 3)
    assert (single.symbols, single.agreement, single.confidence) == ((1, 0, 2), 1.0, 0.0)
    constant = decode(np.ones(40, np.int64), 4, 3)
    assert (constant.symbols, constant.agreement, constant.confidence) == (None, 1.0, 0.0)
    chance = [decode(generator.integers(0, 4, 160), 4, 3).confidence for _ in range(200)]
    assert abs(np.mean(chance)) < 0.01
    assert max(chance) < 0.15
    assert decode(np.zeros(3, np.int64), 4, 3).repetitions == 0
    assert decode(np.array([0, 1, 0, 2] * 3), 4, 3).symbols is None  # two end tokens


FIRST = 10  # the bin of the end token's tone


def hearing_tones(length=9, symbols=4):
    """A detector that tells tokens by tones, written by hand: that of token k in bin FIRST + 2 k."""
    model = SilentCipher(8000, 128, 30, symbols, length, 2, 2, 2 * symbols + 1, 4, symbols + 1).eval()
    with torch.no_grad():
        for i, layer in enumerate(model.detector):
            channels = layer.weight.shape[0] // 2
            layer.weight.zero_()
            layer.bias.zero_()
            layer.bias[channels:] = 20.0  # gates are open
            layer.norm.running_var.fill_(1 - layer.norm.eps)
            for k in range(channels):
                source = 0 if i == 0 else k
                shift = 1 if i > 0 and 2 * k >= i else 0  # channel k sees the bin 2 k above, in 2 k layers
                layer.weight[k, source, 1, 1 + shift] = 1.0
        model.pooling.weight.zero_()
        model.pooling.weight[0, FIRST] = 1.0
        model.pooling.bias.zero_()
    return model


def tones(model, number, repetitions):
    """A message as tones, one a hop, in the middle of which its frame lies, and noise."""
    tokens = [1 + digit for digit in digits(number, model.length - 1, model.symbols)] + [0]
    hop = model.hop
    hz = torch.tensor([FIRST + 2 * token for token in tokens] * repetitions) * model.sample_rate / model.size
    phase = (2 * math.pi / model.sample_rate * hz).repeat_interleave(hop).cumsum(0)
    x = 0.1 * torch.sin(phase)
    x = x[hop // 2 :]  # frame n is centred at n hops
    return x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def test_a_message_is_read_from_its_start():
    model = hearing_tones()
    reading = model.read(tones(model, 12345, 6))
    assert reading.number == 12345
    assert reading.confidence > 0.9
    assert reading.phase == 0


@pytest.mark.parametrize("options", [{}, {"coarse": 3}, {"coarse": 2, "seconds": 0.25}])
@pytest.mark.parametrize("crop", [64 * 4 + 29, 64 * 11 + 36])
def test_a_crop_is_read_by_a_search(crop, options, monkeypatch):
    """Crops after which each frame hears two tones; the search finds frames that hear one."""
    model, listened = hearing_tones(), []
    x = tones(model, 54321, 6)[crop:]
    own = model._readings
    monkeypatch.setattr(model, "_readings", lambda *given: (listened.append(given), own(*given))[1])
    reading = model.read(x, every=4, **options)
    assert reading.number == 54321
    assert reading.repetitions >= 4
    assert reading.confidence > 0.98
    assert model.read(x).confidence < 0.95
    off = (crop + reading.phase) % model.hop  # of frames from tones
    assert min(off, model.hop - off) <= 24
    assert reading.phase % 4 == 0
    phases, coarse = list(range(0, 64, 4)), options.get("coarse", 1)
    assert list(listened[0][1]) == phases[::coarse]
    if coarse > 1:  # and then every one between the best and its neighbours
        best = silentcipher._best(own(*listened[0]))
        around = {best + 4 * k for k in range(1 - coarse, coarse) if k} & set(phases)
        assert set(listened[1][1]) == around
    if "seconds" in options:
        assert listened[0][0].shape[2] == 2000
        assert (listened[2][0].shape[2], listened[2][1]) == (len(x), [reading.phase])


def test_a_search_decodes_phases_together_as_alone(monkeypatch):
    model = hearing_tones()
    x = tones(model, 999, 4)[23:]
    alone = [model.read(x[phase:]) for phase in range(0, 64, 10)]
    for frames in (1, 10**6):
        monkeypatch.setattr(silentcipher, "FRAMES", frames)
        x_scaled = x[None, None] * silentcipher._scale(x[None, None])
        found = model._readings(x_scaled, range(0, 64, 10), False)
        assert [(r.symbols, r.agreement) for _, r in found.values()] == [
            (r.symbols, r.agreement) for r in alone
        ]


def test_sounds_shorter_than_a_search_are_read_as_nothing():
    model = hearing_tones()
    for frames in (0, 1, 63, 300):
        reading = model.read(torch.zeros(frames), every=10)
        assert reading.symbols is None
        assert reading.confidence == 0


# --- the authors' weights -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The files of both parts that `audiomask import` makes of a folder, and that folder."""
    home = tmp_path_factory.mktemp("import")
    folder = silentcipher_folder.write(home / "theirs", "small", 4, 6, (2, 2, 2))
    with built_once.graphs():  # it compares each file with torch, at several lengths
        assert main(["import", "silentcipher", str(folder), "-o", str(home / "cipher.onnx")]) == 0
    return home / "cipher_mark.onnx", home / "cipher_detect.onnx", folder


def test_import_of_a_published_folder(imported):
    *_, folder = imported
    model, config, card = checkpoints.load("silentcipher", [folder])
    assert config["init_args"] == {
        "sample_rate": 8000, "size": 128, "band": 30, "symbols": 4, "length": 9, "encoder_layers": 2,
        "decoder_layers": 2, "detector_layers": 2, "width": 4, "detector_width": 6, "sdr": 47.0,
        "name": "silentcipher_8khz",
    }  # fmt: skip
    assert (card["licence"], len(card["training"]["sha256"])) == ("MIT", 4)
    assert isinstance(model.threshold, Johnston)
    theirs = torch.load(folder / "dec_m_0.ckpt", weights_only=True)["module.main.1.conv.weight"]
    assert torch.equal(model.detector[0].weight[:6], theirs.mT)


def test_the_files_play_as_torch_runs(imported):
    """In blocks of any size, with a message that changes on the way, and a strength."""
    mark, detect, folder = imported
    model = checkpoints.load("silentcipher", [folder])[0]
    artifact = Artifact.load(mark)
    assert (artifact.task, Artifact.load(detect).task) == ("mark", "detect")
    player, x = Player(artifact), noise(64 * 60).numpy()[0]
    messages, hops, state, ours, theirs = (model.message(7), model.message(60000)), 30, None, [], []
    state = model.initial_state(1)
    for i, message in enumerate(messages):
        part = x[:, i * hops * 64 : (i + 1) * hops * 64]
        player.set({"message": message.numpy()[0], "sdr": 30.0})
        ours += [player.feed(piece)["marked"] for piece in np.array_split(part, 7, 1)]
        with torch.no_grad():
            y, state = model.step(
                torch.from_numpy(part)[None], state, message=message, sdr=torch.tensor([30.0])
            )
        theirs.append(y[0])
    ours = torch.from_numpy(np.concatenate(ours, 1))
    theirs = torch.cat(theirs, 1)[:, int(model.delay) :][:, : ours.shape[1]]
    assert ours.shape == theirs.shape
    contract.assert_close([ours], [theirs], "played")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "dec_c.ckpt").unlink(), r"dec_c\.ckpt: no such file"),
        (
            lambda folder: (folder / "hparams.yaml").write_text("a: [1"),
            r"hparams\.yaml: cannot be read as YAML",
        ),
        (lambda folder: (folder / "hparams.yaml").write_text("!!python/object:os.system {}"), "YAML"),
        (lambda folder: (folder / "hparams.yaml").write_text("just words"), r"hparams\.yaml: no options"),
        (lambda folder: edit(folder, SR=None), "SR"),
        (lambda folder: edit(folder, message_sdr=[47]), "message_sdr"),
        (lambda folder: edit(folder, N_FFT="many"), "N_FFT"),
        (lambda folder: edit(folder, N_FFT=2**40, HOP_LENGTH=2**39), "N_FFT"),
        (lambda folder: edit(folder, HOP_LENGTH=32), "HOP_LENGTH"),
        (lambda folder: edit(folder, frame_level_normalization=True), "frame_level_normalization"),
        (lambda folder: edit(folder, message_len=0), "message_len"),
        (
            lambda folder: torch.save({"a": torch.zeros(1)}, folder / "enc_c.ckpt"),
            "not a checkpoint of silentcipher",
        ),
        (lambda folder: torch.save({"a": print}, folder / "enc_c.ckpt"), r"enc_c\.ckpt: .*not unpickled"),
    ],
)
def test_a_folder_that_is_none_is_named(tmp_path, spoil, words):
    folder = silentcipher_folder.write(tmp_path / "w", "small", 4, 6, (2, 2, 2))
    spoil(folder)
    with pytest.raises(CheckpointError, match=words):
        checkpoints.load("silentcipher", [folder])


def edit(folder, **options):
    path = folder / "hparams.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | options))


def test_a_folder_is_given_as_such_or_by_its_files(tmp_path):
    folder = silentcipher_folder.write(tmp_path / "w", "small", 4, 6, (2, 2, 2))
    files = sorted(folder.iterdir())
    first, again = (checkpoints.load("silentcipher", paths)[0].state_dict() for paths in ([folder], files))
    assert all(torch.equal(first[key], again[key]) for key in first)
    for wrong in (files[:1], files[:3], [*files, files[0]], [tmp_path]):
        with pytest.raises(CheckpointError, match=r"no such file|give the folder.*dec_m_0\.ckpt"):
            checkpoints.load("silentcipher", wrong)
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoints.load("demucs", [folder])


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", silentcipher_folder.PUBLISHED)
def test_same_as_the_package(tmp_path, size, monkeypatch):
    """Marks and logits of the package with the same weights, in evaluation mode and as it is released.

    The package cannot mark at 16 kHz, so its networks are called as `encode_wav` calls them.
    """
    package = pytest.importorskip("silentcipher")
    from silentcipher import stft

    monkeypatch.setattr(stft.Singleton, "_instances", {})  # one size a process
    folder = silentcipher_folder.write(tmp_path, size)
    ours, _, _ = checkpoints.load("silentcipher", [folder], masking="none")
    theirs = package.get_model(
        "16k" if size == "16_khz" else "44.1k", str(folder), str(folder / "hparams.yaml")
    )
    x = noise(ours.hop * 25 + 77)
    message = torch.from_numpy(np.random.default_rng(1).integers(0, ours.symbols, (1, ours.length - 1)))
    for own in (False, True):  # in training mode it changes its statistics
        for network in (theirs.enc_c, theirs.dec_c, *theirs.dec_m):
            network.train(own)
        with torch.no_grad():
            scale = (x.square().mean() / theirs.average_energy_VCTK).sqrt()
            carrier, phase = theirs.stft.transform(x[0] / scale)
            carrier = carrier[:, None]
            told, _ = theirs.letters_encoding(carrier.shape[3], message.numpy())
            told = theirs.enc_c.transform_message(torch.from_numpy(told[None]).float())
            parts = (theirs.enc_c(carrier), carrier.repeat(1, 32, 1, 1), told.repeat(1, 32, 1, 1))
            mark = theirs.dec_c(torch.cat(parts, 1), 47) * carrier.square().mean().sqrt()
            theirs.stft.num_samples = x.shape[2]
            marked = theirs.stft.inverse((carrier - mark).relu()[:, 0], phase) * scale
            contract.assert_close([ours.marked(x, message, None, own)], [marked], "marked")
            mine, other = ours.marked(x, message, None, own) - x, marked - x
            contract.assert_close([mine], [other], "the mark alone", 1e-3)  # which is 47 dB weaker
            contract.assert_close([ours.logits(x, own)], [theirs.dec_m[0](carrier)[:, 0]], "logits")


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
def test_reads_as_the_package_as_it_is_released(tmp_path, monkeypatch):
    """Whole bytes in, and the search over phases, in the package's own words."""
    package = pytest.importorskip("silentcipher")
    from silentcipher import stft

    monkeypatch.setattr(stft.Singleton, "_instances", {})
    folder = silentcipher_folder.write(tmp_path, "small")
    ours, _, _ = checkpoints.load("silentcipher", [folder], masking="none")
    theirs = package.get_model("44.1k", str(folder), str(folder / "hparams.yaml"))
    x = noise(ours.hop * 40 + 7)
    marked, _ = theirs.encode_wav(x[0, 0].numpy(), 8000, [123, 45], calc_sdr=False)
    mine = ours.marked(x, ours.message(123 * 256 + 45), None, True).detach()
    contract.assert_close([mine], [torch.from_numpy(marked)[None, None]], "marked")
    energy = silentcipher.ENERGY / x.square().mean()
    phase = theirs.get_best_ps((x * energy.sqrt())[0, 0].numpy())
    assert ours.read(x[0, 0], every=10, clip_statistics=True).phase == phase
