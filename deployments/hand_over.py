"""Hand your access token over to the configure flow, for the Prefect UI or command line.

    python -m deployments.hand_over my-access-token

asks for the token without showing it, or reads it from standard input, and stores it in the Secret
block of that name. The configure flow deletes the block as soon as it has exchanged the token.
"""

import asyncio
import getpass
import sys

from pydantic import SecretStr

from blocks import caller_token


def main() -> int:
    """Store the token; returns the exit status."""
    if len(sys.argv) != 2:  # noqa: PLR2004  (the program and one name)
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    asking = sys.stdin.isatty()
    token = getpass.getpass("Access token: ") if asking else sys.stdin.readline()
    asyncio.run(caller_token.hand_over(SecretStr(token.strip()), sys.argv[1]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
