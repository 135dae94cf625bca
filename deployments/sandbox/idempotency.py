"""The Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header) and what it promises."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deployments.sandbox.replies import RefusedError, Reply

# A Structured-Field String (RFC 8941 3.3.3): printable ASCII in quotes.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"')


def read_key(header: str | None) -> str | None:
    """The key, whether it came quoted, as the draft wants it, or bare, as many send it."""
    value = (header or "").strip()
    quoted = _QUOTED.fullmatch(value)
    if quoted:
        return re.sub(r"\\(.)", r"\1", quoted[1])
    return None if value.startswith('"') else value or None


class IdempotencyKeys:
    """Replays the first reply to a key; each tenant's keys are its own."""

    def __init__(self) -> None:
        self._replies: dict[tuple[str, str], tuple[object, Reply]] = {}
        self._held: set[tuple[str | None, str | None]] = set()

    @contextmanager
    def hold(self, tenant: str | None, key: str | None) -> Iterator[bool]:
        """Holds the key until its request is answered; False while another request holds it."""
        free = (tenant, key) not in self._held
        self._held.add((tenant, key))
        try:
            yield free
        finally:
            if free:
                self._held.discard((tenant, key))

    def once(self, tenant: str, key: str, payload: object, work: Callable[[], Reply]) -> Reply:
        """Does the work under this key, or replays the reply of when it was done.

        A refusal is not remembered: nothing was done, so the same key may try again.

        Args:
            tenant: Whose key it is.
            key: The key itself.
            payload: What is asked under it, the operation included.
            work: Does what is asked.
        """
        if (tenant, key) not in self._replies:
            self._replies[tenant, key] = (payload, work())
        first_payload, reply = self._replies[tenant, key]
        if first_payload != payload:
            raise RefusedError(422, "idempotency_key_reused")
        return reply
