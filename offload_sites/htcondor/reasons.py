"""HTCondor's hold codes as sentences and hints. Pure; a code that is not here is shown as it is."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SPOOLING", "Reason", "hold_reason"]

#: The hold code of a job whose input files are on their way.
SPOOLING = 16


class Reason(NamedTuple):
    """Why a job does not run, and what the user can do."""

    sentence: str
    hint: str = ""


_ASK = "ask the site, with the id of the job"
_AGAIN = "if it happens again, " + _ASK
_MEMORY = Reason(
    "it used more memory than it had asked for", "ask for more memory, or use fewer workers per job"
)
_TIME = Reason("its walltime was used up", "ask for a longer walltime")
_IMAGE = Reason(
    "its container image cannot be used there", "choose another image, or tell the site"
)
_INPUT = Reason("its input files could not be brought to the node", _AGAIN)
_OUTPUT = Reason("its output files could not be brought back", _AGAIN)
_START = Reason("its program could not be started on the node", _AGAIN)
_POLICY = Reason("the rules of the site hold it", _ASK)
_ACCOUNT = Reason("the site has no working account for it", _ASK)

# HTCondor manual 23, "Job ClassAd Attributes", HoldReasonCode; condor_holdcodes.h.
_HOLDS = {
    1: Reason("somebody holds it", "it goes on when they release it: " + _ASK),
    3: _POLICY,
    4: Reason("its credential is not good any more", "sign in again"),
    5: _POLICY,
    6: _START,
    7: _OUTPUT,
    8: _INPUT,
    9: _OUTPUT,
    10: _INPUT,
    11: Reason("a transfer of its files failed", _AGAIN),
    12: _OUTPUT,
    13: _INPUT,
    14: Reason("its working directory could not be made on the node", _AGAIN),
    15: Reason("it was submitted on hold", "release it, or cancel it"),
    17: _POLICY,
    18: Reason("a transfer of its files failed", _AGAIN),
    19: _START,
    21: Reason("the node holds it", _ASK),
    22: Reason("its log could not be opened at the site", _ASK),
    23: _ACCOUNT,
    24: Reason("the site cannot run this sort of job", _ASK),
    26: _POLICY,
    27: _POLICY,
    32: Reason("its input files are larger than the site allows", _ASK),
    33: Reason("its output files are larger than the site allows", "write less into its directory"),
    34: _MEMORY,
    35: _IMAGE,
    45: Reason("the node cannot start containers", _AGAIN),
    46: _TIME,
    47: _TIME,
}

# Startd policies hold with code 21 and a subcode of their own; these are HTCondor's own ones
# (`use POLICY : HOLD_IF_MEMORY_EXCEEDED` and kin).
_SUBCODES = {(21, 102): _MEMORY, (26, 102): _MEMORY, (34, 102): _MEMORY}


def hold_reason(code: int, subcode: int, said: str) -> Reason:
    """Return why a job is held.

    Parameters
    ----------
    code, subcode : int
        `HoldReasonCode` and `HoldReasonSubCode`; 0 if the job has none.
    said : str
        `HoldReason`, the site's own words: they decide where the code says too little.
    """
    words = said.lower()
    if "no matching routes" in words:
        return Reason(
            "no queue of the site takes a job like this",
            "ask for less, or ask the site which jobs it takes",
        )
    if code in {21, 26, 3, 34} and "memory" in words:
        return _MEMORY
    if code in {6, 21, 26} and any(word in words for word in ("singularity", "apptainer", "image")):
        return _IMAGE
    known = _SUBCODES.get((code, subcode)) or _HOLDS.get(code)
    return known or Reason(f"the site holds it, with HTCondor's code {code}", _ASK)
