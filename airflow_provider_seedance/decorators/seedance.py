"""``@task.seedance_video``: a function that returns the prompt, or a whole request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    DecoratedOperator,
    TaskDecorator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)

from airflow_provider_seedance.exceptions import SeedanceRequestError
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context


class _SeedanceVideoDecoratedOperator(DecoratedOperator, SeedanceGenerateVideoOperator):
    """
    Operator that calls the function for the prompt and generates the video.

    A retry calls the function again. If it returns another request than the one that was paid for, the
    task fails and says so: a function for a paid render should return the same for the same run.
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(name for name in SeedanceGenerateVideoOperator.template_fields if name != "prompt"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **SeedanceGenerateVideoOperator.template_fields_renderers,
    }
    custom_operator_name: str = "@task.seedance_video"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # Airflow infers it from the annotation of a function that returns a dict; the task returns a result.
        kwargs.pop("multiple_outputs", None)
        if "prompt" in kwargs:
            raise TypeError("@task.seedance_video takes no prompt: the function returns it")
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            prompt="",
            multiple_outputs=False,
            **kwargs,
        )

    def request_arguments(self, context: Context) -> dict[str, Any]:
        """Return the operator's arguments, completed or replaced by the result of the function."""
        context_merge(context, self.op_kwargs)
        kwargs = determine_kwargs(self.python_callable, self.op_args, context)
        returned = self.python_callable(*self.op_args, **kwargs)
        arguments = {**super().request_arguments(context)}
        arguments.pop("prompt", None)
        if isinstance(returned, str):
            return {**arguments, "prompt": returned}
        if isinstance(returned, Mapping):
            return {**arguments, **returned}
        raise SeedanceRequestError(
            f"The function of @task.seedance_video returned {type(returned).__name__}; it must return the "
            "prompt (text) or a dict of request arguments. Nothing was sent."
        )


def seedance_video_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """
    Generate a video from the prompt or the arguments that a function returns.

    :param python_callable: Returns the prompt, or a dict of request arguments with a prompt; dict values
        win over the decorator's own.
    :param kwargs: Every argument of
        :class:`~airflow_provider_seedance.operators.seedance.SeedanceGenerateVideoOperator` but ``prompt``.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_SeedanceVideoDecoratedOperator, **kwargs
    )
