"""tools/release/vendor_web.py, with a package made here: no network."""

import base64
import hashlib
import io
import runpy
import sys
import tarfile
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/release/vendor_web.py"


@pytest.fixture
def tool():
    return runpy.run_path(str(TOOL))


def package(path, names):
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def test_takes_what_is_needed_and_no_more(tool, tmp_path):
    wanted = [f"dist/{name}" for name in tool["FILES"]]
    integrity = package(tmp_path / "a.tgz", [*wanted, "dist/ort.js", "package.json", "../evil"])
    target = tmp_path / "vendor"
    target.mkdir()
    (target / "old").write_text("from an older version")
    tool["unpack"](tmp_path / "a.tgz", target, integrity)
    found = {path.name for path in target.iterdir()}
    assert found == {*tool["FILES"], "LICENSE.txt", "ThirdPartyNotices.txt", "SOURCE.txt"}
    assert "MIT License" in (target / "LICENSE.txt").read_text()
    assert (target / tool["FILES"][0]).read_text() == wanted[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tgz", "vendor"]


def test_another_package_than_the_pinned_one_is_refused(tool, tmp_path):
    package(tmp_path / "a.tgz", [f"dist/{name}" for name in tool["FILES"]])
    with pytest.raises(
        SystemExit, match=r"a.tgz: its hash is sha512-.*, not sha512-q0y.*; it is not what was"
    ):
        tool["unpack"](tmp_path / "a.tgz", tmp_path / "vendor", tool["INTEGRITY"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


def test_a_package_with_other_files_leaves_nothing(tool, tmp_path):
    integrity = package(tmp_path / "a.tgz", ["dist/ort.wasm.min.mjs"])
    with pytest.raises(SystemExit, match=r"lacks .*threaded.mjs.*; the package has changed its files"):
        tool["unpack"](tmp_path / "a.tgz", tmp_path / "vendor", integrity)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


def test_without_npm_it_says_what_to_do(tool, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"npm is not installed; install it .* or give --tgz FILE"):
        tool["fetch"](tmp_path)


def test_what_is_there_is_not_fetched_again(tool, tmp_path, monkeypatch, capsys):
    (tmp_path / "SOURCE.txt").write_text(tool["stamp"](tool["INTEGRITY"]))
    main = tool["main"]
    monkeypatch.setitem(main.__globals__, "TARGET", tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["vendor_web.py"])
    main()
    assert capsys.readouterr().out == f"onnxruntime-web {tool['VERSION']} is there\n"
