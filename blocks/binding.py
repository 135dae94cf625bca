"""A binding is one configured (tenantId, batchId); here is what it is called where it is stored."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Binding:
    """One (tenantId, batchId), case-sensitive and otherwise opaque."""

    tenant_id: str
    batch_id: str

    @classmethod
    def stored_as(cls, slug: str) -> "Binding":
        """The binding with this slug, of which nothing else is known."""
        binding = cls("", slug)
        vars(binding)["slug"] = slug
        return binding

    def __str__(self) -> str:
        return f"{self.tenant_id}/{self.batch_id}"

    @cached_property
    def slug(self) -> str:
        """The name this binding's deployment, grant, context and artifact are stored under.

        Readable first, then 100 bits of a SHA-256 over the exact pair: what people can read of an
        id is not unique ("a-b" + "c", "a" + "b-c", "Acme", "acme"), and one tenant must never be
        able to choose ids that reach another's grant. Only lower-case letters, digits and dashes,
        at most 70 characters: what every kind of stored name in Prefect allows.
        """
        pair = json.dumps([self.tenant_id, self.batch_id]).encode()
        digest = base64.b32encode(hashlib.sha256(pair).digest()).decode().lower()[:20]
        return "-".join([*filter(None, map(_readable, (self.tenant_id, self.batch_id))), digest])

    @property
    def lock(self) -> str:
        """The name of the lock under which what is stored of this binding is changed."""
        return f"lock-{self.slug}"


def _readable(identifier: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", identifier.lower())[:24].strip("-")
