"""What a binding is called wherever it is stored."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.binding import Binding

ID = st.one_of(
    st.text(min_size=1, max_size=200),
    st.text("aA-bB", min_size=1, max_size=6),  # as good as every collision there could be
    st.text("-_ /äß", min_size=1, max_size=6),
)
PAIR = st.tuples(ID, ID)


@given(PAIR, PAIR)
def test_no_two_bindings_share_a_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (Binding(*one).slug == Binding(*other).slug) == (one == other)


@given(st.text("ab-", min_size=2, max_size=12), st.data())
def test_moving_letters_from_one_id_to_the_other_makes_another_name(
    text: str, data: st.DataObject
) -> None:
    cut, other_cut = (data.draw(st.integers(0, len(text))) for _ in range(2))
    one, other = (Binding(text[:at], text[at:]).slug for at in (cut, other_cut))
    assert (one == other) == (cut == other_cut)


@given(ID, ID)
def test_letter_case_makes_another_name(tenant: str, batch: str) -> None:
    same = (tenant.swapcase(), batch.swapcase()) == (tenant, batch)
    swapped = Binding(tenant.swapcase(), batch.swapcase())
    assert (swapped.slug == Binding(tenant, batch).slug) == same


@given(PAIR)
def test_every_name_is_one_that_prefect_accepts(pair: tuple[str, str]) -> None:
    slug = Binding(*pair).slug
    assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", slug)
    assert len(slug) <= 70


@given(PAIR)
def test_a_name_never_changes(pair: tuple[str, str]) -> None:
    assert Binding(*pair).slug == Binding(*pair).slug


@pytest.mark.parametrize(
    ("ids", "slug"),
    [
        (("acme", "eod"), "acme-eod-sr435uo4f6wqtesf4g7b"),
        (("Acme Ltd.", "EOD/1"), "acme-ltd-eod-1-f3ib2snggyllprlgbgll"),
        (("日本", "夜"), "6tiz2z3zdjezeprbppt3"),
    ],
)
def test_names_are_readable_and_stay_what_they_were(ids: tuple[str, str], slug: str) -> None:
    assert Binding(*ids).slug == slug


def test_a_binding_found_by_its_slug_is_stored_under_the_same_names() -> None:
    real = Binding("Käse & Co", "eod")
    assert Binding.stored_as(real.slug).slug == real.slug
    assert Binding.stored_as(real.slug) != real
