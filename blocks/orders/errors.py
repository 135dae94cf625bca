"""What can go wrong with the Orders API, one class per thing that happened.

OrdersError
├── OrdersUnavailableError          nobody has to act: running the night again is safe
│   └── OrdersUnreadableReplyError      a success that is cut off, or no yes
├── OrdersRefusedError              4xx: somebody has to act
│   ├── OrdersBadRequestError           400
│   ├── OrdersUnauthorizedError         401, also with a fresh access token
│   ├── OrdersForbiddenError            403
│   ├── OrdersNotFoundError             404
│   ├── OrdersConflictError             409
│   │   └── BatchAlreadyClosedError         by somebody else, as far as one can tell
│   └── OrdersUnprocessableError        422
├── OrdersUnsendableError           an id or a key that no request can carry
├── OrdersNotOkError                a success that says `ok: false`
├── OrdersMalformedReplyError       a success without what it has to answer
├── OrdersReplyTooLargeError
└── OrdersRedirectedError           never followed: it would send the token elsewhere
"""

from typing import ClassVar


class OrdersError(Exception):
    """An operation of the Orders API did not succeed.

    Its text is one sentence: which operation, what happened, what to do next. It never holds a
    token, and no httpx exception hangs on it (that would carry the Authorization header).

    Attributes:
        operation: The Orders API's name of the operation, for example closeDailyBatch.
        happened: What happened to it.
        status: The HTTP status of the reply; None where there was no whole reply.
        retry_after: Seconds the server asked to wait before the next attempt, if it did.
    """

    advice: ClassVar[str] = "look into the Orders API's own log"

    def __init__(
        self,
        operation: str,
        happened: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        # Exactly the positional arguments, so that a pickled error (a persisted state) comes back.
        super().__init__(operation, happened)
        self.operation = operation
        self.happened = happened
        self.status = status
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.operation} {self.happened}; {self.advice}."


class OrdersUnavailableError(OrdersError):
    """No definite answer within all attempts. Passing trouble: running the night again is safe."""

    advice = "running this night again is safe, since it repeats the same Idempotency-Key"


class OrdersUnreadableReplyError(OrdersUnavailableError):
    """A 2xx reply at every attempt, but cut off, no JSON object, or with an `ok` nobody can read.

    The work may be done.
    """

    advice = (
        "check that base_url leads to the Orders API itself and not to a login or error page; "
        "running this night again is safe, since it repeats the same Idempotency-Key"
    )


class OrdersUnsendableError(OrdersError):
    """An id cannot stand in the URL or the body, or the key in a header. Nothing was sent."""

    advice = (
        "give it another value, or keep an id out of the paths of this block, then run this night "
        "again"
    )


class OrdersReplyTooLargeError(OrdersError):
    """The reply exceeded the size that any reply of the Orders API can have."""

    advice = "check that base_url and the paths lead to the Orders API"


class OrdersMalformedReplyError(OrdersError):
    """A 2xx reply in JSON that lacks what the operation must answer, or has it in a wrong type."""

    advice = "compare the paths of this block with the Orders API's documentation"


class OrdersNotOkError(OrdersError):
    """A 2xx reply that says no in `ok`, in whatever spelling: the Orders API tried and failed."""

    advice = "settle the reason with the Orders API's owners, then run this night again"


class OrdersRedirectedError(OrdersError):
    """A 3xx reply. It is never followed: a token must not travel where a reply points it."""

    advice = "set base_url and the paths to where the Orders API really is"


class OrdersRefusedError(OrdersError):
    """A 4xx reply that no repetition will change."""

    advice = "look this status up in the Orders API's documentation"


class OrdersBadRequestError(OrdersRefusedError):
    """400: the Orders API does not understand the request, or misses the Idempotency-Key."""

    advice = "compare the paths and quote_idempotency_key of this block with its documentation"


class OrdersUnauthorizedError(OrdersRefusedError):
    """401, also to a fresh access token; or a token that no HTTP header can carry."""

    advice = "check that the Orders API trusts the OAuth server, then configure this batch again"


class OrdersForbiddenError(OrdersRefusedError):
    """403: the token is good, its permissions are not. Refreshing it changes nothing."""

    advice = "have the permission granted for this tenant, then configure this batch again"


class OrdersNotFoundError(OrdersRefusedError):
    """404: no such batch, tenant, snapshot or path."""

    advice = "check tenantId and batchId, and base_url and the paths of this block"


class OrdersUnprocessableError(OrdersRefusedError):
    """422: the key was used with another payload before, or the request breaks a business rule."""

    advice = "find out what was sent before under this night's Idempotency-Key"


class OrdersConflictError(OrdersRefusedError):
    """409 that is neither "in progress" nor "already closed"."""

    advice = "find out what else works on this batch before running this night again"


class BatchAlreadyClosedError(OrdersConflictError):
    """409: the batch is closed already, and nothing shows that it was this night's close."""

    advice = "find out who closed it, and that no order was left out, before going on"
