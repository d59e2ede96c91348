"""The operators that make videos (Seedance), one or many, and images (Seedream)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

from airflow_provider_seedance.generations import GenerationRequest, ImageRequest
from airflow_provider_seedance.operators.base import SeedanceVideoArguments
from airflow_provider_seedance.operators.batch import SeedanceGenerateVideoBatchOperator
from airflow_provider_seedance.operators.generation import SeedanceGenerationOperator

__all__ = [
    "SeedanceGenerateVideoBatchOperator",
    "SeedanceGenerateVideoOperator",
    "SeedreamGenerateImageOperator",
]


class SeedanceGenerateVideoOperator(SeedanceVideoArguments, SeedanceGenerationOperator):
    """
    Operator that generates a video and returns its result (URL, model, duration, credits …) through XCom.

    Arguments and values that the chosen service does not support are refused before anything is sent. All
    request arguments are templates and can be mapped. Further arguments are those of
    :class:`~airflow_provider_seedance.operators.base.SeedanceOperator`.

    :param prompt: Description of the clip; at most 300 to 2000 characters, by service.
    :param model: Model name; default of the connection, then of the service.
    :param duration: Length of the clip in seconds.
    :param resolution: ``480p``, ``720p``, ``1080p`` or ``4k``, by service.
    :param aspect_ratio: Such as ``16:9``.
    :param fps: Frames per second (``seedance2api``).
    :param images: Input images: a URL, a list of URLs, the result of an image task or of a video task with
        ``return_last_frame=True``, or (``ark``) dicts of ``url`` and ``role``.
    :param seed: Makes a render repeatable as far as the model allows (``ark``).
    :param generate_audio: Whether the clip gets a sound track.
    :param fixed_lens: Whether the camera stands still.
    :param watermark: Whether "AI generated" is printed on the clip (``ark``).
    :param return_last_frame: Whether ``last_frame_url`` in the result is the last frame as an image (``ark``).
    :param draft: Whether to make a cheap preview (``ark``); ``images={"draft_task": id}`` makes its final.
    :param service_tier: ``default``, or ``flex`` for half the price and a longer wait (``ark``).
    :param extra_params: Further fields of the service, sent as they are, unchecked.
    """


class SeedreamGenerateImageOperator(SeedanceGenerationOperator):
    """
    Operator that generates images and returns their result through XCom.

    These services reply with the images themselves, so the task usually neither waits nor defers. All request
    arguments are templates and can be mapped. Further arguments are those of
    :class:`~airflow_provider_seedance.operators.base.SeedanceOperator`.

    :param prompt: Description of the image.
    :param model: Model name; default of the connection if that names a Seedream model, then of the service.
    :param resolution: ``1024x1024``, ``2048x2048`` or ``4k`` (``seedance2api``); ``1K`` to ``4K`` or a
        size in pixels (``ark``).
    :param quality: ``standard`` or ``high`` (``seedance2api``).
    :param num_images: Number of images; each is billed.
    :param style: Artistic style (``seedance2api``).
    :param images: Reference images (``ark``), in the forms the video operator takes.
    :param seed: Makes an image repeatable as far as the model allows.
    :param watermark: Whether "AI generated" is printed on the images, as ``ark`` does by default.
    :param output_format: ``png`` or ``jpeg`` (``ark``).
    :param extra_params: Further fields of the service, sent as they are, unchecked.
    """

    request_class: ClassVar[type[GenerationRequest]] = ImageRequest
    request_fields: ClassVar[tuple[str, ...]] = tuple(item.name for item in fields(ImageRequest))
    template_fields: Sequence[str] = (*request_fields, *SeedanceGenerationOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {"extra_params": "json", "images": "json"}

    def __init__(
        self,
        *,
        prompt: str,
        model: str | None = None,
        resolution: str | None = None,
        quality: str | None = None,
        num_images: int | str | None = None,
        style: str | None = None,
        images: Any = None,
        seed: int | str | None = None,
        watermark: bool | str | None = None,
        output_format: str | None = None,
        extra_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prompt = prompt
        self.model = model
        self.resolution = resolution
        self.quality = quality
        self.num_images = num_images
        self.style = style
        self.images = images
        self.seed = seed
        self.watermark = watermark
        self.output_format = output_format
        self.extra_params = extra_params
