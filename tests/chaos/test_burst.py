"""A worker killed in the middle of a burst of refreshes; `tests.chaos.burst` plays big ones."""

from pathlib import Path

from tests.chaos.burst import AT_ONCE, burst


async def test_a_kill_in_a_burst_of_refreshes_costs_no_more_than_were_under_way(
    tmp_path: Path,
) -> None:
    count = await burst(tmp_path, tenants=20, rotation="strict", on_postgres=False)

    assert count.is_good(AT_ONCE), count


async def test_a_kill_in_a_burst_costs_nothing_where_a_repeated_token_is_forgiven(
    tmp_path: Path,
) -> None:
    count = await burst(tmp_path, tenants=20, rotation="grace", on_postgres=False)

    assert count.is_good(0), count
