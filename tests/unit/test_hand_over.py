"""`python -m deployments.hand_over`: what it takes, what it refuses, what it prints."""

import io
from collections.abc import Callable

import httpx
import pytest
from pydantic import SecretStr

from blocks import caller_token
from blocks.caller_token import CallerTokenError, is_callers, is_of_a_journey, name_by_hand
from deployments import hand_over

Run = Callable[..., int]


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is stored, by name."""
    found: dict[str, str] = {}

    async def store(token: SecretStr, name: str) -> str:
        found[name] = token.get_secret_value()
        return name

    monkeypatch.setattr(caller_token, "hand_over", store)
    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, stored: dict[str, str]) -> Run:
    """Run the command with these arguments and this on standard input."""

    def main(*arguments: str, typed: str = "the-token\n") -> int:
        monkeypatch.setenv("PREFECT_API_URL", "http://prefect.invalid/api")
        monkeypatch.setattr("sys.argv", ["hand_over", *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        return hand_over.main()

    return main


@pytest.fixture(autouse=True)
def api_url(monkeypatch: pytest.MonkeyPatch) -> None:
    class Set:
        @staticmethod
        def value() -> str:
            return "http://prefect.invalid/api"

    monkeypatch.setattr(hand_over, "PREFECT_API_URL", Set)


@pytest.mark.parametrize("name", ["my-access-token", "caller-my-access-token"])
def test_the_token_is_stored_as_a_callers_and_the_name_is_printed(
    run: Run, stored: dict[str, str], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(name) == 0
    assert stored == {"caller-my-access-token": "the-token"}
    assert capsys.readouterr().out == "caller-my-access-token\n"


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_printed_and_nothing_stored(
    run: Run, stored: dict[str, str], capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(option)
    assert ended.value.code == 0
    assert "python -m deployments.hand_over my-access-token" in capsys.readouterr().out
    assert not stored


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["-x"], ["--force"]])
def test_what_is_no_name_is_refused_with_the_usage(
    run: Run, stored: dict[str, str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    assert not stored


@pytest.mark.parametrize("name", ["My Token", "a_b", "a/b", "", "é", "x" * 101, "a\n"])
def test_a_name_that_prefect_refuses_is_refused_before_the_token_is_asked_for(
    run: Run, stored: dict[str, str], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(name) == 1
    assert "lower-case letters, digits and dashes" in capsys.readouterr().err
    assert not stored


@pytest.mark.parametrize("typed", ["", "\n", "  \n"])
def test_an_empty_token_is_refused(
    run: Run, stored: dict[str, str], capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    assert run("my-token", typed=typed) == 1
    assert "No access token was given" in capsys.readouterr().err
    assert not stored


def test_a_prefect_that_does_not_answer_is_told_in_a_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def away(*_: object) -> str:
        raise httpx.ConnectError("All connection attempts failed")

    monkeypatch.setattr(caller_token, "hand_over", away)
    assert run("my-token") == 1
    told = capsys.readouterr().err
    assert told.startswith("Prefect does not answer (ConnectError)")
    assert len(told.splitlines()) == 1


def test_a_name_handed_over_by_hand_is_never_taken_for_a_journeys_own() -> None:
    assert is_of_a_journey(caller_token.new_name())
    assert not is_of_a_journey(name_by_hand("journey-1"))
    with pytest.raises(CallerTokenError):
        name_by_hand(caller_token.new_name())


@pytest.mark.parametrize(
    "name", ["db-password", "grant-acme-eod", "caller", "caller-", "CALLER-a", "", None, {"a": 1}]
)
def test_only_names_of_one_grammar_are_callers(name: object) -> None:
    assert not is_callers(name)
