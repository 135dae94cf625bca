"""The key under which the server encrypts its blocks, grants and client secrets among them.

Left to itself Prefect keeps it in the database, beside what it encrypts. Here it is a file in
PREFECT_HOME, where the database is new and lies there, too; an older one keeps the key it has until
`python -m deployments.prefect_server.rotate_key`. For a database elsewhere the operator names the
key: a home that goes with its container must not take the only key to the grants with it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from cryptography.fernet import Fernet, InvalidToken
from prefect.server.database import provide_database_interface
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.prefect_server.safety import write_once

KEYS_FILE = "server-encryption-key"
"""A key for each line, the newest first: there are several only while they are changed."""

VARIABLES = ("PREFECT_SERVER_ENCRYPTION_KEY", "ORION_ENCRYPTION_KEY")
"""Where Prefect looks first, the second one for old times' sake."""


class WrongKeyError(Exception):
    """The database holds what none of the keys at hand opens; the message says what to do."""


@dataclass(frozen=True)
class Stored:
    """What the database tells of its key.

    Attributes:
        secret: Something that is encrypted under it, if anything is.
        own_key: The key, where it lies in the database itself.
        is_local: Whether the database is SQLite.
    """

    secret: str | None
    own_key: str | None
    is_local: bool

    def opens(self, key: str) -> bool:
        """Whether this key is the one."""
        try:
            Fernet(key.encode()).decrypt((self.secret or "").encode())
        except (InvalidToken, ValueError):
            return False
        return True


async def use_key(home: Path) -> str | None:
    """Have the server encrypt under the key that fits; returns what its operator should know.

    Raises WrongKeyError.
    """
    file, stored = home / KEYS_FILE, await look()
    if stored.is_local and not (stored.secret or stored.own_key or given_key()):
        write_once(file, Fernet.generate_key().decode())
    key = fitting_key(keys_at_hand(file), stored)
    if key is not None:
        os.environ[VARIABLES[0]] = key
        return None
    return (
        "The encryption key lies in the database, beside what it encrypts: stop this server and"
        " run `python -m deployments.prefect_server.rotate_key`, or see docs/security.md."
    )


def fitting_key(keys: list[str], stored: Stored) -> str | None:
    """The one of these keys that opens what is stored; None for the database's own.

    Raises WrongKeyError.
    """
    if stored.secret is None:
        return keys[0] if keys else None
    if fitting := next(filter(stored.opens, keys), None):
        return fitting
    if stored.own_key and stored.opens(stored.own_key) and not given_key():
        return None
    raise WrongKeyError(
        "The database holds secrets that are encrypted under another key: set"
        f" {VARIABLES[0]} to that one, or put it into {KEYS_FILE} in PREFECT_HOME."
    )


def given_key() -> str | None:
    """The key that the operator has set, if any."""
    return next(filter(None, map(os.environ.get, VARIABLES)), None)


def keys_at_hand(file: Path) -> list[str]:
    """The operator's key, or else those in the file, the newest first."""
    if given := given_key():
        return [given]
    return file.read_text().split() if file.exists() else []


async def look() -> Stored:
    """Ask the database."""
    database = provide_database_interface()
    engine = await database.engine()
    async with engine.connect() as connection:
        tables = await connection.run_sync(lambda it: sa.inspect(it).get_table_names())
    is_local = database.dialect.name == "sqlite"
    if not {"block_document", "configuration"} <= set(tables):
        stored = Stored(None, None, is_local)
    else:
        async with database.session_context() as session:
            stored = Stored(await _secret(session), await own_key(session), is_local)
    await engine.dispose()  # the server has an event loop of its own
    return stored


async def own_key(session: AsyncSession) -> str | None:
    """The key that the database itself holds."""
    table = provide_database_interface().Configuration
    value = await session.scalar(sa.select(table.value).where(table.key == "ENCRYPTION_KEY"))
    return value["fernet_key"] if value else None


async def _secret(session: AsyncSession) -> str | None:
    table = provide_database_interface().BlockDocument
    latest = sa.select(table.data).order_by(table.updated.desc()).limit(1)
    data = await session.scalar(latest)
    return data if isinstance(data, str) else None
