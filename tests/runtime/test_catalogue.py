"""audiomask.runtime.catalogue: a name, a file or a folder means its models, and only those are read."""

import pytest
import small_artifacts

from audiomask.runtime import artifact as module
from audiomask.runtime import catalogue
from audiomask.runtime.artifact import ArtifactError
from audiomask.runtime.catalogue import choose, family, resolve, separators
from audiomask.runtime.onnx_parser import parse


def test_resolve(toy, tmp_path, toys, monkeypatch):
    monkeypatch.setattr(catalogue, "PRETRAINED", tmp_path)
    assert [a.name for a in resolve(toy)] == ["toy_16k", "toy_48k"]
    assert [a.name for a in resolve(toy / "toy_48k.onnx")] == ["toy_48k"]
    both = resolve(toy)
    assert family(both[0]) == family(both[1]) == "toy"
    rates = {8000: 16000, 16000: 16000, 22050: 48000, 44100: 48000, 48000: 48000, 192000: 48000}
    assert {r: choose(both, r).sample_rate for r in rates} == rates
    assert choose(both[:1], 48000).sample_rate == 16000
    with pytest.raises(ArtifactError, match="neither a file nor a shipped model; shipped are: none"):
        resolve("nonsense")
    with pytest.raises(ArtifactError, match="no default model for enhance"):
        resolve(None)
    with pytest.raises(ArtifactError, match="cannot be read"):
        resolve("missing.onnx")
    with pytest.raises(ArtifactError, match=r"holds no \.onnx"):
        resolve(tmp_path)
    with pytest.raises(ArtifactError):
        resolve("n" * 5000)


def test_shipped_models_by_name(toy, tmp_path, toys, monkeypatch):
    monkeypatch.setattr(catalogue, "PRETRAINED", tmp_path)
    for rate in (16000, 48000):
        hop = rate * 16 // 1000
        toys.build(
            tmp_path / f"good_{rate // 1000}k.onnx",
            name=f"good_{rate // 1000}k",
            rate=rate,
            hop=hop,
            delay=hop,
        )
    assert [a.sample_rate for a in resolve(None)] == [16000, 48000]
    assert [a.sample_rate for a in resolve("good")] == [16000, 48000]
    assert [a.sample_rate for a in resolve("good_48k")] == [48000]
    toys.build(tmp_path / "other.onnx", name="other")
    with pytest.raises(ArtifactError, match="no default model"):
        resolve(None)
    with pytest.raises(ArtifactError, match=r"several models \(good other\); name one file"):
        resolve(tmp_path)
    toys.build(tmp_path / "other.onnx", name="other", default=True)
    assert [a.name for a in resolve(None)] == ["other"]


def test_only_the_family_that_is_wanted_is_read(toys, tmp_path, monkeypatch):
    """A command that needs one model read the graphs of all that ship."""
    for name in ("one_16k", "one_48k", "two_16k", "three_16k"):
        toys.build(tmp_path / f"{name}.onnx", name=name, default=name.startswith("one"))
    monkeypatch.setattr(catalogue, "PRETRAINED", tmp_path)
    read = []
    monkeypatch.setattr(module, "parse", lambda data: read.append(len(data)) or parse(data))
    assert [a.name for a in resolve()] == ["one_16k", "one_48k"]
    assert len(read) == 2
    assert [a.name for a in resolve("two")] == ["two_16k"]
    assert len(read) == 3
    (tmp_path / "two_16k.onnx").write_bytes((tmp_path / "two_16k.onnx").read_bytes()[:900])
    with pytest.raises(ArtifactError, match=r"two_16k\.onnx: is no ONNX model"):
        resolve()


def test_separators_by_their_stems(tmp_path, monkeypatch):
    """A folder here that is called like a model is no model."""
    monkeypatch.setattr(catalogue, "PRETRAINED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    for name in ("shipped", "cinema", "band"):
        (tmp_path / name).mkdir()
    small_artifacts.build(tmp_path / "shipped", "cinema", task="separate", default=True)
    for rate in (48, 16):
        name = f"band_{rate}k"
        path = small_artifacts.build(tmp_path, "stems", task="separate", name=name, sample_rate=1000 * rate)
        path.rename(tmp_path / "shipped" / f"{name}.onnx")
    assert [a.name for a in separators()] == ["cinema"]
    assert [a.name for a in separators(stems=["music", "music"])] == ["cinema"]
    assert [a.name for a in separators(stems=["drums", "vocals"])] == ["band_16k", "band_48k"]
    assert [a.name for a in separators("shipped/cinema.onnx", ["music"])] == ["cinema"]
    with pytest.raises(
        ArtifactError, match="no model makes choir; there are cinema: speech music effects; band"
    ):
        separators(stems=["music", "choir"])
    with pytest.raises(ArtifactError, match="no model makes all of music, bass"):
        separators(stems=["music", "bass"])
