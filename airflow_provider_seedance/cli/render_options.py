"""Options of ``airflow seedance render``: the arguments of a request, with their documentation, and those of the command."""

from __future__ import annotations

import argparse
import inspect
import re
from dataclasses import fields
from typing import Any

from airflow_provider_seedance.cli import CONN_ID, POLL_INTERVAL, QUIET, TIMEOUT, Argument, output_format
from airflow_provider_seedance.generations import (
    MAX_ARGUMENTS,
    GenerationRequest,
    ImageRequest,
    Media,
    VideoRequest,
)
from airflow_provider_seedance.urls import parsed

#: Arguments of a request that the command takes in another form than as an option of one value.
_PROMPT, _IMAGES = "prompt", "images"

_FIRST, _LAST = ("model",), ("seed", "extra_params")

_UNITS = {"credits": "credits", "cost_usd": "US dollars"}


def render_options() -> tuple[Argument, ...]:
    """Return the options in the order people think in: prompt, inputs, model, output, money, waiting, connection."""
    return (*_request_options(), *_command_options())


def media_of(args: argparse.Namespace) -> Media:
    """Return the kind of media of a command line."""
    return "image" if args.still else "video"


def request_of(args: argparse.Namespace) -> GenerationRequest:
    """
    Return the request of a command line.

    :raises SeedanceRequestError: an option belongs to the other kind of media; nothing was sent.
    """
    request_class = ImageRequest if args.still else VideoRequest
    names = [_PROMPT, *_documented(VideoRequest), *_documented(ImageRequest)]
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if _IMAGES in given:
        inputs = [parsed(value) for value in given[_IMAGES]]
        given[_IMAGES] = [each for item in inputs for each in (item if isinstance(item, list) else [item])]
    return request_class.from_arguments(given)


def _request_options() -> list[Argument]:
    videos, images = _documented(VideoRequest), _documented(ImageRequest)
    names = list(dict.fromkeys([*_FIRST, *videos, *images]))
    flags = {
        each.name for kind in (VideoRequest, ImageRequest) for each in fields(kind) if "bool" in each.type
    }
    return [
        Argument(_PROMPT, nargs="?", help="Description of the video or image"),
        Argument("--still", action="store_true", help="Make an image instead of a video"),
        Argument("--generation-id", help="Fetch this generation instead of submitting one; costs nothing"),
        Argument(
            "--images",
            action="append",
            metavar="URL",
            group="inputs",
            help='Input image: its URL, or JSON such as {"url": "https://…", "role": "last_frame"} (ark). '
            "Can be repeated",
        ),
        *(
            Argument(
                f"--{name.replace('_', '-')}",
                group="model and format",
                help=_help(videos.get(name), images.get(name)),
                **({"action": argparse.BooleanOptionalAction} if name in flags else {}),
            )
            for name in (*(name for name in names if name not in _LAST), *_LAST)
            if name != _IMAGES
        ),
    ]


def _help(video: str | None, image: str | None) -> str:
    if video and image and video != image:
        return f"{video}. With --still: {image[0].lower()}{image[1:]}"
    return video or f"{image}. With --still only"


def _documented(kind: type[Any]) -> dict[str, str]:
    """Return the arguments of a request but the prompt, with the texts of its docstring."""
    found = re.findall(r":param (\w+): (.*?)(?=\n:param |\Z)", inspect.getdoc(kind) or "", re.DOTALL)
    texts = {name: " ".join(text.replace("``", "").split()).rstrip(".") for name, text in found}
    names = [item.name for item in fields(kind) if item.name != _PROMPT]
    return {name: texts.get(name, name).replace("%", "%%") for name in names}


def _command_options() -> list[Argument]:
    output = [
        Argument(
            *("-o", "--file"),
            required=True,
            help="File to write, such as clip.mp4; of several outputs, all but the first get a number: clip-2.mp4",
        ),
        Argument("--force", action="store_true", help="Overwrite files that exist"),
        output_format("text", "json"),
        QUIET,
    ]
    money = [
        Argument(
            f"--{name.replace('_', '-')}",
            type=float,
            help=f"Maximum cost in {_UNITS[unit]}; nothing is sent if the price is higher or not known",
        )
        for unit, name in MAX_ARGUMENTS.items()
    ]
    return [
        *_titled("output", output),
        *_titled("money", money),
        *_titled("waiting", [TIMEOUT, POLL_INTERVAL]),
        *_titled("connection", [CONN_ID]),
    ]


def _titled(group: str, arguments: list[Argument]) -> list[Argument]:
    return [Argument(*argument.flags, group=group, **argument.options) for argument in arguments]
