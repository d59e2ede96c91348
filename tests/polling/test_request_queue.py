"""Whose turn it is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.polling.quota import MARGIN, Quota
from airflow_provider_seedance.polling.request_queue import (
    BURST,
    MOST_PER_SECOND,
    SUBMISSION_GAP,
    TAKEN_ALONG,
    RequestQueue,
)

NOW = 1_800_000_000.0


def quota(remaining: int, *, limit: int = 100, left: float = 600.0) -> Quota:
    known = Quota()
    reset = datetime.fromtimestamp(NOW + left, UTC)
    known.learn(RateLimit(limit=limit, remaining=remaining, reset_at=reset), NOW)
    return known


def drain(turns: RequestQueue[str], until: float, *, now: float = NOW) -> list[tuple[float, str]]:
    """Carry out every turn up to a moment; a reading takes one request."""
    done: list[tuple[float, str]] = []
    while now <= until:
        turn = turns.next(now)
        if turn.submission is not None:
            done.append((now - NOW, turn.submission))
        elif turn.polls:
            for _ in range(turns.cost):
                turns.quota.spend(now)
            turns.done()
            done.append((now - NOW, turn.polls[0]))
        else:
            assert turn.until > now
            now = turn.until
    return done


def test_the_most_overdue_comes_first() -> None:
    turns: RequestQueue[str] = RequestQueue(Quota())
    turns.poll("late", NOW - 1)
    turns.poll("later", NOW - 5)
    turns.poll("not yet", NOW + 5)
    assert [who for _, who in drain(turns, NOW + 1)] == ["later", "late"]
    assert turns.next(NOW + 1).until == NOW + 5


def test_nobody_waiting_is_nothing_to_do() -> None:
    assert RequestQueue(Quota()).next(NOW).until == float("inf")


def test_whoever_waits_no_longer_is_passed_over() -> None:
    gone = {"gone"}
    turns: RequestQueue[str] = RequestQueue(Quota(), alive=lambda item: item not in gone)
    turns.poll("gone", NOW - 5)
    turns.poll("there", NOW - 1)
    turns.submit("gone", NOW - 5)
    assert turns.next(NOW).polls == ("there",)
    assert len(turns) == 0
    turns.poll("gone", NOW + 50)
    turns.tidy()
    assert len(turns) == 0


def test_submissions_and_status_requests_take_turns() -> None:
    turns: RequestQueue[str] = RequestQueue(quota(100))
    for number in range(3):
        turns.poll(f"poll {number}", NOW - 5)
        turns.submit(f"submit {number}", NOW - 1)
    done = [who.split()[0] for _, who in drain(turns, NOW + 1)]
    assert done == ["submit", "poll"] * 3


def test_room_is_kept_for_submissions() -> None:
    turns: RequestQueue[str] = RequestQueue(quota(25))  # a quarter of a hundred is kept at the beginning
    turns.poll("poll", NOW)
    turns.submit("submit", NOW)
    assert [who for _, who in drain(turns, NOW + 1)] == ["submit"]
    assert [who for _, who in drain(turns, NOW + 599)] == ["poll"]


def test_a_used_up_quota_is_waited_for() -> None:
    turns: RequestQueue[str] = RequestQueue(quota(0))
    turns.poll("poll", NOW)
    turns.submit("submit", NOW)
    assert turns.next(NOW).until == NOW + 600 + MARGIN
    assert turns.queue(NOW)
    assert not turns.queue(NOW - 1)
    assert {who for _, who in drain(turns, NOW + 700)} == {"poll", "submit"}


def test_who_waits_for_no_quota_is_no_queue() -> None:
    """One refusal must not let every later submission stand in a line that keeps itself alive."""
    unknown: RequestQueue[str] = RequestQueue(Quota())
    unknown.submit("submit", NOW)
    roomy: RequestQueue[str] = RequestQueue(quota(5))
    roomy.submit("submit", NOW)
    assert not unknown.queue(NOW)
    assert not roomy.queue(NOW)


def test_a_reading_that_may_take_two_requests_needs_room_for_both() -> None:
    turns: RequestQueue[str] = RequestQueue(quota(1, left=0.5), cost=2)
    turns.poll("poll", NOW)
    assert drain(turns, NOW + 0.5) == []
    assert [who for _, who in drain(turns, NOW + 2)] == ["poll"]


def test_a_quota_of_one_request_still_polls() -> None:
    turns: RequestQueue[str] = RequestQueue(quota(1, limit=1), cost=2)
    turns.poll("poll", NOW)
    assert [who for _, who in drain(turns, NOW + 601)] == ["poll"]


def test_more_than_the_quota_are_served_in_the_order_they_fell_due() -> None:
    turns: RequestQueue[str] = RequestQueue(quota(50))
    for number in range(200):
        turns.poll(str(number), NOW - 200 + number)
    done = drain(turns, NOW + 600)
    assert [int(who) for _, who in done] == list(range(50))
    assert sum(moment < 1 for moment, _ in done) == 25  # the rest was kept for submissions for a while


def test_few_are_not_held_back() -> None:
    turns: RequestQueue[str] = RequestQueue(quota(90))
    for number in range(10):
        turns.poll(str(number), NOW)
    assert [moment for moment, _ in drain(turns, NOW + 1)] == [0.0] * 10


def test_an_unknown_quota_is_not_flooded() -> None:
    turns: RequestQueue[str] = RequestQueue(Quota())
    for number in range(500):
        turns.poll(str(number), NOW)
    done = drain(turns, NOW + 10)
    assert BURST <= len(done) <= BURST + 10 * MOST_PER_SECOND + 2
    turns.submit("a", NOW)
    turns.submit("b", NOW)
    submissions = [moment for moment, who in drain(turns, NOW + 30, now=NOW + 11) if who in "ab"]
    assert submissions[1] > submissions[0]


def test_a_request_for_many_takes_along_what_is_due_soon() -> None:
    turns: RequestQueue[str] = RequestQueue(Quota())
    for number in range(5):
        turns.poll(str(number), NOW + number * TAKEN_ALONG / 3)
    assert turns.next(NOW, most=100).polls == ("0", "1", "2", "3")
    assert turns.next(NOW, most=100).until == pytest.approx(NOW + 4 * TAKEN_ALONG / 3)


@given(
    polls=st.lists(st.floats(0, 1000), max_size=30),
    submissions=st.lists(st.floats(0, 1000), max_size=10),
    limit=st.integers(1, 40),
    cost=st.integers(1, 2),
    window=st.floats(10, 3600),
)
def test_everybody_has_a_turn_and_no_quota_is_broken(
    polls: list[float], submissions: list[float], limit: int, cost: int, window: float
) -> None:
    known = quota(limit, limit=limit, left=window)
    turns: RequestQueue[str] = RequestQueue(known, cost=cost)
    for number, at in enumerate(polls):
        turns.poll(f"p{number}", NOW + at)
    for number, at in enumerate(submissions):
        turns.submit(f"s{number}", NOW + at)
    now, begun, used, done = NOW, NOW, 0, []
    for _ in range(5000):
        if not len(turns):
            break
        turn = turns.next(now)
        if not turn.polls and turn.submission is None:
            now = turn.until
            continue
        if now >= begun + window:
            begun, used = now, 0
        for _ in range(cost if turn.polls else 1):
            used += 1
            if turn.polls:
                known.spend(now)
            left = limit - used
            known.learn(
                RateLimit(
                    limit=limit,
                    remaining=max(0, left),
                    reset_at=datetime.fromtimestamp(begun + window, UTC),
                ),
                now,
            )
        assert used <= max(limit, cost)
        if turn.polls:
            turns.done()
        else:
            known.on_observed_submission(now, now)
        done += list(turn.polls) or [turn.submission]
    assert sorted(done) == sorted(
        [f"p{i}" for i in range(len(polls))] + [f"s{i}" for i in range(len(submissions))]
    )


def test_submissions_stand_in_line_only_where_less_than_one_is_free() -> None:
    one: RequestQueue[str] = RequestQueue(quota(1))
    one.submit("submit", NOW)
    assert not one.queue(NOW)
    one.quota.hold(1)
    assert one.queue(NOW)
    nobody: RequestQueue[str] = RequestQueue(quota(0))
    assert not nobody.queue(NOW)
    nobody.poll("poll", NOW)
    assert not nobody.queue(NOW)
    assert len(nobody) == 1


def test_a_reading_takes_along_what_is_due_soon() -> None:
    turns: RequestQueue[str] = RequestQueue(Quota())
    for name, due in (("now", 0.0), ("soon", TAKEN_ALONG), ("later", TAKEN_ALONG + 0.1)):
        turns.poll(name, NOW + due)
    assert turns.next(NOW, most=10).polls == ("now", "soon")
    assert turns.next(NOW, most=10).until == NOW + TAKEN_ALONG + 0.1
    for name in "abc":
        turns.poll(name, NOW - 1)
    assert turns.next(NOW, most=2).polls == ("a", "b")


def test_submissions_to_an_unknown_quota_are_let_through_one_by_one() -> None:
    turns: RequestQueue[str] = RequestQueue(Quota())
    for name in "ab":
        turns.submit(name, NOW - 1)
    assert turns.next(NOW).submission == "a"
    assert turns.next(NOW).until == NOW + SUBMISSION_GAP
    assert turns.next(NOW + SUBMISSION_GAP).submission == "b"


def test_submissions_to_a_known_quota_need_no_gap() -> None:
    turns: RequestQueue[str] = RequestQueue(quota(5))
    for name in "ab":
        turns.submit(name, NOW)
    assert [turns.next(NOW).submission for _ in "ab"] == ["a", "b"]
    assert turns.quota.free(NOW) == 3


def test_a_reading_holds_its_requests_until_it_is_done() -> None:
    turns: RequestQueue[str] = RequestQueue(quota(90), cost=2)
    turns.poll("poll", NOW)
    assert turns.next(NOW).polls == ("poll",)
    assert turns.quota.free(NOW) == 88
    turns.done()
    assert turns.quota.free(NOW) == 90


def test_what_is_kept_is_given_to_readings_as_the_window_ends() -> None:
    turns: RequestQueue[str] = RequestQueue(quota(20))  # of a hundred, twenty-five are kept at first
    turns.poll("poll", NOW)
    at = turns.next(NOW).until
    # Twenty-four are missing one: with 24 / 25 of the window gone by there is room for one.
    assert at == pytest.approx(NOW + 600 * 6 / 25)
    assert turns.next(at + 1).polls == ("poll",)


def test_a_submission_needs_no_more_than_one_free_request() -> None:
    turns: RequestQueue[str] = RequestQueue(quota(1))
    turns.submit("early", NOW + 5)
    assert turns.next(NOW).until == NOW + 5
    assert turns.next(NOW + 5).submission == "early"


def test_whoever_left_is_not_taken_along() -> None:
    gone: set[str] = set()
    turns: RequestQueue[str] = RequestQueue(Quota(), alive=lambda item: item not in gone)
    for name in "abc":
        turns.poll(name, NOW)
    gone.add("b")
    assert turns.next(NOW, most=5).polls == ("a", "c")


def test_after_a_burst_polls_come_as_fast_as_the_quota_or_the_bound_allow() -> None:
    turns: RequestQueue[str] = RequestQueue(Quota())
    for number in range(BURST + 10):
        turns.poll(str(number), NOW)
    moments = [moment for moment, _ in drain(turns, NOW + 60)]
    assert sum(moment == 0 for moment in moments) in (BURST, BURST + 1)
    assert moments[-1] - moments[BURST + 1] == pytest.approx(8 / MOST_PER_SECOND, abs=1e-3)


def test_a_wait_ends_without_a_turn_where_the_quota_allows_none() -> None:
    gone: set[str] = set()
    turns: RequestQueue[str] = RequestQueue(quota(0), alive=lambda who: who not in gone)
    for who, end in (("a", 20.0), ("b", 30.0), ("gone", 10.0)):
        turns.poll(who, NOW)
        turns.end(who, NOW + end)
    gone.add("gone")
    assert turns.next(NOW).until == NOW + 20.0
    assert turns.over(NOW + 19.9) == []
    assert turns.over(NOW + 30.0) == ["a", "b"]
    assert turns.over(NOW + 30.0) == []


def test_the_ends_of_those_who_left_are_tidied_away() -> None:
    gone: set[str] = set()
    turns: RequestQueue[str] = RequestQueue(Quota(), alive=lambda who: who not in gone)
    for number in range(10):
        turns.poll(str(number), NOW + number)
        turns.end(str(number), NOW + 1000.0 + number)
    assert len(turns) == 10
    gone.update(map(str, range(1, 10)))
    turns.tidy()
    assert len(turns) == 1
