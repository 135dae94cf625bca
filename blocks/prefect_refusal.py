"""What Prefect's server refuses however often it is asked, until an operator mends something."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from prefect.exceptions import PrefectHTTPStatusError

CREDENTIALS = (
    "Prefect refuses these credentials (401): set PREFECT_API_AUTH_STRING to the server's"
    " authentication string."
)
FORBIDDEN = (
    "Prefect, or what stands before it, forbids this (403): see what the account of"
    " PREFECT_API_AUTH_STRING or PREFECT_API_KEY may do."
)
UNREADABLE = (
    "Prefect cannot read the secrets that it stores (500): if its encryption key was changed, start"
    " it with the former PREFECT_SERVER_ENCRYPTION_KEY; otherwise see its log."
)


def why_prefect_refuses(error: BaseException) -> str | None:
    """One sentence on why, and what an operator does about it; None where it may pass by itself.

    Args:
        error: What was raised, or what was raised because of it.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PrefectHTTPStatusError):
            return _reason(cause)
        cause = cause.__cause__
    return None


Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


@contextmanager
def refusal_logged(logger: Log) -> Iterator[None]:
    """Log why Prefect refuses what is asked of it in the block, which fails all the same."""
    try:
        yield
    except PrefectHTTPStatusError as error:
        if refusal := why_prefect_refuses(error):
            logger.error("%s", refusal)  # noqa: TRY400  (the sentence says it all)
        raise


def _reason(error: PrefectHTTPStatusError) -> str | None:
    match error.response.status_code:
        case HTTPStatus.UNAUTHORIZED:
            return CREDENTIALS
        case HTTPStatus.FORBIDDEN:
            return FORBIDDEN
        # Its server answers 500 to what it cannot decrypt, and 503 to what may pass.
        case HTTPStatus.INTERNAL_SERVER_ERROR if _is_of_blocks(error):
            return UNREADABLE
    return None


def _is_of_blocks(error: PrefectHTTPStatusError) -> bool:
    return "/block_" in error.request.url.path
