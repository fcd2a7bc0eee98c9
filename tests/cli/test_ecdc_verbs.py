"""audiomask encode and decode of .ecdc files, against the package encodec with the same random weights."""

import importlib
import re
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch

from audiomask.audio import read
from audiomask.models import encodec_lm
from audiomask.runtime.codes.ecdc import EcdcFile

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(1800)]
NAMES = {24000: "encodec_24khz", 48000: "encodec_48khz"}


def small(package, rate):
    """The package's network and language model of a rate, with few channels and random weights."""
    modules, model = package.modules, importlib.import_module("encodec.model")
    wide = rate == 48000
    style = {"norm": "time_group_norm", "causal": False} if wide else {"norm": "weight_norm", "causal": True}
    sizes = {"channels": 1 + wide, "dimension": 16, "n_filters": 4, **style}
    torch.manual_seed(rate)
    books = 16 if wide else 32
    quantizer = package.quantization.ResidualVectorQuantizer(dimension=16, n_q=books, bins=1024)
    found = model.EncodecModel(
        modules.SEANetEncoder(**sizes), modules.SEANetDecoder(**sizes), quantizer, [3.0, 6.0, 24.0], rate,
        1 + wide, normalize=wide, segment=1.0 if wide else None, name=NAMES[rate],
    ).eval()  # fmt: skip
    for n, layer in enumerate(quantizer.vq.layers):  # from large to small, as if it had learned
        layer._codebook.embed.copy_(0.2 * 0.8**n * torch.randn(1024, 16))
        layer._codebook.inited.fill_(1)
    context = encodec_lm.CONTEXT[books]
    lm = model.LMModel(books, 1024, num_layers=2, dim=40, past_context=context).eval()
    for linear in lm.linears:
        linear.weight.data *= 8  # so that probabilities differ
    return found, lm


@pytest.fixture(scope="module", params=[24000, 48000])
def pair(request, tmp_path_factory):
    """The package's compress and decompress, and the same weights as imported by the verb."""
    importlib.import_module("audiomask.frontend.torchaudio_import")  # the package imports torchaudio
    package = pytest.importorskip("encodec")
    from audiomask.cli import main

    rate, folder = request.param, tmp_path_factory.mktemp("ecdc")
    model, lm = small(package, rate)
    torch.save(model.state_dict(), folder / "codec.th")
    torch.save(lm.state_dict(), folder / "lm.th")
    stem = folder / "mine"
    with pytest.MonkeyPatch.context() as patch:  # that graphs equal torch is proved elsewhere
        patch.setattr("audiomask.export.onnx_file.compare", lambda *given: {"all": 0.0})
        patch.setattr("audiomask.export.proof.check_file", lambda *given: 0.0)
        assert main(["import", "encodec", str(folder / "codec.th"), "-o", f"{stem}.onnx"]) == 0
    assert main(["import", "encodec_lm", str(folder / "lm.th"), "--weights", f"{stem}_lm"]) == 0
    model.get_lm_model = lambda: lm
    compress = importlib.import_module("encodec.compress")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(compress.MODELS, model.name, lambda: model)
        yield SimpleNamespace(rate=rate, model=model, stem=stem, compress=compress)
    torch.set_num_threads(threads)


def sound(rate, samples):
    x = np.cumsum(0.02 * np.random.default_rng(samples).standard_normal((rate // 24000, samples)), axis=1)
    return (0.3 * np.sin(x)).astype(np.float32)


@pytest.mark.parametrize("lm", [False, True], ids=["plain", "lm"])
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.1237])
def test_each_reads_what_the_other_writes(tmp_path, monkeypatch, cli, pair, seconds, lm):
    monkeypatch.chdir(tmp_path)
    rate, samples = pair.rate, round(pair.rate * seconds)
    x = sound(rate, samples)
    pair.model.set_target_bandwidth(3.0 if lm else 6.0)
    with torch.no_grad():
        frames = pair.model.encode(torch.from_numpy(x)[None])
        wanted = pair.model.decode(frames)[0, :, :samples].numpy()
        theirs = pair.compress.compress(pair.model, torch.from_numpy(x), use_lm=lm)
    (tmp_path / "theirs.ecdc").write_bytes(theirs)
    how = ("-m", str(pair.stem))
    done = cli("decode", "theirs.ecdc", *how, "-o", "theirs.wav", "--subtype", "FLOAT")
    assert done.code == 0, done.err
    y, found = read("theirs.wav")
    assert (found, y.shape) == (rate, wanted.shape)
    assert np.abs(y - wanted).max() < 1e-5 * np.abs(wanted).max()

    sf.write("a.wav", x.T, rate, subtype="FLOAT")
    kbps = "3" if lm else "6"
    done = cli("encode", "a.wav", *how, "-o", "ours.ecdc", "--kbps", kbps, *(["--lm"] if lm else []))
    assert done.code == 0, done.err
    ours, theirs = (segments_of(name, pair, lm) for name in ("ours.ecdc", "theirs.ecdc"))
    assert len(ours) == len(theirs) == len(frames)
    for (scale, codes), (level, their_codes) in zip(ours, theirs, strict=True):
        last = slice(None, None if rate == 48000 else -1)  # a stream is silent after its end
        assert codes.shape == their_codes.shape
        np.testing.assert_array_equal(codes[:, last], their_codes[:, last])
        assert (scale is None and level is None) or scale == pytest.approx(level, rel=1e-6)
    with torch.no_grad():
        y, found = pair.compress.decompress((tmp_path / "ours.ecdc").read_bytes())
    assert (found, y.shape) == (rate, wanted.shape)


def segments_of(name, pair, lm):
    file = EcdcFile(name)
    file.language = encodec_lm.Predictions(f"{pair.stem}_lm") if lm else None
    assert file.lm == lm
    parts = [[(None, np.concatenate([codes for _, codes in file.segments()], axis=1))]]
    return list(file.segments()) if pair.rate == 48000 else parts[0]


def test_a_mono_recording_of_another_rate_and_the_way_there_and_back(tmp_path, monkeypatch, cli, pair):
    monkeypatch.chdir(tmp_path)
    sf.write("a.wav", sound(24000, 50001)[0], 44100)
    assert cli("encode", "a.wav", "-m", str(pair.stem), "-o", "a.ecdc").code == 0
    assert cli("decode", "a.ecdc", "-m", str(pair.stem), "-o", "b.wav").code == 0
    y, rate = read("b.wav")
    assert (rate, y.shape[1]) == (pair.rate, -(-50001 * pair.rate // 44100))
    assert cli("codec", "a.wav", "-m", str(pair.stem), "-o", "c.wav", "--no-scores").code == 0


def test_damaged_files_through_the_verb(tmp_path, monkeypatch, cli, pair):
    """Whole files are played, others refused, and none stops the rest."""
    from codes import damaged

    monkeypatch.chdir(tmp_path)
    pair.model.set_target_bandwidth(3.0)
    (tmp_path / "bad").mkdir()
    x = torch.from_numpy(sound(pair.rate, pair.rate // 3))
    for lm in (False, True):
        data = pair.compress.compress(pair.model, x, use_lm=lm)
        for n, bad in enumerate(damaged(data, 10)):
            (tmp_path / f"bad/{lm}{n}.ecdc").write_bytes(bad or b"\0")
    done = cli("decode", "bad", "-m", str(pair.stem), "-o", "out/", "-j", "1", "-q")
    assert "Traceback" not in done.err
    read_ = {path.stem for path in (tmp_path / "out").glob("*.wav")}
    refused = set(re.findall(r"error: bad/(\w+)\.ecdc", done.err))
    assert read_ | refused == {path.stem for path in (tmp_path / "bad").iterdir()}
    assert len(read_) > 8
