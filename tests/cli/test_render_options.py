"""Options of ``render``: every argument of the operators that does not concern tasks."""

from __future__ import annotations

import argparse

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.cli.render_options import render_options, request_of
from airflow_provider_seedance.generations import GenerationRequest, ImageRequest, VideoRequest
from airflow_provider_seedance.operators.base import _argument_names
from airflow_provider_seedance.operators.generation import SeedanceGenerationOperator
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoOperator,
    SeedreamGenerateImageOperator,
)

#: Arguments about deferral, retries, clears, stopped and other tasks: a command has none of them.
OF_TASKS = {
    *("deferrable", "use_callback", "on_uncertain_submit", "on_clear", "cancel_on_kill", "end_from_trigger"),
    *("on_budget", "reuse"),
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    for argument in render_options():
        made.add_argument(*argument.flags, **argument.options)
    return made


def request(*line: str) -> GenerationRequest:
    return request_of(parser().parse_args([*line, "-o", "clip.mp4"]))


@pytest.mark.parametrize("operator", [SeedanceGenerateVideoOperator, SeedreamGenerateImageOperator])
def test_render_takes_every_argument_of_the_operators(operator: type[SeedanceGenerationOperator]) -> None:
    arguments = _argument_names(operator) - _argument_names(SeedanceGenerationOperator.__mro__[3])
    arguments |= {"max_credits", "max_cost_usd", "timeout", "poll_interval"}
    known = vars(parser().parse_args(["-o", "clip.mp4"])).keys()
    assert arguments - OF_TASKS - {"seedance_conn_id"} - known == set()
    assert "conn_id" in known


def test_a_request_has_the_options_that_are_given() -> None:
    line = ("A lamp", "--duration", "5", "--generate-audio", "--no-watermark", "--seed", "7")
    expected = VideoRequest(prompt="A lamp", duration=5, generate_audio=True, watermark=False, seed=7)
    assert request(*line) == expected
    line = ("A lamp", "--still", "--num-images", "3", "--extra-params", '{"x": 1}')
    assert request(*line) == ImageRequest(prompt="A lamp", num_images=3, extra_params={"x": 1})


def test_inputs_are_urls_or_json() -> None:
    last = '{"url": "https://a/2.png", "role": "last_frame"}'
    found = request(
        "A lamp", "--images", "https://a/1.png", "--images", last, "--images", '["https://a/3.png"]'
    )
    assert [(item.url, item.role) for item in found.images] == [
        ("https://a/1.png", None),
        ("https://a/2.png", "last_frame"),
        ("https://a/3.png", None),
    ]


def test_an_option_of_the_other_media_is_refused() -> None:
    with pytest.raises(errors.SeedanceRequestError, match="no request argument quality; video requests take"):
        request("A lamp", "--quality", "high")
