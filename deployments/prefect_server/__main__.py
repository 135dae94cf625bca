"""A Prefect server for many closes at once: `python -m deployments.prefect_server --port 4200`.

It is `prefect server start`, with some differences.

- Only its operator gets in: an authentication string, its own UI's origin, a key outside of the
  database and files that nobody else can read; docs/security.md says how to set all that yourself.
- Settings that suit many runs at the same moment (`settings`); what you set yourself stays.
- On SQLite, every transaction asks for the right to write when it begins, and waits for it. Prefect
  begins most of them as readers; when two such want to write, SQLite refuses one at once
  ("database is locked", https://www.sqlite.org/lang_transaction.html), and whoever asked begins
  again after pauses of 2, 4, 8 ... seconds.
"""

import asyncio
import runpy
import sys

from prefect.settings import PREFECT_HOME, temporary_settings

from deployments.prefect_server import database, encryption, safety
from deployments.prefect_server.settings import SETTINGS


def main() -> None:
    """Start the server in this process, with the options of `prefect server start`."""
    arguments, home = sys.argv[1:], PREFECT_HOME.value()
    safety.close_files(home)
    database.begin_as_writer()
    sys.argv = ["prefect", "server", "start", *arguments]
    with temporary_settings(set_defaults=SETTINGS), safety.safe_settings(home, arguments):
        try:
            advice = asyncio.run(encryption.use_key(home))
        except encryption.WrongKeyError as error:
            sys.exit(str(error))
        for told in filter(None, (safety.how_to_log_in(home), advice)):
            print(told, flush=True)  # noqa: T201
        runpy.run_module("prefect", run_name="__main__")


if __name__ == "__main__":
    main()
