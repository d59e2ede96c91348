from __future__ import annotations

from airflow_provider_seedance.emulator.rate_limiter import RateLimiter


def test_no_quota() -> None:
    assert RateLimiter().spend("ark", "key", 0) is None


def test_a_window_is_used_up_and_restarts() -> None:
    quota = RateLimiter((2, 10))
    allowances = [quota.spend("ark", "key", now) for now in (100, 101, 102, 110)]
    assert [a.allowed for a in allowances if a] == [True, True, False, True]
    assert [a.remaining for a in allowances if a] == [1, 0, 0, 1]
    assert [a.reset for a in allowances if a] == [110, 110, 110, 120]


def test_each_key_and_service_has_its_own() -> None:
    quota = RateLimiter((1, 10))
    for api, key in (("ark", "a"), ("ark", "b"), ("runbase", "a")):
        assert quota.spend(api, key, 0).allowed


def test_changing_the_limit_resets_the_windows() -> None:
    quota = RateLimiter((1, 10))
    quota.spend("ark", "a", 0)
    quota.set((1, 10))
    allowance = quota.spend("ark", "a", 0)
    assert allowance.allowed
    quota.set(None)
    assert quota.spend("ark", "a", 0) is None
