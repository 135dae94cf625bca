"""How the OAuth server knows its client: RFC 6749 2.3.1 and RFC 7523."""

import base64
import binascii
from collections.abc import Mapping
from hmac import compare_digest
from typing import Any
from urllib.parse import unquote_plus

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import import_key

from deployments.sandbox.forms import Form
from deployments.sandbox.keepsakes import Keepsakes
from deployments.sandbox.replies import RefusedError
from deployments.sandbox.settings import AuthMethod, Clock, SandboxSettings

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ALGORITHMS = ("RS256", "PS256", "ES256", "Ed25519", "EdDSA")


class ClientAuthenticator:
    """Lets the one registered client in, by exactly one accepted method per request."""

    def __init__(self, settings: SandboxSettings, clock: Clock, keepsakes: Keepsakes) -> None:
        self._settings = settings
        self._keepsakes = keepsakes
        self._clock = clock
        jwk = settings.client_public_jwk
        self._key = import_key(dict(jwk)) if jwk else None
        self._seen_assertions: dict[str, int] = {}

    def check(self, authorization: str | None, form: Form, issuer: str) -> None:
        """Raises RefusedError unless the request authenticates the client.

        Args:
            authorization: The Authorization header, if there is one.
            form: The members of the request's form.
            issuer: The base URL that the client addressed.
        """
        self._remember(authorization, form)
        method = _method(authorization, form)
        accepted = method in self._settings.client_auth
        if not accepted or not self._is_right(method, authorization or "", form, issuer):
            # RFC 6749 5.2 wants the challenge back when the Authorization header was used.
            headers = {"WWW-Authenticate": 'Basic realm="sandbox"'} if authorization else None
            raise RefusedError(401, "invalid_client", headers=headers)

    def _remember(self, authorization: str | None, form: Form) -> None:
        shown = [form.get("client_secret"), form.get("client_assertion")]
        for secret in (*shown, (authorization or "").partition(" ")[2]):
            if secret:
                self._keepsakes.keep(secret)

    def _is_right(self, method: AuthMethod, authorization: str, form: Form, issuer: str) -> bool:
        match method:
            case "client_secret_basic":
                return self._secret_is_right(*_basic(authorization))
            case "client_secret_post":
                return self._secret_is_right(form.get("client_id", ""), form["client_secret"])
            case "private_key_jwt":
                return self._assertion_is_right(form, issuer)

    def _secret_is_right(self, client_id: str, secret: str) -> bool:
        expected = self._settings.client_secret.encode()
        return client_id == self._settings.client_id and compare_digest(secret.encode(), expected)

    def _assertion_is_right(self, form: Form, issuer: str) -> bool:
        if self._key is None or form.get("client_assertion_type") != _ASSERTION_TYPE:
            return False
        try:
            token = jwt.decode(form["client_assertion"], self._key, algorithms=_ALGORITHMS)
            self._claims(issuer).validate(token.claims)
        except (JoseError, ValueError):
            return False
        return self._is_first_use(token.claims)

    def _claims(self, issuer: str) -> jwt.JWTClaimsRegistry:
        client = self._settings.client_id
        return jwt.JWTClaimsRegistry(
            now=int(self._clock().timestamp()),
            iss={"essential": True, "value": client},
            sub={"essential": True, "value": client},
            aud={"essential": True, "values": [issuer, f"{issuer}/oauth/token"]},
            exp={"essential": True},
            jti={"essential": True},
        )

    def _is_first_use(self, claims: Mapping[str, Any]) -> bool:
        now = self._clock().timestamp()
        # Assertions are short-lived and come in order, so the oldest can be forgotten first.
        while self._seen_assertions and next(iter(self._seen_assertions.values())) <= now:
            del self._seen_assertions[next(iter(self._seen_assertions))]
        if claims["jti"] in self._seen_assertions:
            return False
        self._seen_assertions[claims["jti"]] = claims["exp"]
        return True


def _method(authorization: str | None, form: Form) -> AuthMethod:
    used: list[AuthMethod] = []
    if authorization is not None:
        used.append("client_secret_basic")
    if "client_secret" in form:
        used.append("client_secret_post")
    if "client_assertion" in form:
        used.append("private_key_jwt")
    if not used:
        raise RefusedError(401, "invalid_client", why="the client did not authenticate")
    if len(used) > 1:
        raise RefusedError(400, "invalid_request", why="more than one client authentication")
    return used[0]


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    try:
        decoded = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    client_id, _, secret = decoded.partition(":")
    if scheme.lower() != "basic":
        return "", ""
    # Both parts are form-urlencoded before base64 (RFC 6749 2.3.1).
    return unquote_plus(client_id), unquote_plus(secret)
