"""What is asked of the OAuth server, and how each of it is told where it fails."""

from dataclasses import dataclass

from blocks.oauth.codes import DEAD_GRANT_CODES
from blocks.oauth.errors import (
    ExchangeRefusedError,
    GrantLostError,
    OAuthError,
    RefreshRefusedError,
    ReplyLostError,
    RevocationRefusedError,
    ServerUnavailableError,
    UnusableReplyError,
)

_IF_UNKNOWN = (
    "that does not say that the refresh token is dead, so the grant is kept; look this code up in "
    "the server's documentation and the reason in its log, then run this night again"
)


@dataclass(frozen=True)
class Operation:
    """One thing that is asked of the server, and what an operator does when it fails."""

    name: str
    refused: type[OAuthError]
    if_refused: str
    if_lost: str
    refused_by: frozenset[str] | None = None
    """The codes that refuse it for good; None if every code does."""

    def refusal(self, answer: str, code: str, status: int) -> OAuthError:
        """The server refused what was asked, with this OAuth error code."""
        if self.refused_by is None or code in self.refused_by:
            kind, advice = self.refused, self.if_refused
        else:
            kind, advice = RefreshRefusedError, _IF_UNKNOWN
        sentence = f"The OAuth server refused the {self.name} ({answer}): {advice}."
        return kind(sentence, code=code, status=status)

    def unavailable(self, why: str, *, status: int | None = None) -> ServerUnavailableError:
        """The server did not act on the request."""
        return ServerUnavailableError(
            f"The OAuth server is not available for the {self.name} ({why}): nothing has changed, "
            "so run it again once the server is reachable.",
            status=status,
        )

    def lost(self, why: str, *, status: int | None = None) -> ReplyLostError:
        """The server may have acted on the request."""
        return ReplyLostError(
            f"The {self.name} was sent to the OAuth server, but no usable reply came back ({why}): "
            f"{self.if_lost}.",
            status=status,
        )


EXCHANGE = Operation(
    name="token exchange",
    refused=ExchangeRefusedError,
    if_refused="check the caller's token and the audience, resource and scope asked for",
    if_lost="configure again",
)
REFRESH = Operation(
    name="refresh",
    refused=GrantLostError,
    if_refused="the grant is lost, so configure this batch again",
    if_lost="the refresh token may be used up, which the next refresh will find out",
    refused_by=DEAD_GRANT_CODES,
)
REVOCATION = Operation(
    name="revocation",
    refused=RevocationRefusedError,
    if_refused="end the grant at the server by hand",
    if_lost="if it matters, check at the server that the grant is gone",
)
DISCOVERY = Operation(
    name="discovery",
    refused=UnusableReplyError,
    if_refused="check issuer, or set token_endpoint",
    if_lost="nothing has changed, so run it again later",
)
INTROSPECTION = Operation(
    name="introspection",
    refused=UnusableReplyError,
    if_refused="let this client introspect tokens, or verify callers by jwks",
    if_lost="nothing has changed, so try again later",
)
KEY_SET = Operation(
    name="key set",
    refused=UnusableReplyError,
    if_refused="check issuer, or set jwks_uri",
    if_lost="nothing has changed, so try again later",
)
