"""Hand your access token over to the configure flow, for the Prefect UI or command line.

    python -m deployments.hand_over my-access-token

asks for the token without showing it, or reads it from standard input, stores it in the Secret
block caller-my-access-token, and prints that name: give it to the configure flow. The block is
deleted as soon as the token has been exchanged, an hour after it was stored unless a journey is
about to take it, and a day after it was stored in any case.
"""

import argparse
import asyncio
import getpass
import sys

import httpx
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr

from blocks import caller_token
from blocks.caller_token import CallerTokenError


def main() -> int:
    """Store the token and print the block's name; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.hand_over",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="what you want to call it: a-z, 0-9 and dashes")
    name = parser.parse_args().name
    try:
        print(_hand_over(name))  # noqa: T201
    except CallerTokenError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _hand_over(name: str) -> str:
    block = caller_token.name_by_hand(name)
    if not PREFECT_API_URL.value():
        raise CallerTokenError("PREFECT_API_URL is not set: nobody would find your token.")
    is_asked = sys.stdin.isatty()
    token = getpass.getpass("Access token: ") if is_asked else sys.stdin.readline()
    if not token.strip():
        raise CallerTokenError("No access token was given: nothing is stored.")
    try:
        return asyncio.run(caller_token.hand_over(SecretStr(token.strip()), block))
    except httpx.HTTPError as error:
        kind = type(error).__name__
    # Raised out here, because Prefect's error holds the request.
    raise CallerTokenError(f"Prefect does not answer ({kind}): see that PREFECT_API_URL is right.")


if __name__ == "__main__":
    raise SystemExit(main())
