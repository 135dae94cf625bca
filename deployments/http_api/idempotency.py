"""The Idempotency-Key header (the IETF's draft-ietf-httpapi-idempotency-key-header)."""

import re
from http import HTTPStatus
from typing import Annotated

from fastapi import Header

from deployments.http_api.problems import Fault, ProblemError

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

_KEY = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')  # a String of RFC 9651 3.3.3


def read_key(header: str | None) -> str | None:
    """The key, whether it came quoted, as the draft wants it, or bare, as many send it.

    Raises ProblemError, 400, for one that cannot be read.
    """
    if header is None:
        return None
    quoted = _QUOTED.fullmatch(header)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else header
    if (quoted is None and header.startswith('"')) or not _KEY.fullmatch(key):
        fault = Fault(
            field="Idempotency-Key",
            detail="Idempotency-Key must be 1 to 255 printable ASCII characters.",
        )
        raise ProblemError(HTTPStatus.BAD_REQUEST, "A header cannot be read.", errors=[fault])
    return key
