"""What the catalog says of a site, one model per kind. Knows no back end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from offload_sites.fields import (
    AbsolutePath,
    CatalogModel,
    Duration,
    HomePath,
    Host,
    HostPort,
    Line,
    Memory,
    SubmitCommand,
    Value,
    Word,
    distinct,
    expectation,
)

__all__ = [
    "BUILTIN_SITES",
    "BaseSite",
    "Credential",
    "HTCondorCESite",
    "ImageForm",
    "ImageRendering",
    "InterlinkSite",
    "KubernetesSite",
    "LocalSite",
    "Node",
    "PodSite",
    "Toleration",
]

#: The field of an image that a site runs.
ImageForm = Literal["cvmfs", "docker", "python"]


class Node(CatalogModel):
    """The largest job that one node of a site can take."""

    cpus: int = Field(ge=1, description="Cores of one node.")
    memory: Memory = Field(description="Memory of one node.")
    gpus: int = Field(default=0, ge=0, description="GPUs of one node.")


class BaseSite(CatalogModel):
    """What every kind of site has. A new kind derives from it and narrows `kind` to its name."""

    kind: str = Field(description="How this site is talked to.")
    title: Line = Field(description="What users read.")
    max_walltime: Duration = Field(description="The longest that a job may run.")
    node: Node | None = Field(
        default=None,
        description="The largest job one node can take. How many workers share a job follows from "
        "it; without it every worker is a job of its own.",
    )
    network: Literal["job", "site"] = Field(
        default="job",
        description="How far a worker's own address is good: within its job, or at the whole site "
        "(its nodes reach one another, so workers of different jobs exchange data directly).",
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="Workers that clusters with adapt() keep here while they have nothing to do, "
        "so that work does not begin with a queue. They are shared: each user with such a cluster "
        "has an equal part, and each of the user's clusters a part of that. Of a profile with several "
        "sites only the seed of the first one counts, wherever its workers start.",
    )

    @property
    def image_form(self) -> ImageForm | None:
        """Which form of an image this site runs; None if it can run any."""
        return None


_HOME = Field(
    default=None,
    description="Home folder of a session, as its job sees it; made if it is not there. {user} "
    "stands for the user's label, as in u-alice-fpmansl7: its user has it again in the next session. "
    "Not given: a folder that ends with the session.",
)


class LocalSite(BaseSite):
    """Processes on the machine that this program runs on."""

    kind: Literal["local"]
    network: Literal["job", "site"] = Field(default="site", description="As for every site.")
    max_jobs: int | None = Field(
        default=None,
        ge=1,
        description="Most jobs that run at once; others wait. Not given: no limit.",
    )
    cpus: int | None = Field(
        default=None,
        ge=1,
        description="Most cores that the running jobs have asked for together; others wait. "
        "Not given: no limit.",
    )
    directory: AbsolutePath | None = Field(
        default=None,
        description="Folder for the working directories of jobs. Not given: one in the user's home.",
    )
    home: HomePath | None = _HOME

    @property
    def image_form(self) -> ImageForm:
        """A local site runs an interpreter, without a container."""
        return "python"


class Toleration(CatalogModel):
    """A taint of Kubernetes nodes that jobs may ignore."""

    key: Line = Field(description="Key of the taint.")
    value: Value | None = Field(default=None, description="Its value. Not given: any.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Its effect. Not given: all of them."
    )


class PodSite(BaseSite):
    """What kinds whose jobs are pods have in common."""

    namespace: Line | None = Field(
        default=None,
        description="Namespace of the pods. Not given: that of the credentials in use.",
    )
    context: Line | None = Field(
        default=None,
        description="Context in the kubeconfig file. Not given: the current one, or within a cluster "
        "its service account.",
    )
    tolerations: list[Toleration] = Field(default=[], description="Taints that pods may ignore.")
    labels: dict[Line, Value] = Field(
        default={},
        description="Labels of every pod, for example the queue of a quota system "
        "(kueue.x-k8s.io/queue-name).",
    )
    gpu_resource: Line = Field(
        default="nvidia.com/gpu", description="What Kubernetes calls the GPUs of this site."
    )


class KubernetesSite(PodSite):
    """Plain pods in a Kubernetes cluster."""

    kind: Literal["kubernetes"]
    node_selector: dict[Line, Value] = Field(
        default={}, description="Labels a node must have to run a pod."
    )
    image_pull_secrets: list[Line] = Field(
        default=[], description="Secrets in the namespace that let a node pull the image."
    )

    @property
    def image_form(self) -> ImageForm:
        """A cluster pulls an image from a registry."""
        return "docker"


class ImageRendering(CatalogModel):
    """How a site with Apptainer is given an image."""

    render: Literal["cvmfs", "docker"] = Field(
        default="cvmfs", description="The field of an image that is used."
    )
    bind: Annotated[list[AbsolutePath], AfterValidator(distinct)] = Field(
        default=["/cvmfs"], description="Folders of the node that a job sees inside its container."
    )
    repositories: Annotated[list[Host], AfterValidator(distinct)] = Field(
        default=[],
        description="CVMFS repositories that images may come from, as in unpacked.example.org. "
        "None given: any.",
    )


class InterlinkSite(PodSite):
    """A virtual node of interLink, in a Kubernetes cluster, with a batch system behind it."""

    kind: Literal["interlink"]
    node_name: Line = Field(description="Name of the virtual node, as 'kubectl get nodes' has it.")
    plugin: Literal["slurm", "htcondor", "docker", "kubernetes"] = Field(
        default="slurm", description="The plugin behind the node: each reads pods in its own way."
    )
    partition: Word | None = Field(
        default=None, description="Partition of the batch system. Only for the plugin slurm."
    )
    account: Word | None = Field(
        default=None, description="Account that jobs are charged to. Only for the plugin slurm."
    )
    flavour: Word | None = Field(
        default=None,
        description="Flavour, as the plugin's configuration names it. Only for the plugin slurm.",
    )
    gpu_flags: Line = Field(
        default="--gres=gpu:{gpus}",
        description="Flags of sbatch that ask for GPUs; {gpus} stands for how many. Only for the "
        "plugin slurm.",
    )
    container_options: Value = Field(
        default="", description="More options of Apptainer, for example --nv --containall."
    )
    scratch: AbsolutePath | None = Field(
        default=None,
        description="Folder of the node in which each job gets a working directory. Not given: "
        "within the container, where Apptainer may allow no more than 64 MB.",
    )
    home: HomePath | None = _HOME
    annotations: dict[Line, Value] = Field(
        default={},
        description="Annotations of every pod, for the plugin behind the node; "
        "slurm-job.vk.io/flags are added to those made from the fields above.",
    )
    images: ImageRendering = Field(
        default=ImageRendering(), description="How the image is handed to the site."
    )

    @property
    def image_form(self) -> ImageForm:
        """What `images.render` says; plugins that are no batch system only pull."""
        return "docker" if self.plugin in {"docker", "kubernetes"} else self.images.render


class Credential(CatalogModel):
    """The token that jobs are submitted with; every job runs as its own user."""

    issuer: Line = Field(description="Name of the sign-in service that the hub gets tokens from.")
    audience: Line | None = Field(
        default=None, description="Whom the token is for. Not given: the collector of the site."
    )
    scope: Line = Field(
        default="compute.create compute.read compute.modify compute.cancel",
        description="What the token allows, in words parted by blanks.",
    )


class HTCondorCESite(BaseSite):
    """An HTCondor-CE, or a plain HTCondor schedd, remote or on this machine."""

    kind: Literal["htcondor-ce"]
    collector: HostPort = Field(
        description="host:port of the collector, for a CE its own, as in ce1.example.org:9619."
    )
    schedd: Line | None = Field(
        default=None,
        description="Name of the schedd. Not given: the host of the collector, as for a CE.",
    )
    authentication: Literal["scitokens", "idtokens", "fs"] = Field(
        default="scitokens",
        description="How users prove who they are: by a bearer token of theirs (SciTokens, WLCG), by "
        "a token of HTCondor itself, or, at a schedd on the same machine, by their account.",
    )
    credential: Credential | None = Field(
        default=None,
        description="Which bearer token to use. Not given: the one the environment offers "
        "(BEARER_TOKEN and its kin).",
    )
    token_directory: AbsolutePath | None = Field(
        default=None,
        description="Folder with HTCondor's own tokens, for idtokens. Not given: HTCondor's default.",
    )
    ca_file: AbsolutePath | None = Field(
        default=None,
        description="Certificates that the site's own certificate is checked with. Not given: those "
        "of HTCondor's configuration, of the system, and of /etc/grid-security/certificates.",
    )
    disk: Memory = Field(
        default=1024**3,
        json_schema_extra={"default": "1GiB"},
        description="Scratch space that a job asks for. Too much of it leaves nodes half empty.",
    )
    images: ImageRendering = Field(
        default=ImageRendering(), description="How the image is handed to the site."
    )
    home: HomePath | None = _HOME
    container: Literal["apptainer", "universe"] = Field(
        default="apptainer",
        description="Who starts the container: the job itself, by the node's apptainer, or HTCondor "
        "(its container universe, where the site decides which folders a job sees).",
    )
    submit: dict[SubmitCommand, Line] = Field(
        default={},
        description="Further lines of the submit description, such as accounting_group or "
        "My.WantFastQueue.",
    )

    @model_validator(mode="after")
    def _has_fitting_tokens(self) -> Self:
        if self.credential is not None and self.authentication != "scitokens":
            raise expectation("expected credential only with 'authentication: scitokens'")
        if self.token_directory is not None and self.authentication != "idtokens":
            raise expectation("expected token_directory only with 'authentication: idtokens'")
        return self

    @property
    def image_form(self) -> ImageForm:
        """What `images.render` says."""
        return self.images.render


#: The kinds this project defines, whether or not their back ends are installed.
BUILTIN_SITES: Mapping[str, type[BaseSite]] = {
    "local": LocalSite,
    "kubernetes": KubernetesSite,
    "interlink": InterlinkSite,
    "htcondor-ce": HTCondorCESite,
}
