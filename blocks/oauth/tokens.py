"""What the OAuth server granted, read out of a successful reply."""

import re
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, SecretStr

from blocks.http import NotJsonError, Reply
from blocks.oauth.errors import NoRefreshTokenError
from blocks.oauth.operations import EXCHANGE, REFRESH
from blocks.oauth.replies import unusable
from blocks.quoting import quotable

REFRESH_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:refresh_token"  # noqa: S105 - a type's name
LONGEST_LIFETIME = 366 * 24 * 3600.0
"""Seconds. An access token that claims to live longer has its unit wrong."""

_FORMS = {
    # RFC 6749 A.12, but no space at either end: a header loses it, and what else is no VSCHAR the
    # HTTP library would quote in its error.
    "access_token": re.compile(r"[!-~](?:[ -~]*[!-~])?"),
    # RFC 6749 A.17, to the letter: it travels in a form, which loses nothing.
    "refresh_token": re.compile(r"[ -~]+"),
}


class Tokens(BaseModel):
    """The tokens of one reply.

    Attributes:
        access_token: For `Authorization: Bearer`. None when the reply has no token of that type
            (RFC 6749 7.1): store the refresh token first, then refresh or give up.
        refresh_token: To be stored before anything else is done. None when the reply has none: the
            one used so far stays valid (RFC 6749 6).
        expires_at: When the access token ends, counted from before the request was sent.
        token_type: As the server named it; Bearer where it named none. RFC 6749 5.1 requires one,
            but some servers leave it out, and a type that makes the client act otherwise (DPoP,
            MAC) must be named for the client to know.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    access_token: SecretStr | None
    refresh_token: SecretStr | None
    expires_at: AwareDatetime
    token_type: str


def read_exchange(reply: Reply, sent_at: datetime, default_lifetime: float) -> Tokens:
    """The tokens of a successful token exchange; `refresh_token` is never None.

    Where the refresh token lies differs by server (RFC 8693 2.2.1): beside `access_token`, or *in*
    it when that is what was issued, and then there is no access token yet.

    Raises:
        NoRefreshTokenError: The server granted only an access token.
        UnusableReplyError: The reply grants nothing, or a token that cannot be read.
    """
    body = _body(reply)
    if _is_absent(body, "access_token"):
        raise unusable(reply, EXCHANGE, "it has no access_token")
    if _is_absent(body, "refresh_token") and body.get("issued_token_type") == REFRESH_TOKEN_TYPE:
        body["refresh_token"] = body.pop("access_token")
    for member in _unreadable(body):
        raise unusable(reply, EXCHANGE, f"its {member} cannot be read")
    if _is_absent(body, "refresh_token"):
        raise NoRefreshTokenError(
            "The OAuth server exchanged the caller's token but gave no refresh token, so no night "
            "could run: set requested_token_type or scope as this server wants it, and allow "
            "refresh tokens for this client.",
            status=reply.status,
        )
    return _tokens(body, _expiry(body, sent_at, default_lifetime))


def read_refresh(reply: Reply, sent_at: datetime, default_lifetime: float) -> Tokens:
    """The tokens of a successful refresh.

    A new refresh token is returned even if the access token beside it is missing, unreadable or no
    Bearer token: the old one is used up, and raising here would throw away the only one that works.
    For the same reason a new one that cannot be read is not taken for none.

    Raises:
        ReplyLostError: The server said yes, but its new refresh token cannot be read, or neither
            token can; the old refresh token may be used up.
    """
    body = _body(reply)
    unreadable = _unreadable(body)
    if "refresh_token" in unreadable:
        raise REFRESH.lost("its new refresh_token cannot be read", status=reply.status)
    tokens = _tokens(body, _expiry(body, sent_at, default_lifetime))
    if tokens.access_token is None and tokens.refresh_token is None:
        why = "its access_token cannot be read" if unreadable else "it grants no Bearer token"
        raise REFRESH.lost(why, status=reply.status)
    return tokens


def _body(reply: Reply) -> dict[str, Any]:
    try:
        return reply.json_object()
    except NotJsonError:
        return {}


def _tokens(body: dict[str, Any], expires_at: datetime) -> Tokens:
    token_type = quotable(body.get("token_type", "Bearer"), limit=40)
    is_bearer = token_type.lower() == "bearer"
    return Tokens(
        access_token=_token(body, "access_token") if is_bearer else None,
        refresh_token=_token(body, "refresh_token"),
        expires_at=expires_at,
        token_type=token_type,
    )


def _token(body: dict[str, Any], member: str) -> SecretStr | None:
    value = body.get(member)
    return SecretStr(value) if isinstance(value, str) and _FORMS[member].fullmatch(value) else None


def _is_absent(body: dict[str, Any], member: str) -> bool:
    """Whether the reply has no such token; null and "" are two more ways to say that."""
    return body.get(member) in (None, "")


def _unreadable(body: dict[str, Any]) -> list[str]:
    """The tokens that are there, but in no form that a token can have."""
    return [
        member for member in _FORMS if not _is_absent(body, member) and _token(body, member) is None
    ]


def _expiry(body: dict[str, Any], sent_at: datetime, default_lifetime: float) -> datetime:
    """When the access token ends; `expires_in` is seconds, as a number or as text."""
    value = body.get("expires_in")
    try:
        lifetime = float(value) if isinstance(value, int | float | str) else -1.0
    except (ValueError, OverflowError):
        lifetime = -1.0
    if isinstance(value, bool) or not isfinite(lifetime) or lifetime < 0:
        lifetime = default_lifetime
    return sent_at + timedelta(seconds=min(lifetime, LONGEST_LIFETIME))
