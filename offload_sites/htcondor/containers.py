"""What apptainer says when it cannot start a container, as sentences and hints. Pure.

Releases word the same failure differently, and say where in their code it happened first. So parts of
words are looked for, the more telling ones first; words that are not here are shown as they are.
"""

from __future__ import annotations

import re

from offload_sites.htcondor.reasons import Reason

__all__ = ["container_reason"]

_TELL = "tell the site, with the name of the node if it is shown"
_OTHER = "choose another image, or tell whoever makes this one"

# Words of apptainer 1.0 to 1.4 and of singularity 3, in lower case.
_FAMILY = (
    (r"no space left on device", Reason("the disk of the node is full", _TELL)),
    (
        r"user namespace|unprivileged_userns|setuid|capabilit|fusermount|squashfuse|/dev/fuse",
        Reason("the node does not let us start containers", _TELL),
    ),
    (
        r"exec format error",
        Reason("the image is made for another sort of processor than the node's", _OTHER),
    ),
    (
        r"executable file not found|exec .*: no such file|/bin/sh: no such file",
        Reason("the image has no such program", _OTHER),
    ),
    (
        r"unauthorized|denied: |manifest unknown|name unknown|toomanyrequests|docker://|oras://"
        r"|conveyor|registry",
        Reason(
            "the image could not be fetched from its registry",
            "check that it exists and that everybody may read it, or choose another image",
        ),
    ),
    (
        r"could not open image|no such image|transport endpoint|input/output error|stale file",
        Reason("the image could not be read on the node", "try again, or choose another image"),
    ),
    (
        r"image format not recognized|not a valid (?:sif|image)|unknown image format",
        Reason("what the catalog names is no container image", _OTHER),
    ),
    (
        r"destination \S+ doesn't exist in container|mount hook|container creation failed"
        r"|mount \S+->\S+ error",
        Reason(
            "the container could not be set up: its image may be incomplete, or lack a folder that is "
            "bound into it",
            _OTHER,
        ),
    ),
)
_KNOWN = tuple((re.compile(words), reason) for words, reason in _FAMILY)
_GENERAL = Reason("the container could not be started", "choose another image, or tell the site")


def container_reason(said: str) -> Reason:
    """Return why a container could not be started.

    Parameters
    ----------
    said : str
        The last words of apptainer or singularity, without their ``FATAL:``.
    """
    words = said.lower()
    return next((reason for known, reason in _KNOWN if known.search(words)), _GENERAL)
