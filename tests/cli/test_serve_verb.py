"""audiomask serve: where it listens, whom it refuses, and how it ends."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from websockets.sync.client import connect

from audiomask.audio import AudioError
from audiomask.runtime.net import listener, requests, sockets
from audiomask.runtime.net.batching import EXTRA_S, LIVE_S
from audiomask.runtime.net.server import DRAIN_S, Service, Settings, offer

TOKEN = "0123456789abcdef"


@pytest.fixture
def start(toy16):
    """``start(*words, **environment)``: a running server, with its address in ``at``."""
    made = []

    def run(*words, **environment):
        words = [
            sys.executable,
            "-m",
            "audiomask",
            "serve",
            "-m",
            str(toy16),
            "--no-page",
            "--port",
            "0",
            *words,
        ]
        process = subprocess.Popen(
            words, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        made.append(process)
        line = process.stderr.readline()
        assert " at http" in line, line + process.stderr.read()
        process.at = line.split()[-1]
        return process

    yield run
    for process in made:
        process.kill()
        process.wait(30)
        process.stderr.close()


def ws(process, **options):
    return connect(process.at.replace("http", "ws", 1) + "/ws", proxy=None, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_ends_cleanly_when_told(start, noise, number):
    process = start()
    with urllib.request.urlopen(f"{process.at}/health", timeout=20) as answer:
        assert json.load(answer)["models"] == ["toy_16k"]
    with ws(process) as client:
        client.send('{"type": "hello"}')
        assert json.loads(client.recv(20))["model"] == "toy_16k"
        client.send(noise(1, 1024).astype("<f4").tobytes())
        got = len(client.recv(20))
        process.send_signal(number)
        while not isinstance(message := client.recv(20), str):
            got += len(message)
        assert got == 4 * 1024
        assert json.loads(message)["samples_out"] == 1024
        with pytest.raises(Exception, match="1001"):
            client.recv(20)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert err == "audiomask: stopping; 1 sockets get what they are owed\naudiomask: stopped\n"


def test_a_token_from_the_environment_or_a_file(start, tmp_path):
    (tmp_path / "token").write_text(TOKEN + "\n")
    for process in (start(AUDIOMASK_TOKEN=TOKEN), start("--token-file", str(tmp_path / "token"))):
        for token, kind in ((TOKEN, "ready"), ("wrong", "error")):
            with ws(process) as client:
                client.send(json.dumps({"type": "hello", "token": token}))
                assert json.loads(client.recv(20))["type"] == kind


def test_limits_reach_the_server(start):
    process = start("--max-sockets", "1", "--idle", "0.5", "--threads", "2", "-m", "sieve_16k")
    with ws(process) as first, ws(process) as second:
        assert json.loads(second.recv(20))["code"] == "full"
        first.send('{"type": "hello", "model": "sieve"}')
        assert json.loads(first.recv(20))["model"] == "sieve_16k"
        assert json.loads(first.recv(20))["code"] == "idle"


def certificate(folder):
    """cert.pem and key.pem in it."""
    made = subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
        "-keyout key.pem -out cert.pem -days 2 -subj /CN=localhost "
        "-addext subjectAltName=IP:127.0.0.1",
        shell=True,
        cwd=folder,
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl is not here to make a certificate")


def test_tls(start, tmp_path):
    certificate(tmp_path)
    process = start("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    assert process.at.startswith("https://")
    context = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    with ws(process, ssl=context) as client:
        client.send('{"type": "hello", "format": "s16le"}')
        assert json.loads(client.recv(20))["type"] == "ready"
        client.send(np.zeros(1024, "<i2").tobytes())
        client.send('{"type": "close"}')
        assert sum(len(m) for m in client if isinstance(m, bytes)) == 2048


def test_a_tls_handshake_that_does_not_come_is_cut(tmp_path, toy16, monkeypatch):
    certificate(tmp_path)
    monkeypatch.setattr(listener, "HELLO_S", 0.3)
    pem = [tmp_path / name for name in ("cert.pem", "key.pem")]
    service = Service(offer([str(toy16)]), Settings())
    server = listener.server(service, certificate=pem[0], key=pem[1], say=lambda text: None)
    listening = listener.bind("127.0.0.1", 0)
    thread = threading.Thread(target=listener.run, args=(server, listening))
    thread.start()
    try:
        with socket.create_connection(listening.getsockname(), timeout=20) as silent:
            assert silent.recv(1) == b""
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others could use it; give a token in AUDIOMASK_TOKEN"),
        (["--host", "example.org"], "others could use it"),
        (["--tls-key", "key.pem"], "--tls-key key.pem: needs its certificate"),
        (["--token-file", "/nowhere/token"], "--token-file /nowhere/token: cannot be read"),
        (["--origin", "example.org"], "--origin example.org: expected a scheme and a host"),
        (["--origin", "https://example.org/"], "expected a scheme and a host"),
        (["--max-rate", "0"], "0 is not above 0"),
        (["--max-rate", "nan"], "nan is not above 0"),
        (["--max-sockets", "0"], "0 is less than 1"),
        (["--port", "65536"], "65536 is outside 0 to 65535"),
        (["--token", TOKEN], "unrecognized arguments"),
    ],
)
def test_wrong_usage(cli, toy16, words, text):
    done = cli("serve", "-m", toy16, "--no-page", *words)
    assert done.code == 2
    assert text in done.err


@pytest.mark.parametrize("token", ["", "short", "sixteen letters and spaces", "sechzehn-größer-als"])
def test_tokens_that_are_none(cli, toy16, monkeypatch, token):
    monkeypatch.setenv("AUDIOMASK_TOKEN", token)
    done = cli("serve", "-m", toy16, "--no-page")
    assert done.code == 2
    assert "AUDIOMASK_TOKEN: a token has 16 or more" in done.err


def test_failures_name_the_remedy(cli, toy16, tmp_path):
    (tmp_path / "cert.pem").write_text("nothing")
    done = cli("serve", "-m", toy16, "--no-page", "--tls-cert", tmp_path / "cert.pem")
    assert done.code == 1
    assert "cert.pem: with the key in the same file, TLS cannot use it" in done.err
    done = cli("serve", "-m", "nobody", "--no-page")
    assert done.code == 1
    assert "nobody: is neither a file nor a shipped model" in done.err
    with pytest.raises(AudioError, match=r"a..b:0: cannot be listened on"):
        listener.bind("a..b", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("serve", "-m", toy16, "--no-page", "--port", port)
    assert done.code == 1
    assert f"127.0.0.1:{port}: cannot be listened on" in done.err


def test_a_server_that_does_not_start_fails(toy16):
    """Not even its computing thread, where the system has no more threads."""
    code = (
        "import sys, audiomask.runtime.net.server as server; from audiomask.cli import main\n"
        'def Worker(counters): raise RuntimeError("can\'t start new thread")\n'
        "server.Worker = Worker\n"
        "sys.exit(main(['serve', '--no-page', '--port', '0', '-m', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, toy16], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "can't start new thread" in done.stderr
    assert "serve: the server did not start" in done.stderr


@pytest.mark.parametrize("package", ["uvicorn", "starlette", "websockets"])
def test_a_missing_package_is_named(toy16, package):
    code = (
        f"import sys; sys.modules['{package}'] = None\n"
        f"from audiomask.cli import main; sys.exit(main(['serve', '--no-page', '-m', {str(toy16)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"serve: needs {package}, which is not installed; pip install 'audiomask[serve]'" in done.stderr


def test_a_page_that_is_missing_is_said(cli, toy16, monkeypatch, tmp_path):
    monkeypatch.setattr("audiomask.runtime.net.server.PAGE", tmp_path)
    done = cli("serve", "-m", toy16)
    assert done.code == 1
    assert "the page is missing" in done.err


def test_the_client_of_the_docs(start, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
    (text,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "client.py").write_text(text)
    url = start().at.replace("http", "ws") + "/ws"
    done = subprocess.run(
        [sys.executable, tmp_path / "client.py", url], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("toy_16k: 32 ms\n8000 samples, report: {'type': 'flushed'")


def test_the_docs_name_every_error_and_limit():
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
    source = "".join(
        (Path(sockets.__file__).parent / f"{name}.py").read_text()
        for name in ("requests", "sockets", "server")
    )
    codes = set(re.findall(r'Refusal\(\s*"(\w+)"', source)) | {
        "slow_reader",
        "protocol",
        "full",
        "draining",
        "flood",
    }
    assert len(codes) > 8
    assert not [code for code in codes if f"`{code}`" not in page]
    for value in (sockets.HELLO_S, sockets.SLOW_S, sockets.BURST_S, DRAIN_S):
        assert value == 10, "the docs say 10 s"
    assert (sockets.INBOX, sockets.OUTBOX, listener.KERNEL) == (2**18,) * 3
    assert (listener.MAX_MESSAGE, requests.MAX_TEXT, sockets.MAX_ROWS) == (2**20, 2**16, 8)
    assert (sockets.MAX_MESSAGES, listener.HTTP_S) == (1000, 300)
    assert (LIVE_S, EXTRA_S) == (0.25, 0.004)
