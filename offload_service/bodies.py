"""What the service accepts: an allow-list of fields, types and sizes for each request. Pure.

The API takes JSON from anybody who has a token, and what is refused here leaves no trace. What is
accepted here is still only what somebody asks for: `resolve`, limits and leases decide.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dask_offload.service_client import API
from offload_service.errors import BadRequestError, MismatchError
from offload_sites.wording import shorten, show

__all__ = [
    "AdaptBody",
    "CheckBody",
    "ChoiceBody",
    "CreateBody",
    "CrewBody",
    "HeartbeatBody",
    "NoBody",
    "ScaleBody",
    "parse_body",
]

#: Largest request: Dask's settings of a notebook, with certificates.
MOST_BYTES = 1024 * 1024
_MOST_WORKERS = 100_000
_WEEK_S = 7 * 86400.0

Text = Annotated[str, Field(max_length=1000)]
Pem = Annotated[str, Field(max_length=16_384, pattern=r"^-----BEGIN ")]
Key = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9-]+$")]
Count = Annotated[int, Field(ge=0, le=_MOST_WORKERS)]
Bytes = Annotated[int, Field(ge=0, le=2**60)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class NoBody(_Body):
    """Nothing."""


class ChoiceBody(_Body):
    """What a user asks for, as `resolve.Choice`."""

    profile: Text | None = None
    image: Text | None = None
    walltime: Text | None = None
    cpus: Annotated[int, Field(ge=1, le=100_000)] | None = None
    site: Text | None = None


class SessionBody(_Body):
    """In which session the caller runs: what its workers should be like, if nothing else is said."""

    profile: Text | None = None
    image: Text | None = None


class CreateBody(_Body):
    """Make a cluster."""

    api: int
    release: Annotated[str, Field(max_length=60)] = ""
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
    choice: ChoiceBody = ChoiceBody()
    session: SessionBody = SessionBody()
    queue_budget_s: Annotated[float, Field(ge=60, le=366 * 86400)] = _WEEK_S
    relay_grace_s: Annotated[float, Field(ge=1, le=366 * 86400)] = 60.0


class ScaleBody(_Body):
    """Have so many workers."""

    workers: Count


class AdaptBody(_Body):
    """Let the number of workers follow the load."""

    minimum: Count = 0
    maximum: Count


class TlsBody(_Body):
    """A worker's certificate, from the authority of its cluster."""

    ca: Pem
    cert: Pem
    key: Pem = Field(repr=False)


class WorkerSettings(_Body):
    """What every worker of a cluster is told."""

    preload: Annotated[list[Text], Field(max_length=200)] = []
    register_timeout_s: Annotated[float, Field(ge=1, le=86400)] = 300.0
    version_check: Literal["strict", "warn"] = "strict"
    dask_config: dict[str, Any] = {}
    worker_config: dict[str, Any] = {}
    versions: dict[Text, Text] = {}


class CrewBody(_Body):
    """What jobs need and only the notebook's side has."""

    scheduler: Annotated[str, Field(max_length=260)]
    tls: TlsBody
    settings: WorkerSettings


class HeartbeatBody(_Body):
    """The word that a cluster's notebook is there."""

    api: int
    jobs: Annotated[dict[Key, tuple[Count, Bytes, Bytes]], Field(max_length=20_000)] = {}
    seen: int = -1
    order: int = 0
    retired: Annotated[list[int], Field(max_length=10_000)] = []
    adaptive: tuple[Count, Count] | None = None
    crew: CrewBody | None = None


class CheckBody(_Body):
    """A catalog to be checked."""

    text: Annotated[str, Field(max_length=MOST_BYTES)]


AnyBody = TypeVar("AnyBody", bound=_Body)


def parse_body(model: type[AnyBody], content: bytes) -> AnyBody:
    """Return what `content` says.

    Raises
    ------
    BadRequestError
        A sentence on the first thing that is not as expected.
    MismatchError
        The caller is of a release with another API.
    """
    try:
        body = model.model_validate_json(content or b"{}")
    except ValidationError as error:
        raise BadRequestError(*_first(error)) from None
    except RecursionError:
        raise BadRequestError("the request is nested too deeply") from None
    api = getattr(body, "api", API)
    if api != API:
        raise MismatchError(
            f"the notebook's interlink-offload speaks version {api} of the service's API, this hub's "
            f"service version {API}",
            "use the same release in the image as on the hub: ask its administrator which that is",
        )
    return body


def _first(error: ValidationError) -> tuple[str, str]:
    first = error.errors(include_url=False)[0]
    where = ".".join(shorten(str(step), 40) for step in first["loc"]) or "the request"
    if first["type"] == "json_invalid":
        return "the request is not JSON", "send an object of JSON in UTF-8"
    if first["type"] == "extra_forbidden":
        return f"{where} is not known here", ""
    if first["type"] == "missing":
        return f"{where} is missing", ""
    expected = first["msg"].replace("Input should", "it should", 1)
    return f"{where}: {expected}, got {show(first['input'])}", ""
