"""The table's rows "other fingerprint": a record belongs to the request it was paid for."""

from __future__ import annotations

from typing import Any

import pytest

from .airflow_fixture import NEVER, STANDS_AFTER_ID, TIMEOUT_SECONDS, AirflowFixture, Task, first_of

pytestmark = pytest.mark.side_by_side

BY_TRY = "seen from {{ 'the left' if ti.try_number == 1 else 'the right' }}"


def _left_behind(airflow: AirflowFixture, retries: int, **arguments: Any) -> tuple[Task, str]:
    """A task whose first worker was killed after the id, and whose prompt is another one in the next try."""
    boat = airflow.video(
        "ark", retries=retries, prompt=BY_TRY, arguments={**STANDS_AFTER_ID, **arguments}
    ).start()
    paid = str(boat.until_recorded())
    boat.kill()
    return boat, paid


# ---------------------------------------------------------------------- an id


def test_a_retry_with_another_request_fails_for_good(airflow: AirflowFixture) -> None:
    boat, paid = _left_behind(airflow, 2)
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.until_says(
        f"the request changed (prompt) since generation {paid} was submitted",
        "Clear the task to submit the new request",
        try_number=2,
    )


PICTURE = "https://pictures.example.com/{{ ti.try_number }}.png?Signature=s"


@pytest.mark.parametrize(
    ("conn_id", "arguments", "later", "changed"),
    first_of(
        ("seedanceapi_v1", {}, {"seedance_conn_id": "seedanceapi_v2"}, "api, base_url"),
        ("ark", {}, {"aspect_ratio": "1:1"}, "aspect_ratio"),
        ("seedance2api", {"images": [PICTURE]}, {}, "images"),
    ),
)
def test_another_service_argument_or_picture_is_another_request(
    airflow: AirflowFixture, conn_id: str, arguments: dict[str, Any], later: dict[str, Any], changed: str
) -> None:
    boat = airflow.video(conn_id, retries=1, arguments={**STANDS_AFTER_ID, **arguments}, later=later).start()
    boat.until_recorded()
    boat.kill()
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.until_says(f"the request changed ({changed})")


@pytest.mark.parametrize("on_clear", first_of("reuse", "new"))
def test_a_cleared_task_submits_its_new_request(airflow: AirflowFixture, on_clear: str) -> None:
    boat, paid = _left_behind(airflow, 0, on_clear=on_clear)
    boat.until("failed")
    boat.clear()
    _ends_as_another_one(boat, paid)
    boat.until_says(
        f"The task was cleared and the request changed (prompt) since generation {paid} was submitted",
        f"{paid} was paid for and is left behind",
        try_number=2,
    )


def test_a_retry_submits_its_new_request_with_resubmit(airflow: AirflowFixture) -> None:
    boat, paid = _left_behind(airflow, 1, on_uncertain_submit="resubmit")
    _ends_as_another_one(boat, paid)
    boat.until_says("on_uncertain_submit='resubmit': submitting anew, which pays again", try_number=2)


# ---------------------------------------------------------------------- an intent without an id


def test_a_retry_with_another_request_does_not_forget_the_uncertain_one(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedanceapi_v2", retries=1, prompt=BY_TRY).kill_after_post()
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.until_says("An earlier try was about to submit", try_number=2)
    boat.clear()
    boat.submit_anew(try_number=3)


def test_a_cleared_task_with_another_request_first_reports_the_uncertain_one(airflow: AirflowFixture) -> None:
    boat = airflow.video("runbase", prompt=BY_TRY).kill_after_post()
    boat.until("failed", try_number=1)
    boat.clear()
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)


def test_a_lost_render_that_is_found_is_not_delivered_for_another_request(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark", retries=1, prompt=BY_TRY).kill_after_post()
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.until_says(
        f"The submission whose reply was lost was taken: it is generation {boat.generations[0]}",
        "the request changed (prompt)",
    )


# ---------------------------------------------------------------------- the same request

SIGNED = "https://pictures.example.com/harbour.png?Expires={{ ti.try_number }}&Signature=s{{ ti.try_number }}"


@pytest.mark.parametrize("how", first_of("retry", "clear"))
def test_a_presigned_url_that_was_renewed_is_the_same_request(airflow: AirflowFixture, how: str) -> None:
    boat = airflow.video(
        "seedance2api", retries=1 if how == "retry" else 0, arguments={**STANDS_AFTER_ID, "images": [SIGNED]}
    ).start()
    paid = boat.until_recorded()
    assert "Signature=s1" in str(boat.taken[0].request)
    boat.enter_again(how)
    boat.until_says("waiting for it, not submitting again", try_number=2)
    boat.deliver(paid, try_number=2)


# ---------------------------------------------------------------------- mapped


def _mapped(airflow: AirflowFixture, retries: int) -> tuple[Task, list[Task], list[str]]:
    """Two mapped tasks whose first workers stand after the id."""
    boat = airflow.video(
        "ark",
        dag_id=f"mapped_{retries}",
        items=("an owl", "a whale"),
        arguments={"deferrable": False, "poll_interval": NEVER},
    ).start()
    items = [boat.item(0), boat.item(1)]
    paid = [str(item.until_recorded()) for item in items]
    prompts = [boat.emulator.generation(each).prompt for each in paid]
    assert prompts == [f"{boat.word} an owl", f"{boat.word} a whale"]
    return boat, items, paid


def _reorder(boat: Task) -> None:
    boat.airflow.airflow.clear(boat.dag_id, boat.run_id, ["items"])
    boat.airflow.airflow.wait_task(
        boat.dag_id, boat.run_id, "items", {"success"}, timeout=TIMEOUT_SECONDS, try_number=2
    )


def test_no_item_gets_the_video_of_another_one_in_a_retry(airflow: AirflowFixture) -> None:
    boat, items, paid = _mapped(airflow, 1)
    _reorder(boat)
    for each in paid:
        boat.emulator.finish(each)
    for item in items:
        item.kill()
    for item, old in zip(items, paid, strict=True):
        item.until("failed", try_number=2)
        item.until_says(
            f"the request changed (prompt) since generation {old}", "did the order of the items change?"
        )
        assert item.result == {}
    assert boat.posts == 2


def test_no_item_gets_the_video_of_another_one_after_a_clear(airflow: AirflowFixture) -> None:
    boat, items, paid = _mapped(airflow, 0)
    for each in paid:
        boat.emulator.finish(each)
    for item in items:
        item.kill()
    for item in items:
        item.until("failed")
    boat.until_run_ended()
    boat.airflow.airflow.clear(boat.dag_id, boat.run_id)
    boat.until_taken(4)
    for each in boat.generations[2:]:
        boat.emulator.finish(each)
    for item, prompt in zip(items, ["a whale", "an owl"], strict=True):
        item.until("success", try_number=2)
        got = boat.emulator.generation(item.result["generation_id"])
        assert got.prompt == f"{boat.word} {prompt}"
    assert boat.posts == 4


def test_mapped_tasks_that_are_expanded_again_pay_for_new_items_only(airflow: AirflowFixture) -> None:
    boat = airflow.video(
        "ark", dag_id="mapped_0", items=("an owl", "a whale"), items_later=("an owl", "a whale", "a fox")
    ).start()
    items = [boat.item(index) for index in range(3)]
    paid = [items[index].until_deferred() for index in (0, 1)]
    for each in paid:
        boat.emulator.finish(each)
    for index in (0, 1):
        items[index].until("success")
    boat.until_run_ended()
    airflow.airflow.clear(boat.dag_id, boat.run_id, ["items"], include_downstream=True)
    boat.until_taken(3)
    boat.finish()
    for item in items:
        item.until("success")
    boat.until_run_ended()
    assert boat.posts == 3
    assert [item.result["generation_id"] for item in items] == [*paid, boat.generations[2]]


def _ends_as_another_one(boat: Task, paid: str) -> None:
    boat.submit_anew()
    assert boat.result["generation_id"] != paid
    assert boat.taken[1].prompt.endswith("the right")
