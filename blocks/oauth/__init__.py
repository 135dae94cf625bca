"""The OAuth server: its block with its operations, the tokens they yield, how they fail."""

from blocks.oauth.callers import Caller
from blocks.oauth.errors import (
    CallerRefusedError,
    ClientRefusedError,
    DiscoveryFailedError,
    ExchangeRefusedError,
    GrantLostError,
    InsecureUrlError,
    NoRefreshTokenError,
    OAuthError,
    RedirectedError,
    RefreshRefusedError,
    ReplyLostError,
    RevocationRefusedError,
    ServerSetupError,
    ServerUnavailableError,
    TenantMismatchError,
    TransientOAuthError,
    UnusableReplyError,
)
from blocks.oauth.server import OAuthServer
from blocks.oauth.tokens import Tokens

__all__ = [
    "Caller",
    "CallerRefusedError",
    "ClientRefusedError",
    "DiscoveryFailedError",
    "ExchangeRefusedError",
    "GrantLostError",
    "InsecureUrlError",
    "NoRefreshTokenError",
    "OAuthError",
    "OAuthServer",
    "RedirectedError",
    "RefreshRefusedError",
    "ReplyLostError",
    "RevocationRefusedError",
    "ServerSetupError",
    "ServerUnavailableError",
    "TenantMismatchError",
    "Tokens",
    "TransientOAuthError",
    "UnusableReplyError",
]
