"""Serve the web application of `audiomask serve`: sockets, models, page, health and metrics.

It runs in one process: an event loop that moves bytes, and threads that compute (`batching.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import mimetypes
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from audiomask import __version__
from audiomask.runtime.artifact import REQUIRED, Artifact, ArtifactError
from audiomask.runtime.catalogue import (
    PARTS,
    PRETRAINED,
    codec_hash,
    codec_part,
    family,
    is_codec,
    probabilities_of,
    probabilities_path,
    resolve,
    shipped,
)
from audiomask.runtime.net.batching import Worker
from audiomask.runtime.net.coding import Codec
from audiomask.runtime.net.marking import is_marker
from audiomask.runtime.net.requests import Refusal
from audiomask.runtime.net.sockets import Hub, Settings, Socket
from audiomask.runtime.session import Session, sounds

PAGE = Path(__file__).resolve().parents[1] / "web"
DRAIN_S = 10.0  # from the signal to stop until sockets that have not finished are cut off
CHUNK = 65536  # bytes of a model at a time, so that a slow client holds no copy of it

# The page computes in a worker with WebAssembly threads, which needs isolation from other origins.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
        "media-src 'self' blob:; img-src 'self' blob: data:; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
# The machine's own table lacks some of these types or has them wrong.
TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def offer(names: list[str], refused: dict[str, str] | None = None) -> list[list[Artifact]]:
    """Return the families that are served, the default first.

    They are what `names` mean to `resolve`, or everything shipped that turns sound into sound; then `refused`
    gets the models that no session can play, by file name, and why. Raises `ArtifactError` for a model that
    is not there, cannot be played, or bears another's name.
    """
    families = [resolve(name) for name in names if not is_codec(name)] or [resolve(None)]
    for artifact in (a for group in families for a in group):
        _try(artifact)
    if not names:
        others: dict[str, list[Artifact]] = {}
        for artifact in shipped():
            if (artifact.unset() and not is_marker(artifact)) or not all(
                any(p.type == "pcm" for p in ports) for ports in (artifact.streams[:1], artifact.outputs)
            ):
                continue  # other verbs play it
            try:
                _try(artifact)
                others.setdefault(family(artifact), []).append(artifact)
            except ArtifactError as error:
                reason = str(error).removeprefix(f"{artifact.path}: ")  # strangers may read it
                (refused if refused is not None else {})[artifact.path.stem] = reason
        others.pop(family(families[0][0]), None)
        families += [sorted(group, key=lambda a: a.sample_rate) for group in others.values()]
    stems: dict[str, Artifact] = {}
    for artifact in (a for group in families for a in group):
        stem = artifact.path.stem
        if (other := stems.setdefault(stem, artifact)) is not artifact:
            raise ArtifactError(f"{artifact.path}: {other.path} is served as {stem} too; rename one")
    return families


def offer_codecs(names: list[str]) -> dict[str, Codec]:
    """Return the codecs that are served, by name: those among `names`, or all that ship."""
    if not names:
        names = [path.stem.removesuffix("_enc") for path in sorted(PRETRAINED.glob("*_enc.onnx"))]
    found = {}
    for name in filter(is_codec, names):
        encoder, decoder = (codec_part(name, part) for part in PARTS)
        if codec_hash(encoder) != codec_hash(decoder):
            raise ArtifactError(f"{decoder.path}: is of another codec than {encoder.path}; export both anew")
        probabilities_of(encoder)  # raises for those of another codec
        found[encoder.path.stem.removesuffix("_enc")] = encoder, decoder
    return found


def _try(artifact: Artifact) -> None:
    """Raise `ArtifactError` for a model that cannot be played."""
    for name in sounds(artifact):
        Session(artifact, output=name)


class Service(Hub):
    """An ASGI application that serves `families` and lists `refused` ones, see `offer`."""

    def __init__(
        self,
        families: list[list[Artifact]],
        settings: Settings,
        report: Callable[[BaseException], None] = traceback.print_exception,
        refused: Mapping[str, str] | None = None,
        codecs: Mapping[str, Codec] | None = None,
    ):
        super().__init__(families, settings, report)
        self.codecs = dict(codecs or {})
        self.refused = dict(refused or {})
        self.files: dict[str, tuple[bytes, str]] = {}  # to be fetched: content and SHA-256
        self.listed = [
            self._entry("models", artifact)
            | {"family": family(artifact), "default": artifact in self.families[0]}
            for artifact in self.artifacts.values()
        ]
        self.coded = [self._codec(name, *codec) for name, codec in self.codecs.items()]
        self.sockets: set[Socket] = set()
        self.draining = False  # no new sockets are taken
        for suffix, type_ in TYPES.items():
            mimetypes.add_type(type_, suffix)
        routes: list[Any] = [
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/models", self._models),
            Route("/codecs", self._codecs),
            Route("/models/{name}", partial(self._file, "models")),
            Route("/codecs/{name}", partial(self._file, "codecs")),
        ]
        if settings.page:
            routes.append(Mount("/", StaticFiles(directory=settings.page, html=True)))
        self._http = Starlette(routes=routes, lifespan=self._lifespan)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette):
        self.workers = [Worker(self.counters) for _ in range(self.settings.threads)]
        self.searcher = Worker(self.counters, timed=False)
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            for worker in (*self.workers, self.searcher):
                worker.stop()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._check(asyncio.get_running_loop().time())

    def _check(self, now: float) -> None:
        # It stands outside of the coroutine above, whose variables would keep the last socket alive.
        for socket in list(self.sockets):
            socket.check(now, self.settings.idle_s)

    async def drain(self, hurry: Callable[[], bool] = lambda: False) -> int:
        """Finish all sockets in DRAIN_S or until `hurry()`; cut off the rest and return how many."""
        self.draining = True
        clock = asyncio.get_running_loop().time
        end = clock() + DRAIN_S
        leaving = [asyncio.create_task(socket.depart(1001)) for socket in self.sockets]
        while self.sockets and clock() < end and not hurry():
            await asyncio.sleep(0.02)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        for socket in self.sockets:
            socket.abort()
        return len(self.sockets)

    def _stranger(self, headers: Headers) -> str:
        """Return why a request comes from where it may not: "host", "origin", or "" if it may."""
        settings, host, origin = self.settings, headers.get("host", ""), headers.get("origin")
        given = [urlsplit(allowed).netloc for allowed in settings.origins]
        try:
            here = is_loopback(urlsplit(f"//{host}").hostname or "")
            if settings.loopback and host not in given and not here:
                return "host"
            foreign = origin and origin not in settings.origins and urlsplit(origin).netloc != host
        except ValueError:  # a host that is no host
            return "host"
        return "origin" if foreign else ""

    @staticmethod
    def _bearer(headers: Headers) -> str | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    async def _websocket(self, scope, receive, send) -> None:
        headers = Headers(scope=scope)
        token, status = self._bearer(headers), 0
        if reason := self._stranger(headers):
            status = 403
        elif token is not None and not self.fits(token):
            status, reason = 401, "token"
        elif scope["path"] != "/ws":
            status, reason = 404, "path"
        if status:
            self.counters.add("refused_total", label=reason)
            await PlainTextResponse(f"refused: {reason}\n", status)(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        socket = Socket(self, receive, send, scope["state"]["abort"], authorized=token is not None)
        if self.draining or len(self.sockets) >= self.settings.max_sockets:
            code, close = ("draining", 1001) if self.draining else ("full", 1013)
            await socket.run(Refusal(code, close, "no more sockets now; try again later", "refused_total"))
            return
        self.counters.add("sockets_total")
        self.sockets.add(socket)
        try:
            await socket.run()
        finally:
            self.sockets.discard(socket)

    async def _request(self, scope, receive, send) -> None:
        async def secured(event) -> None:
            if event["type"] == "http.response.start":
                MutableHeaders(scope=event).update(HEADERS)
            await send(event)

        headers, path = Headers(scope=scope), scope["path"]
        app: Any = self._http
        if stranger := self._stranger(headers):
            app = PlainTextResponse(f"refused: {stranger}\n", 403)
        elif path.startswith(("/metrics", "/models", "/codecs")) and not self.fits(self._bearer(headers)):
            app = PlainTextResponse("refused: token\n", 401, {"WWW-Authenticate": "Bearer"})
        await app(scope, receive, secured)

    async def _health(self, request: Request) -> Response:
        facts = {
            "status": "draining" if self.draining else "ok",
            "version": __version__,
            "models": list(self.artifacts),
            "codecs": list(self.codecs),
            "refused": self.refused,
            "sockets": len(self.sockets),
        }
        return JSONResponse(facts, 503 if self.draining else 200, {"Cache-Control": "no-store"})

    async def _metrics(self, request: Request) -> Response:
        for socket in self.sockets:
            socket.account()
        gauges = {
            "sockets": ("websockets open now", len(self.sockets)),
            "max_sockets": ("websockets that may be open at once", self.settings.max_sockets),
            "draining": ("1 while the server is stopping", self.draining),
        }
        return Response(self.counters.text(gauges), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _offered(self, folder: str, name: str, data: bytes) -> dict[str, Any]:
        """Let clients fetch a file, and return what a list says of it."""
        url, digest = f"/{folder}/{name}", hashlib.sha256(data).hexdigest()
        self.files[url] = data, digest
        return {"url": url, "bytes": len(data), "sha256": digest}

    def _entry(self, folder: str, artifact: Artifact) -> dict[str, Any]:
        """Offer an artifact, and return its entry in a list."""
        stem = artifact.path.stem
        facts = {key: artifact.meta.get(key) for key in ("description", "licence", *REQUIRED[2:])}
        return {"name": stem, **self._offered(folder, f"{stem}.onnx", artifact.data), **facts}

    def _codec(self, name: str, encoder: Artifact, decoder: Artifact) -> dict[str, Any]:
        """Offer the files of a codec, and return its entry in the list."""
        odds, path = probabilities_of(encoder), probabilities_path(encoder)
        return {
            "name": name,
            "hash": codec_hash(encoder).hex(),
            "encoder": self._entry("codecs", encoder),
            "decoder": self._entry("codecs", decoder),
            "probabilities": self._offered("codecs", path.name, path.read_bytes()) if odds else None,
        }

    async def _models(self, request: Request) -> Response:
        return JSONResponse(self.listed, headers={"Cache-Control": "no-cache"})

    async def _codecs(self, request: Request) -> Response:
        return JSONResponse(self.coded, headers={"Cache-Control": "no-cache"})

    async def _file(self, folder: str, request: Request) -> Response:
        url = f"/{folder}/{request.path_params['name']}"
        if url not in self.files:
            return PlainTextResponse(f"no such file; there are: {' '.join(self.files)}\n", 404)
        data, digest = self.files[url]
        headers = {"ETag": f'"{digest}"', "Cache-Control": "no-cache"}
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        headers["Content-Length"] = str(len(data))
        return StreamingResponse(_pieces(data), headers=headers, media_type=TYPES[".onnx"])


async def _pieces(data: bytes):
    view = memoryview(data)
    for start in range(0, len(view), CHUNK):
        yield bytes(view[start : start + CHUNK])
