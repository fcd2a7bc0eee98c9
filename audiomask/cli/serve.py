"""Serve models to other programs and to browsers: a websocket per live sound, and a page.

  audiomask serve                          # on this machine only: http://127.0.0.1:8765
  AUDIOMASK_TOKEN=... audiomask serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem

docs/serve.md describes the protocol, with clients in Python and JavaScript. Ctrl-C or SIGTERM lets running
sockets finish, for 10 s at most.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from audiomask.audio import AudioError
from audiomask.cli import Adder, UsageError
from audiomask.cli._common import between, note, positive

LEAST_TOKEN = 16  # characters; nobody guesses that many in a lifetime of attempts over a network


def add_arguments(add: Adder) -> None:
    add.parser.allow_abbrev = False  # --token would be taken for --token-file, and a token is no argument
    model = "offer this one; may be repeated, the first is the default (default: all that ship)"
    add("-m --model NAME|FILE|DIR", model, action="append")
    add("--host ADDRESS", "to listen on", default="127.0.0.1")
    add("--port N", "0 takes a free one", type=between(0, 65535, int), default=8765)
    secret = "holds the token that clients must show; without it the variable AUDIOMASK_TOKEN does"
    add("--token-file FILE", secret, type=Path)
    add("--tls-cert FILE", "PEM file: serve https and wss", type=Path)
    add("--tls-key FILE", "PEM file of its key (default: in the same file)", type=Path)
    origin = "other web pages that may open sockets, as in https://example.org; may be repeated"
    add("--origin URL", origin, action="append")
    add("--no-page", "serve no page, only sockets, models, health and metrics")
    add("--max-sockets N", "open at once", type=positive, default=64)
    above_zero = between(0, above=True)
    add("--max-rate X", "times real time that a socket may send for long", type=above_zero, default=20.0)
    add("--idle S", "close silent sockets", type=above_zero, default=60.0)
    add("--threads N", "that compute, each for a part of the sockets", type=positive, default=1)
    add("-q --quiet", "do not show where it listens")


def token(args: argparse.Namespace) -> str | None:
    """Return the token of the file or the environment; `UsageError` for one that is too short."""
    if args.token_file:
        try:
            found, where = args.token_file.read_text().strip(), str(args.token_file)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--token-file {args.token_file}: cannot be read ({error})") from None
    elif "AUDIOMASK_TOKEN" in os.environ:
        found, where = os.environ["AUDIOMASK_TOKEN"].strip(), "AUDIOMASK_TOKEN"
    else:
        return None
    if len(found) < LEAST_TOKEN or not found.isascii() or not found.isprintable() or " " in found:
        raise UsageError(
            f"{where}: a token has {LEAST_TOKEN} or more letters, digits and signs; make one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return found


def run(args: argparse.Namespace) -> int:
    from audiomask.runtime.net import listener
    from audiomask.runtime.net.server import PAGE, Service, Settings, is_loopback, offer, offer_codecs

    secret, local = token(args), is_loopback(args.host)
    if not local and secret is None:
        raise UsageError(
            f"--host {args.host}: others could use it; give a token in AUDIOMASK_TOKEN or --token-file, "
            "or listen on 127.0.0.1"
        )
    if args.tls_key and not args.tls_cert:
        raise UsageError(f"--tls-key {args.tls_key}: needs its certificate; give --tls-cert FILE")
    for origin in args.origin:
        if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
            raise UsageError(f"--origin {origin}: expected a scheme and a host, as in https://example.org")
    if not args.no_page and not (PAGE / "index.html").is_file():
        raise AudioError(f"{PAGE}: the page is missing; install audiomask again, or give --no-page")
    settings = Settings(
        token=secret,
        origins=tuple(args.origin),
        loopback=local,
        max_sockets=args.max_sockets,
        max_rate=args.max_rate,
        idle_s=args.idle,
        threads=args.threads,
        page=None if args.no_page else PAGE,
    )
    refused: dict[str, str] = {}
    codecs = offer_codecs(args.model)
    service = Service(offer(args.model, refused), settings, refused=refused, codecs=codecs)

    say = partial(note, quiet=args.quiet)
    server = listener.server(service, certificate=args.tls_cert, key=args.tls_key, say=say)
    listening = listener.bind(args.host, args.port)
    host, port = listening.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    say(f"{' '.join([*service.artifacts, *codecs])} at http{'s' * bool(args.tls_cert)}://{host}:{port}")
    for name, reason in refused.items():
        note(f"warning: {name} is not served: {reason}")
    if not local and not args.tls_cert:
        say("warning: without --tls-cert, the token and the sound can be read on their way")
    try:
        listener.run(server, listening)
    except KeyboardInterrupt:
        say("stopped")  # on request: a clean end is no failure
    return 0
