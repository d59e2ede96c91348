"""Whose turn it is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.polling.quota import POLICY, Quota
from airflow_provider_seedance.polling.request_queue import RequestQueue

NOW = 1_800_000_000.0


def quota(remaining: int, *, limit: int = 100, left: float = 600.0) -> Quota:
    known = Quota()
    reset = datetime.fromtimestamp(NOW + left, UTC)
    known.learn(RateLimit(limit=limit, remaining=remaining, reset_at=reset), NOW)
    return known


def drain(queue: RequestQueue[str], until: float, *, now: float = NOW) -> list[tuple[float, str]]:
    """Carry out every turn up to a moment; a reading takes one request."""
    done: list[tuple[float, str]] = []
    while now <= until:
        grant = queue.next(now)
        if grant.submission is not None:
            done.append((now - NOW, grant.submission))
        elif grant.polls:
            for _ in range(queue.cost):
                queue.quota.spend(now)
            queue.release()
            done.append((now - NOW, grant.polls[0]))
        else:
            assert grant.until > now
            now = grant.until
    return done


def test_the_most_overdue_comes_first() -> None:
    queue: RequestQueue[str] = RequestQueue(Quota())
    queue.push_poll("late", NOW - 1)
    queue.push_poll("later", NOW - 5)
    queue.push_poll("not yet", NOW + 5)
    assert [who for _, who in drain(queue, NOW + 1)] == ["later", "late"]
    assert queue.next(NOW + 1).until == NOW + 5


def test_nobody_waiting_is_nothing_to_do() -> None:
    assert RequestQueue(Quota()).next(NOW).until == float("inf")


def test_whoever_waits_no_longer_is_passed_over() -> None:
    gone = {"gone"}
    queue: RequestQueue[str] = RequestQueue(Quota(), alive=lambda item: item not in gone)
    queue.push_poll("gone", NOW - 5)
    queue.push_poll("there", NOW - 1)
    queue.push_submission("gone", NOW - 5)
    assert queue.next(NOW).polls == ("there",)
    assert len(queue) == 0
    queue.push_poll("gone", NOW + 50)
    queue.prune()
    assert len(queue) == 0


def test_submissions_and_status_requests_take_turns() -> None:
    queue: RequestQueue[str] = RequestQueue(quota(100))
    for number in range(3):
        queue.push_poll(f"poll {number}", NOW - 5)
        queue.push_submission(f"submit {number}", NOW - 1)
    done = [who.split()[0] for _, who in drain(queue, NOW + 1)]
    assert done == ["submit", "poll"] * 3


def test_room_is_kept_for_submissions() -> None:
    queue: RequestQueue[str] = RequestQueue(quota(25))  # a quarter of a hundred is kept at the beginning
    queue.push_poll("poll", NOW)
    queue.push_submission("submit", NOW)
    assert [who for _, who in drain(queue, NOW + 1)] == ["submit"]
    assert [who for _, who in drain(queue, NOW + 599)] == ["poll"]


def test_a_used_up_quota_is_waited_for() -> None:
    queue: RequestQueue[str] = RequestQueue(quota(0))
    queue.push_poll("poll", NOW)
    queue.push_submission("submit", NOW)
    assert queue.next(NOW).until == NOW + 600 + POLICY.reset_margin
    assert queue.has_blocked_submissions(NOW)
    assert not queue.has_blocked_submissions(NOW - 1)
    assert {who for _, who in drain(queue, NOW + 700)} == {"poll", "submit"}


def test_who_waits_for_no_quota_is_no_queue() -> None:
    """One refusal must not let every later submission stand in a line that keeps itself alive."""
    unknown: RequestQueue[str] = RequestQueue(Quota())
    unknown.push_submission("submit", NOW)
    roomy: RequestQueue[str] = RequestQueue(quota(5))
    roomy.push_submission("submit", NOW)
    assert not unknown.has_blocked_submissions(NOW)
    assert not roomy.has_blocked_submissions(NOW)


def test_a_reading_that_may_take_two_requests_needs_room_for_both() -> None:
    queue: RequestQueue[str] = RequestQueue(quota(1, left=0.5), cost=2)
    queue.push_poll("poll", NOW)
    assert drain(queue, NOW + 0.5) == []
    assert [who for _, who in drain(queue, NOW + 2)] == ["poll"]


def test_a_quota_of_one_request_still_polls() -> None:
    queue: RequestQueue[str] = RequestQueue(quota(1, limit=1), cost=2)
    queue.push_poll("poll", NOW)
    assert [who for _, who in drain(queue, NOW + 601)] == ["poll"]


def test_more_than_the_quota_are_served_in_the_order_they_fell_due() -> None:
    queue: RequestQueue[str] = RequestQueue(quota(50))
    for number in range(200):
        queue.push_poll(str(number), NOW - 200 + number)
    done = drain(queue, NOW + 600)
    assert [int(who) for _, who in done] == list(range(50))
    assert sum(moment < 1 for moment, _ in done) == 25  # the rest was kept for submissions for a while


def test_few_are_not_held_back() -> None:
    queue: RequestQueue[str] = RequestQueue(quota(90))
    for number in range(10):
        queue.push_poll(str(number), NOW)
    assert [moment for moment, _ in drain(queue, NOW + 1)] == [0.0] * 10


def test_an_unknown_quota_is_not_flooded() -> None:
    queue: RequestQueue[str] = RequestQueue(Quota())
    for number in range(500):
        queue.push_poll(str(number), NOW)
    done = drain(queue, NOW + 10)
    assert POLICY.max_burst <= len(done) <= POLICY.max_burst + 10 * POLICY.max_polls_per_second + 2
    queue.push_submission("a", NOW)
    queue.push_submission("b", NOW)
    submissions = [moment for moment, who in drain(queue, NOW + 30, now=NOW + 11) if who in "ab"]
    assert submissions[1] > submissions[0]


def test_a_request_for_many_takes_along_what_is_due_soon() -> None:
    queue: RequestQueue[str] = RequestQueue(Quota())
    for number in range(5):
        queue.push_poll(str(number), NOW + number * POLICY.coalesce / 3)
    assert queue.next(NOW, max_ids=100).polls == ("0", "1", "2", "3")
    assert queue.next(NOW, max_ids=100).until == pytest.approx(NOW + 4 * POLICY.coalesce / 3)


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
    queue: RequestQueue[str] = RequestQueue(known, cost=cost)
    for number, at in enumerate(polls):
        queue.push_poll(f"p{number}", NOW + at)
    for number, at in enumerate(submissions):
        queue.push_submission(f"s{number}", NOW + at)
    now, begun, used, done = NOW, NOW, 0, []
    for _ in range(5000):
        if not len(queue):
            break
        grant = queue.next(now)
        if not grant.polls and grant.submission is None:
            now = grant.until
            continue
        if now >= begun + window:
            begun, used = now, 0
        for _ in range(cost if grant.polls else 1):
            used += 1
            if grant.polls:
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
        if grant.polls:
            queue.release()
        else:
            known.on_observed_submission(now, now)
        done += list(grant.polls) or [grant.submission]
    assert sorted(done) == sorted(
        [f"p{i}" for i in range(len(polls))] + [f"s{i}" for i in range(len(submissions))]
    )


def test_submissions_stand_in_line_only_where_less_than_one_is_free() -> None:
    one: RequestQueue[str] = RequestQueue(quota(1))
    one.push_submission("submit", NOW)
    assert not one.has_blocked_submissions(NOW)
    one.quota.reserve(1)
    assert one.has_blocked_submissions(NOW)
    nobody: RequestQueue[str] = RequestQueue(quota(0))
    assert not nobody.has_blocked_submissions(NOW)
    nobody.push_poll("poll", NOW)
    assert not nobody.has_blocked_submissions(NOW)
    assert len(nobody) == 1


def test_a_reading_takes_along_what_is_due_soon() -> None:
    queue: RequestQueue[str] = RequestQueue(Quota())
    for name, due in (("now", 0.0), ("soon", POLICY.coalesce), ("later", POLICY.coalesce + 0.1)):
        queue.push_poll(name, NOW + due)
    assert queue.next(NOW, max_ids=10).polls == ("now", "soon")
    assert queue.next(NOW, max_ids=10).until == NOW + POLICY.coalesce + 0.1
    for name in "abc":
        queue.push_poll(name, NOW - 1)
    assert queue.next(NOW, max_ids=2).polls == ("a", "b")


def test_submissions_to_an_unknown_quota_are_let_through_one_by_one() -> None:
    queue: RequestQueue[str] = RequestQueue(Quota())
    for name in "ab":
        queue.push_submission(name, NOW - 1)
    assert queue.next(NOW).submission == "a"
    assert queue.next(NOW).until == NOW + POLICY.submission_interval
    assert queue.next(NOW + POLICY.submission_interval).submission == "b"


def test_submissions_to_a_known_quota_need_no_gap() -> None:
    queue: RequestQueue[str] = RequestQueue(quota(5))
    for name in "ab":
        queue.push_submission(name, NOW)
    assert [queue.next(NOW).submission for _ in "ab"] == ["a", "b"]
    assert queue.quota.free(NOW) == 3


def test_a_reading_holds_its_requests_until_it_is_done() -> None:
    queue: RequestQueue[str] = RequestQueue(quota(90), cost=2)
    queue.push_poll("poll", NOW)
    assert queue.next(NOW).polls == ("poll",)
    assert queue.quota.free(NOW) == 88
    queue.release()
    assert queue.quota.free(NOW) == 90


def test_what_is_kept_is_given_to_readings_as_the_window_ends() -> None:
    queue: RequestQueue[str] = RequestQueue(quota(20))  # of a hundred, twenty-five are kept at first
    queue.push_poll("poll", NOW)
    at = queue.next(NOW).until
    # Twenty-four are missing one: with 24 / 25 of the window gone by there is room for one.
    assert at == pytest.approx(NOW + 600 * 6 / 25)
    assert queue.next(at + 1).polls == ("poll",)


def test_a_submission_needs_no_more_than_one_free_request() -> None:
    queue: RequestQueue[str] = RequestQueue(quota(1))
    queue.push_submission("early", NOW + 5)
    assert queue.next(NOW).until == NOW + 5
    assert queue.next(NOW + 5).submission == "early"


def test_whoever_left_is_not_taken_along() -> None:
    gone: set[str] = set()
    queue: RequestQueue[str] = RequestQueue(Quota(), alive=lambda item: item not in gone)
    for name in "abc":
        queue.push_poll(name, NOW)
    gone.add("b")
    assert queue.next(NOW, max_ids=5).polls == ("a", "c")


def test_after_a_burst_polls_come_as_fast_as_the_quota_or_the_bound_allow() -> None:
    queue: RequestQueue[str] = RequestQueue(Quota())
    for number in range(POLICY.max_burst + 10):
        queue.push_poll(str(number), NOW)
    moments = [moment for moment, _ in drain(queue, NOW + 60)]
    assert sum(moment == 0 for moment in moments) in (POLICY.max_burst, POLICY.max_burst + 1)
    assert moments[-1] - moments[POLICY.max_burst + 1] == pytest.approx(
        8 / POLICY.max_polls_per_second, abs=1e-3
    )


def test_a_wait_ends_without_a_turn_where_the_quota_allows_none() -> None:
    gone: set[str] = set()
    queue: RequestQueue[str] = RequestQueue(quota(0), alive=lambda who: who not in gone)
    for who, end in (("a", 20.0), ("b", 30.0), ("gone", 10.0)):
        queue.push_poll(who, NOW)
        queue.set_deadline(who, NOW + end)
    gone.add("gone")
    assert queue.next_deadline == NOW + 10.0
    queue.next(NOW)
    assert queue.next_deadline == NOW + 20.0
    assert queue.pop_expired(NOW + 19.9) == []
    assert queue.pop_expired(NOW + 30.0) == ["a", "b"]
    assert queue.pop_expired(NOW + 30.0) == []


def test_the_ends_of_those_who_left_are_tidied_away() -> None:
    gone: set[str] = set()
    queue: RequestQueue[str] = RequestQueue(Quota(), alive=lambda who: who not in gone)
    for number in range(10):
        queue.push_poll(str(number), NOW + number)
        queue.set_deadline(str(number), NOW + 1000.0 + number)
    assert len(queue) == 10
    gone.update(map(str, range(1, 10)))
    queue.prune()
    assert len(queue) == 1


@pytest.mark.parametrize(("requests_per_hour", "cost"), [(1, 1), (1, 2), (2, 2), (3, 2), (10, 2)])
def test_small_plans_without_headers_are_polled(requests_per_hour: int, cost: int) -> None:
    queue: RequestQueue[str] = RequestQueue(Quota(requests_per_hour=requests_per_hour), cost=cost)
    queue.push_poll("poll", NOW)
    assert [item for _, item in drain(queue, NOW + 1)] == ["poll"]


def test_share_of_submissions_without_headers_is_released_within_the_hour() -> None:
    queue: RequestQueue[str] = RequestQueue(Quota(requests_per_hour=20))
    for number in range(30):
        queue.push_poll(str(number), NOW)
    times = [at for at, _ in drain(queue, NOW + 3599)]
    assert sum(at < 60 for at in times) == 15
    assert len(times) >= 19
