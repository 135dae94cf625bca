"""The Idempotency-Key: by it the Orders API knows a repeated request and does the work once."""

import json
import re
from datetime import UTC, datetime
from uuid import UUID, uuid5

_KEYS = UUID("b2a1f1f0-6f0c-4d53-9f0e-5a0c7d1e8c55")
"""The namespace of our UUIDv5 keys. Changing it changes every key: never."""


def idempotency_key(tenant_id: str, batch_id: str, occurrence: datetime, operation: str) -> str:
    """The Idempotency-Key of one operation on one occurrence of one binding.

    It depends on nothing else, so a retry, a replay, and a run after a crash send the same key.
    JSON keeps the parts apart ("a", "b-c" is never "a-b", "c"); UUIDv5 makes of it the short form
    that the Idempotency-Key draft recommends, and shows no tenant to whoever reads headers.

    Args:
        tenant_id: The tenant, taken character by character.
        batch_id: The batch, likewise.
        occurrence: The scheduled moment, in any time zone.
        operation: What the key is for; snapshot and close must not share one.

    Raises:
        ValueError: The occurrence has no time zone, so it names no moment.
    """
    if occurrence.tzinfo is None:
        raise ValueError("occurrence must have a time zone")
    moment = occurrence.astimezone(UTC).isoformat()
    parts = json.dumps([tenant_id, batch_id, moment, operation], ensure_ascii=False)
    return str(uuid5(_KEYS, parts))


def header_value(key: str, *, quoted: bool) -> str:
    """The key as it goes into the header: bare, or as a Structured Field String (RFC 8941 3.3.3).

    Raises:
        ValueError: No header can carry the key.
    """
    if not re.fullmatch("[!-~]+", key):
        raise ValueError("idempotency_key must be visible ASCII characters")
    return '"' + re.sub(r'(["\\])', r"\\\1", key) + '"' if quoted else key
