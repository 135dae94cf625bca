"""The urlencoded forms that OAuth requests are made of."""

from collections import Counter
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request

from deployments.sandbox.replies import RefusedError

Form = Mapping[str, str]

_REPEATABLE = frozenset({"audience", "resource"})


async def read_form(request: Request) -> Form:
    """The form's members; one sent twice counts as absent, since RFC 6749 3.2 forbids it."""
    members = parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True)
    times = Counter(name for name, _ in members)
    return {name: value for name, value in members if times[name] == 1 or name in _REPEATABLE}


def required(form: Form, name: str) -> str:
    """The member's value; refuses the request when it is absent or empty."""
    value = form.get(name)
    if not value:
        raise RefusedError(400, "invalid_request", why=f"{name} is missing")
    return value
