"""The OAuth server: its block with three operations, the tokens they yield, how they fail."""

from blocks.oauth.errors import (
    ClientRefusedError,
    DiscoveryFailedError,
    ExchangeRefusedError,
    GrantLostError,
    InsecureUrlError,
    NoRefreshTokenError,
    OAuthError,
    RedirectedError,
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
    "ClientRefusedError",
    "DiscoveryFailedError",
    "ExchangeRefusedError",
    "GrantLostError",
    "InsecureUrlError",
    "NoRefreshTokenError",
    "OAuthError",
    "OAuthServer",
    "RedirectedError",
    "ReplyLostError",
    "RevocationRefusedError",
    "ServerSetupError",
    "ServerUnavailableError",
    "TenantMismatchError",
    "Tokens",
    "TransientOAuthError",
    "UnusableReplyError",
]
