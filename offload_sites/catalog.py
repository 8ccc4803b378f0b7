"""The models of the catalog: which sites there are, what runs there, and what users may choose.

Only shape and values are checked here; `references` checks what one part says of another, `load`
turns problems into lines of the file. Each description is also the text of the JSON Schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails

from offload_sites.fields import (
    CatalogModel,
    CvmfsPath,
    DockerReference,
    Duration,
    Interpreter,
    Line,
    Memory,
    Module,
    Name,
    Pattern,
    Value,
    Variable,
    distinct,
    expectation,
    shorthand,
)
from offload_sites.site_models import (
    BUILTIN_SITES,
    BaseSite,
    Credential,
    HTCondorCESite,
    ImageForm,
    ImageRendering,
    InterlinkSite,
    KubernetesSite,
    LocalSite,
    Node,
    Toleration,
)
from offload_sites.wording import did_you_mean, join_names

__all__ = [
    "BUILTIN_SITES",
    "BaseSite",
    "Catalog",
    "CatalogModel",
    "CpuChoices",
    "Credential",
    "HTCondorCESite",
    "Image",
    "ImageChoice",
    "ImageForm",
    "ImageRendering",
    "InterlinkSite",
    "KubernetesSite",
    "LocalSite",
    "MemoryRequest",
    "Node",
    "Profile",
    "Purpose",
    "ResourceRequest",
    "Toleration",
    "Walltime",
    "catalog_schema",
]

#: What a profile is for.
Purpose = Literal["session", "workers"]

_EXPECTED_IMAGE = "expected the name of an image, or {pattern: '/cvmfs/…'}"
_EXPECTED_MEMORY = "expected a memory size such as '240GiB', or {per_cpu: 4GiB}"


class Image(CatalogModel):
    """Software that jobs run in; the same in every form given here."""

    title: Line = Field(description="What users read.")
    description: Value = Field(default="", description="One line below it: what is in it.")
    cvmfs: CvmfsPath | None = Field(
        default=None, description="Folder of the unpacked image, below /cvmfs/."
    )
    docker: DockerReference | None = Field(
        default=None, description="Reference in a registry, without docker://."
    )
    python: Interpreter | None = Field(
        default=None,
        description="The interpreter in the image, python3 if not given. For a local site its "
        "absolute path, or the word current: the interpreter of the running program.",
    )

    @model_validator(mode="after")
    def _has_a_form(self) -> Self:
        contained = self.cvmfs is not None or self.docker is not None
        if not contained and self.python is None:
            raise expectation("expected at least one of cvmfs, docker, python")
        if contained and self.python == "current":
            raise expectation("expected 'python: current' without cvmfs and docker")
        return self

    def has(self, form: ImageForm) -> bool:
        """Return whether a site that runs `form` can run this image."""
        if form == "python":  # without a container around it a bare command could be anything
            return self.python is not None and (self.python == "current" or self.python[0] == "/")
        return getattr(self, form) is not None


class ImageChoice(CatalogModel):
    """One image of a profile, or a pattern for those that users name by their path."""

    name: Name | None = Field(default=None, description="An image of the catalog.")
    pattern: Pattern | None = Field(
        default=None,
        description="Regular expression for the whole path of any unpacked image below /cvmfs/.",
    )

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.name is None) == (self.pattern is None):
            raise expectation(_EXPECTED_IMAGE)
        return self


class CpuChoices(CatalogModel):
    """Cores of one session or one worker; users choose among them, the first is preselected."""

    choices: Annotated[
        list[Annotated[int, Field(ge=1)]], Field(min_length=1), AfterValidator(distinct)
    ] = Field(description="Numbers of cores on offer.")


class MemoryRequest(CatalogModel):
    """Memory of one session or one worker."""

    total: Memory | None = Field(default=None, description="So much in all.")
    per_cpu: Memory | None = Field(default=None, description="So much for each core.")

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.total is None) == (self.per_cpu is None):
            raise expectation(_EXPECTED_MEMORY)
        return self

    def bytes_for(self, cpus: int) -> int:
        """Return the bytes that go with so many cores."""
        return self.total if self.total is not None else (self.per_cpu or 0) * cpus


class Walltime(CatalogModel):
    """How long a session or the workers may run, counted from the start of the job."""

    default: Duration | None = Field(
        default=None, description="What users get who say nothing. Not given: 8h, or max if less."
    )
    max: Duration | None = Field(
        default=None, description="The most they can ask for. Not given: what the sites allow."
    )


# Four fields have a short form: a bare value for the usual case.
_Cpus = Annotated[
    CpuChoices,
    shorthand(
        int,
        lambda cpus: {"choices": [cpus]},
        int | CpuChoices,
        "expected a number of cores, or {choices: [1, 4, 8]}",
    ),
]
_Memory = Annotated[
    MemoryRequest,
    shorthand(str, lambda size: {"total": size}, str | MemoryRequest, _EXPECTED_MEMORY),
]
_Walltime = Annotated[
    Walltime,
    shorthand(
        str,
        lambda time: {"default": time, "max": time},
        str | Walltime,
        "expected a duration such as '8h', or {default: 8h, max: 24h}",
    ),
]
_Image = Annotated[
    ImageChoice,
    shorthand(str, lambda name: {"name": name}, str | ImageChoice, _EXPECTED_IMAGE),
]


class ResourceRequest(CatalogModel):
    """What one session, or one worker, asks for."""

    cpus: _Cpus = Field(description="Cores: one number, or {choices: [1, 4, 8]}.")
    memory: _Memory = Field(description="Memory: one size, or {per_cpu: 4GiB}.")
    gpus: int = Field(default=0, ge=0, description="GPUs.")


class Profile(CatalogModel):
    """One choice on the form, or one profile of a Dask cluster."""

    title: Line = Field(description="What users read.")
    description: str = Field(default="", description="One line below it: what it is good for.")
    sites: Annotated[list[Name], Field(min_length=1), AfterValidator(distinct)] = Field(
        description="Where it can run. Of several, the first healthy one with the shortest wait."
    )
    patience: Duration | None = Field(
        default=None,
        description="How long a job may wait at one of several sites before it is moved to the next. "
        "Not given: 30m.",
    )
    purposes: Annotated[list[Purpose], Field(min_length=1), AfterValidator(distinct)] = Field(
        default=["session", "workers"],
        alias="for",
        description="What it is for: JupyterLab sessions, Dask workers, or both.",
    )
    images: Annotated[list[_Image], Field(min_length=1), AfterValidator(distinct)] = Field(
        description="What users choose from. The first named one is preselected."
    )
    resources: ResourceRequest = Field(description="What one session, or one worker, asks for.")
    walltime: _Walltime = Field(
        default=Walltime(), description="How long it may run: {default: 8h, max: 24h}, or one time."
    )
    queue_budget: Duration = Field(
        default=timedelta(hours=8),
        json_schema_extra={"default": "8h"},
        description="How long a session may wait in a queue; it is given up then.",
    )
    groups: Annotated[list[Line], AfterValidator(distinct)] = Field(
        default=[],
        description="Who may use it: members of any of these groups; nobody else sees it. "
        "Empty: everybody.",
    )
    preload: Annotated[list[Module], AfterValidator(distinct)] = Field(
        default=[],
        description="Modules that are imported once, before the workers of a job are forked.",
    )
    environment: dict[Variable, Value] = Field(
        default={},
        description="Variables of sessions and workers. Not for secrets: all can read them.",
    )


def _parse_site(value: object, info: ValidationInfo) -> BaseSite:
    # Pydantic's own discriminated union is fixed when a class is made. Kinds of others are known
    # only when a catalog is loaded; the error of the chosen model keeps its place in the file.
    if isinstance(value, BaseSite):
        return value
    if not isinstance(value, dict):
        raise expectation("expected a mapping with kind, title and max_walltime")
    models: Mapping[str, type[BaseSite]] = (info.context or {}).get("site_models", BUILTIN_SITES)
    kind = value.get("kind")
    model = models.get(kind) if isinstance(kind, str) else None
    if model is not None:
        return model.model_validate(value, context=info.context)
    guess = did_you_mean(kind, models) if isinstance(kind, str) else ""
    problem = expectation(f"expected a kind of site ({join_names(models)}){guess}")
    raise ValidationError.from_exception_data(
        "site", [InitErrorDetails(type=problem, loc=("kind",), input=kind)]
    )


class Catalog(CatalogModel):
    """All sites, images and profiles."""

    sites: Annotated[
        dict[
            Name,
            Annotated[
                SerializeAsAny[BaseSite],
                PlainValidator(
                    _parse_site,
                    json_schema_input_type=Annotated[
                        LocalSite | KubernetesSite | InterlinkSite | HTCondorCESite,
                        Field(discriminator="kind"),
                    ],
                ),
            ],
        ],
        Field(min_length=1),
    ] = Field(description="Places that run jobs, by the name that jobs carry.")
    images: Annotated[dict[Name, Image], Field(min_length=1)] = Field(
        description="Images, by the name that profiles use."
    )
    profiles: Annotated[dict[Name, Profile], Field(min_length=1)] = Field(
        description="What users choose, in the order they see it."
    )


def catalog_schema(site_models: Mapping[str, type[BaseSite]] = BUILTIN_SITES) -> dict[str, Any]:
    """Return the JSON Schema of a catalog, for editors and other programs.

    Parameters
    ----------
    site_models : mapping
        Kind of site to its model; kinds that this project does not define are added to its own.
    """
    schema = Catalog.model_json_schema()
    for part in schema["properties"].values():
        part["additionalProperties"] = False  # a name that is no name; patternProperties has them
    (union,) = schema["properties"]["sites"]["patternProperties"].values()
    for kind in sorted(site_models.keys() - BUILTIN_SITES.keys()):
        model = site_models[kind]
        own = model.model_json_schema()
        schema["$defs"] |= own.pop("$defs", {}) | {model.__name__: own}
        union["discriminator"]["mapping"][kind] = f"#/$defs/{model.__name__}"
        union["oneOf"].append({"$ref": f"#/$defs/{model.__name__}"})
    schema["title"] = "Catalog of sites, images and profiles"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
