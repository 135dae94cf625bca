"""The Orders API as the flows see it: prepare the snapshot of a day's batch, close the batch."""

from typing import ClassVar, Self

import httpx
from prefect.blocks.core import Block
from pydantic import HttpUrl, PrivateAttr

from blocks.http import Reply
from blocks.orders.call import Call, TokenSource
from blocks.orders.errors import OrdersUnsendableError
from blocks.orders.idempotency import header_value
from blocks.orders.pace import Pace
from blocks.orders.paths import fill_path
from blocks.orders.progress import Progress
from blocks.orders.results import Closed, Snapshot, read_closed, read_snapshot
from blocks.orders.settings import OrdersSettings


class OrdersApi(OrdersSettings, Block):
    """The Orders API that prepares batch snapshots and closes batches.

    Every attempt of an operation carries the same Idempotency-Key, so one whose answer was lost can
    be repeated.
    """

    _block_type_name = "Orders API"
    _block_type_slug = "orders-api"
    _description = "Where the Orders API is, and how patiently it is asked."
    _documentation_url: ClassVar[HttpUrl] = HttpUrl(
        "https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/"
    )

    _pace: Pace = PrivateAttr(default_factory=Pace)

    def paced(self, pace: Pace) -> Self:
        """This API, waiting between its attempts at another pace."""
        self._pace = pace
        return self

    async def prepare_daily_batch_snapshot(
        self, tenant_id: str, batch_id: str, *, access_token: TokenSource, idempotency_key: str
    ) -> Snapshot:
        """Have the Orders API compute the batch's snapshot.

        Args:
            tenant_id: The tenant whose batch it is.
            batch_id: The batch.
            access_token: Asked for a token before every attempt, and once more after a 401.
            idempotency_key: The same in every run of this occurrence; see `idempotency_key`.

        Raises:
            OrdersUnavailableError: No definite answer; running the night again is safe.
            OrdersUnsendableError: An id cannot stand in the path, or the key in a header.
            OrdersError: Any other of the family: the operation was refused, or it failed.
        """
        ids = {"tenantId": tenant_id, "batchId": batch_id}
        progress = Progress("prepareDailyBatchSnapshot", self.max_attempts)
        path = self.prepare_snapshot_path
        reply = await self._complete(progress, path, ids, access_token, idempotency_key)
        return read_snapshot(reply, progress.operation)

    async def close_daily_batch(  # noqa: PLR0913 -- each has its own meaning, a bundle would hide them
        self,
        tenant_id: str,
        batch_id: str,
        snapshot_id: str,
        *,
        access_token: TokenSource,
        idempotency_key: str,
        resumed: bool = False,
    ) -> Closed:
        """Close the batch as the snapshot has it.

        A 409 "already closed" counts as our own success only if its body names our snapshot, or if
        it names none and an earlier attempt may have closed the batch: one of this call that ended
        without a definite answer, or one of an earlier run (`resumed`). A bare 409 can prove no
        more than that. Any other is a BatchAlreadyClosedError.

        Args:
            tenant_id: The tenant whose batch it is.
            batch_id: The batch.
            snapshot_id: The snapshot to close it with.
            access_token: Asked for a token before every attempt, and once more after a 401.
            idempotency_key: The same in every run of this occurrence; see `idempotency_key`.
            resumed: Whether an earlier run may have sent this very close already.

        Raises:
            OrdersUnavailableError: No definite answer; running the night again is safe.
            BatchAlreadyClosedError: The batch is closed, and not by us as far as one can tell.
            OrdersUnsendableError: An id cannot stand in the path, or the key in a header.
            OrdersError: Any other of the family: the operation was refused, or it failed.
        """
        ids = {"tenantId": tenant_id, "batchId": batch_id, "snapshotId": snapshot_id}
        progress = Progress("closeDailyBatch", self.max_attempts, snapshot_id, maybe_done=resumed)
        path = self.close_path
        return read_closed(await self._complete(progress, path, ids, access_token, idempotency_key))

    async def _complete(
        self,
        progress: Progress,
        path: str,
        ids: dict[str, str],
        access_token: TokenSource,
        idempotency_key: str,
    ) -> Reply:
        unsendable = None
        try:
            url = httpx.URL(self.base_url.rstrip("/") + fill_path(path, ids))
            key_header = header_value(idempotency_key, quoted=self.quote_idempotency_key)
        except (ValueError, httpx.InvalidURL) as error:
            # An InvalidURL tells of its length: ids may be as long as their sender likes.
            unsendable = OrdersUnsendableError(progress.operation, f"was not sent, as {error}")
        if unsendable:
            raise unsendable
        call = Call(
            settings=self,
            pace=self._pace,
            progress=progress,
            url=url,
            body=ids,
            key_header=key_header,
            access_token=access_token,
        )
        return await call.complete()
