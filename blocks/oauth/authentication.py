"""How this client proves to the OAuth server who it is: exactly one method per request."""

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote_plus
from uuid import uuid4

from joserfc import jwt
from joserfc.jwk import Key, import_key
from pydantic import SecretStr

AuthenticationMethod = Literal[
    "client_secret_basic", "client_secret_post", "private_key_jwt", "none"
]
SigningAlgorithm = Literal["RS256", "PS256", "ES256", "EdDSA"]

ASSERTION_LIFETIME = 60
"""Seconds that an assertion is valid: it is sent at once, and some servers allow no more."""

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_KeyType = Literal["RSA", "EC", "OKP"]
_KEY_TYPES: dict[SigningAlgorithm, _KeyType] = {
    "RS256": "RSA",
    "PS256": "RSA",
    "ES256": "EC",
    "EdDSA": "OKP",
}


@dataclass(frozen=True)
class Credentials:
    """What one request carries to authenticate the client, and what of it must never be shown."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class SigningKey:
    """The private key that signs client assertions; PEM, or a JWK as JSON text."""

    text: SecretStr
    algorithm: SigningAlgorithm
    key_id: str | None = None

    def sign(self, claims: dict[str, Any]) -> str:
        """The claims as a signed JWT; raises ValueError when the key does not fit the algorithm."""
        header = {"alg": self.algorithm, "typ": "JWT"}
        if self.key_id:
            header["kid"] = self.key_id
        try:
            key = _key(self.text.get_secret_value().strip(), _KEY_TYPES[self.algorithm])
            return jwt.encode(header, claims, key, algorithms=[self.algorithm])
        except Exception:  # noqa: BLE001, S110 - whatever a key parser raises may quote the key
            pass
        raise ValueError(f"private_key is no readable private key for {self.algorithm}")


def public_client(client_id: str) -> Credentials:
    """No proof at all, only a name (RFC 6749 3.2.1)."""
    return Credentials(parameters={"client_id": client_id})


def client_secret_post(client_id: str, secret: SecretStr) -> Credentials:
    """Id and secret in the request body (RFC 6749 2.3.1)."""
    value = secret.get_secret_value()
    return Credentials(
        parameters={"client_id": client_id, "client_secret": value}, secrets=(value,)
    )


def client_secret_basic(client_id: str, secret: SecretStr) -> Credentials:
    """HTTP Basic, id and secret each form-encoded *before* base64 (RFC 6749 2.3.1).

    Without that a `%`, `+`, `:`, `&` or space in the secret breaks the login.
    """
    value = secret.get_secret_value()
    pair = b64encode(f"{quote_plus(client_id)}:{quote_plus(value)}".encode()).decode()
    return Credentials(headers={"Authorization": f"Basic {pair}"}, secrets=(value, pair))


def private_key_jwt(
    client_id: str, key: SigningKey, *, audience: str, now: datetime
) -> Credentials:
    """A JWT signed for this very attempt (RFC 7523 2.2 and 3).

    Servers refuse a `jti` they have seen, so a retry with the old assertion looks like bad
    credentials: call this again for every attempt.
    """
    issued_at = int(now.timestamp())
    assertion = key.sign(
        {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "jti": str(uuid4()),
            "iat": issued_at,
            "exp": issued_at + ASSERTION_LIFETIME,
        }
    )
    return Credentials(
        parameters={
            "client_id": client_id,
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": assertion,
        },
        secrets=(assertion,),
    )


# Checking an RSA key takes tens of milliseconds, in which no other run of this event loop moves.
@lru_cache(maxsize=16)
def _key(text: str, key_type: _KeyType) -> Key:
    return import_key(json.loads(text) if text.startswith("{") else text, key_type)
