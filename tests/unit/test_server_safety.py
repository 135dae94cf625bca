"""Who gets into the Prefect server that this project starts, and which key its database has."""

import asyncio
import os
import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_SERVER_API_AUTH_STRING,
    PREFECT_SERVER_CORS_ALLOWED_ORIGINS,
    temporary_settings,
)

from deployments.prefect_server.encryption import (
    KEYS_FILE,
    VARIABLES,
    Stored,
    WrongKeyError,
    fitting_key,
    use_key,
)
from deployments.prefect_server.safety import (
    AUTH_STRING_FILE,
    auth_string,
    close_files,
    how_to_log_in,
    own_origins,
    safe_settings,
)

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


@pytest.fixture(autouse=True)
def environment_as_it_was(monkeypatch: pytest.MonkeyPatch):
    for name in (*VARIABLES, "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.setenv(name, "for monkeypatch to put back")
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS", "*")
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_an_authentication_string_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path):
    made = auth_string(tmp_path)
    user, _, password = made.partition(":")
    assert user == "admin"
    assert len(password) > 30
    assert auth_string(tmp_path) == made
    assert mode(tmp_path / AUTH_STRING_FILE) == 0o600
    assert [it.name for it in tmp_path.iterdir()] == [AUTH_STRING_FILE]


def test_the_server_asks_for_the_string_that_was_made_and_its_operator_is_told(tmp_path: Path):
    with safe_settings(tmp_path, []):
        assert auth_string(tmp_path) == PREFECT_SERVER_API_AUTH_STRING.value()
        assert str(tmp_path / AUTH_STRING_FILE) in (how_to_log_in(tmp_path) or "")
        assert auth_string(tmp_path) not in (how_to_log_in(tmp_path) or "")
        assert os.environ["PREFECT_SERVER_API_AUTH_STRING"] == auth_string(tmp_path)


def test_an_authentication_string_that_the_operator_set_stays(tmp_path: Path):
    with (
        temporary_settings({PREFECT_SERVER_API_AUTH_STRING: "me:mine"}),
        safe_settings(tmp_path, []),
    ):
        assert PREFECT_SERVER_API_AUTH_STRING.value() == "me:mine"
        assert how_to_log_in(tmp_path) is None
        assert list(tmp_path.iterdir()) == []


def test_an_authentication_string_that_is_set_to_nothing_means_none(tmp_path: Path):
    with temporary_settings({PREFECT_SERVER_API_AUTH_STRING: ""}), safe_settings(tmp_path, []):
        assert PREFECT_SERVER_API_AUTH_STRING.value() is None
        assert "PREFECT_SERVER_API_AUTH_STRING" not in os.environ
        assert list(tmp_path.iterdir()) == []


def test_only_the_servers_own_ui_may_call_it(tmp_path: Path):
    with safe_settings(tmp_path, ["--port", "4300"]):
        allowed = PREFECT_SERVER_CORS_ALLOWED_ORIGINS.value()
    assert allowed == "http://127.0.0.1:4300,http://localhost:4300"
    assert own_origins(["--host=::1", "--port=1"]).endswith(",http://[::1]:1")


def test_origins_that_the_operator_set_stay(tmp_path: Path):
    mine = {PREFECT_SERVER_CORS_ALLOWED_ORIGINS: "https://prefect.example.com"}
    with temporary_settings(mine), safe_settings(tmp_path, []):
        assert PREFECT_SERVER_CORS_ALLOWED_ORIGINS.value() == "https://prefect.example.com"


def test_nobody_else_may_read_the_home_its_database_and_what_will_be_written(tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    for name in ("prefect.db", "prefect.db-wal"):
        (home / name).touch(0o644)
    elsewhere = tmp_path / "elsewhere.sqlite"
    elsewhere.touch(0o644)
    url = f"sqlite+aiosqlite:///{elsewhere}"
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url}):
        close_files(home)
    (home / "later").touch()
    assert mode(home) == 0o700
    closed = [home / "prefect.db", home / "prefect.db-wal", home / "later", elsewhere]
    assert [mode(it) for it in closed] == [0o600] * 4


def under(key: str) -> str:
    return Fernet(key.encode()).encrypt(b"{}").decode()


def test_the_key_that_opens_what_is_stored_is_taken_wherever_it_stands():
    stored = Stored(under(OLD), own_key=None, is_local=True)
    assert fitting_key([NEW, OLD], stored) == OLD


def test_a_database_that_has_a_key_of_its_own_keeps_it():
    assert fitting_key([], Stored(under(OLD), own_key=OLD, is_local=True)) is None
    assert fitting_key([OTHER], Stored(under(OLD), own_key=OLD, is_local=True)) is None


@pytest.mark.parametrize("own_key", [None, OTHER])
def test_secrets_that_no_key_opens_are_told_before_anything_starts(own_key: str | None):
    with pytest.raises(WrongKeyError, match="PREFECT_SERVER_ENCRYPTION_KEY"):
        fitting_key([NEW], Stored(under(OLD), own_key, is_local=True))


def test_a_key_that_the_operator_set_wrongly_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", OTHER)
    with pytest.raises(WrongKeyError):
        fitting_key([OTHER], Stored(under(OLD), own_key=OLD, is_local=True))


def test_a_new_database_gets_a_key_in_a_file_that_only_its_owner_may_read(tmp_path: Path):
    url = f"sqlite+aiosqlite:///{tmp_path}/new.db"
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url}):
        assert asyncio.run(use_key(tmp_path)) is None
    file = tmp_path / KEYS_FILE
    assert mode(file) == 0o600
    assert file.read_text().split() == [os.environ["PREFECT_SERVER_ENCRYPTION_KEY"]]
