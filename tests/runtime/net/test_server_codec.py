"""Sockets of audiomask serve that encode, decode, or do both."""

import hashlib
import json
import shutil
import time
from base64 import b64decode, b64encode
from dataclasses import replace
from functools import partial

import codec_pair
import likely
import numpy as np
import pytest
from codes import HEADER
from serving import Running, ending, sound

from audiomask import Player
from audiomask.runtime.artifact import ArtifactError
from audiomask.runtime.catalogue import codec_hash, codec_part
from audiomask.runtime.codes.container import End, Packet, Unpacker, parse_header
from audiomask.runtime.net.server import offer_codecs


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return codec_pair.build(tmp_path_factory.mktemp("codec"))


@pytest.fixture
def server(tiny, toy16):
    running = Running(tiny, toy16)
    yield running
    running.stop()
    assert not running.reports


def played(tiny, codes, rate=16000, lost=None):
    player = Player(f"{tiny}_dec.onnx", sample_rate=rate, channels=len(codes))
    lost = np.zeros((1, codes.shape[1]), np.float32) if lost is None else lost[None].astype(np.float32)
    return np.concatenate([player.feed(codes, lost)["decoded"], player.flush()["decoded"]], axis=1)


def encoded(tiny, x, rate=16000, books=6):
    player = Player(f"{tiny}_enc.onnx", sample_rate=rate, channels=len(x), controls={"books": books})
    return np.concatenate([player.feed(x)["codes"], player.flush()["codes"]], axis=1)


def packets(ws, x, rate=16000, block=500):
    """What an encoding socket makes of sound: the header, the messages, the report."""
    for at in range(0, x.shape[1], block):
        ws.send(x[:, at : at + block].T.astype("<f4").tobytes())
    ws.send('{"type": "flush"}')
    parts = []
    while not isinstance(message := ws.recv(20), str):
        parts.append(message)
    return b64decode(ws.ready["codec"]["header"]), b"".join(parts), json.loads(message)


CODE = {"do": "encode", "kbps": 1.2, "frames": 2}


def test_a_socket_encodes_as_a_file_does(server, tiny, noise):
    x = noise(2, 22050)
    with server.open({"rate": 22050, "channels": 2, "codec": CODE}) as ws:
        assert (ws.ready["model"], ws.ready["outputs"], ws.ready["codec"]["frames"]) == ("tiny", 0, 2)
        head, data, report = packets(ws, x)
        assert report["bytes"] == len(data)
        assert (report["samples_in"], report["samples_out"]) == (22050, 0)
        header = parse_header(head)[0]
        *found, end = Unpacker(header).push(data, last=True)
        assert (end.samples, end.packets, header.rate) == (22050, len(found), 22050)
        codes = np.concatenate([p.codes(header) for p in found], axis=1)
        assert np.array_equal(codes, encoded(tiny, x, 22050))
        again = packets(ws, x)  # a new signal, numbered from 0
        assert again[1] == data


def test_packets_by_probabilities(tiny, toy16, noise, tmp_path):
    for part in ("enc", "dec"):
        shutil.copy(f"{tiny}_{part}.onnx", tmp_path)
    hash = codec_hash(codec_part(tmp_path, "enc"))
    odds = likely.write(tmp_path / "tiny_prob.safetensors", hash, score=np.zeros((6, 16, 8), np.int8))
    x, running = noise(1, 16000), Running(tmp_path / "tiny", toy16)
    try:
        with running.open({"codec": CODE | {"plain": False}}) as ws:
            head, data, _ = packets(ws, x)
        header = parse_header(head)[0]
        assert (header.coder, header.probabilities) == (1, odds.hash)
        found = [r for r in Unpacker(header).push(data, last=True) if isinstance(r, Packet)]
        coder = header.coder_of(odds)
        codes = np.concatenate([p.codes(header, coder) for p in found], axis=1)
        assert np.array_equal(codes, encoded(tiny, x))
        hello = {"do": "decode", "header": b64encode(head).decode(), "realtime": False}
        with running.open({"codec": hello}) as ws:
            for r in found:
                ws.send(data[r.at : r.at + 14 + len(r.payload)])
            ws.send('{"type": "flush"}')
            y, _ = sound(ws)
        np.testing.assert_allclose(y[:16000], played(tiny, codes)[0, :16000], atol=1e-5)
        wide = replace(header, frames=255)
        with running.open() as ws:
            hello |= {"header": b64encode(wide.to_bytes()).decode()}
            ws.send(json.dumps({"type": "hello", "codec": hello}))
            assert "too slow" in ending(ws)[0]["message"]
    finally:
        running.stop()


def test_who_has_no_probabilities_says_so(server):
    with server.open() as ws:
        ws.send(json.dumps({"type": "hello", "codec": CODE | {"plain": False}}))
        assert "has no probabilities to pack by" in ending(ws)[0]["message"]


def test_books_change_while_sound_runs(server, noise):
    x = noise(1, 32000)
    with server.open({"codec": CODE}) as ws:
        ws.send(x[:, :16000].tobytes())
        ws.send('{"type": "set", "controls": {"books": 2}}')
        head, data, _ = packets(ws, x[:, 16000:])
    books = [r.books for r in Unpacker(parse_header(head)[0]).push(data, last=True) if isinstance(r, Packet)]
    assert (books[:20], books[-20:]) == ([6] * 20, [2] * 20)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_socket_decodes_packets_that_are_missing_late_and_double(server, tiny, noise, rate):
    x = noise(1, 2 * rate)
    with server.open({"rate": rate, "codec": CODE}) as ws:
        head, data, _ = packets(ws, x)
    header = parse_header(head)[0]
    found = [r for r in Unpacker(header).push(data, last=True) if isinstance(r, Packet)]
    pieces = [data[r.at : r.at + 14 + len(r.payload)] for r in found]
    pieces.append(data[sum(map(len, pieces)) :])  # the end
    assert len(pieces) == 51
    order = [0, 2, 1, 3, 3, *range(5, 20), *range(30, 49)]  # 4, 20 to 29 and 49 are lost
    hello = {"do": "decode", "header": b64encode(head).decode(), "jitter_ms": 120, "realtime": False}
    with server.open({"codec": hello}) as ws:
        assert (ws.ready["rate"], ws.ready["outputs"]) == (rate, 1)
        assert ws.ready["packets"]["jitter"] == 3 * 2 * 320 * rate // 16000
        for _ in range(2):  # the second signal begins anew
            for n in [*order, 50]:
                ws.send(pieces[n])
            ws.send('{"type": "flush"}')
            y, report = sound(ws)
            lost = np.repeat([n not in order for n in range(50)], 2)
            codes = np.where(lost, -1, encoded(tiny, x, rate))
            assert len(y) == report["samples_out"] == 2 * rate
            np.testing.assert_allclose(y, played(tiny, codes, rate, lost)[0, : 2 * rate], atol=1e-5)
            counts = report["packets"]
            assert (counts["lost"], counts["duplicated"], counts["reordered"]) == (11, 1, 1)


def test_sound_comes_out_while_packets_come_in_and_stop(server, tiny, noise):
    """In real time a packet that does not come is given up by the clock."""
    with server.open({"codec": CODE}) as ws:
        head, data, _ = packets(ws, noise(1, 16000))
    pieces = [data[at : at + 14 + 6] for at in range(0, 25 * 20, 20)]
    hello = {"do": "decode", "header": b64encode(head).decode(), "jitter_ms": 40}
    with server.open({"codec": hello}) as ws:
        for piece in pieces[:5]:
            ws.send(piece)
            time.sleep(0.04)
        heard = 0
        while heard < 4 * 320 * 9:  # ten frames, of which the decoder keeps one
            heard += len(ws.recv(5))
        assert heard == 4 * 320 * 9


def test_there_and_back_in_one_socket(server, tiny, noise):
    x = noise(2, 20001)
    with server.open({"channels": 2, "codec": {"do": "both", "kbps": 0.6}}) as ws:
        assert (ws.ready["outputs"], ws.ready["latency"], ws.ready["delay"]) == (2, 640, 320)
        for at in range(0, 20001, 777):
            ws.send(x[:, at : at + 777].T.astype("<f4").tobytes())
        ws.send('{"type": "flush"}')
        y, report = sound(ws)
    assert report["samples_out"] == report["samples_in"] == 20001
    assert report["bytes"] > 63 * (14 + 2 * 2)
    wanted = played(tiny, encoded(tiny, x, books=3))[:, :20001]
    np.testing.assert_allclose(y.reshape(-1, 2).T, wanted, atol=1e-5)


def test_many_sockets_share_the_calls(server, tiny, noise):
    x = noise(1, 16000)
    wanted = played(tiny, encoded(tiny, x))[0, :16000]
    hello = {"codec": {"do": "both", "kbps": 1.2}}
    with server.open(hello) as one, server.open(hello) as two, server.open({"model": "toy_16k"}) as other:
        for ws in (one, two, other):
            ws.send(x.tobytes())
            ws.send('{"type": "flush"}')
        for ws in (one, two):
            np.testing.assert_allclose(sound(ws)[0], wanted, atol=1e-5)
        assert len(sound(other)[0]) == 16000


def head_of(**changes):
    return b64encode(replace(HEADER, **changes).to_bytes()).decode()


@pytest.mark.parametrize(
    ("hello", "words"),
    [
        ({"codec": {"do": "sing"}}, "do is 'sing', none of encode decode both"),
        ({"codec": {"do": "encode", "kbps": 6}}, "gist has 0.2 to 1.2 kbit/s in steps of 0.2"),
        ({"codec": {"do": "encode", "kbps": float("nan")}}, "NaN"),
        ({"codec": {"do": "encode", "kbps": 1.2, "frames": 0}}, "frames 0 is outside 1 to 255"),
        ({"codec": {"do": "encode", "header": "x"}}, "header is of who decodes"),
        ({"codec": {"do": "decode"}}, "header is not that of an .amk in base64"),
        ({"codec": {"do": "decode", "header": "&&"}}, "header is not that of an .amk in base64"),
        ({"codec": {"do": "decode", "header": head_of()}}, "header: was made by gist"),
        ({"codec": {"wrong": 1}}, "unknown: wrong"),
        ({"codec": CODE, "model": "toy_16k"}, "codec 'toy_16k' is not offered; there are: tiny"),
        ({"codec": CODE, "packets": {}}, "say codec alone"),
        ({"codec": CODE, "channels": 9}, "channels 9 are outside 1 to 8"),
        ({"codec": CODE, "dry": 0.5}, "leave out dry and bypass"),
        ({"codec": CODE, "controls": {"strength": 1}}, "has no control 'strength'"),
    ],
)
def test_hellos_that_make_no_sense(server, hello, words):
    with server.open() as ws:
        ws.send(json.dumps({"type": "hello", **hello}))
        error, close = ending(ws)
        assert (error["code"], close) == ("bad_value", 1007)
        assert words in error["message"]


def test_what_is_no_packet_ends_the_socket(server, noise):
    with server.open({"codec": CODE}) as ws:
        head, data, _ = packets(ws, noise(1, 64000))
    wide = replace(parse_header(head)[0], channels=128, streams=128, frames=1)
    for message, code in (
        (b"", "bad_packet"),
        (b"no packet", "bad_packet"),
        (data[:-70][1:20], "bad_packet"),
        (data[: 20 * 17], "bad_packet"),
        (bytes(70000), "too_big"),
    ):
        with server.open({"codec": {"do": "decode", "header": b64encode(head).decode()}}) as ws:
            ws.send(message)
            assert ending(ws)[0]["code"] == code
    with server.open() as ws:
        hello = {"do": "decode", "header": b64encode(wide.to_bytes()).decode()}
        ws.send(json.dumps({"type": "hello", "codec": hello}))
        assert "channels 128 are outside 1 to 8" in ending(ws)[0]["message"]


def test_codecs_are_named_and_a_server_without_one_says_so(server, toy16, serve):
    assert json.loads(server.get("/health").body)["codecs"] == ["tiny"]
    with serve(toy16).open() as ws:
        ws.send(json.dumps({"type": "hello", "codec": CODE}))
        assert "no codec is offered here" in ending(ws)[0]["message"]


def test_codecs_are_listed_with_their_files(tiny, toy16, serve, tmp_path):
    for part in ("enc", "dec"):
        shutil.copy(f"{tiny}_{part}.onnx", tmp_path)
    encoder = codec_part(tmp_path, "enc")
    likely.write(tmp_path / "tiny_prob.safetensors", codec_hash(encoder))
    token = "a token of some length"
    running = serve(tmp_path / "tiny", toy16, token=token)
    assert running.get("/codecs").status == running.get("/codecs/tiny_enc.onnx").status == 401
    get = partial(running.get, Authorization=f"Bearer {token}")
    (entry,) = json.loads(get("/codecs").body)
    assert (entry["name"], entry["hash"]) == ("tiny", codec_hash(encoder).hex())
    assert entry["encoder"]["outputs"] == encoder.meta["outputs"]
    assert entry["decoder"]["inputs"][0]["levels"] == 16
    files = {"encoder": "tiny_enc.onnx", "decoder": "tiny_dec.onnx", "probabilities": "tiny_prob.safetensors"}
    for key, name in files.items():
        data = get(entry[key]["url"]).body
        assert data == (tmp_path / name).read_bytes()
        assert (entry[key]["bytes"], entry[key]["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert get("/codecs/toy_16k.onnx").status == get("/models/tiny_enc.onnx").status == 404
    assert json.loads(serve(toy16).get("/codecs").body) == []


def test_probabilities_of_another_codec_are_refused_at_once(tiny, tmp_path):
    for part in ("enc", "dec"):
        shutil.copy(f"{tiny}_{part}.onnx", tmp_path)
    likely.write(tmp_path / "tiny_prob.safetensors", bytes(8))
    with pytest.raises(ArtifactError, match="is of another codec"):
        offer_codecs([str(tmp_path / "tiny")])


def test_the_end_is_a_record_too(server, noise):
    with server.open({"codec": CODE}) as ws:
        head, data, _ = packets(ws, noise(1, 100))
    (packet, end) = Unpacker(parse_header(head)[0]).push(data, last=True)
    assert isinstance(packet, Packet)
    assert isinstance(end, End)
    with server.open({"codec": {"do": "decode", "header": b64encode(head).decode()}}) as ws:
        ws.send(data)
        ws.send('{"type": "flush"}')
        assert len(sound(ws)[0]) == 100
