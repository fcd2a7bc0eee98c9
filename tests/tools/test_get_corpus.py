"""The downloader resumes, checks, unpacks safely, and leaves nothing under a final name that is not whole."""

import hashlib
import http.server
import io
import runpy
import tarfile
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools/corpora/get_corpus.py"))
main = TOOL["main"]


def zipped(files):
    with io.BytesIO() as out:
        with zipfile.ZipFile(out, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        return out.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`, with ranges if `server.resumes`, hanging up after `server.cut` bytes if set."""

    def do_GET(self):
        data = self.server.files.get(self.path)
        start = 0
        if self.server.resumes and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.server.asked.append((self.path, start))
        if data is None or start >= len(data):
            self.send_error(404 if data is None else 416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : self.server.cut])
        self.server.cut = None

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as it:
        it.files, it.resumes, it.cut, it.asked = {}, True, None, []
        threading.Thread(target=it.serve_forever, args=(0.01,), daemon=True).start()
        it.url = f"http://127.0.0.1:{it.server_port}"
        yield it
        it.shutdown()


@pytest.fixture
def corpus(server, tmp_path, capsys):
    """`corpus.get(...)` runs the tool on a list of one archive that the server has."""
    data = zipped({"speech/a.wav": "a" * 5000, "speech/deep/b.wav": "b", "__MACOSX/._a.wav": "junk"})
    server.files["/one.zip"] = data
    it = SimpleNamespace(data=data, out=tmp_path / "corpus", size=str(len(data)), list=tmp_path / "list.tsv")
    it.checksum = f"md5:{hashlib.md5(data).hexdigest()}"

    def get(*words):
        it.list.write_text(f"# name\n\none.zip\t{server.url}/one.zip\t{it.size}\t{it.checksum}\n")
        code = main([str(it.list), str(it.out), *words])
        return SimpleNamespace(code=code, **dict(zip(("out", "err"), capsys.readouterr(), strict=True)))

    def files():
        return {str(p.relative_to(it.out)) for p in it.out.rglob("*") if p.is_file()}

    it.get, it.files, it.part = get, files, it.out / ".archives/one.zip.part"
    return it


UNPACKED = {"speech/a.wav", "speech/deep/b.wav", ".archives/one.zip.done"}


def test_loads_checks_unpacks_and_remembers(server, corpus):
    assert corpus.get().code == 0
    assert corpus.files() == UNPACKED
    again = corpus.get()
    assert (again.code, "done before" in again.out, len(server.asked)) == (0, True, 1)


@pytest.mark.parametrize("known", [True, False])
def test_a_partial_transfer_is_resumed(server, corpus, known):
    if not known:
        corpus.size = corpus.checksum = "-"
    server.cut = 300
    cut = corpus.get()
    assert cut.code == 1
    assert "the same command continues" in cut.err
    assert corpus.files() == {".archives/one.zip.part"}
    assert corpus.part.read_bytes() == corpus.data[:300]
    done = corpus.get()
    assert done.code == 0, done.err
    assert server.asked == [("/one.zip", 0), ("/one.zip", 300)]
    assert corpus.files() == UNPACKED
    assert ("no checksum is known" in done.out) != known


def test_a_server_that_does_not_resume_starts_over(server, corpus):
    server.resumes, server.cut = False, 300
    assert corpus.get().code == 1
    assert corpus.get().code == 0
    assert corpus.files() == UNPACKED


def test_a_wrong_checksum_leaves_nothing(corpus):
    corpus.checksum = "sha256:" + "0" * 64
    done = corpus.get()
    assert done.code == 1
    assert "one.zip: size or checksum is" in done.err
    assert corpus.files() == set()


def test_a_part_that_is_too_long_is_loaded_again(corpus):
    corpus.part.parent.mkdir(parents=True)
    corpus.part.write_bytes(corpus.data + b"more")
    assert corpus.get().code == 1
    assert corpus.get().code == 0


def test_another_size_is_refused_before_it_is_loaded(corpus):
    corpus.size = "77777"
    done = corpus.get()
    assert (done.code, "77777 are expected" in done.err, corpus.files()) == (1, True, set())


def test_a_missing_archive(server, corpus):
    server.files.clear()
    done = corpus.get()
    assert done.code == 1
    assert f"{server.url}/one.zip: the server answers 404 Not Found; look at the corpus' page" in done.err


def test_a_dead_server(corpus, server):
    server.shutdown()
    server.server_close()
    done = corpus.get()
    assert (done.code, "Connection refused" in done.err) == (1, True)


def test_a_full_disk_is_noticed_before(corpus, monkeypatch):
    monkeypatch.setattr(TOOL["shutil"], "disk_usage", lambda path: SimpleNamespace(free=10**8))
    done = corpus.get()
    assert (done.code, "make room" in done.err, corpus.files()) == (1, True, set())


@pytest.mark.parametrize("name", ["../out.wav", "/tmp/out.wav", "a/../../out.wav"])
def test_an_archive_that_leads_out_is_refused(server, corpus, name):
    corpus.data = server.files["/one.zip"] = zipped({"ok.wav": "x", name: "y"})
    corpus.size = corpus.checksum = "-"
    done = corpus.get()
    assert (done.code, "not to be trusted" in done.err) == (1, True)
    assert corpus.files() == {".archives/one.zip"}


def tarred(add):
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w:bz2") as archive:
            for name, link in (("data/a.wav", None), ("data/l.wav", add)):
                info = tarfile.TarInfo(name)
                if link:
                    info.type, info.linkname = tarfile.SYMTYPE, link
                if link != "":
                    archive.addfile(info, io.BytesIO())
        return out.getvalue()


@pytest.mark.parametrize(("link", "code"), [("", 0), ("a.wav", 1), ("../../../etc/passwd", 1)])
def test_tar(server, corpus, link, code):
    server.files["/one.zip"] = tarred(link)
    corpus.size = corpus.checksum = "-"
    done = corpus.get("--keep-archives")
    assert done.code == code, done.err
    assert ("data/a.wav" in corpus.files()) == (code == 0)
    assert ".archives/one.zip" in corpus.files()


@pytest.mark.parametrize("how", ["damaged", "html"])
def test_what_is_no_archive_is_said(server, corpus, how):
    server.files["/one.zip"] = b"<html>" if how == "html" else corpus.data[:-400] + b"?" * 10
    corpus.size = corpus.checksum = "-"
    done = corpus.get()
    assert (done.code, "one.zip: " in done.err) == (1, True)
    assert corpus.files() == {".archives/one.zip"}


def test_files_that_are_there_are_not_replaced(corpus):
    (corpus.out / "speech").mkdir(parents=True)
    (corpus.out / "speech/a.wav").write_text("mine")
    done = corpus.get()
    assert (done.code, "speech/a.wav: is there already" in done.err) == (1, True)
    assert (corpus.out / "speech/a.wav").read_text() == "mine"
    assert not (corpus.out / "speech/deep").exists()
    (corpus.out / "speech/a.wav").write_text("a" * 5000)  # as an interrupted run would have left it
    assert corpus.get().code == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one.zip http://x", ":1: want NAME, URL, SIZE, CHECKSUM"),
        ("one.zip\thttp://x\tbig\t-", ":1: want NAME"),
        ("one.zip\tfile:///etc/passwd\t-\t-", "is no address"),
        ("one.zip\thttp://x\t1\tmd5:12", "no md5 checksum"),
        ("../one.zip\thttp://x\t1\t-", "not a plain file name"),
    ],
)
def test_a_bad_list_is_refused(corpus, capsys, line, message):
    corpus.list.write_text(line + "\n")
    assert main([str(corpus.list), str(corpus.out)]) == 1
    assert message in capsys.readouterr().err


def test_only_some(corpus):
    done = corpus.get("--only", "two.zip")
    assert (done.code, "has no archive two.zip" in done.err) == (1, True)
