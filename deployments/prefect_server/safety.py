"""What the server is started with, so that only its operator gets in: settings and file modes.

Prefect as installed serves anybody who reaches its port, a page in the operator's own browser
included. An authentication string ends that, whatever Host the page asks for (DNS rebinding):
Prefect's UI sends it by itself, and a browser for nobody else.
"""

import os
import secrets
import stat
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_SERVER_API_AUTH_STRING,
    PREFECT_SERVER_API_HOST,
    PREFECT_SERVER_API_PORT,
    temporary_settings,
)
from sqlalchemy import make_url

AUTH_STRING_FILE = "server-auth-string"
OWNERS = stat.S_IRUSR | stat.S_IWUSR


@contextmanager
def safe_settings(home: Path, arguments: Sequence[str]) -> Iterator[None]:
    """Have Prefect ask for an authentication string, and allow only its own UI to call it.

    What the operator has set, wherever Prefect looks for settings, stays; an authentication string
    that is set and empty means that there is none.

    Args:
        home: PREFECT_HOME; the string that is made is kept there.
        arguments: The options of `prefect server start`.
    """
    given = PREFECT_SERVER_API_AUTH_STRING.value()
    defaults: dict[Any, Any] = {"server.api.cors_allowed_origins": own_origins(arguments)}
    if given is None:
        defaults[PREFECT_SERVER_API_AUTH_STRING] = auth_string(home)
    # Prefect takes an empty one for one that nobody can give.
    absent = [PREFECT_SERVER_API_AUTH_STRING] if given == "" else []
    with temporary_settings(set_defaults=defaults, restore_defaults=absent) as settings:
        # For the processes that Prefect may start: `--background`, `--workers`.
        os.environ.pop("PREFECT_SERVER_API_AUTH_STRING", None)
        if wanted := PREFECT_SERVER_API_AUTH_STRING.value():
            os.environ["PREFECT_SERVER_API_AUTH_STRING"] = wanted
        origins = settings.server.api.cors_allowed_origins
        os.environ["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] = origins
        yield


def auth_string(home: Path) -> str:
    """The authentication string of the server that has this PREFECT_HOME, `user:password`.

    Made at the first call, and kept there in a file that only its owner may read.
    """
    file = home / AUTH_STRING_FILE
    if not file.exists():
        write_once(file, f"admin:{secrets.token_urlsafe(32)}")
    return file.read_text().strip()


def how_to_log_in(home: Path) -> str | None:
    """What the operator is told of the string that was made; None if another is in force."""
    file = home / AUTH_STRING_FILE
    wanted = PREFECT_SERVER_API_AUTH_STRING.value()
    if not file.exists() or wanted != auth_string(home):
        return None
    return (
        f"Log in to the UI with the line in {file}. Programs need it as well:\n"
        f'export PREFECT_API_AUTH_STRING="$(cat {file})"'
    )


def own_origins(arguments: Sequence[str]) -> str:
    """Where the UI is opened, as PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS takes it.

    The UI calls the API under one name, and may have been opened under another.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--host", default=PREFECT_SERVER_API_HOST.value())
    parser.add_argument("--port", default=PREFECT_SERVER_API_PORT.value())
    options, _ = parser.parse_known_args(arguments)
    hosts = dict.fromkeys(["127.0.0.1", "localhost", options.host])
    return ",".join(f"http://{f'[{it}]' if ':' in it else it}:{options.port}" for it in hosts)


def close_files(home: Path) -> None:
    """Let nobody but the owner read PREFECT_HOME, its database and what this process will write."""
    os.umask(0o077)
    home.mkdir(parents=True, exist_ok=True)
    databases = [*home.glob("*.db*")]
    url = make_url(PREFECT_API_DATABASE_CONNECTION_URL.value())
    if url.get_backend_name() == "sqlite" and url.database:
        databases += Path(url.database).parent.glob(f"{Path(url.database).name}*")
    with suppress(PermissionError):  # somebody else's, who has decided
        home.chmod(OWNERS | stat.S_IXUSR)
        for database in databases:
            database.chmod(OWNERS)


def write_once(file: Path, line: str) -> None:
    """Write the file whole, for its owner; leave one that another process wrote meanwhile."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, new = tempfile.mkstemp(dir=file.parent)
    with open(handle, "w") as writing:  # noqa: PTH123  (a descriptor)
        writing.write(f"{line}\n")
    with suppress(FileExistsError):
        os.link(new, file)
    Path(new).unlink()
