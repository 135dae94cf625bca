"""What a request may say, and the sentence it gets when it may not."""

import json
import traceback
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flows import recurrence as recurrences
from flows import rules
from flows.admission import FieldError, InvalidRequestError, parse_request
from flows.contract import DailyOrdersBatchCloseConfigOutcome, DailyOrdersBatchCloseConfigRequest
from flows.parameters import from_parameters, from_stored, to_parameters, to_stored

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
REQUEST = {
    "tenantId": "acme",
    "batchId": "end-of-day",
    "firstRunAt": "2026-12-01T23:00:00+01:00[Europe/Paris]",
    "interval": "P1D",
    "maxRuns": 30,
}
MISSING = object()


def read(**changes: object) -> DailyOrdersBatchCloseConfigRequest:
    data = {field: value for field, value in {**REQUEST, **changes}.items() if value is not MISSING}
    return parse_request(data, now=NOW)


def refusals(**changes: object) -> dict[str, str]:
    with pytest.raises(InvalidRequestError) as refusal:
        read(**changes)
    assert str(refusal.value) == "\n".join(f"{e.field} {e.message}" for e in refusal.value.errors)
    return {error.field: error.message for error in refusal.value.errors}


def cadence(**changes: object) -> str:
    return DailyOrdersBatchCloseConfigOutcome.of(read(**changes)).cadence


def test_the_seeds_request_is_understood_with_its_default_waits():
    request = read()

    assert (request.upstream_wait, request.replication_delay) == (
        timedelta(minutes=15),
        timedelta(minutes=5),
    )
    assert request.recurrence.first == datetime(2026, 12, 1, 22, tzinfo=UTC)
    assert request.recurrence.max_runs == 30


def test_a_request_round_trips_with_its_texts_as_written_and_unknown_fields_kept():
    request = read(note={"from": "ops", "smile": "\N{GRINNING FACE}"}, timeZone="Europe/Paris")
    stored = json.loads(json.dumps(request.model_dump(by_alias=True)))

    assert stored["firstRunAt"] == REQUEST["firstRunAt"]
    assert stored["note"] == {"from": "ops", "smile": "\N{GRINNING FACE}"}
    assert DailyOrdersBatchCloseConfigRequest.model_validate(stored) == request


def test_python_names_are_taken_too_but_not_beside_the_wires():
    assert read(tenantId=MISSING, tenant_id="acme") == read()
    assert refusals(tenant_id="other") == {
        "tenantId": "is given twice, as tenant_id too; give it once"
    }


def test_a_stored_request_is_readable_long_after_its_first_run(monkeypatch):
    monkeypatch.setenv("BATCH_CLOSE_SHORTEST_INTERVAL", "PT5S")
    waits = {"upstreamWaitDuration": "PT1S", "replicationDelayDuration": "PT1S"}
    stored = read(interval="PT10S", **waits).model_dump(by_alias=True)
    monkeypatch.delenv("BATCH_CLOSE_SHORTEST_INTERVAL")

    stored["firstRunAt"] = "2020-12-01T23:00:00+01:00"
    assert DailyOrdersBatchCloseConfigRequest.model_validate(stored).recurrence.first.year == 2020


@pytest.mark.parametrize(
    "first_run_at",
    [
        "2027-07-01T23:00:00+01:00[Europe/Paris]",  # France gave up summer time after it was stored
        "2027-03-28T02:30:00+01:00[Europe/Paris]",
        "2027-10-31T02:30:00+01:00[Europe/Paris]",
        "2040-07-01T23:00:00+02:00[Europe/Paris]",
    ],
)
def test_a_stored_request_stays_readable_whatever_is_known_of_the_zone_meanwhile(first_run_at):
    assert "firstRunAt" in refusals(firstRunAt=first_run_at)
    stored = DailyOrdersBatchCloseConfigRequest.model_validate(
        {**REQUEST, "firstRunAt": first_run_at}
    )

    assert stored.recurrence.start.isoformat() == first_run_at[:19]
    assert stored.recurrence.timezone == "Europe/Paris"


def test_only_a_new_request_has_every_night_looked_at(monkeypatch):
    stored = read(maxRuns=4000).model_dump(by_alias=True)

    def survey(*_, **__):
        raise LookupError("every night was looked at")

    monkeypatch.setattr(rules, "survey", survey)
    with pytest.raises(LookupError, match="every night"):
        read()

    assert DailyOrdersBatchCloseConfigRequest.model_validate(stored).max_runs == 4000


def test_a_hundred_thousand_nights_are_admitted_without_laying_them_out(monkeypatch):
    laid_out = []
    lay_out = recurrences._lay_out  # noqa: SLF001

    def note(rrule, timezone):
        for moment in lay_out(rrule, timezone):
            laid_out.append(moment)
            yield moment

    monkeypatch.setattr(recurrences, "_lay_out", note)

    assert read(firstRunAt="2026-12-01T23:00:00+05:30[Asia/Kolkata]", maxRuns=100_000)
    assert len(laid_out) < 50


def test_the_outcome_repeats_the_request_and_names_the_clock():
    outcome = DailyOrdersBatchCloseConfigOutcome.of(read())

    assert outcome.model_dump(by_alias=True) == {
        "status": "SCHEDULED",
        **REQUEST,
        "timeZone": "Europe/Paris",
        "cadence": "23:00 Europe/Paris",
    }


def test_the_cadence_says_whether_it_follows_the_clocks():
    assert cadence(firstRunAt="2026-12-01T23:00:00+01:00") == "23:00, fixed at +01:00"
    assert cadence(firstRunAt="2026-12-01T22:00:00Z") == "22:00, fixed at +00:00"
    assert cadence(firstRunAt="2026-12-01T22:00:00Z[Europe/Paris]") == "23:00 Europe/Paris"
    assert cadence(interval="PT6H") == "every PT6H of elapsed time"


def test_every_field_at_fault_is_named_at_once():
    wrong = refusals(
        tenantId=" ",
        batchId=MISSING,
        firstRunAt="2026-12-01T23:00:00",
        interval="daily",
        maxRuns=0,
        upstreamWaitDuration="P1M",
        replicationDelayDuration="PT0S",
        timeZone="Mars/Olympus",
    )

    assert list(wrong) == [
        "tenantId",
        "batchId",
        "firstRunAt",
        "interval",
        "maxRuns",
        "upstreamWaitDuration",
        "replicationDelayDuration",
        "timeZone",
    ]


@pytest.mark.parametrize("field", REQUEST)
def test_a_missing_field_is_told_what_it_should_be(field):
    assert refusals(**{field: MISSING})[field].startswith("is missing; it must be ")


@pytest.mark.parametrize(
    "name", ["", " ", "acme ", "\tacme", "a\nb", "a\x00", "a\u2028b", "\ud800", "x" * 201, 5, None]
)
@pytest.mark.parametrize("field", ["tenantId", "batchId"])
def test_a_name_is_printable_text_of_some_length(field, name):
    assert "but must be 1 to 200 characters" in refusals(**{field: name})[field]


@pytest.mark.parametrize("name", [".", ".."])
@pytest.mark.parametrize("field", ["tenantId", "batchId"])
def test_a_name_that_a_url_cannot_hold_is_refused(field, name):
    assert refusals(**{field: name}) == {field: f"is {name!r}, which cannot stand in a URL's path"}
    # One that was stored before is read as ever: its nights go on.
    stored = read().model_dump(by_alias=True)
    assert DailyOrdersBatchCloseConfigRequest.model_validate({**stored, field: name})


def test_null_for_an_optional_field_means_its_default():
    optional = ("upstreamWaitDuration", "replicationDelayDuration", "timeZone")

    assert read(**dict.fromkeys(optional)) == read()
    assert read(upstreamWaitDuration=None).upstream_wait_duration == "PT15M"
    assert "is not an ISO 8601 duration" in refusals(interval=None)["interval"]


@pytest.mark.parametrize("name", ["x" * 200, "Ünïcödé 東京", "a--b", "\N{FAMILY}", "../etc", "a b"])
def test_any_other_name_is_taken_as_it_is(name):
    assert read(tenantId=name, batchId=name).tenant_id == name


@pytest.mark.parametrize(
    "count", [True, 1.0, "30", 0, -1, 100_001, pytest.param(10**5000, id="huge"), None]
)
def test_max_runs_is_a_whole_number_in_bounds(count):
    assert "must be a whole number from 1 to 100000" in refusals(maxRuns=count)["maxRuns"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (5, "is not an RFC 3339 timestamp"),
        ("tomorrow", "is not an RFC 3339 timestamp"),
        ("2026-12-01", "is not an RFC 3339 timestamp"),
        ("2026-12-01 23:00:00+01:00", "is not an RFC 3339 timestamp"),
        ("2026-12-01T23:00:00+0100", "is not an RFC 3339 timestamp"),
        ("2026-12-01T23:00:00+01:00[u-ca=gregory]", "is not an RFC 3339 timestamp"),
        ("2026-12-01T23:00:00", "has no UTC offset"),
        ("2026-12-01T23:00:00[Europe/Paris]", "has no UTC offset"),
        ("2026-12-01T23:00:00.5+01:00", "has a fraction of a second"),
        ("2026-02-30T23:00:00+01:00", "is not a moment on the calendar"),
        ("2026-12-31T23:59:60Z", "is not a moment on the calendar"),
        ("2026-12-01T23:00:00+24:00", "is not a moment on the calendar"),
        ("9999-12-31T23:00:00Z", "is at the very end of the calendar"),
        ("2026-12-01T23:00:00+01:00[Europe/Atlantis]", "is not a known IANA time zone"),
        ("2026-12-01T23:00:00+02:00[Europe/Paris]", "2026-12-01T22:00:00+01:00"),
        ("2026-12-01T22:00:00+00:00[Europe/Paris]", "does not agree with Europe/Paris"),
        ("2027-03-28T02:30:00+01:00[Europe/Paris]", "is skipped by the clocks of Europe/Paris"),
        ("2027-10-31T02:30:00+01:00[Europe/Paris]", "is the second 02:30 of a night"),
    ],
)
def test_first_run_at_is_a_moment_that_means_one_thing(text, reason):
    assert reason in refusals(firstRunAt=text)["firstRunAt"]


@pytest.mark.parametrize(
    "text",
    [
        "2026-12-01T22:00:00Z",
        "2026-12-01t22:00:00.000z",
        "2026-12-01T22:00:00-00:00[Europe/Paris]",
        "2026-12-01T23:00:00+01:00[!Europe/Paris]",
        "2026-12-02T03:30:00+05:30",
    ],
)
def test_a_moment_may_be_written_in_many_ways(text):
    assert read(firstRunAt=text).recurrence.first == datetime(2026, 12, 1, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("firstRunAt", f"2026-12-01T22:00:00.{'0' * 80}Z"),
        ("firstRunAt", f"2026-12-01T22:00:00.{'0' * 60_000}Z"),
        ("interval", f"P{'0' * 100}1D"),
        ("upstreamWaitDuration", f"PT{'0' * 100}1M"),
        ("replicationDelayDuration", f"PT{'0' * 100}1M"),
    ],
)
def test_a_text_that_would_be_kept_in_every_run_has_a_hundred_characters_at_most(field, text):
    assert refusals(**{field: text}) == {field: "has more than 100 characters"}


def test_a_moment_of_a_hundred_characters_is_taken():
    assert read(firstRunAt=f"2026-12-01T22:00:00.{'0' * 79}Z").recurrence.max_runs == 30


def test_a_zone_that_is_too_long_is_told_what_it_should_be():
    assert "must be an IANA time zone" in refusals(timeZone="Europe/" + "x" * 100)["timeZone"]


def test_the_zone_may_be_a_field_of_its_own_if_it_is_the_same():
    alone = read(firstRunAt="2026-12-01T23:00:00+01:00", timeZone="Europe/Paris")

    assert alone.recurrence == read().recurrence == read(timeZone="Europe/Paris").recurrence
    assert refusals(timeZone="Europe/Berlin") == {
        "timeZone": "'Europe/Berlin' is not firstRunAt's zone, 'Europe/Paris'"
    }


@pytest.mark.parametrize("field", ["interval", "upstreamWaitDuration", "replicationDelayDuration"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (86400, "is not an ISO 8601 duration"),
        ("", "is not an ISO 8601 duration"),
        ("P", "is not an ISO 8601 duration"),
        ("PT", "is not an ISO 8601 duration"),
        ("P1DT", "is not an ISO 8601 duration"),
        ("p1d", "is not an ISO 8601 duration"),
        ("P1D ", "is not an ISO 8601 duration"),
        ("P1H", "is not an ISO 8601 duration"),
        ("P\N{ARABIC-INDIC DIGIT ONE}D", "is not an ISO 8601 duration"),
        ("PT0S", "is not positive"),
        ("P0D", "is not positive"),
        ("-P1D", "is not positive"),
        ("P0.5M", "has a fraction where none can be"),
        ("P1.5Y", "has a fraction where none can be"),
        ("PT1.5H30M", "has a fraction where none can be"),
        ("P999999999W", "is longer than the calendar"),
    ],
)
def test_a_duration_is_iso_8601_and_longer_than_nothing(field, text, reason):
    assert reason in refusals(**{field: text})[field]


def test_months_do_not_mix_with_days_and_waits_have_none():
    assert "mixes months or years with smaller units" in refusals(interval="P1M2D")["interval"]
    assert "mixes months or years with smaller units" in refusals(interval="P1YT1H")["interval"]
    assert "whose length varies" in refusals(upstreamWaitDuration="P1Y")["upstreamWaitDuration"]
    assert "whole number of seconds" in refusals(interval="PT90.5S")["interval"]


def test_an_interval_under_a_minute_is_for_demonstrations_only(monkeypatch):
    short = {
        "interval": "PT20S",
        "upstreamWaitDuration": "PT2S",
        "replicationDelayDuration": "PT1.5S",
    }
    assert refusals(**short) == {"interval": "'PT20S' is too short; use 1 minute or more"}

    monkeypatch.setenv("BATCH_CLOSE_SHORTEST_INTERVAL", "PT20S")
    assert read(**short).replication_delay == timedelta(seconds=1.5)

    monkeypatch.setenv("BATCH_CLOSE_SHORTEST_INTERVAL", "soon")
    with pytest.raises(ValueError, match="variable BATCH_CLOSE_SHORTEST_INTERVAL 'soon' is not"):
        read(**short)


@pytest.mark.parametrize(
    ("interval", "max_runs", "wait", "gap"),
    [
        ("PT20M", 5, "PT15M", "20 minutes"),
        ("P1D", 300, "PT22H55M", "23 hours"),
        ("P1M", 12, "P27DT23H55M", "4 weeks"),
    ],
)
def test_waits_must_end_before_the_next_run_even_when_it_comes_soonest(
    interval, max_runs, wait, gap
):
    wrong = refusals(interval=interval, maxRuns=max_runs, upstreamWaitDuration=wait)

    assert list(wrong) == ["upstreamWaitDuration"]
    assert (
        f"must be shorter than {gap}, the shortest time between two runs"
        in wrong["upstreamWaitDuration"]
    )


def test_waits_may_come_close_to_the_next_run_where_no_clock_changes():
    assert read(maxRuns=20, upstreamWaitDuration="PT23H54M59S")


@pytest.mark.parametrize("interval", ["P1M", "P1Y", "P20000D", "PT99999999M"])
def test_a_schedule_ends_before_the_calendar_does(interval):
    first = "2026-12-01T23:00:00+01:00"  # with a zone, fewer runs are possible already by 2037
    wrong = refusals(firstRunAt=first, interval=interval, maxRuns=100_000)["maxRuns"]

    assert "leads beyond the year 9999" in wrong


@pytest.mark.parametrize(
    ("first_run_at", "interval", "upcoming"),
    [
        ("2026-11-22T12:00:00Z", "P1D", "2026-11-23T12:00:00+00:00"),
        ("2026-11-22T13:00:00+01:00", "PT6H", "2026-11-22T19:00:00+01:00"),
        (
            "2026-07-01T23:00:00+02:00[Europe/Paris]",
            "P1D",
            "2026-11-22T23:00:00+01:00[Europe/Paris]",
        ),
        ("0026-01-31T23:00:00-05:00", "P1M", "2026-11-30T23:00:00-05:00"),
    ],
)
def test_a_past_first_run_is_refused_with_the_next_moment_named(first_run_at, interval, upcoming):
    assert refusals(firstRunAt=first_run_at, interval=interval)["firstRunAt"] == (
        f"'{first_run_at}' is not in the future; the next moment is {upcoming}"
    )


def test_a_past_first_run_with_nothing_after_it_is_refused_too():
    wrong = refusals(firstRunAt="2020-01-01T00:00:00Z", interval="P9000Y", maxRuns=1)

    assert wrong["firstRunAt"].endswith("is not in the future; nor is any later moment")


@pytest.mark.parametrize(
    "extra",
    [
        {"accessToken": "s3cret"},
        {"access_token": "s3cret"},
        {"REFRESHTOKEN": "s3cret"},
        {"Authorization": "Bearer s3cret"},
        {"subjectToken": "s3cret"},
        {"client_secret": "s3cret"},
        {"auth": {"kept": [{"refresh-token": "s3cret"}]}},
    ],
)
def test_a_secret_does_not_belong_in_a_request_and_is_never_repeated(extra):
    with pytest.raises(InvalidRequestError) as refusal:
        read(**extra)
    with pytest.raises(ValidationError) as plain:
        DailyOrdersBatchCloseConfigRequest.model_validate({**REQUEST, **extra})

    assert refusal.value.errors == [
        FieldError(*extra, "holds a secret, which does not belong in a request: remove it")
    ]
    assert refusal.value.__context__ is None
    assert "s3cret" not in "".join(traceback.format_exception(refusal.value)) + str(plain.value)


@pytest.mark.parametrize("value", [float("nan"), (1, 2), {1: 2}, b"x", "a\x00", "\ud800", NOW])
def test_an_unknown_field_that_json_would_not_keep_is_refused(value):
    assert refusals(extra=value) == {"extra": "is not plain JSON, so it cannot be kept"}


def test_unknown_fields_are_bounded_together():
    assert read(first="x" * 2000, second="x" * 2000)
    assert "may have 4096 bytes together" in refusals(first="é" * 1000, second="x" * 2100)["second"]


def nested(levels: int) -> object:
    return [nested(levels - 1)] if levels > 1 else []


def test_unknown_fields_are_bounded_in_depth():
    assert read(extra=nested(32))
    for levels in (33, 199, 900):
        told = "is nested too deeply to be kept: 32 levels at most"
        assert refusals(extra=nested(levels)) == {"extra": told}
    # What was stored before there was a bound is read as ever.
    stored = {**read().model_dump(by_alias=True), "extra": nested(199)}
    assert DailyOrdersBatchCloseConfigRequest.model_validate(stored).model_extra


AS_THEY_CAME = [
    {"ticket": 2**64, "less": -(2**70), "huge": 10**400},
    {"note": {"__prefect_kind": "jinja", "template": "{{ 7**12000000 % 10 }}"}},
    {"note": {"__prefect_kind": "workspace_variable", "variable_name": "secret"}},
    {"__prefect_kind": "none", "value": 1},
    {"block": {"$ref": {"block_document_id": "5d0f6c2e-6a53-4b8e-9b11-2f1f5d0a7c41"}}},
    {"$ref": "x", "{{ a }}": "{{ prefect.variables.a }} ${{ b }}"},
    {"additionalFields": '{"tenantId": "other"}', "additional_fields": {"a": 1}},
    {"tiny": 5e-324, "large": 1.7976931348623157e308, "zero": -0.0},
]


@pytest.mark.parametrize("extras", AS_THEY_CAME)
def test_unknown_fields_reach_prefect_as_text_and_come_back_equal(extras):
    request = read(**extras)
    parameters, stored = to_parameters(request, "block"), to_stored(request)

    assert json.loads(parameters["additional_fields"]) == extras
    assert not any(isinstance(value, dict | list) for value in parameters.values())
    assert not any(isinstance(value, dict | list) for value in stored.values())
    for read_again in (from_parameters(parameters), from_stored(stored)):
        assert DailyOrdersBatchCloseConfigRequest.model_validate(read_again) == request


def test_what_was_stored_as_structure_before_is_still_read():
    before = read(note={"from": "ops"}).model_dump(mode="json", by_alias=True)

    assert from_stored(before) == before
    assert from_parameters({"additional_fields": {"note": {"from": "ops"}}}) == {
        "note": {"from": "ops"}
    }
    assert from_stored({**before, "additionalFields": "four"})["additionalFields"] == "four"


@pytest.mark.parametrize("text", ["four", "[1]", "[" * 100_000, '{"a": ', ["a"], 5, "1" * 5000])
def test_additional_fields_that_are_no_object_are_refused(text):
    with pytest.raises(InvalidRequestError, match=r"^additionalFields is not a JSON object$"):
        from_parameters({"additional_fields": text})


@pytest.mark.parametrize("body", [None, [], "text", 5, b"{}"])
def test_a_request_is_a_json_object(body):
    with pytest.raises(InvalidRequestError, match=r"^request is not a JSON object$"):
        parse_request(body, now=NOW)


def test_what_was_sent_is_repeated_only_briefly():
    assert all(
        len(reason) < 200
        for reason in refusals(interval="P" * 10**6, tenantId=[1] * 10**6).values()
    )


# What one field can make impossible for another, which is then the one that is named.
BY_ITS_NEIGHBOURS = {
    "firstRunAt": {"maxRuns", "timeZone"},
    "interval": {"maxRuns", "upstreamWaitDuration"},
    "replicationDelayDuration": {"upstreamWaitDuration"},
    "upstreamWaitDuration": {"replicationDelayDuration"},
    "timeZone": {"firstRunAt"},
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
nearly_right = st.text("PT0123456789YMWDHS.,-+:Z[]Europe/Paris ", max_size=30)
stamps = st.builds(
    "{:04}-{:02}-{:02}T{:02}:{:02}:00{}{}".format,
    st.integers(0, 9999),
    st.integers(0, 13),
    st.integers(0, 32),
    st.integers(0, 24),
    st.integers(0, 60),
    st.sampled_from(["Z", "", "+01:00", "-23:59", "+05:30", "+99:00"]),
    st.sampled_from(["", "[Europe/Paris]", "[UTC]", "[Pacific/Apia]", "[x]"]),
)
durations = st.builds(
    "P{}{}{}".format,
    st.integers(0, 10**10),
    st.sampled_from(["Y", "M", "W", "D", "DT", "YT"]),
    st.sampled_from(["", "1H", "0S", "999999999M"]),
)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([*REQUEST, "upstreamWaitDuration", "replicationDelayDuration", "timeZone"]),
    json_values | nearly_right | stamps | durations,
)
def test_whatever_a_field_holds_it_is_understood_or_refused_by_its_name(field, value):
    try:
        request = read(**{field: value})
    except InvalidRequestError as refusal:
        named = {error.field for error in refusal.errors}
        assert named <= ({field} | BY_ITS_NEIGHBOURS.get(field, set()))
    else:
        stored = request.model_dump(by_alias=True)
        assert stored[field] == value or value is None
        assert DailyOrdersBatchCloseConfigRequest.model_validate(stored) == request


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.text() | st.integers(), json_values, max_size=4))
def test_whatever_the_unknown_fields_hold_nothing_but_a_refusal_is_raised(extras):
    try:
        kept = parse_request({**extras, **REQUEST}, now=NOW).model_dump(by_alias=True)
    except InvalidRequestError:
        pass
    else:
        assert all(kept[name] == value for name, value in {**extras, **REQUEST}.items())
