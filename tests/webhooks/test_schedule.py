"""When an event is sent again: the table of interface §3.8, jitter, and what a subscriber asks for."""

from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import utc
from gateway.webhooks.schedule import DELAYS, JITTER, LONGEST_PAUSE, Schedule, retry_after

NOW = 1_800_000_000.0
SECOND, MINUTE, HOUR = 1, 60, 3600
chances = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("attempts", "seconds"),
    [
        (1, 5 * SECOND),
        (2, 30 * SECOND),
        (3, 2 * MINUTE),
        (4, 10 * MINUTE),
        (5, 30 * MINUTE),
        (6, 1 * HOUR),
        (7, 3 * HOUR),
        (8, 6 * HOUR),
        (9, 12 * HOUR),
        (10, 24 * HOUR),
        (11, None),
    ],
)
def test_the_pause_after_each_attempt_is_that_of_the_interface(attempts, seconds):
    assert Schedule().pause(attempts, chance=0.5) == seconds


@given(attempts=st.integers(1, len(DELAYS)), chance=chances)
def test_jitter_moves_a_pause_by_a_fifth_at_most(attempts, chance):
    delay = DELAYS[attempts - 1]
    pause = Schedule().pause(attempts, chance=chance)
    assert delay * (1 - JITTER) <= pause <= delay * (1 + JITTER)


def test_jitter_uses_all_of_its_range():
    assert Schedule().pause(1, chance=0.0) == pytest.approx(4)
    assert Schedule().pause(1, chance=0.999_999) == pytest.approx(6, abs=0.001)


@given(attempts=st.integers(1, len(DELAYS)), asked=st.floats(0, LONGEST_PAUSE), chance=chances)
def test_an_event_never_comes_sooner_than_the_subscriber_asked(attempts, asked, chance):
    assert Schedule().pause(attempts, asked=asked, chance=chance) >= asked


@pytest.mark.parametrize("asked", [LONGEST_PAUSE + 1, 1e300, float("inf")])
def test_a_subscriber_cannot_put_an_event_off_for_more_than_a_day(asked):
    assert Schedule().pause(1, asked=asked, chance=0.5) == LONGEST_PAUSE


def test_asking_for_a_pause_does_not_make_more_attempts():
    assert Schedule().pause(11, asked=60, chance=0.5) is None


def test_delays_can_be_others():
    schedule = Schedule(delays=(1.0,))
    assert [schedule.pause(attempts, chance=0.5) for attempts in (1, 2)] == [1.0, None]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        (format_datetime(utc(NOW + 90), usegmt=True), 90),
        (format_datetime(utc(NOW + 90)).replace("+0000", "-0000"), 90),
        (format_datetime(utc(NOW - 90), usegmt=True), 0),
        ("9" * 5000, float("inf")),
        (None, 0),
        ("", 0),
        ("-5", 0),
        ("1.5", 0),
        ("٣", 0),
        ("soon", 0),
        ("Wed, 99 Foo 2026 99:99:99 GMT", 0),
        ("Fri, 31 Dec 999999 23:59:59 GMT", 0),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", 0),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date_and_nonsense_as_nothing(text, seconds):
    assert retry_after(text, now=NOW) == seconds


@given(st.text(max_size=40))
def test_whatever_retry_after_says_it_is_a_number_of_seconds(text):
    assert retry_after(text, now=NOW) >= 0
