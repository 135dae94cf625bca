"""Of which kind a token is: an access token, or another one that its issuer signed as well.

An ID token is made for its client, a logout token for a browser's session, a refresh token for the
token endpoint alone: each is seen by others than an access token is (RFC 8725 3.11, RFC 9068 4).
"""

from collections.abc import Mapping
from typing import Any

from blocks.oauth.errors import CallerRefusedError

_PREFIX = "urn:ietf:params:oauth:token-type:"  # RFC 8693 3

_SAID_IN = ("typ", "token_type", "token_use")
"""Where servers say it: Keycloak in the claim typ, RFC 7662 in token_type, Cognito in token_use."""

_OTHERS = {
    *("id", "id_token", "idtoken", "serialized-id"),
    *("refresh", "refresh_token", "refreshtoken", "offline"),
    *("logout", "logout_token", "logout+jwt"),
    *("saml1", "saml2", "code", "authorization_code", "n_a"),
}
_ACCESS = {"bearer", "dpop", "access", "access_token", "at+jwt"}

_CLAIMS_OF_OTHERS = {
    **dict.fromkeys(("nonce", "at_hash", "c_hash", "s_hash"), "an ID token"),
    "events": "a logout token or another security event",  # RFC 8417 2.2
}
"""What no access token has. (`sid`, `auth_time` and `acr` prove nothing: RFC 9068 2.2.1.)"""


def require_access_token(typ: object, claims: Mapping[str, Any], *, strictly: bool) -> None:
    """Raise CallerRefusedError where a JWT is recognisably no access token.

    Args:
        typ: The `typ` of its header, None where it has none. Many servers say "JWT" of every kind.
        claims: Its claims.
        strictly: Whether nothing but "at+jwt" will do (RFC 9068 4).
    """
    kind = typ.lower().removeprefix("application/") if isinstance(typ, str) else typ
    if kind == "at+jwt":
        return
    if strictly:
        raise _refused("its header does not say that it is one (typ at+jwt)")
    if kind not in (None, "", "jwt"):
        raise _refused("its header says that it is another kind of token")
    refuse_other_kinds(claims)


def refuse_other_kinds(claims: Mapping[str, Any]) -> None:
    """Raise CallerRefusedError where claims, or an introspection, tell of another kind of token."""
    said = {_normal(claims.get(name)) for name in _SAID_IN}
    if said & _OTHERS:
        raise _refused("it says that it is another kind of token")
    if said & _ACCESS:
        return  # older Keycloaks put the nonce of a login into access tokens, too
    for claim, kind in _CLAIMS_OF_OTHERS.items():
        if claim in claims:
            raise _refused(f"it has the claim {claim} of {kind}")


def _normal(said: object) -> str:
    return said.lower().removeprefix(_PREFIX) if isinstance(said, str) else ""


def _refused(why: str) -> CallerRefusedError:
    return CallerRefusedError(f"That is no access token: {why}.")
