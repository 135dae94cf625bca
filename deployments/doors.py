"""What the Prefect server leaves open, and by which of its settings that is closed.

Asked of the server itself, as a stranger would: what a proxy before it closes is closed.
"""

import logging
from urllib.parse import urlsplit

import httpx
from prefect.settings import PREFECT_API_URL, PREFECT_CLOUD_API_URL

from blocks.http import is_safe_url

NO_AUTHENTICATION = (
    "Prefect answers without authentication, so who reaches it reads every stored grant: set"
    " PREFECT_SERVER_API_AUTH_STRING on the server and PREFECT_API_AUTH_STRING here."
)
ANY_ORIGIN = (
    "Prefect allows any origin, so every page in an operator's browser may call it: set"
    " PREFECT_SERVER_CORS_ALLOWED_ORIGINS on the server to the origin of its UI."
)
NO_TLS = (
    "Prefect is reached over plain http on another machine, so who listens reads every grant:"
    " put TLS before it and https into PREFECT_API_URL."
)
STRANGER = "https://stranger.invalid"
PATIENCE = 5.0
"""Seconds for the server to answer: nothing waits for it."""


Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


async def warn_of_open_doors(logger: Log) -> None:
    """Log a warning for each door that stands open; never raises."""
    try:
        for door in await open_doors():
            logger.warning("%s docs/security.md says how.", door)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        logger.debug("Prefect could not be asked which doors are open (%s).", type(error).__name__)


async def open_doors() -> list[str]:
    """A sentence for each door that stands open; raises httpx.HTTPError."""
    url = PREFECT_API_URL.value()
    if not url or urlsplit(url).hostname == urlsplit(PREFECT_CLOUD_API_URL.value()).hostname:
        return []
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        answer = await client.get(f"{url}/admin/version", headers={"Origin": STRANGER})
    doors = {
        NO_AUTHENTICATION: answer.is_success,
        ANY_ORIGIN: answer.headers.get("Access-Control-Allow-Origin") in {"*", STRANGER},
        NO_TLS: not is_safe_url(url),
    }
    return [door for door, is_open in doors.items() if is_open]
