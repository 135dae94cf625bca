"""How far an operation has come, and how its errors tell of it."""

from dataclasses import dataclass, field

from pydantic import SecretStr

from blocks.http import Reply
from blocks.orders.errors import OrdersUnavailableError
from blocks.orders.words import explanations
from blocks.quoting import quotable


@dataclass
class Progress:
    """What the attempts of one operation have shown so far.

    Attributes:
        operation: The Orders API's name of it.
        max_attempts: How often it may be tried.
        snapshot_id: The snapshot that a close names.
        maybe_done: Whether an attempt without a definite answer may have done the work.
        attempt: The number of the attempt under way.
        tokens: The access tokens sent so far, which no error may quote.
    """

    operation: str
    max_attempts: int
    snapshot_id: str | None = None
    maybe_done: bool = False
    attempt: int = 1
    tokens: list[SecretStr] = field(default_factory=list)

    def unavailable(
        self,
        happened: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        kind: type[OrdersUnavailableError] = OrdersUnavailableError,
    ) -> OrdersUnavailableError:
        """The error of an attempt that had no definite answer."""
        return kind(
            self.operation,
            f"{happened} at attempt {self.attempt} of {self.max_attempts}",
            status=status,
            retry_after=retry_after,
        )

    def answered(self, reply: Reply) -> str:
        """What happened, for an error's sentence: the status, and the reply's own words."""
        words = "; ".join(explanations(reply))
        quoted = self.quotable(words or reply.headers.get("Location", ""))
        return f"was answered {reply.status}" + (f" ({quoted})" if quoted else "")

    def quotable(self, words: str) -> str:
        """The words made fit for an error or a log."""
        return quotable(words, [token.get_secret_value() for token in self.tokens])
