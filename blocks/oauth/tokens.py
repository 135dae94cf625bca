"""What the OAuth server granted, read out of a successful reply."""

import re
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, SecretStr

from blocks.http import NotJsonError, Reply
from blocks.oauth.errors import NoRefreshTokenError
from blocks.oauth.replies import EXCHANGE, REFRESH, unusable
from blocks.quoting import quotable

REFRESH_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:refresh_token"  # noqa: S105 - a type's name
LONGEST_LIFETIME = 366 * 24 * 3600.0
"""Seconds. An access token that claims to live longer has its unit wrong."""

_TOKEN = re.compile(r"[!-~](?:[ -~]*[!-~])?")
"""RFC 6749 A.12 and A.17. Anything else in a header would be quoted by the HTTP library's error."""


class Tokens(BaseModel):
    """The tokens of one reply.

    Attributes:
        access_token: For `Authorization: Bearer`. None when the reply has no token of that type
            (RFC 6749 7.1): store the refresh token first, then refresh or give up.
        refresh_token: To be stored before anything else is done. None when the reply has none: the
            one used so far stays valid (RFC 6749 6).
        expires_at: When the access token ends, counted from before the request was sent.
        token_type: As the server named it.
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
        UnusableReplyError: The reply grants nothing that can be read.
    """
    body = _body(reply)
    granted, refresh_token = _token(body, "access_token"), _token(body, "refresh_token")
    if granted is None:
        raise unusable(reply, EXCHANGE, "it has no access_token")
    if refresh_token is None and body.get("issued_token_type") == REFRESH_TOKEN_TYPE:
        granted, refresh_token = None, granted
    if refresh_token is None:
        raise NoRefreshTokenError(
            "The OAuth server exchanged the caller's token but gave no refresh token, so no night "
            "could run: set requested_token_type or scope as this server wants it, and allow "
            "refresh tokens for this client.",
            status=reply.status,
        )
    return _tokens(body, granted, refresh_token, _expiry(body, sent_at, default_lifetime))


def read_refresh(reply: Reply, sent_at: datetime, default_lifetime: float) -> Tokens:
    """The tokens of a successful refresh.

    A new refresh token is returned even if the access token beside it is missing or no Bearer
    token: the old one is used up, and raising here would throw away the only one that works.

    Raises:
        ReplyLostError: The server said yes, but neither token can be read; the old refresh token
            may be used up.
    """
    body = _body(reply)
    granted, refresh_token = _token(body, "access_token"), _token(body, "refresh_token")
    tokens = _tokens(body, granted, refresh_token, _expiry(body, sent_at, default_lifetime))
    if tokens.access_token is None and tokens.refresh_token is None:
        raise REFRESH.lost("it grants no Bearer token", status=reply.status)
    return tokens


def _body(reply: Reply) -> dict[str, Any]:
    try:
        return reply.json_object()
    except NotJsonError:
        return {}


def _tokens(
    body: dict[str, Any], granted: str | None, refresh_token: str | None, expires_at: datetime
) -> Tokens:
    token_type = quotable(body.get("token_type"), limit=40)
    usable = granted if token_type.lower() == "bearer" else None
    return Tokens(
        access_token=SecretStr(usable) if usable else None,
        refresh_token=SecretStr(refresh_token) if refresh_token else None,
        expires_at=expires_at,
        token_type=token_type,
    )


def _token(body: dict[str, Any], member: str) -> str | None:
    value = body.get(member)
    return value if isinstance(value, str) and _TOKEN.fullmatch(value) else None


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
