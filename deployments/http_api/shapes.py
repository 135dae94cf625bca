"""What the API answers, camelCase on the wire."""

from typing import Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.requests import Request

from blocks.binding import Binding
from deployments import batches, journey
from deployments.http_api.paths import batch_url, result_url, status_url
from deployments.journey import JOURNEY, Journey, JourneyFailedError
from flows.contract import DailyOrdersBatchCloseConfigOutcome


class Shape(BaseModel):
    """A JSON object; members that do not apply are left out."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Link(Shape):
    """Where something related is."""

    href: str = Field(json_schema_extra={"format": "uri-reference"})


class StartAccepted(Shape):
    """The journey that was started, and where to see how it goes."""

    journey_id: UUID
    journey_name: str = JOURNEY
    status_url: str = Field(json_schema_extra={"format": "uri-reference"})
    links: dict[str, Link] = Field(alias="_links")

    @classmethod
    def of(cls, request: Request, journey_id: UUID) -> Self:
        """The answer to a start."""
        url = status_url(request, journey_id)
        return cls(journey_id=journey_id, status_url=url, links=_links(request, journey_id, url))


class JourneyStatus(journey.JourneyStatus):
    """How far the journey has come."""

    links: dict[str, Link] = Field(alias="_links")

    @classmethod
    def of(cls, request: Request, journey: Journey) -> Self:
        """The answer about this journey."""
        status = journey.status
        url = status_url(request, status.journey_id)
        links = _links(request, status.journey_id, url)
        if status.phase == "Succeeded":
            binding = Binding(status.attributes["tenantId"], status.attributes["batchId"])
            links["batch"] = Link(href=batch_url(request, binding))
        return cls(**status.model_dump(), links=links)


class OutcomeError(Shape):
    """Why a journey failed."""

    code: str = Field(examples=["FAILED"], description="FAILED, CRASHED or CANCELLED")
    reason: str


class JourneyOutcome(Shape):
    """How the journey ended: `output` if it succeeded, `error` if it failed."""

    journey_id: UUID
    journey_name: str = JOURNEY
    phase: Literal["Succeeded", "Failed"]
    output: DailyOrdersBatchCloseConfigOutcome | None = None
    error: OutcomeError | None = None
    links: dict[str, Link] = Field(alias="_links")

    @classmethod
    def of(cls, request: Request, journey: Journey) -> Self:
        """The outcome of this journey; raises JourneyRunningError."""
        ended: dict[str, Any]
        try:
            ended = {"phase": "Succeeded", "output": journey.outcome()}
        except JourneyFailedError as failed:
            error = OutcomeError(code=failed.code, reason=str(failed))
            ended = {"phase": "Failed", "error": error}
        journey_id = journey.status.journey_id
        links = _links(request, journey_id, result_url(request, journey_id))
        return cls(journey_id=journey_id, links=links, **ended)


class Batch(batches.Batch):
    """A configured batch."""

    links: dict[str, Link] = Field(alias="_links")

    @classmethod
    def of(cls, request: Request, batch: batches.Batch) -> Self:
        """The answer about this batch."""
        url = batch_url(request, Binding(batch.tenant_id, batch.batch_id))
        return cls(**batch.model_dump(), links={"self": Link(href=url)})


def _links(request: Request, journey_id: UUID, self_url: str) -> dict[str, Link]:
    return {
        "self": Link(href=self_url),
        "status": Link(href=status_url(request, journey_id)),
        "result": Link(href=result_url(request, journey_id)),
    }
