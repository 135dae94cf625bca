"""Everything that can go wrong with the OAuth server, one class per thing that happened.

OAuthError
├── TransientOAuthError         nobody has to act: the same call may succeed later
│   ├── ServerUnavailableError      the server did not act on the request
│   └── ReplyLostError              the server may have acted: after a refresh, on the token
├── GrantLostError              the refresh token is dead: someone has to configure again
├── RefreshRefusedError         refused for a reason we do not know; the grant is kept
├── ClientRefusedError          our own credentials or registration; the grant is as good as before
├── ExchangeRefusedError        the caller's token, or what was asked for it
├── NoRefreshTokenError         the exchange succeeded, but gave nothing that outlives the caller
├── TenantMismatchError         the caller's token belongs to another tenant
├── RevocationRefusedError      the server keeps the token alive
├── CallerRefusedError          an access token that the HTTP API was called with
└── ServerSetupError            what answers is not the OAuth server that the block describes
    ├── UnusableReplyError
    ├── RedirectedError
    ├── DiscoveryFailedError
    └── InsecureUrlError

No error holds a token, a request or a raw reply, in its message, attributes or chain.
"""


class OAuthError(Exception):
    """A call of the OAuth server failed.

    Attributes:
        code: The OAuth error code of the reply (RFC 6749 5.2), where it had one.
        status: The HTTP status of the reply, where there was one.
    """

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class TransientOAuthError(OAuthError):
    """Nobody has to act: the same call may succeed later.

    Attributes:
        retry_after: Seconds to wait as the server asked, if it did.
    """

    retry_after: float | None = None


class ServerUnavailableError(TransientOAuthError):
    """The server is unreachable or declined to work: it certainly did not act on the request."""


class ReplyLostError(TransientOAuthError):
    """The request was sent and no usable reply came back: the server may have acted on it.

    After a refresh this is the ambiguous case: the token may be consumed. It has been tried again
    at once; the next run tries it once more, and a refusal then is a GrantLostError.
    """


class GrantLostError(OAuthError):
    """The server refuses the refresh token for good; only configuring again brings a new one."""


class RefreshRefusedError(OAuthError):
    """The server refuses the refresh with a code that does not say that the refresh token is dead.

    The grant is kept: giving it up would cost every night to come, while a refusal for another
    reason may pass. Somebody has to look the code up.
    """


class ClientRefusedError(OAuthError):
    """The server refuses this client, not the token: our credentials or our registration.

    It must never wipe the stored grant: a rotated client secret is mended by an operator.
    """


class ExchangeRefusedError(OAuthError):
    """The server refuses the caller's token, or the audience, resource or scope asked for it."""


class NoRefreshTokenError(OAuthError):
    """The exchange succeeded without a refresh token, so nothing would be left for the night."""


class TenantMismatchError(OAuthError):
    """The exchanged access token does not prove the tenant that is being configured."""


class RevocationRefusedError(OAuthError):
    """The server refuses to revoke the token."""


class CallerRefusedError(OAuthError):
    """The access token that the HTTP API was called with is not good, or not good any more."""


class ServerSetupError(OAuthError):
    """What answers is not the OAuth server that the block describes; an operator has to look."""


class UnusableReplyError(ServerSetupError):
    """The reply is neither a token nor an OAuth error."""


class RedirectedError(ServerSetupError):
    """The server answered with a redirect, which is never followed: it would re-post a secret."""


class DiscoveryFailedError(ServerSetupError):
    """The issuer publishes no metadata that may be used (RFC 8414)."""


class InsecureUrlError(ServerSetupError, ValueError):
    """A token would have travelled to a URL that is not https."""
