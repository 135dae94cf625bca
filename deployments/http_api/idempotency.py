"""The Idempotency-Key header (the IETF's draft-ietf-httpapi-idempotency-key-header)."""

import re
from http import HTTPStatus
from typing import Annotated

from fastapi import Header
from pydantic import SecretStr

from deployments.http_api.problems import Fault, ProblemError
from deployments.own_token import TokenFinder

IdempotencyKey = Annotated[
    str | None,
    Header(
        description=(
            "Under the same key, a tenant's same request starts one journey, however often it is "
            "sent. Up to 255 printable ASCII characters, in quotes or bare."
        ),
        examples=['"8e03978e-40d5-43dd-bc93-6894a57f9324"'],
    ),
]

LONGEST = 2 * 255 + 2
"""Of the header: each character may be escaped, in quotes."""

_WANTED = "Idempotency-Key must be 1 to 255 printable ASCII characters."
_KEY = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')  # a String of RFC 9651 3.3.3


def read_key(header: str | None, token: SecretStr) -> str | None:
    """The key, whether it came quoted, as the draft wants it, or bare, as many send it.

    Raises ProblemError, 400, for one that cannot be read, or that holds the caller's token: a key
    is no secret, and others log it.
    """
    if header is None:
        return None
    if len(header) > LONGEST:
        raise _refused(_WANTED)
    if TokenFinder(token).is_in(header):
        raise _refused("Idempotency-Key must not hold your access token, or a piece of it.")
    quoted = _QUOTED.fullmatch(header)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else header
    if (quoted is None and header.startswith('"')) or not _KEY.fullmatch(key):
        raise _refused(_WANTED)
    return key


def _refused(detail: str) -> ProblemError:
    fault = Fault(field="Idempotency-Key", detail=detail)
    return ProblemError(HTTPStatus.BAD_REQUEST, "A header cannot be read.", errors=[fault])
