"""Where a secret could have come to rest in an installation, and how to recognise it there."""

import base64
import html
import json
import logging
import pickle
import re
import sqlite3
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import quote, quote_plus

import cloudpickle
import httpx
import yaml
from prefect.logging.configuration import DEFAULT_LOGGING_SETTINGS_PATH

from deployments.stack import Stack

PIECE = 8
"""A piece of a token twice as long, less one, is recognised wherever the token was cut."""

_WORD = re.compile(rb"[A-Za-z0-9+/=_-]{%d,}" % PIECE)
_TOKEN = re.compile(r"[a-z]{2}-[\w-]{32}", re.ASCII)
_LINE_BREAKS = (b"\r", b"\n", b"\\r", b"\\n")

_LISTED = (
    "flow_runs",
    "task_runs",
    "logs",
    "artifacts",
    "variables",
    "deployments",
    "block_documents",
    "work_pools",
    "v2/concurrency_limits",
)


@dataclass(frozen=True)
class Leak:
    """A secret where it does not belong."""

    secret: str
    place: str
    context: str


def search(places: Mapping[str, bytes], secrets: Iterable[str]) -> list[Leak]:
    """Every secret that any of the places holds, whole or in pieces, in any usual spelling."""
    owners = {trace: secret for secret in secrets for trace in traces(secret)}
    found = []
    for place, content in places.items():
        # Pickled results are base64 in lines, and those are JSON text.
        whole = content
        for line_break in _LINE_BREAKS:
            whole = whole.replace(line_break, b"")
        for text in (content, whole):
            for trace in _found(owners, text):
                at = text.index(trace)
                context = text[max(0, at - 150) : at + 150].decode(errors="replace")
                found.append(Leak(owners[trace], place, context))
    return found


def traces(secret: str) -> set[bytes]:
    """What a leak of the secret would look like."""
    escaped = json.dumps(secret)[1:-1]
    texts = {
        secret,
        escaped,
        json.dumps(escaped)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        html.escape(secret),
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
    }
    raw = secret.encode()
    encoded = {trace for shift in range(3) for trace in _base64(raw, shift)}
    return {text.encode() for text in texts | _pieces(secret)} | encoded | {raw.hex().encode()}


def _pieces(secret: str) -> set[str]:
    """A token in pieces. Other secrets have parts that are none, such as a JWT's header."""
    if not _TOKEN.fullmatch(secret):
        return set()
    random = secret[3:]
    return {random[start : start + PIECE] for start in range(0, len(random), PIECE)}


def _base64(raw: bytes, shift: int) -> Iterator[bytes]:
    """The raw bytes as they look somewhere inside something longer that is base64."""
    first, last = -(-shift * 8 // 6), (shift + len(raw)) * 8 // 6
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(bytes(shift) + raw)[first:last]


def _found(wanted: Iterable[bytes], text: bytes) -> Iterator[bytes]:
    beginnings = defaultdict(list)
    for trace in wanted:
        if _WORD.fullmatch(trace):
            beginnings[trace[:PIECE]].append(trace)
        elif trace in text:
            yield trace
    found = set()
    for word in set(_WORD.findall(text)):
        for start in range(len(word) - PIECE + 1):
            for trace in beginnings.get(word[start : start + PIECE], ()):
                if word.startswith(trace, start):
                    found.add(trace)
    yield from found


def files_of(installation: Stack) -> dict[str, bytes]:
    """Every file of the installation, deleted parts of the database included, and that as SQL."""
    home = installation.home
    files = [path for path in home.rglob("*") if path.is_file()]
    found = {f"file {path.relative_to(home)}": path.read_bytes() for path in files}
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        found["database"] = "\n".join(database.iterdump()).encode()
    return found


def api_of(installation: Stack) -> dict[str, bytes]:
    """Everything that Prefect's API shows without being asked for secrets."""
    url, login = installation.api_url, installation.login
    with httpx.Client(base_url=url, auth=login, timeout=60, trust_env=False) as api:
        pages = {name: list(_listed(api, name)) for name in _LISTED}
        runs = [run["id"] for run in pages["flow_runs"]]
        pages["states"] = [
            api.get("/flow_run_states/", params={"flow_run_id": run}).raise_for_status().json()
            for run in runs
        ]
        pages["events"] = list(_events(api))
    return {f"API {name}": json.dumps(page).encode() for name, page in pages.items()}


def _listed(api: httpx.Client, name: str, limit: int = 200) -> Iterator[Any]:
    for offset in range(0, 1_000_000, limit):
        body = {"limit": limit, "offset": offset}
        page = api.post(f"/{name}/filter", json=body).raise_for_status().json()
        yield from page
        if len(page) < limit:
            return


def _events(api: httpx.Client) -> Iterator[Any]:
    page = api.post("/events/filter", json={"limit": 50}).raise_for_status().json()
    yield from page["events"]
    while page["next_page"]:
        page = api.get(page["next_page"]).raise_for_status().json()
        yield from page["events"]


def told_by(error: BaseException) -> bytes:
    """What an error tells: its text, attributes and pickle, and those of every error behind it."""
    told, behind = [], [error]
    while behind:
        error = behind.pop()
        told.append("".join(traceback.format_exception(error)).encode())
        told.append(repr((error, error.args, vars(error))).encode())
        with suppress(pickle.PicklingError, TypeError, AttributeError):
            told.append(cloudpickle.dumps(error))
        behind += [link for link in (error.__cause__, error.__context__) if link]
    return b"\n".join(told)


class ProcessWatch(Thread):
    """Notes the arguments and environment of every process that runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = Event()
        self._looks: Counter[Path] = Counter()
        self._seen: dict[str, set[bytes]] = {"cmdline": set(), "environ": set()}

    def run(self) -> None:
        """Look until told to end."""
        while not self._ended.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                # More than once, because a process begins as a copy of its parent.
                if self._looks[process] < 20:
                    self._looks[process] += 1
                    self._look(process)

    def _look(self, process: Path) -> None:
        for name, seen in self._seen.items():
            with suppress(OSError):
                seen.add((process / name).read_bytes())

    def seen(self) -> dict[str, bytes]:
        """All that was seen."""
        return {f"process {name}": b"\n".join(seen) for name, seen in self._seen.items()}

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()
        self.join()


def log_everything(path: Path) -> None:
    """Make Prefect's logging, as configured in this file, tell all that any library logs.

    The database driver logs every statement with its values. Prefect's own console handler would
    take seconds to colour them.
    """
    settings = yaml.safe_load(DEFAULT_LOGGING_SETTINGS_PATH.read_text())
    settings["handlers"]["console"] = settings["handlers"]["debug"]
    settings["root"]["level"] = "DEBUG"
    settings["loggers"]["aiosqlite"] = {"level": "INFO"}
    path.write_text(yaml.safe_dump(settings))


@contextmanager
def everything_logged() -> Iterator[StringIO]:
    """All that this process logs at DEBUG, tracebacks included."""
    log = StringIO()
    handler = logging.StreamHandler(log)
    loggers = [logging.getLogger(name) for name in (None, "prefect", "httpx", "httpcore")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loggers[0].addHandler(handler)
    try:
        yield log
    finally:
        loggers[0].removeHandler(handler)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
