"""Grants that nobody needs, and those that others have replaced: they are revoked and forgotten.

A grant is needed while its binding has a deployment, or is being configured. It is the worst that
can happen to delete one that lives: so Prefect must have said twice, minutes apart, and once more
under the binding's lock, that there is no deployment of it, in an answer and not by an error, while
the grant was not touched for an hour.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.logging import get_logger

from blocks import clock, deployment, secret_blocks, systems
from blocks import grant as grants
from blocks.binding import Binding
from blocks.grant import Grant
from blocks.lock import only_holder
from blocks.secret_blocks import StoredSecret
from deployments.unfinished_journeys import read_unfinished, slugs_named
from flows import undoing

UNTOUCHED = timedelta(hours=1)
"""How long a grant has not been stored anew that nobody needs."""

PATIENCE = 10.0
"""Seconds to wait while the binding is configured, or its night is under way."""

IN_A_ROW = 3
"""After so many revocations that failed a look stops: where the server is away each takes long."""

AT_ONCE = 50
"""Of how many at once Prefect is asked."""

Job = Callable[[], Awaitable[bool]]

logger = get_logger("sweep")


class UnneededGrants:
    """What one worker has seen of the grants: each is read once for each time that it is stored."""

    def __init__(self) -> None:
        self._settled: dict[UUID, datetime] = {}
        self._alone: dict[UUID, datetime] = {}
        self._stopped_at = ""

    async def look(self, client: PrefectClient) -> None:
        """Revoke and forget what is not needed.

        One that cannot be handled holds up no other, but where several in a row are not revoked,
        the rest waits for the next look, which begins there. Raises httpx.HTTPError where Prefect's
        API is away.
        """
        found = await secret_blocks.find_all(grants.PREFIX)
        stored = sorted(found, key=lambda it: (it.name <= self._stopped_at, it.name))
        under_way = slugs_named(await read_unfinished(client)) if stored else set()
        await self._settle([it for it in stored if _binding_of(it).slug not in under_way])
        old = [it for it in stored if clock.now() - it.updated >= UNTOUCHED]
        await self._forget_those_alone(client, old)

    async def _settle(self, stored: Sequence[StoredSecret]) -> None:
        """End what is half-done: configurations that were cancelled, revocations that failed."""
        known = self._settled
        self._settled = {it.id: it.updated for it in stored if known.get(it.id) == it.updated}
        left: list[tuple[StoredSecret, Job]] = []
        for some in _parts([it for it in stored if it.id not in self._settled]):
            found = await grants.find_several([_binding_of(it) for it in some])
            for it in some:
                grant = found.get(_binding_of(it).slug)
                if grant is None or not _is_anything_left(grant):
                    self._settled[it.id] = it.updated
                else:
                    left.append((it, partial(_settle_one, _binding_of(it), grant)))
        await self._do_each(left)

    async def _forget_those_alone(
        self, client: PrefectClient, stored: Sequence[StoredSecret]
    ) -> None:
        alone = await _without_deployment(client, stored)
        seen, self._alone = self._alone, {it.id: it.updated for it in alone}
        twice = [it for it in alone if seen.get(it.id) == it.updated]
        await self._do_each([(it, partial(_forget, client, it)) for it in twice])

    async def _do_each(self, jobs: Sequence[tuple[StoredSecret, Job]]) -> None:
        failures = 0
        for stored, job in jobs:
            failures = 0 if await _try(stored, job) else failures + 1
            if failures == IN_A_ROW:
                self._stopped_at = stored.name
                return


async def _try(stored: StoredSecret, job: Job) -> bool:
    """Deal with one grant; False if the OAuth server did not revoke what it should."""
    try:
        return await job()
    except Exception as error:  # noqa: BLE001  (whatever it is, the next one's turn comes)
        kind = type(error).__name__
        logger.warning("The block %s is left as it is now (%s).", stored.name, kind)
        return True


def _is_anything_left(grant: Grant) -> bool:
    return bool(grant.instead_of or grant.to_revoke or grant.over_since)


async def _settle_one(binding: Binding, grant: Grant) -> bool:
    if grant.instead_of and grant.journey_id and await undoing.has_ended(grant.journey_id):
        await undoing.undo(binding, grant.journey_id)
        return True
    async with only_holder(f"configure-{binding.slug}", patience=PATIENCE):
        server = await systems.oauth_server()
        if await grants.find(binding) is None:  # what is there is over
            return await grants.forget(binding, server, patience=PATIENCE)
        return await grants.revoke_replaced(binding, server)


async def _forget(client: PrefectClient, seen: StoredSecret) -> bool:
    """Revoke and delete a grant, if it still is nobody's; whether the OAuth server answers."""
    binding = _binding_of(seen)
    async with only_holder(f"configure-{binding.slug}", patience=PATIENCE):
        if await grants.find(binding) is None or not await _is_alone(client, seen):
            return True
        server = await systems.oauth_server()
        is_revoked = await grants.forget(binding, server, patience=PATIENCE)
        logger.warning("The grant in %s had no deployment any more: forgotten.", seen.name)
        return is_revoked


async def _is_alone(client: PrefectClient, seen: StoredSecret) -> bool:
    """Whether the grant is as it was seen, without a deployment, and nothing configures it."""
    under_way = slugs_named(await read_unfinished(client))
    if _binding_of(seen).slug in under_way or await secret_blocks.find(seen.name) != seen:
        return False
    return bool(await _without_deployment(client, [seen]))


async def _without_deployment(
    client: PrefectClient, stored: Sequence[StoredSecret]
) -> list[StoredSecret]:
    """Those whose bindings have no deployment, by what Prefect answers for each."""
    alone = []
    for some in _parts(stored):
        slugs = [_binding_of(it).slug for it in some]
        wanted = {
            "flows": {"name": {"any_": [deployment.FLOW]}},
            "deployments": {"name": {"any_": slugs}},
        }
        counted = (await client.request("POST", "/deployments/count", json=wanted)).json()
        if counted == len(some):  # as is usual: without a word about each
            continue
        found = (await client.request("POST", "/deployments/filter", json=wanted)).json()
        there = {it["name"] for it in found}
        alone += [it for it in some if _binding_of(it).slug not in there]
    return alone


def _binding_of(stored: StoredSecret) -> Binding:
    return Binding.stored_as(stored.name.removeprefix(grants.PREFIX))


def _parts(stored: Sequence[StoredSecret]) -> Iterator[Sequence[StoredSecret]]:
    for start in range(0, len(stored), AT_ONCE):
        yield stored[start : start + AT_ONCE]
