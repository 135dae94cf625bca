"""`python -m deployments.sandbox`: one sandbox on 127.0.0.1, its URLs as one line of JSON."""

import json
import signal
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import get_args

from deployments.sandbox.serving import bound_socket, server, url_of
from deployments.sandbox.settings import (
    AUTH_METHODS,
    ExchangeStyle,
    Rotation,
    SandboxSettings,
)


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    arguments = _parser().parse_args()
    uvicorn_server = server(_settings(arguments))
    # uvicorn shuts down in order and then raises the signal again: this makes it exit code 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    sock = bound_socket(arguments.port)
    url = url_of(sock)
    sys.stdout.write(json.dumps({"url": url, "issuer": url, "orders": url}) + "\n")
    sys.stdout.flush()
    uvicorn_server.run(sockets=[sock])


def _parser() -> ArgumentParser:
    defaults = SandboxSettings()
    parser = ArgumentParser(prog="python -m deployments.sandbox", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--rotation", choices=get_args(Rotation), default=defaults.rotation)
    parser.add_argument("--grace-seconds", type=float, default=defaults.grace_seconds)
    parser.add_argument("--access-token-seconds", type=int, default=defaults.access_token_seconds)
    parser.add_argument(
        "--exchange-style", choices=get_args(ExchangeStyle), default=defaults.exchange_style
    )
    parser.add_argument("--client-auth", choices=AUTH_METHODS, help="accept only this method")
    parser.add_argument(
        "--client-public-jwk", type=Path, metavar="FILE", help="a JWK, for private_key_jwt"
    )
    return parser


def _settings(arguments: Namespace) -> SandboxSettings:
    key: Path | None = arguments.client_public_jwk
    return SandboxSettings(
        rotation=arguments.rotation,
        grace_seconds=arguments.grace_seconds,
        access_token_seconds=arguments.access_token_seconds,
        exchange_style=arguments.exchange_style,
        client_auth=(arguments.client_auth,) if arguments.client_auth else AUTH_METHODS,
        client_public_jwk=json.loads(key.read_text()) if key else None,
    )


if __name__ == "__main__":
    main()
