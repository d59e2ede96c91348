from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from emulator.vendor import ARK_TASKS, Vendor

Vendors = Callable[..., Vendor]
Start = Callable[..., SeedanceEmulator]

PRO_1 = "seedance-1-0-pro-250528"
PRO_15 = "seedance-1-5-pro-251215"
V2 = "dreamina-seedance-2-0-260128"
V2_FAST = "doubao-seedance-2-0-fast-260128"
V25 = "dreamina-seedance-2-5-260628"
TEXT = {"type": "text", "text": "a red kite"}


def image(role: str | None = None, url: str = "https://x.example/a.png") -> dict[str, Any]:
    item: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
    return item if role is None else {**item, "role": role}


def source(kind: str, url: str = "https://x.example/a") -> dict[str, Any]:
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}, "role": f"reference_{kind}"}


@pytest.fixture
def held(emulator: SeedanceEmulator, start: Start, vendor: Vendors) -> tuple[SeedanceEmulator, Vendor]:
    """An emulator whose renders stay queued."""
    slow = start(render_seconds=1000)
    slow.hold()
    return slow, vendor(slow, "ark")


def create(ark: Vendor, model: str = V2, **body: Any) -> Any:
    return ark.post(ARK_TASKS, {"model": model, "content": [TEXT], **body})


def test_from_create_to_result(ark: Vendor) -> None:
    created = create(ark, safety_identifier="run-1", ratio="9:16", duration=8, seed=7)
    assert created.json() == {"id": created.json()["id"], "safety_identifier": "run-1"}
    assert created.json()["id"].startswith("cgt-20")
    task = ark.status(created.json()["id"]).json()
    assert (task["status"], task["error"]) == ("succeeded", None)
    assert (task["duration"], task["ratio"], task["seed"]) == (8, "9:16", 7)
    assert (task["generate_audio"], task["framespersecond"], task["resolution"]) == (True, 24, "720p")
    assert task["safety_identifier"] == "run-1"
    assert isinstance(task["created_at"], int)
    assert task["usage"]["total_tokens"] > 0
    assert "frames" not in task
    assert ark.http.get(task["content"]["video_url"]).status_code == 200


def test_only_the_id_without_a_safety_identifier(ark: Vendor) -> None:
    assert set(create(ark).json()) == {"id"}


def test_null_is_the_same_as_a_missing_field(ark: Vendor, emulator: SeedanceEmulator) -> None:
    assert create(ark, seed=None, callback_url=None, frames=None).status_code == 200
    assert emulator.ledger.submissions[0].request == {"model": V2, "content": [TEXT]}


def test_last_frame_and_frames(ark: Vendor) -> None:
    task = ark.status(create(ark, PRO_1, return_last_frame=True, frames=29).json()["id"]).json()
    assert (task["frames"], "duration" in task) == (29, False)
    assert ark.http.get(task["content"]["last_frame_url"]).headers["content-type"] == "image/jpeg"


def test_accepted_requests(ark: Vendor) -> None:
    for model, body in [
        (V2, {"resolution": "4k"}),
        (V2, {"duration": 15}),
        (V2, {"duration": -1}),
        (V2, {"priority": 9}),
        (V2, {"tools": [{"type": "web_search"}]}),
        (V25, {"duration": 30, "output_format": "mov", "omni_reference_task_type": "auto", "draft": True}),
        (PRO_15, {"generate_audio": False, "draft": True, "service_tier": "flex"}),
        (PRO_1, {"duration": 2, "camera_fixed": True, "resolution": "1080p"}),
        (V2, {"seed": 2**32 - 1, "execution_expires_after": 3600, "watermark": True}),
        ("ep-20260101-abcde", {}),
    ]:
        assert create(ark, model, **body).status_code == 200


def test_refused_requests(ark: Vendor, emulator: SeedanceEmulator) -> None:
    for model, body in [
        *[(V2, {"duration": seconds}) for seconds in ("5", 3, 16)],
        *[(PRO_1, {"duration": seconds}) for seconds in (-1, 13)],
        *[(V2, {name: True}) for name in ("camera_fixed", "draft")],
        *[(PRO_1, body) for body in ({"generate_audio": True}, {"priority": 1}, {"frames": 30})],
        (V2_FAST, {"resolution": "1080p"}),
        (V25, {"resolution": "4k"}),
        (V2, {"tools": [{"type": "calculator"}]}),
        *[
            (V25, {**body, "content": [{"type": "draft_task", "draft_task": {"id": "cgt-1"}}]})
            for body in (
                {"ratio": "16:9"},
                {"duration": 5},
                {"seed": 1},
                {"generate_audio": True},
                {"draft": True},
            )
        ],
        *[(V2, body) for body in ({"ratio": "9:21"}, {"frames": 29}, {"service_tier": "flex"})],
        *[(V2, body) for body in ({"output_format": "mov"}, {"seed": -2}, {"execution_expires_after": 60})],
        *[(V2, body) for body in ({"safety_identifier": "x" * 65}, {"callback_url": "nowhere"})],
        *[(V2, body) for body in ({"watermark": 1}, {"prompt": "kite"})],
    ]:
        reply = create(ark, model, **body)
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert set(error) == {"code", "message", "param", "type"}
        assert (error["code"], error["param"]) == ("InvalidParameter", next(iter(body)))
        assert emulator.ledger.submissions == []


EDIT = {"omni_reference_task_type": "edit"}
FRAME, CLIP = [TEXT, image("first_frame")], [TEXT, source("video")]
DRAFT = [{"type": "draft_task", "draft_task": {"id": "cgt-1"}}]


def test_a_ratio_or_duration_that_does_not_go_with_the_task(ark: Vendor, emulator: SeedanceEmulator) -> None:
    for model, body, code in [
        (PRO_1, {"ratio": "adaptive"}, "InvalidParameter"),
        (V25, {"ratio": "16:9", "content": FRAME}, "InvalidParameter.TaskTypeConstraint"),
        (V25, {"ratio": "9:16", "content": [TEXT, image()]}, "InvalidParameter.TaskTypeConstraint"),
        (V25, {"duration": 5, "content": CLIP, **EDIT}, "InvalidParameter.TaskTypeConstraint"),
        (V25, {"resolution": "720p", "content": DRAFT}, "InvalidParameter.TaskTypeConstraint"),
    ]:
        reply = create(ark, model, **body)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (400, code, next(iter(body)))
        assert emulator.ledger.submissions == []


def test_a_ratio_or_duration_that_goes_with_the_task(ark: Vendor) -> None:
    for model, body in [
        (PRO_1, {"ratio": "adaptive", "content": FRAME}),
        (V2, {"ratio": "adaptive"}),
        (V2, {"ratio": "16:9", "content": FRAME}),
        (V25, {"ratio": "adaptive", "content": FRAME}),
        (V25, {"resolution": "1080p", "content": DRAFT}),
        (V25, {"ratio": "16:9", "content": [TEXT, image("reference_image")]}),
        *[(V25, {**body, "content": CLIP, **EDIT}) for body in ({}, {"duration": -1}, {"ratio": "16:9"})],
    ]:
        assert create(ark, model, **body).status_code == 200


def test_unknown_models(ark: Vendor) -> None:
    for model in ["seedance-9-260101", "seedance-2-0", "dreamina-seedance-2-0-pro-260128", "gpt"]:
        reply = create(ark, model)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "InvalidEndpointOrModel.NotFound")


def test_accepted_content(ark: Vendor) -> None:
    for model, content in [
        (V2, [TEXT, image()]),
        (V2, [image()]),
        (V2, [TEXT, image("first_frame"), image("last_frame")]),
        (V2, [TEXT, *[image("reference_image")] * 9]),
        (V2, [TEXT, image("reference_image"), source("video"), source("audio")]),
        (V2, [TEXT, image(url="data:image/png;base64,AAAA")]),
        (V2, [TEXT, image(url="asset://abc")]),
        (V2, [TEXT, image(url="http://127.0.0.1:1/a.png")]),
        (V25, [TEXT, *[image("reference_image")] * 30]),
        (V25, [{"type": "draft_task", "draft_task": {"id": "cgt-1"}}]),
        ("seedance-1-0-lite-i2v-250428", [TEXT, image("first_frame")]),
    ]:
        reply = create(ark, model, content=content)
        assert reply.status_code == 200, reply.text


def test_refused_content(ark: Vendor) -> None:
    for model, content in [
        (V2, []),
        (V2, "kite"),
        (V2, [{"type": "text"}]),
        (V2, [{"type": "poem", "poem": "kite"}]),
        (V2, [{**TEXT, "role": "user"}]),
        (V2, [TEXT, image("middle_frame")]),
        (V2, [TEXT, image("last_frame")]),
        (V2, [TEXT, image(), image()]),
        (V2, [TEXT, image("last_frame"), image()]),
        (V2, [TEXT, image("first_frame"), image("reference_image")]),
        (V2, [TEXT, image("first_frame"), source("video")]),
        (V2, [TEXT, *[image("reference_image")] * 10]),
        (V2, [TEXT, image(url="http://x.example/a.png")]),
        (V2, [TEXT, source("video", "data:video/mp4;base64,AAAA")]),
        (V2, [TEXT, {"type": "image_url", "image_url": "https://x.example/a.png"}]),
        (V2, [TEXT, {"type": "draft_task", "draft_task": {"id": "cgt-1"}}]),
        (PRO_15, [TEXT, image("reference_image")]),
        ("seedance-1-0-lite-t2v-250428", [TEXT, image()]),
        ("seedance-1-0-lite-i2v-250428", [TEXT]),
    ]:
        reply = create(ark, model, content=content)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"].startswith("content")


def test_parameters_behind_the_prompt(ark: Vendor) -> None:
    content = [{"type": "text", "text": "kite --rs 480p --rt 1:1 --dur 10"}]
    task = ark.status(create(ark, PRO_1, content=content).json()["id"]).json()
    assert (task["resolution"], task["ratio"], task["duration"]) == ("480p", "1:1", 10)
    content = [{"type": "text", "text": "kite --rs 9p --rt 7:1 --dur 99"}]
    task = ark.status(create(ark, PRO_1, content=content).json()["id"]).json()
    assert (task["resolution"], task["ratio"], task["duration"]) == ("1080p", "16:9", 5)


def test_a_render_that_is_moderated(ark: Vendor, emulator: SeedanceEmulator) -> None:
    emulator.fault("fail", code="OutputVideoSensitiveContentDetected", message="no")
    task = ark.status(create(ark).json()["id"]).json()
    assert task["status"] == "failed"
    assert task["error"] == {"code": "OutputVideoSensitiveContentDetected", "message": "no"}
    assert "content" not in task


def test_cancel_in_the_queue(held: tuple[SeedanceEmulator, Vendor]) -> None:
    emulator, ark = held
    task_id = create(ark).json()["id"]
    reply = ark.call("DELETE", f"{ARK_TASKS}/{task_id}")
    assert (reply.status_code, reply.json()) == (200, {})
    assert ark.status(task_id).json()["status"] == "cancelled"
    assert emulator.ledger.billed == 0
    [deletion] = emulator.ledger.deletions
    assert (deletion.was, deletion.effect) == ("queued", "cancelled")
    assert ark.call("DELETE", f"{ARK_TASKS}/{task_id}").status_code == 409
    assert len(emulator.ledger.cancels()) == 2


def test_no_cancel_while_running(start: Start, vendor: Vendors) -> None:
    now = 1000.0
    emulator = start(clock=lambda: now, render_seconds=100, speed=1)
    ark = vendor(emulator, "ark")
    task_id = create(ark).json()["id"]
    now += 50
    reply = ark.call("DELETE", f"{ARK_TASKS}/{task_id}")
    assert reply.status_code == 409
    assert ark.status(task_id).json()["status"] == "running"
    assert emulator.ledger.deletions == []


def test_deleting_a_finished_task_destroys_it(ark: Vendor, emulator: SeedanceEmulator) -> None:
    task_id = create(ark).json()["id"]
    assert ark.call("DELETE", f"{ARK_TASKS}/{task_id}").status_code == 200
    assert ark.status(task_id).status_code == 404
    [deletion] = emulator.ledger.deletions
    assert (deletion.was, deletion.effect) == ("succeeded", "deleted")
    assert emulator.ledger.billed > 0


def test_list(held: tuple[SeedanceEmulator, Vendor]) -> None:
    emulator, ark = held
    ids = [create(ark, model).json()["id"] for model in (V2, V2, PRO_1)]
    emulator.finish(ids[0])

    def listed(**query: Any) -> Any:
        return ark.get(ARK_TASKS, params={f"filter.{k}": v for k, v in query.items()}).json()

    everything = ark.get(ARK_TASKS).json()
    assert everything["total"] == 3
    assert [task["id"] for task in everything["items"]] == ids[::-1]
    assert [task["id"] for task in listed(status="succeeded")["items"]] == [ids[0]]
    assert listed(model=V2)["total"] == 2
    assert listed(service_tier="flex")["total"] == 0
    some = listed(task_ids=[ids[0], ids[2], "unknown-id"])["items"]
    assert {task["id"] for task in some} == {ids[0], ids[2]}
    page = ark.get(ARK_TASKS, params={"page_num": 2, "page_size": 2}).json()
    assert (page["total"], [task["id"] for task in page["items"]]) == (3, [ids[0]])
    assert emulator.ledger.count("list", api="ark") == 6


def test_the_list_has_flexible_tasks_only_if_requested(ark: Vendor) -> None:
    ids = [create(ark, PRO_1, service_tier=tier).json()["id"] for tier in ("default", "flex")]
    for query, expected in (({}, ids[0]), ({"filter.service_tier": "flex"}, ids[1])):
        assert [task["id"] for task in ark.get(ARK_TASKS, params=query).json()["items"]] == [expected]


def test_list_is_strict(ark: Vendor) -> None:
    for query in [
        {"page_num": "0"},
        {"page_size": "x"},
        {"page_size": "501"},
        {"filter.status": "done"},
        {"x": "1"},
    ]:
        assert ark.get(ARK_TASKS, params=query).status_code == 400


def test_changes_by_users(held: tuple[SeedanceEmulator, Vendor]) -> None:
    emulator, ark = held
    ids = [create(ark).json()["id"] for _ in range(4)]
    emulator.expire(ids[0])
    emulator.cancel_remote(ids[1])
    emulator.forget(ids[2])
    emulator.fail(ids[3], "no", code="X")
    statuses = [ark.status(task_id).json().get("status") for task_id in ids]
    assert statuses == ["expired", "cancelled", None, "failed"]
    assert ark.status(ids[2]).status_code == 404


def test_records_age(start: Start, vendor: Vendors) -> None:
    now = 1000.0
    emulator = start(clock=lambda: now, speed=1)
    ark = vendor(emulator, "ark")
    task_id = create(ark).json()["id"]
    url = ark.status(task_id).json()["content"]["video_url"]
    now += 86_300
    assert ark.http.get(url).status_code == 200
    now += 200
    assert ark.http.get(url).status_code == 403
    now += 6 * 86_400
    assert ark.status(task_id).status_code == 404
    assert ark.get(ARK_TASKS).json()["total"] == 0


# ---------------------------------------------------------------------- limits of an account


@pytest.fixture
def limited(start: Any, vendor: Any, now: list[float]) -> Vendor:
    """Ark with the limits of an account, at a time that the test sets."""
    client: Vendor = vendor(start(limits=True, speed=1, clock=lambda: now[0]), "ark")
    return client


@pytest.fixture
def now() -> list[float]:
    return [1_800_000_000.0]


def code_of(reply: Any) -> str | None:
    return str(reply.json()["error"]["code"]) if reply.status_code == 429 else None


def test_an_account_may_list_once_and_read_20_times_a_second(limited: Vendor, now: list[float]) -> None:
    task = limited.submit_id()
    lists = [limited.get("/contents/generations/tasks").status_code for _ in range(2)]
    reads = [limited.status(task) for _ in range(21)]
    assert lists == [200, 429]
    assert [code_of(reply) for reply in reads] == [None] * 20 + ["AccountRateLimitExceeded"]
    now[0] += 1.0
    assert limited.get("/contents/generations/tasks").status_code == 200
    assert limited.status(task).status_code == 200


def test_a_model_takes_15_submissions_a_minute_at_4k(limited: Vendor, now: list[float]) -> None:
    replies = [create(limited, resolution="4k") for _ in range(16)]
    assert [code_of(reply) for reply in replies] == [None] * 15 + ["ModelAccountRpmRateLimitExceeded"]
    assert create(limited).status_code == 200
    now[0] += 60.0
    assert create(limited, resolution="4k").status_code == 200


def test_limits_are_in_emulated_seconds(start: Any, vendor: Any, now: list[float]) -> None:
    fast = vendor(start(limits=True, speed=100, clock=lambda: now[0]), "ark")
    assert fast.get("/contents/generations/tasks").status_code == 200
    now[0] += 0.011
    assert fast.get("/contents/generations/tasks").status_code == 200


# ---------------------------------------------------------------------- renders at a time


def running(emulator: SeedanceEmulator) -> list[str]:
    return [one.prompt for one in emulator.generations if one.status == "running"]


def submit_all(ark: Vendor, count: int, model: str = V2, **body: Any) -> list[str]:
    contents = [[{"type": "text", "text": str(number)}] for number in range(count)]
    replies = [create(ark, model, content=content, **body) for content in contents]
    assert [reply.status_code for reply in replies] == [200] * count
    return [reply.json()["id"] for reply in replies]


@pytest.mark.parametrize(("options", "limit"), [({}, 10), ({"concurrency": 3}, 3), ({"concurrency": 1}, 1)])
def test_renders_above_the_concurrency_are_queued_and_not_refused(
    options: Any, limit: int, start: Any, vendor: Any, now: list[float]
) -> None:
    emulator = start(limits=True, speed=1, render_seconds=100, clock=lambda: now[0], **options)
    ark = vendor(emulator, "ark")
    ids = submit_all(ark, 25)
    now[0] += 50
    begun = running(emulator)
    assert len(begun) == limit
    queued = next(number for number in range(25) if str(number) not in begun)
    statuses = [ark.status(ids[number]).json()["status"] for number in (int(begun[0]), queued)]
    assert statuses == ["running", "queued"]
    now[0] += 80  # the first ones have ended, and as many have begun
    assert len(running(emulator)) == min(limit, 25 - limit)
    assert not {*running(emulator)} & {*begun}
    now[0] += 100 * 25
    assert {one.status for one in emulator.generations} == {"succeeded"}


def test_each_model_and_tier_has_its_own_renders_at_a_time_and_4k_one(
    start: Any, vendor: Any, now: list[float]
) -> None:
    emulator = start(limits=True, speed=1, render_seconds=100, clock=lambda: now[0], concurrency=2)
    ark = vendor(emulator, "ark")
    for model, body in (
        (V2, {}),
        (V2_FAST, {}),
        (V2, {"resolution": "4k"}),
        (PRO_1, {}),
        (PRO_1, {"service_tier": "flex"}),
    ):
        submit_all(ark, 3, model, **body)
    now[0] += 50
    assert len(running(emulator)) == 4 * 2 + 1


def test_the_slot_of_a_render_that_ends_early_is_free(start: Any, vendor: Any, now: list[float]) -> None:
    emulator = start(limits=True, speed=1, render_seconds=100, clock=lambda: now[0], concurrency=1)
    ark = vendor(emulator, "ark")
    ids = dict(enumerate(submit_all(ark, 4)))
    now[0] += 50
    first = ids.pop(int(running(emulator)[0]))
    cancelled, failed, last = ids.values()
    assert ark.call("DELETE", f"{ARK_TASKS}/{cancelled}").status_code == 200
    emulator.fail(failed, "no")
    emulator.finish(first)
    now[0] += 1
    generation = emulator.generation(last)
    assert (generation.status, generation.queue_seconds) == ("running", 50)


def test_a_queued_render_expires(start: Any, vendor: Any, now: list[float]) -> None:
    emulator = start(limits=True, speed=1, render_seconds=3500, clock=lambda: now[0], concurrency=1)
    ark = vendor(emulator, "ark")
    ids = submit_all(ark, 3, execution_expires_after=3700)
    now[0] += 60
    assert emulator.generation(ids[0]).queue_seconds <= 60
    now[0] += 7500
    statuses = [ark.status(task).json()["status"] for task in ids]
    assert sorted(statuses) == ["expired", "expired", "succeeded"]
    assert sorted(emulator.generation(task).queue_seconds for task in ids)[1:] == [3500, 3700]


def test_without_limits_all_render_at_once(start: Any, vendor: Any, now: list[float]) -> None:
    emulator = start(limits=False, speed=1, render_seconds=100, clock=lambda: now[0])
    submit_all(vendor(emulator, "ark"), 30)
    now[0] += 50
    assert len(running(emulator)) == 30


def test_the_concurrency_is_at_least_one(start: Any) -> None:
    with pytest.raises(ValueError, match="concurrency must be at least 1"):
        start(concurrency=0)
