"""Encrypt what the server's database holds under a new key; the server must be stopped.

    python -m deployments.prefect_server.rotate_key

The new key is the line in PREFECT_HOME/server-encryption-key, and the former one, wherever it was,
opens nothing any more. Killed at any moment, or without power, it leaves a server that starts. It
refuses to work while a server answers: that one would go on writing under the former key.
"""

import asyncio
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import sqlalchemy as sa
from cryptography.fernet import Fernet
from prefect.server.database import provide_database_interface
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_API_HOST,
    PREFECT_SERVER_API_PORT,
)

from blocks.http import is_loopback
from deployments.prefect_server.encryption import (
    KEYS_FILE,
    VARIABLES,
    WrongKeyError,
    fitting_key,
    given_key,
    keys_at_hand,
    look,
)
from deployments.prefect_server.safety import close_files


def main() -> int:
    """Rotate the key; returns the exit status."""
    home = PREFECT_HOME.value()
    close_files(home)
    if _is_running():
        print("Stop the Prefect server first: it still answers.", file=sys.stderr)  # noqa: T201
        return 1
    file = home / KEYS_FILE
    try:
        count = asyncio.run(rotate(file))
    except WrongKeyError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    print(f"{count} blocks are encrypted under the new key in {file}.")  # noqa: T201
    if given_key():
        print(f"Set {VARIABLES[0]} to it, or to nothing, before you start the server.")  # noqa: T201
    return 0


def _is_running() -> bool:
    """Whether a server listens where this one would, or where clients on this machine look."""
    addresses = {(PREFECT_SERVER_API_HOST.value(), PREFECT_SERVER_API_PORT.value())}
    client = httpx.URL(PREFECT_API_URL.value() or "")
    if client.port and is_loopback(client.host):
        addresses.add((client.host, client.port))
    for address in addresses:
        with suppress(OSError), socket.create_connection(address, timeout=2):
            return True
    return False


async def rotate(file: Path) -> int:
    """Encrypt all blocks under a new key, the first in the file; returns how many they are.

    Raises WrongKeyError if what is stored cannot be opened.
    """
    stored = await look()
    former = fitting_key(keys_at_hand(file), stored) or stored.own_key
    new = Fernet.generate_key().decode()
    _write(file, new, *([former] if former else []))
    count = await _encrypt_again(Fernet((former or new).encode()), Fernet(new.encode()))
    await _sync()
    _write(file, new)
    return count


async def _encrypt_again(former: Fernet, new: Fernet) -> int:
    database = provide_database_interface()
    blocks, settings = database.BlockDocument, database.Configuration
    async with database.session_context(begin_transaction=True) as session:
        rows = (await session.execute(sa.select(blocks.id, blocks.data, blocks.updated))).all()
        for key, data, updated in rows:
            again = new.encrypt(former.decrypt(data.encode())).decode()
            # When it was written last says how old a token is, and this writes nothing new.
            change = sa.update(blocks).where(blocks.id == key)
            await session.execute(change.values(data=again, updated=updated))
        await session.execute(sa.delete(settings).where(settings.key == "ENCRYPTION_KEY"))
    return len(rows)


async def _sync() -> None:
    """Have SQLite's write-ahead log on the disk before the former key is forgotten."""
    database = provide_database_interface()
    engine = await database.engine()
    if engine.dialect.name == "sqlite":
        async with engine.connect() as connection:
            await connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))


def _write(file: Path, *keys: str) -> None:
    """Replace the file at once, for its owner only."""
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as writing:  # noqa: PTH123  (a descriptor)
        writing.write("".join(f"{key}\n" for key in keys))
        writing.flush()
        os.fsync(descriptor)
    new.replace(file)
    directory = os.open(file.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


if __name__ == "__main__":
    raise SystemExit(main())
