"""What the error codes of OAuth servers say, as far as anybody knows them."""

import re

CLIENT_CODES = frozenset(
    {
        "invalid_client",
        "unauthorized_client",
        "unsupported_grant_type",
        "unauthorized",  # how Spring-based servers say invalid_client
    }
)
"""Our own credentials or registration are refused, whatever was asked (RFC 6749 5.2)."""

DEAD_GRANT_CODES = frozenset(
    {
        "invalid_grant",  # RFC 6749 5.2
        "invalid_request",  # the same, as some servers say it
        "invalid_scope",
        "invalid_target",  # RFC 8693 2.2.2
        "invalid_token",  # RFC 6750 3.1
        "invalid_refresh_token",
        "bad_refresh_token",
        "expired_token",  # RFC 8628 3.5, like the next
        "access_denied",
        # OpenID Connect Core 3.1.2.6: a person has to do something, and none is there at night.
        "interaction_required",
        "login_required",
        "account_selection_required",
        "consent_required",
    }
)
"""No refresh with this token will ever succeed. A grant is given up for these and no others."""

_CODE = re.compile(r"[a-z][a-z0-9_.:-]{0,63}")
_PASSING = re.compile(
    "slowdown|ratelimit|throttl|quotaexceeded|requestlimitexceeded|tryagain|serverbusy|^429$|"
    "toomany(requests|attempts|calls|tries|retries)|(temporarily|service|server)unavailable"
)


def is_code(text: str) -> bool:
    """Whether this is an OAuth error code (RFC 6749 5.2), as servers write them.

    The `"error": "Forbidden"` of a web framework or gateway is none, and refuses nothing.
    """
    return _CODE.fullmatch(text) is not None


def is_passing(error: object) -> bool:
    """Whether this `error` of a reply says "not now", in whatever spelling: slow_down, 429 ...

    There is a standard code for it only elsewhere (RFC 6749 4.1.2.1, RFC 8628 3.5), and rate limits
    are often kept by a gateway with codes of its own, behind statuses other than 429.
    """
    letters = re.sub("[^a-z0-9]", "", str(error).lower()) if isinstance(error, str | int) else ""
    return _PASSING.search(letters) is not None
