"""
Reading of replies: the outcome of a submission, the state of a generation, and errors.

:class:`ReplyReader` is the half of every adapter that decides between the four outcomes of a submission
(:data:`~airflow_provider_seedance.apis.messages.SubmitOutcome`), and turns error replies into errors.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance import generations
from airflow_provider_seedance.apis import parsing
from airflow_provider_seedance.apis.messages import (
    MAX_WORD_CHARS,
    Accepted,
    HttpCall,
    HttpReply,
    JsonObject,
    NotAccepted,
    Refused,
    SubmitOutcome,
    TransportFailure,
    Uncertain,
    VendorError,
)
from airflow_provider_seedance.apis.rate_limits import read_rate_limit, read_retry_after
from airflow_provider_seedance.costs.pricing import PublishedPrices, ResultDefaults

#: Next step where no (complete) reply came.
_CHECK_NETWORK = "Check the host and the proxy of the connection, and the network of this machine."


class ReplyReader(abc.ABC):
    """Reader of the replies of a service, by its documentation."""

    #: The value of ``api`` in the connection's extra.
    name: ClassVar[str]
    #: Fields of a reply for the id of a generation, in order of preference.
    id_fields: ClassVar[tuple[str, ...]] = ("task_id", "id", "run_id")
    #: Error classes of codes that say more than their HTTP status, by the code or its part before the first dot.
    error_classes: ClassVar[Mapping[str, type[errors.SeedanceError]]] = {}
    #: Values of ``status`` that are about the call, in a body without an envelope.
    envelope_words: ClassVar[tuple[str, ...]] = ()

    def read_submit(
        self,
        answer: HttpReply | TransportFailure,
        call: HttpCall,
        request: generations.GenerationRequest,
        now: datetime,
    ) -> SubmitOutcome:
        """
        Return which of the four outcomes a submission has.

        Only a submission that the service certainly did not accept may be repeated; one that is not clearly
        accepted, refused or unsent is uncertain.
        """
        if isinstance(answer, TransportFailure):
            if answer.sent:
                return Uncertain(errors.SeedanceConnectionError(answer.message, **_details(call)))
            unsent = f"{answer.message} Nothing was sent, nothing is billed. {_CHECK_NETWORK}"
            return NotAccepted(errors.SeedanceConnectionError(unsent, **_details(call)))
        body = answer.json if isinstance(answer.json, Mapping) else None
        vendor = self.read_error(body) if body is not None else None
        if answer.ok:
            if body is not None and (generation := self.read_created(body, request, now)):
                return Accepted(answer.clean(generation))
            if vendor:
                return Refused(self._refusal(answer, call, vendor, now))
            return Uncertain(self._unexpected_reply(answer, call, "carries neither an id nor an output"))
        error = self.error_for(answer, call, now=now)
        if isinstance(error, errors.SeedanceRateLimitError) or (
            answer.status == 503 and body is not None and self.is_service_error(body)
        ):
            return NotAccepted(error)
        if 400 <= answer.status < 500 and answer.status not in parsing.UNCERTAIN_4XX:
            return Refused(error)
        return Uncertain(error)

    def read_created(
        self, body: JsonObject, request: generations.GenerationRequest, now: datetime
    ) -> generations.Generation | None:
        """Read the generation from a 2xx reply to a submission; ``None`` if there is neither id nor output."""
        payload = parsing.unwrap(body)
        urls = self.outputs(payload)
        generation_id = self.find_id(body)
        if generation_id is None and not urls:
            return None
        if isinstance(body.get("error"), Mapping) and not (payload.get("status") or urls):
            return None  # the id may be that of the request
        generation = self.read_generation(
            body, generation_id or parsing.local_id(body), media=request.media, now=now
        )
        if generation.status is generations.GenerationStatus.SUCCEEDED and not generation.urls:
            # "success" is about the submission; the output follows.
            generation = replace(generation, status=generations.GenerationStatus.QUEUED)
        return generation.with_defaults(ResultDefaults.of(request).as_dict())

    def find_id(self, body: JsonObject) -> str | None:
        """Find the id of a generation in a flat or enveloped reply."""
        return next(iter(self._ids(body)), None)

    def _ids(self, body: JsonObject) -> list[str]:
        return [
            found
            for source in (parsing.unwrap(body), body)
            for name in self.id_fields
            if (found := parsing.identifier(source.get(name)))
        ]

    def _refusal(
        self, answer: HttpReply, call: HttpCall, vendor: VendorError, now: datetime
    ) -> errors.SeedanceError:
        error = self.error_for(answer, call, now=now)
        if not isinstance(error, errors.SeedanceServerError):
            return error
        # A 2xx with an error body is a refusal, even if its code is that of a server error.
        reason = answer.line(vendor.message or vendor.code or "")
        return errors.SeedanceRequestError(
            f"{answer.source} refused the submission: {reason.rstrip('.')}. Nothing was billed.",
            **error.details(),
        )

    @cached_property
    def published(self) -> PublishedPrices:
        """The price table of the service."""
        return PublishedPrices.of(self.name)

    def price(self, request: generations.GenerationRequest) -> generations.Estimate:
        """Return the cost of the request by the published prices, unknown where none applies."""
        counted = generations.Estimate(output_tokens=self.output_tokens(request))
        billed = self.billed(request)
        return self.published.prices.estimate(billed, counted) if billed else counted

    def billed(self, request: generations.GenerationRequest) -> generations.GenerationRequest | None:
        """Return a prepared request as it is billed, with documented defaults; ``None`` if no published price is for it."""
        return request

    def output_tokens(self, request: generations.GenerationRequest) -> int | None:
        """Return the tokens that a prepared request will be billed, where the service counts tokens and they are known."""
        return None

    def read_state(
        self, reply: HttpReply, call: HttpCall, generation_id: str, *, media: generations.Media, now: datetime
    ) -> generations.Generation:
        """
        Read the reply to a status request.

        :raises SeedanceServerError: it contains no status; to treat the generation as queued or failed could
            cancel or repeat a paid one.
        """
        self.check_identity(reply, call, generation_id)
        body: JsonObject = reply.json
        payload = parsing.unwrap(body)
        word = payload.get("status")
        known = isinstance(word, str) and bool(word.strip())
        if known and payload is body and str(word).strip().lower() == "error":
            known = self.find_id(body) is not None  # else it is about the call
        if not known and not self.outputs(payload):
            raise self._unexpected_reply(
                reply, call, "does not contain the status of the generation", generation_id
            )
        return reply.clean(self.read_generation(body, generation_id, media=media, now=now))

    def check_identity(self, reply: HttpReply, call: HttpCall, generation_id: str) -> None:
        """
        Verify that a reply is about the requested generation, where the id is sent in the query.

        A cache that ignores queries would return another generation. With an id in the path each of them is a
        resource of its own.

        :raises SeedanceServerError: every id in it is another one; the output would be another user's video.
        """
        if not call.query:
            return
        ids = {found.strip() for found in self._ids(reply.json)}
        if ids and generation_id.strip() not in ids:
            raise self._unexpected_reply(reply, call, "is about another generation", generation_id)

    def read_generation(
        self, body: JsonObject, generation_id: str, *, media: generations.Media, now: datetime
    ) -> generations.Generation:
        """Read a generation from a body of any documented shape. Never raises."""
        payload = parsing.unwrap(body)
        urls = self.outputs(payload)
        status, documented, word = parsing.status_of(
            payload.get("status"), urls, self.envelope_words if payload is body else ()
        )
        succeeded = status is generations.GenerationStatus.SUCCEEDED
        failed = status.terminal and not succeeded
        message, code = parsing.failure_message(payload, body) if failed else (None, None)
        known: dict[str, Any] = {
            "model": parsing.text(payload.get("model")),
            "duration": generations.read_number(payload.get("duration")),
            "resolution": parsing.text(payload.get("resolution")),
            "created_at": generations.read_time(payload.get("created_at")),
            "completed_at": generations.read_time(payload.get("completed_at")),
            "usage": generations.read_usage(payload.get("usage")),
            "seed": generations.read_number(payload.get("seed")),
            "error_message": message,
            "error_code": code,
            **self.details(payload, status, now),
        }
        return generations.Generation(
            generation_id=generation_id,
            api=self.name,
            media=media,
            status=status,
            documented=documented,
            word=word,
            urls=urls if succeeded else (),
            **known,
        )

    def details(self, payload: JsonObject, status: generations.GenerationStatus, now: datetime) -> JsonObject:
        """Return fields of :class:`Generation` that the service reports in its own way."""
        return {}

    @abc.abstractmethod
    def outputs(self, payload: JsonObject) -> tuple[str, ...]:
        """Return the output URLs of an unwrapped body."""

    def check(
        self,
        answer: HttpReply | TransportFailure | None,
        call: HttpCall,
        generation_id: str | None,
        now: datetime,
    ) -> HttpReply:
        """Return the reply to a read, or raise its error, as :meth:`fetch` does."""
        if isinstance(answer, TransportFailure):
            message = f"{answer.message} {_bill(None, submits=call.method == 'POST')}{_CHECK_NETWORK}"
            raise errors.SeedanceConnectionError(message, **_details(call, generation_id))
        if answer is None:
            raise RuntimeError("the driver has to answer a call")
        body = answer.json
        if answer.ok and not isinstance(body, Mapping):
            raise self._unexpected_reply(answer, call, "is not a JSON object", generation_id)
        if answer.ok and (self.read_error(body) is None or self.reports_generation(body)):
            return answer
        raise self.error_for(answer, call, now=now, generation_id=generation_id)

    def reports_generation(self, body: JsonObject) -> bool:
        """Return whether a body with an error describes a failed generation, not a failed call."""
        word = parsing.unwrap(body).get("status")
        if not isinstance(word, str):
            return False
        return self.find_id(body) is not None or word.lower() not in parsing.ENVELOPE_WORDS

    @abc.abstractmethod
    def read_error(self, body: JsonObject) -> VendorError | None:
        """Return the error in a body of the service, or ``None``."""

    def is_service_error(self, body: JsonObject) -> bool:
        """
        Return whether the service itself wrote an error body, not a gateway in front of it.

        Strict, because a submission is repeated because of it.
        """
        return self.read_error(body) is not None

    def quota_reset(self, vendor: VendorError) -> datetime | None:
        """Return when the quota of a 429 is renewed, where only its message says so."""
        return None

    def permanent_rate_limit(self, vendor: VendorError) -> str | None:
        """Return who has to do what after a 429 that no waiting ends, or ``None`` for any other 429."""
        return None

    def error_for(
        self, reply: HttpReply, call: HttpCall, *, now: datetime, generation_id: str | None = None
    ) -> errors.SeedanceError:
        """Return the error to raise for an error reply, by its HTTP status first, then by the service's code."""
        body = reply.json
        vendor = (self.read_error(body) if isinstance(body, Mapping) else None) or VendorError()
        status = reply.status
        if reply.ok:
            status = vendor.status or parsing.STATUS_BY_CODE.get(str(vendor.code).upper(), 500)
        # On a read these statuses are sufficient; a code only refines other ones, and a 404 about the model (ark).
        plain = call.method == "GET" and (reply.status in (401, 404, 429) or reply.status >= 500)
        plain = plain and vendor.code != "UnsupportedModel"
        code = None if plain else vendor.code
        cls = parsing.class_for(status, code, self.error_classes)
        wait = read_retry_after(reply.headers, now) if status == 503 else None
        if status == 429:  # every reply has the headers, and only here they are a wait
            wait = read_rate_limit(reply.headers, now).retry_after
            if wait is None and (reset_at := self.quota_reset(vendor)):
                wait = max(0.0, (reset_at - now).total_seconds())
        message, submits = parsing.error_message(reply, vendor), call.method == "POST" and not generation_id
        if status == 429 and call.method == "POST" and (solution := self.permanent_rate_limit(vendor)):
            cls, wait, message = errors.SeedanceForbiddenError, None, f"{message} {solution}"
        elif (step := parsing.NEXT_STEPS.get(cls)) and (submits or cls not in parsing.OF_SUBMISSIONS):
            message = f"{message.rstrip('.')}. {_bill(reply, submits=submits)}{step}"
        return cls(
            message,
            http_status=reply.status,
            vendor_code=reply.line(vendor.code, MAX_WORD_CHARS) if vendor.code else None,
            retry_after=wait,
            **_details(call, generation_id),
        )

    def _unexpected_reply(
        self, reply: HttpReply, call: HttpCall, problem: str, generation_id: str | None = None
    ) -> errors.SeedanceServerError:
        return errors.SeedanceServerError(
            f"{reply.source} answered {reply.status}, but the answer {problem}: {reply.excerpt()}",
            http_status=reply.status,
            **_details(call, generation_id),
        )


def _bill(reply: HttpReply | None, *, submits: bool) -> str:
    """Return the sentence about the bill of a call that failed; empty where that is uncertain."""
    if not submits:
        return "This request costs nothing. "
    refused = reply and (reply.ok or 400 <= reply.status < 500) and reply.status not in parsing.UNCERTAIN_4XX
    return "Nothing was billed. " if refused else ""


def _details(call: HttpCall, generation_id: str | None = None) -> dict[str, Any]:
    return {"method": call.method, "path": call.path, "generation_id": generation_id}
