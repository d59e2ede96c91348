"""The order of requests within a quota."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.polling.quota import POLICY, Quota
from airflow_provider_seedance.polling.request_queue import RequestQueue
from polling.simulated import EPOCH, rate_limit

NOW = EPOCH


class Queue(RequestQueue[str]):
    """
    A queue of names.

    :param remaining: Requests left of a quota of 100; without it, the quota is unknown.
    """

    def __init__(
        self, remaining: int | None = None, *, limit: int = 100, reset: float = 600.0, cost: int = 1
    ) -> None:
        known = Quota()
        if remaining is not None:
            known.learn(rate_limit(limit, remaining, reset), NOW)
        #: Waits that have been cancelled.
        self.gone: set[str] = set()
        super().__init__(known, alive=lambda name: name not in self.gone, cost=cost)

    def polls(self, *names: str | int, due: float = 0.0) -> None:
        for name in names:
            self.push_poll(str(name), NOW + due)

    def submissions(self, *names: str, due: float = 0.0) -> None:
        for name in names:
            self.push_submission(name, NOW + due)


def drain(queue: RequestQueue[str], until: float, *, start: float = 0.0) -> list[tuple[float, str]]:
    """Carry out every request up to a moment; return the seconds since NOW and the name of each."""
    done: list[tuple[float, str]] = []
    now = NOW + start
    while now <= NOW + until:
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


def names(done: list[tuple[float, str]]) -> list[str]:
    return [name for _, name in done]


def test_the_most_overdue_poll_comes_first() -> None:
    queue = Queue()
    queue.polls("late", due=-1)
    queue.polls("later", due=-5)
    queue.polls("not yet", due=5)
    assert names(drain(queue, 1)) == ["later", "late"]
    assert queue.next(NOW + 1).until == NOW + 5
    assert Queue().next(NOW).until == float("inf")


def test_cancelled_waits_are_skipped_and_pruned() -> None:
    queue = Queue()
    queue.gone.add("gone")
    queue.polls("gone", due=-5)
    queue.polls("there", due=-1)
    queue.submissions("gone", due=-5)
    assert queue.next(NOW).polls == ("there",)
    assert len(queue) == 0
    queue.polls("gone", due=50)
    queue.prune()
    assert len(queue) == 0


def test_more_polls_than_the_quota_allows_are_sent_in_the_order_of_their_due_time() -> None:
    queue = Queue(50)
    for number in range(200):
        queue.polls(number, due=number - 200)
    done = drain(queue, 600)
    assert names(done) == [str(number) for number in range(50)]
    assert sum(moment < 1 for moment, _ in done) == 25  # the rest was reserved for submissions for a while


def test_an_unknown_quota_gets_a_burst_and_then_a_steady_rate() -> None:
    queue = Queue()
    queue.polls(*range(POLICY.max_burst + 10))
    moments = [moment for moment, _ in drain(queue, 60)]
    assert sum(moment == 0 for moment in moments) in (POLICY.max_burst, POLICY.max_burst + 1)
    seconds = moments[-1] - moments[POLICY.max_burst + 1]
    assert seconds == pytest.approx(8 / POLICY.max_polls_per_second, abs=1e-3)


def test_a_request_for_many_includes_the_polls_that_are_due_soon() -> None:
    queue = Queue()
    for name, due in (("now", 0.0), ("soon", POLICY.coalesce), ("later", POLICY.coalesce + 0.1)):
        queue.polls(name, due=due)
    assert queue.next(NOW, max_ids=10).polls == ("now", "soon")
    assert queue.next(NOW, max_ids=10).until == NOW + POLICY.coalesce + 0.1
    queue.polls(*"abcd", due=-1)
    queue.gone.add("b")
    assert queue.next(NOW, max_ids=2).polls == ("a", "c")


def test_a_poll_of_two_requests_needs_room_for_both() -> None:
    queue = Queue(1, reset=0.5, cost=2)
    queue.polls("poll")
    assert drain(queue, 0.5) == []
    assert names(drain(queue, 2)) == ["poll"]
    # Both are reserved until the poll is complete.
    queue = Queue(90, cost=2)
    queue.polls("poll")
    assert queue.next(NOW).polls == ("poll",)
    assert queue.quota.free(NOW) == 88
    queue.release()
    assert queue.quota.free(NOW) == 90


@pytest.mark.parametrize(("requests_per_hour", "cost"), [(1, 1), (1, 2), (2, 2), (3, 2), (10, 2)])
def test_a_small_plan_without_headers_still_polls(requests_per_hour: int, cost: int) -> None:
    queue = Queue(cost=cost)
    queue.quota.requests_per_hour = requests_per_hour
    queue.polls("poll")
    assert names(drain(queue, 1)) == ["poll"]
    queue = Queue(1, limit=1, cost=cost)
    queue.polls("poll")
    assert names(drain(queue, 601)) == ["poll"]


def test_submissions_and_polls_alternate() -> None:
    queue = Queue(100)
    queue.polls(*["poll"] * 3, due=-5)
    queue.submissions(*["submit"] * 3, due=-1)
    assert names(drain(queue, 1)) == ["submit", "poll"] * 3


def test_the_reserved_share_is_released_as_the_window_ends() -> None:
    queue = Queue(20)
    queue.polls("poll")
    at = queue.next(NOW).until
    # Of 25 reserved requests, 6 are missing: with 6 / 25 of the window left there is room for one poll.
    assert at == pytest.approx(NOW + 600 * 6 / 25)
    assert queue.next(at + 1).polls == ("poll",)


def test_the_reserved_share_of_a_plan_is_released_within_the_hour() -> None:
    queue = Queue()
    queue.quota.requests_per_hour = 20
    queue.polls(*range(30))
    times = [at for at, _ in drain(queue, 3599)]
    assert sum(at < 60 for at in times) == 15
    assert len(times) >= 19


def test_a_submission_needs_one_free_request() -> None:
    queue = Queue(1)
    queue.submissions("early", due=5)
    assert queue.next(NOW).until == NOW + 5
    assert queue.next(NOW + 5).submission == "early"


@pytest.mark.parametrize(
    ("remaining", "interval", "left"), [(None, POLICY.submission_interval, math.inf), (5, 0.0, 3)]
)
def test_only_submissions_to_an_unknown_quota_keep_an_interval(
    remaining: int | None, interval: float, left: float
) -> None:
    queue = Queue(remaining)
    queue.submissions("a", "b", due=-1)
    assert drain(queue, 1.0) == [(0.0, "a"), (pytest.approx(interval), "b")]
    assert queue.quota.free(NOW) == left


def test_a_used_up_quota_blocks_polls_and_submissions_until_it_ends() -> None:
    queue = Queue(0)
    queue.polls("poll")
    assert not queue.has_blocked_submissions(NOW)
    queue.submissions("submit")
    assert queue.next(NOW).until == NOW + 600 + POLICY.reset_margin
    assert not queue.has_blocked_submissions(NOW - 1)
    assert sorted(names(drain(queue, 700))) == ["poll", "submit"]


@pytest.mark.parametrize(
    ("remaining", "reserved", "blocked"),
    [(None, 0, False), (5, 0, False), (1, 0, False), (1, 1, True), (0, 0, True)],
)
def test_only_a_used_up_quota_blocks_submissions(remaining: int | None, reserved: int, blocked: bool) -> None:
    """Otherwise one refusal would let every later submission wait in a queue that never empties."""
    queue = Queue(remaining)
    queue.submissions("submit")
    queue.quota.reserve(reserved)
    assert queue.has_blocked_submissions(NOW) is blocked


def test_a_wait_expires_where_the_quota_allows_no_poll() -> None:
    queue = Queue(0)
    for name, end in (("a", 20.0), ("b", 30.0), ("gone", 10.0)):
        queue.polls(name)
        queue.set_deadline(name, NOW + end)
    queue.gone.add("gone")
    assert queue.next_deadline == NOW + 10.0
    queue.next(NOW)
    assert queue.next_deadline == NOW + 20.0
    assert queue.pop_expired(NOW + 19.9) == []
    assert queue.pop_expired(NOW + 30.0) == ["a", "b"]
    assert queue.pop_expired(NOW + 30.0) == []
    queue.set_deadline("gone", NOW + 1000.0)
    queue.prune()
    assert queue.next_deadline == float("inf")


@given(
    polls=st.lists(st.floats(0, 1000), max_size=30),
    submissions=st.lists(st.floats(0, 1000), max_size=10),
    limit=st.integers(1, 40),
    cost=st.integers(1, 2),
    window=st.floats(10, 3600),
)
def test_every_request_is_sent_and_no_quota_is_exceeded(
    polls: list[float], submissions: list[float], limit: int, cost: int, window: float
) -> None:
    queue = Queue(limit, limit=limit, reset=window, cost=cost)
    expected = []
    for kind, push, times in (("p", queue.polls, polls), ("s", queue.submissions, submissions)):
        for number, at in enumerate(times):
            expected.append(f"{kind}{number}")
            push(expected[-1], due=at)
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
                queue.quota.spend(now)
            left = max(0, limit - used)
            queue.quota.learn(rate_limit(limit, left, begun - NOW + window), now)
        assert used <= max(limit, cost)
        if grant.polls:
            queue.release()
        else:
            queue.quota.on_observed_submission(now, now)
        done += list(grant.polls) or [grant.submission]
    assert sorted(done) == sorted(expected)
