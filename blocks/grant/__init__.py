"""A binding's stored OAuth grant: how it is kept, refreshed, and given up.

A refresh token that rotates is a read-modify-write of one stored value. Two writers at once look
like theft to the server, which then revokes the whole grant (RFC 9700 4.14.2). Hence one writer at
a time across all machines, and the rotated token is stored before anything is done with the access
token that came with it.
"""

from blocks.grant.document import PREFIX
from blocks.grant.keeping import (
    complete,
    find,
    find_several,
    forget,
    load,
    revoke,
    revoke_replaced,
    store,
)
from blocks.grant.model import Grant, GrantError, GrantMissingError
from blocks.grant.recent import was_refreshed
from blocks.grant.refreshing import access_token, refresh

__all__ = [
    "PREFIX",
    "Grant",
    "GrantError",
    "GrantMissingError",
    "access_token",
    "complete",
    "find",
    "find_several",
    "forget",
    "load",
    "refresh",
    "revoke",
    "revoke_replaced",
    "store",
    "was_refreshed",
]
