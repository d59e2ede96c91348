from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from emulator.vendor import ARK_TASKS, Time, Vendor, Vendors

PRO_1 = "seedance-1-0-pro-250528"
PRO_15 = "seedance-1-5-pro-251215"
LITE_TEXT, LITE_IMAGE = "seedance-1-0-lite-t2v-250428", "seedance-1-0-lite-i2v-250428"
V2 = "dreamina-seedance-2-0-260128"
V2_FAST = "doubao-seedance-2-0-fast-260128"
V25 = "dreamina-seedance-2-5-260628"
TEXT = {"type": "text", "text": "a red kite"}


def image(role: str | None = None, url: str = "https://x.example/a.png") -> dict[str, Any]:
    item: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
    return item if role is None else {**item, "role": role}


def source(kind: str, url: str = "https://x.example/a") -> dict[str, Any]:
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}, "role": f"reference_{kind}"}


FRAME, CLIP = [TEXT, image("first_frame")], [TEXT, source("video")]
DRAFT = {"type": "draft_task", "draft_task": {"id": "cgt-1"}}
EDIT = {"content": CLIP, "omni_reference_task_type": "edit"}


@pytest.fixture
def held(serve: Vendors) -> Vendor:
    """Ark, where renders stay queued."""
    ark = serve("ark", render_seconds=1000)
    ark.emulator.hold()
    return ark


def create(ark: Vendor, model: str = V2, **body: Any) -> Any:
    return ark.post(ARK_TASKS, {"model": model, "content": [TEXT], **body})


def create_id(ark: Vendor, model: str = V2, **body: Any) -> str:
    return ark.id_of(create(ark, model, **body))


def task_of(ark: Vendor, model: str = V2, **body: Any) -> Any:
    """Create a task and read it."""
    return ark.status(create_id(ark, model, **body)).json()


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


def test_null_is_the_same_as_a_missing_field(ark: Vendor) -> None:
    reply = create(ark, seed=None, callback_url=None, frames=None)
    assert set(reply.raise_for_status().json()) == {"id"}
    assert ark.emulator.ledger.submissions[0].request == {"model": V2, "content": [TEXT]}


def test_last_frame_and_frames(ark: Vendor) -> None:
    task = task_of(ark, PRO_1, return_last_frame=True, frames=29)
    assert (task["frames"], "duration" in task) == (29, False)
    assert ark.http.get(task["content"]["last_frame_url"]).headers["content-type"] == "image/jpeg"


def test_accepted_requests(ark: Vendor) -> None:
    for model, body in [
        (V2, {"resolution": "4k"}),
        (V2, {"duration": 15}),
        (V2, {"duration": -1}),
        (V2, {"priority": 9}),
        (V2, {"tools": [{"type": "web_search"}]}),
        (V2, {"seed": 2**32 - 1, "execution_expires_after": 3600, "watermark": True}),
        (V2, {"ratio": "adaptive"}),
        (V2, {"ratio": "16:9", "content": FRAME}),
        (V25, {"duration": 30, "output_format": "mov", "omni_reference_task_type": "auto", "draft": True}),
        (V25, {"ratio": "adaptive", "content": FRAME}),
        (V25, {"ratio": "16:9", "content": [TEXT, image("reference_image")]}),
        (V25, {"resolution": "1080p", "content": [DRAFT]}),
        *[(V25, {**EDIT, **body}) for body in ({}, {"duration": -1}, {"ratio": "16:9"})],
        (PRO_15, {"generate_audio": False, "draft": True, "service_tier": "flex"}),
        (PRO_1, {"duration": 2, "camera_fixed": True, "resolution": "1080p"}),
        (PRO_1, {"ratio": "adaptive", "content": FRAME}),
        ("ep-20260101-abcde", {}),
    ]:
        reply = create(ark, model, **body)
        assert reply.status_code == 200, reply.text


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
        (V25, [DRAFT]),
        (LITE_IMAGE, FRAME),
    ]:
        reply = create(ark, model, content=content)
        assert reply.status_code == 200, reply.text


def check_refused(ark: Vendor, model: str, code: str, **body: Any) -> None:
    """Check that a request is refused because of the first of its fields."""
    reply = create(ark, model, **body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert set(error) == {"code", "message", "param", "type"}
    assert (error["code"], error["param"]) == (code, next(iter(body)))
    assert ark.emulator.ledger.submissions == []


def test_refused_requests(ark: Vendor) -> None:
    for model, fields in [
        (V2, [{"duration": "5"}, {"duration": 3}, {"duration": 16}, {"ratio": "9:21"}, {"frames": 29}]),
        (V2, [{"camera_fixed": True}, {"draft": True}, {"service_tier": "flex"}, {"output_format": "mov"}]),
        (V2, [{"tools": [{"type": "calculator"}]}, {"execution_expires_after": 60}, {"seed": -2}]),
        (
            V2,
            [{"safety_identifier": "x" * 65}, {"callback_url": "nowhere"}, {"watermark": 1}, {"prompt": "k"}],
        ),
        (V2_FAST, [{"resolution": "1080p"}]),
        (V25, [{"resolution": "4k"}]),
        (PRO_1, [{"duration": -1}, {"duration": 13}, {"frames": 30}, {"ratio": "adaptive"}]),
        (PRO_1, [{"generate_audio": True}, {"priority": 1}]),
    ]:
        for field in fields:
            check_refused(ark, model, "InvalidParameter", **field)
    for field in ({"ratio": "16:9"}, {"duration": 5}, {"seed": 1}, {"generate_audio": True}, {"draft": True}):
        check_refused(ark, V25, "InvalidParameter", **field, content=[DRAFT])


def test_fields_that_do_not_go_with_the_task_are_refused(ark: Vendor) -> None:
    for body in [
        {"ratio": "16:9", "content": FRAME},
        {"ratio": "9:16", "content": [TEXT, image()]},
        {"duration": 5, **EDIT},
        {"resolution": "720p", "content": [DRAFT]},
    ]:
        check_refused(ark, V25, "InvalidParameter.TaskTypeConstraint", **body)


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
        (V2, [TEXT, DRAFT]),
        (PRO_15, [TEXT, image("reference_image")]),
        (LITE_TEXT, [TEXT, image()]),
        (LITE_IMAGE, [TEXT]),
    ]:
        reply = create(ark, model, content=content)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"].startswith("content")


def test_unknown_models(ark: Vendor) -> None:
    for model in ["seedance-9-260101", "seedance-2-0", "dreamina-seedance-2-0-pro-260128", "gpt"]:
        reply = create(ark, model)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "InvalidEndpointOrModel.NotFound")


def test_parameters_behind_the_prompt(ark: Vendor) -> None:
    for prompt, used in [
        ("kite --rs 480p --rt 1:1 --dur 10", ("480p", "1:1", 10)),
        ("kite --rs 9p --rt 7:1 --dur 99", ("1080p", "16:9", 5)),
    ]:
        task = task_of(ark, PRO_1, content=[{"type": "text", "text": prompt}])
        assert (task["resolution"], task["ratio"], task["duration"]) == used


def test_a_render_that_is_moderated(ark: Vendor) -> None:
    ark.emulator.fault("fail", code="OutputVideoSensitiveContentDetected", message="no")
    task = task_of(ark)
    assert task["status"] == "failed"
    assert task["error"] == {"code": "OutputVideoSensitiveContentDetected", "message": "no"}
    assert "content" not in task


def test_cancel_in_the_queue(held: Vendor) -> None:
    ledger, task_id = held.emulator.ledger, create_id(held)
    reply = held.call("DELETE", f"{ARK_TASKS}/{task_id}")
    assert (reply.status_code, reply.json()) == (200, {})
    assert held.status(task_id).json()["status"] == "cancelled"
    assert ledger.billed == 0
    assert [(deletion.was, deletion.effect) for deletion in ledger.deletions] == [("queued", "cancelled")]
    assert held.call("DELETE", f"{ARK_TASKS}/{task_id}").status_code == 409
    assert len(ledger.cancels()) == 2


def test_deleting_a_finished_task_destroys_it(ark: Vendor) -> None:
    ledger, task_id = ark.emulator.ledger, create_id(ark)
    assert ark.call("DELETE", f"{ARK_TASKS}/{task_id}").status_code == 200
    assert ark.status(task_id).status_code == 404
    assert [(deletion.was, deletion.effect) for deletion in ledger.deletions] == [("succeeded", "deleted")]
    assert ledger.billed > 0


def test_list(held: Vendor) -> None:
    ids = [create_id(held, model) for model in (V2, V2, PRO_1)]
    held.emulator.finish(ids[0])

    def listed(**query: Any) -> tuple[int, list[str]]:
        found = held.get(ARK_TASKS, params=query).json()
        return found["total"], [task["id"] for task in found["items"]]

    assert listed() == (3, ids[::-1])
    assert listed(**{"filter.status": "succeeded"}) == (1, ids[:1])
    assert listed(**{"filter.model": V2}) == (2, ids[1::-1])
    assert listed(**{"filter.service_tier": "flex"}) == (0, [])
    assert listed(**{"filter.task_ids": [ids[0], ids[2], "unknown-id"]}) == (2, [ids[2], ids[0]])
    assert listed(page_num=2, page_size=2) == (3, ids[:1])
    assert held.emulator.ledger.count("list", api="ark") == 6


def test_the_list_has_flexible_tasks_only_if_requested(ark: Vendor) -> None:
    ids = [create_id(ark, PRO_1, service_tier=tier) for tier in ("default", "flex")]
    for query, expected in (({}, ids[0]), ({"filter.service_tier": "flex"}, ids[1])):
        assert [task["id"] for task in ark.get(ARK_TASKS, params=query).json()["items"]] == [expected]


def test_list_is_strict(ark: Vendor) -> None:
    for query in ("page_num=0", "page_size=x", "page_size=501", "filter.status=done", "x=1"):
        assert ark.get(f"{ARK_TASKS}?{query}").status_code == 400


# ---------------------------------------------------------------------- time, and limits of an account


@pytest.fixture
def account(serve: Vendors, time: Time) -> Vendors:
    """Start ark with the limits of an account, at a time that the test sets; a render takes 100 seconds."""
    return partial(serve, "ark", limits=True, speed=1, render_seconds=100, clock=time)


def code_of(reply: Any) -> str | None:
    return str(reply.json()["error"]["code"]) if reply.status_code == 429 else None


def test_no_cancel_while_running(account: Vendors, time: Time) -> None:
    ark = account()
    task_id = create_id(ark)
    time.now += 50
    assert ark.call("DELETE", f"{ARK_TASKS}/{task_id}").status_code == 409
    assert ark.status(task_id).json()["status"] == "running"
    assert ark.emulator.ledger.deletions == []


def test_records_age(account: Vendors, time: Time) -> None:
    ark = account(render_seconds=0)
    task_id = create_id(ark)
    url = ark.status(task_id).json()["content"]["video_url"]
    time.now += 86_300
    assert ark.http.get(url).status_code == 200
    time.now += 200
    assert ark.http.get(url).status_code == 403
    time.now += 6 * 86_400
    assert ark.status(task_id).status_code == 404
    assert ark.get(ARK_TASKS).json()["total"] == 0


def test_an_account_may_list_once_and_read_20_times_a_second(account: Vendors, time: Time) -> None:
    ark = account()
    task = ark.submit_id()
    lists = [ark.get(ARK_TASKS).status_code for _ in range(2)]
    reads = [ark.status(task) for _ in range(21)]
    assert lists == [200, 429]
    assert [code_of(reply) for reply in reads] == [None] * 20 + ["AccountRateLimitExceeded"]
    time.now += 1.0
    assert ark.get(ARK_TASKS).status_code == 200
    assert ark.status(task).status_code == 200


def test_a_model_takes_15_submissions_a_minute_at_4k(account: Vendors, time: Time) -> None:
    ark = account()
    replies = [create(ark, resolution="4k") for _ in range(16)]
    assert [code_of(reply) for reply in replies] == [None] * 15 + ["ModelAccountRpmRateLimitExceeded"]
    assert create(ark).status_code == 200
    time.now += 60.0
    assert create(ark, resolution="4k").status_code == 200


def test_limits_are_in_emulated_seconds(account: Vendors, time: Time) -> None:
    fast = account(speed=100)
    assert fast.get(ARK_TASKS).status_code == 200
    time.now += 0.011
    assert fast.get(ARK_TASKS).status_code == 200


# ---------------------------------------------------------------------- renders at a time


def running(emulator: SeedanceEmulator) -> list[str]:
    return [one.prompt for one in emulator.generations if one.status == "running"]


def submit_all(ark: Vendor, count: int, model: str = V2, **body: Any) -> list[str]:
    contents = [[{"type": "text", "text": str(number)}] for number in range(count)]
    return [create_id(ark, model, content=content, **body) for content in contents]


@pytest.mark.parametrize(("options", "limit"), [({}, 10), ({"concurrency": 3}, 3), ({"concurrency": 1}, 1)])
def test_renders_above_the_concurrency_are_queued_and_not_refused(
    options: Any, limit: int, account: Vendors, time: Time
) -> None:
    ark = account(**options)
    ids = submit_all(ark, 25)
    time.now += 50
    begun = running(ark.emulator)
    assert len(begun) == limit
    queued = next(number for number in range(25) if str(number) not in begun)
    statuses = [ark.status(ids[number]).json()["status"] for number in (int(begun[0]), queued)]
    assert statuses == ["running", "queued"]
    time.now += 80  # the first ones have ended, and as many have begun
    assert len(running(ark.emulator)) == min(limit, 25 - limit)
    assert not {*running(ark.emulator)} & {*begun}
    time.now += 100 * 25
    assert {one.status for one in ark.emulator.generations} == {"succeeded"}


def test_each_model_and_tier_has_its_own_renders_at_a_time_and_4k_one(account: Vendors, time: Time) -> None:
    ark = account(concurrency=2)
    for model, body in [
        (V2, {}),
        (V2_FAST, {}),
        (V2, {"resolution": "4k"}),
        (PRO_1, {}),
        (PRO_1, {"service_tier": "flex"}),
    ]:
        submit_all(ark, 3, model, **body)
    time.now += 50
    assert len(running(ark.emulator)) == 4 * 2 + 1


def test_the_slot_of_a_render_that_ends_early_is_free(account: Vendors, time: Time) -> None:
    ark = account(concurrency=1)
    ids = dict(enumerate(submit_all(ark, 4)))
    time.now += 50
    first = ids.pop(int(running(ark.emulator)[0]))
    cancelled, failed, last = ids.values()
    assert ark.call("DELETE", f"{ARK_TASKS}/{cancelled}").status_code == 200
    ark.emulator.fail(failed, "no")
    ark.emulator.finish(first)
    time.now += 1
    generation = ark.emulator.generation(last)
    assert (generation.status, generation.queue_seconds) == ("running", 50)


def test_a_queued_render_expires(account: Vendors, time: Time) -> None:
    ark = account(render_seconds=3500, concurrency=1)
    ids = submit_all(ark, 3, execution_expires_after=3700)
    time.now += 60
    assert ark.emulator.generation(ids[0]).queue_seconds <= 60
    time.now += 7500
    statuses = [ark.status(task).json()["status"] for task in ids]
    assert sorted(statuses) == ["expired", "expired", "succeeded"]
    assert sorted(ark.emulator.generation(task).queue_seconds for task in ids)[1:] == [3500, 3700]


def test_without_limits_all_render_at_once(account: Vendors, time: Time) -> None:
    ark = account(limits=False)
    submit_all(ark, 30)
    time.now += 50
    assert len(running(ark.emulator)) == 30


def test_the_concurrency_is_at_least_one(account: Vendors) -> None:
    with pytest.raises(ValueError, match="concurrency must be at least 1"):
        account(concurrency=0)
