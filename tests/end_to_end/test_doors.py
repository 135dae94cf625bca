"""Who gets into a Prefect server that is started here, and what is told of one that is open."""

import asyncio
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from cryptography.fernet import Fernet
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks import OAuthServer
from blocks.prefect_refusal import CREDENTIALS, UNREADABLE
from deployments.demo import create_work_pool, save_blocks
from deployments.doors import ANY_ORIGIN, NO_AUTHENTICATION, NO_TLS, open_doors
from deployments.prefect_server.encryption import KEYS_FILE
from deployments.prefect_server.safety import AUTH_STRING_FILE
from deployments.stack import Part, Stack, StackError, stack

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SECURITY = (ROOT / "docs/security.md").read_text()
OPEN = {"PREFECT_SERVER_API_AUTH_STRING": ""}
STRANGER = "https://evil.example"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server as it is started."""
    with stack(tmp_path_factory.mktemp("guarded")) as running:
        running.start_server()
        with temporary_settings({PREFECT_API_URL: running.api_url}):
            yield running


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Prefect's own server, as installed."""
    with stack(tmp_path_factory.mktemp("stock"), PREFECT_API_AUTH_STRING="") as running:
        running.start_server(plain=True)
        with temporary_settings({PREFECT_API_URL: running.api_url}):
            asyncio.run(create_work_pool())
            asyncio.run(save_blocks("http://127.0.0.1:9"))
        yield running


def ask(running: Stack, path: str = "admin/version", **options: object) -> httpx.Response:
    """What a stranger is answered."""
    url = f"{running.api_url}/{path}"
    return httpx.get(url, trust_env=False, **options)  # type: ignore[arg-type]


def log_of(part: Part, *wanted: str, seconds: float = 30) -> str:
    """The log, once it holds all that is wanted."""
    until = time.monotonic() + seconds
    while not all(it in part.log.read_text() for it in wanted) and time.monotonic() < until:
        time.sleep(0.2)
    return part.log.read_text()


def test_the_server_that_we_start_answers_nobody_without_its_string(guarded: Stack) -> None:
    assert ask(guarded).status_code == 401
    assert ask(guarded, auth=("admin", "guess")).status_code == 401
    assert ask(guarded, auth=guarded.login).status_code == 200
    assert ask(guarded, "health").status_code == 200


def test_a_page_whose_name_is_made_to_lead_here_reads_nothing(guarded: Stack) -> None:
    assert ask(guarded, headers={"Host": "evil.example"}).status_code == 401


def test_only_the_servers_own_ui_may_read_its_answers(guarded: Stack) -> None:
    def allowed(origin: str) -> str | None:
        answer = ask(guarded, auth=guarded.login, headers={"Origin": origin})
        return answer.headers.get("Access-Control-Allow-Origin")

    assert allowed(STRANGER) is None
    for own in (guarded.ui_url, guarded.ui_url.replace("127.0.0.1", "localhost")):
        assert allowed(own) == own


def test_nobody_else_on_the_machine_may_read_the_servers_files(guarded: Stack) -> None:
    assert guarded.home.stat().st_mode & 0o777 == 0o700
    files = [it for it in guarded.home.iterdir() if it.is_file() and it.name != "server.log"]
    assert {AUTH_STRING_FILE, KEYS_FILE, "prefect.db"} <= {it.name for it in files}
    assert {oct(it.stat().st_mode & 0o777) for it in files} == {"0o600"}


def test_the_operator_is_told_where_the_string_is_and_not_what_it_is(guarded: Stack) -> None:
    told = (guarded.home / "server.log").read_text()
    assert f'PREFECT_API_AUTH_STRING="$(cat {guarded.home / AUTH_STRING_FILE})"' in told
    assert guarded.login[1] not in told


async def test_a_guarded_server_has_no_open_doors(guarded: Stack) -> None:
    assert await open_doors() == []


async def test_a_stolen_database_gives_no_key_to_what_it_holds(guarded: Stack) -> None:
    await Secret(value="refresh").asave("stolen", overwrite=True)
    with closing(sqlite3.connect(guarded.home / "prefect.db")) as database:
        assert (
            database.execute("SELECT * FROM configuration WHERE key LIKE 'ENC%'").fetchall() == []
        )
        query = "SELECT data FROM block_document WHERE name = 'stolen'"
        (data,) = database.execute(query).fetchone()
    key = (guarded.home / KEYS_FILE).read_text().strip()
    assert json.loads(Fernet(key.encode()).decrypt(json.loads(data).encode()))["value"] == "refresh"


def test_a_stock_servers_open_doors_are_warned_of_once_when_a_worker_starts(stock: Stack) -> None:
    worker = stock.start_worker("warned")
    told = log_of(worker, NO_AUTHENTICATION, ANY_ORIGIN)
    time.sleep(2)
    worker.stop()
    for door in (NO_AUTHENTICATION, ANY_ORIGIN):
        assert worker.log.read_text().count(door) == 1, told
    assert NO_TLS not in told


def test_a_stock_servers_open_doors_are_warned_of_once_when_the_journeys_api_starts(
    stock: Stack,
) -> None:
    served = stock.start_journeys_api()
    told = log_of(served, NO_AUTHENTICATION, ANY_ORIGIN)
    served.stop()
    for door in (NO_AUTHENTICATION, ANY_ORIGIN):
        assert told.count(door) == 1, told
        assert "PREFECT_SERVER_" in door


@contextmanager
def started(home: Path, **settings: str) -> Iterator[Stack]:
    """Another server on this home."""
    with stack(home, **settings) as running:
        running.start_server()
        with temporary_settings({PREFECT_API_URL: running.api_url}):
            yield running


async def test_an_older_database_keeps_its_key_until_that_is_changed_by_its_command(
    tmp_path: Path,
) -> None:
    with stack(tmp_path) as running:
        part = running.start_server(plain=True)
        with temporary_settings({PREFECT_API_URL: running.api_url}):
            await Secret(value="older").asave("kept")
        part.stop()
    with started(tmp_path) as running:
        assert (await Secret.aload("kept")).get() == "older"
        assert "rotate_key" in (tmp_path / "server.log").read_text()
    (command,) = re.findall(
        r"^python (-m deployments\.prefect_server\.rotate_key)$", SECURITY, re.MULTILINE
    )
    with started(tmp_path) as running, pytest.raises(StackError, match="Stop the Prefect server"):
        running.run(*command.split())
    with stack(tmp_path) as running:
        assert "1 blocks" in running.run(*command.split())
    with started(tmp_path) as running:
        assert (await Secret.aload("kept")).get() == "older"
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as database:
        assert (
            database.execute("SELECT * FROM configuration WHERE key LIKE 'ENC%'").fetchall() == []
        )
    assert (tmp_path / KEYS_FILE).stat().st_mode & 0o777 == 0o600


async def test_nothing_of_the_operators_own_prefect_reaches_what_is_only_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////precious.db")
    with stack(tmp_path) as running:
        assert "precious" not in str(running.environment)


async def test_a_server_whose_key_was_lost_does_not_start_and_says_why(tmp_path: Path) -> None:
    with started(tmp_path):
        await Secret(value="locked").asave("locked")
    (tmp_path / KEYS_FILE).unlink()
    with (
        pytest.raises(StackError, match="set PREFECT_SERVER_ENCRYPTION_KEY to that one"),
        started(tmp_path),
    ):
        pass


def answers_anything(url: str) -> bool:
    with suppress(httpx.TransportError):
        return bool(httpx.get(url, timeout=30, trust_env=False).status_code)
    return False


async def test_secrets_that_prefect_cannot_read_any_more_are_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.stack._answers", answers_anything)  # 503, for one
    with started(tmp_path):
        await save_blocks("http://127.0.0.1:9")
    changed = Fernet.generate_key().decode()
    with stack(tmp_path, PREFECT_SERVER_ENCRYPTION_KEY=changed) as running:
        running.start_server(plain=True)  # which does not look
        running.start_journeys_api()
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{running.journeys_url}/readyz")
        assert answer.json()["detail"] == UNREADABLE
        assert UNREADABLE in (tmp_path / "journeys.log").read_text()
        with pytest.raises(StackError, match="cannot read the secrets"):
            running.run("-m", "deployments.serve", "--host", "192.0.2.1", "--port", "1")


def test_who_has_not_the_string_is_told_so_and_not_to_try_again_soon(guarded: Stack) -> None:
    wrong = {"PREFECT_API_AUTH_STRING": "admin:wrong"}
    worker = guarded.start_worker("refused", **wrong)
    assert CREDENTIALS in log_of(worker, CREDENTIALS)
    worker.stop()
    environment = guarded.environment | wrong
    serve = "deployments.serve --host 192.0.2.1 --port 1"
    for module in (serve, "deployments.hand_over my-token"):
        done = subprocess.run(
            [sys.executable, "-m", *module.split()],
            env=environment,
            input="token\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert CREDENTIALS in done.stderr
        assert "Traceback" not in done.stderr


def commands(page: str, containing: str) -> str:
    """The shell commands of the page's block that holds this."""
    (found,) = [it for it in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if containing in it]
    return found


@pytest.mark.parametrize("authentication", ["on", "off"])
def test_the_readmes_commands_set_it_up_with_and_without_authentication(
    tmp_path: Path, authentication: str
) -> None:
    home = tmp_path / ".prefect"
    settings = {"HOME": str(tmp_path)} | (OPEN if authentication == "off" else {})
    wanted = commands(README, "prefect work-pool create").replace("prefect worker start", ": ")
    assert "server-auth-string" in wanted
    with stack(home, **settings) as running:
        running.start_server()
        assert ask(running).status_code == (401 if authentication == "on" else 200)
        if authentication == "off":
            (home / AUTH_STRING_FILE).unlink()  # made by `stack`, not by the server
        environment = {k: v for k, v in running.environment.items() if "AUTH" not in k}
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-ec", wanted.replace(":4200", f":{running.port}")],
            env=environment | {"PREFECT_API_URL": ""},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        login = running.login if authentication == "on" else None
        found = httpx.post(
            f"{running.api_url}/deployments/filter", json={}, auth=login, trust_env=False
        )
    assert len(found.raise_for_status().json()) == 2


def test_the_security_pages_commands_make_what_the_server_takes(tmp_path: Path) -> None:
    made = commands(SECURITY, "Fernet.generate_key")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    shown = 'echo "$PREFECT_SERVER_API_AUTH_STRING $PREFECT_SERVER_ENCRYPTION_KEY"'
    command = ["bash", "-ec", f"{made}\n{shown}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    login, key = done.stdout.split()
    given = {"PREFECT_SERVER_API_AUTH_STRING": login, "PREFECT_SERVER_ENCRYPTION_KEY": key}
    with started(tmp_path, **given, PREFECT_API_AUTH_STRING=login) as running:
        user, _, password = login.partition(":")
        assert ask(running, auth=(user, password)).status_code == 200
        assert not (tmp_path / KEYS_FILE).exists()


async def test_the_security_pages_new_client_secret_is_saved(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", SECURITY, re.DOTALL)
    script = code.replace("from getpass import getpass", "def getpass(_): return 'newer'")
    saved = "block_types/slug/oauth-server/block_documents/name/orders-batch"
    with started(tmp_path) as running:
        await save_blocks("http://127.0.0.1:9")
        await asyncio.to_thread(running.run, "-c", script)
        server = await OAuthServer.aload("orders-batch")
        shown = ask(running, saved, auth=running.login)
    assert isinstance(server.client_secret, SecretStr)
    assert server.client_secret.get_secret_value() == "newer"
    assert "newer" not in shown.raise_for_status().text


def test_a_new_authentication_string_is_made_where_the_former_was_deleted(tmp_path: Path) -> None:
    (command,) = re.findall(r"^rm (\S+)$", SECURITY, re.MULTILINE)
    with started(tmp_path) as running:
        former = running.login
    Path(command.replace("~/.prefect", str(tmp_path))).unlink()
    with started(tmp_path) as running:
        assert running.login != former
        assert ask(running, auth=former).status_code == 401
    shutil.rmtree(tmp_path)
