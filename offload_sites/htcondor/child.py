"""The program that talks to HTCondor: one process for one call of one user. Standard library only.

Reads one JSON object from standard input, does what it says, writes one JSON object to standard
output. What HTCondor logs of it goes to standard error, where `refusals` looks for the reason of a
failure. The client library holds the GIL while it waits, for minutes on a silent server, and keeps
the first identity of its process for good: so each call is a process that can be killed
(facts tried with HTCondor 23.9 and htcondor2 25.14, 2026-11).

Theory of operation of a submission
-----------------------------------
A schedd knows no unique keys, so that no key runs twice is kept up by the order of steps. A job
exists for us from the moment at which its input files have arrived; until then it is held with code
16 and can never run, whatever became of its submitter. The schedd releases it about a second after
it has the files; the attribute `OffloadUploaded`, set by the submitter, says so at once.

1. Look for jobs with these keys. Those that are there are kept. Uploads that nobody will finish
   (of calls known to be dead, or too old) are removed; others are waited for.
2. Submit what is missing, in one transaction.
3. Look again. Who sees a rival that is older, or whose files have arrived, removes its own and goes
   back to 1. A younger rival is waited for: it gives up when it sees us, or has not seen us and wins.
4. Upload, and say that it is done.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_SPOOLING = 16
_PAUSE_S = 0.25
_ROUNDS = 20

Ad = dict[str, Any]


class _Client:
    """One schedd, as one user; `folder` is for files that the call needs."""

    def __init__(self, place: Mapping[str, Any]) -> None:
        import htcondor2

        self._lib = htcondor2
        htcondor2.enable_debug()
        collector = htcondor2.Collector(place["collector"])
        located = collector.locate(htcondor2.DaemonType.Schedd, place["schedd"])
        self.collector = collector
        self.schedd = htcondor2.Schedd(located)
        self.folder = Path(place["folder"])
        self._mine = place["mine"] or "OffloadKey =!= undefined"
        # Without claims that name the user, the schedd has to know whose connection this is.
        by_account = not place["mine"]
        self._opts = htcondor2.QueryOpt.DefaultMyJobsOnly if by_account else 0

    def query(self, where: str, attributes: Sequence[str]) -> list[Ad]:
        """Return this user's jobs for which the expression `where` holds."""
        opts = self._lib.QueryOpt(self._opts)
        ads = self.schedd.query(self._and(where), list(attributes), opts=opts)
        return [_plain(ad, (*attributes, "ServerTime")) for ad in ads]

    def history(self, where: str, attributes: Sequence[str], count: int) -> list[Ad]:
        """Return up to `count` of this user's jobs that have left the queue."""
        ads = self.schedd.history(self._and(where), list(attributes), count)
        return [_plain(ad, attributes) for ad in ads]

    def remove(self, where: str, reason: str) -> int:
        """Remove this user's jobs for which `where` holds; return how many."""
        # A bare text as the reason is dropped by htcondor2 25.14; a pair is not.
        result = self.schedd.act(
            self._lib.JobAction.Remove, self._and(f"JobStatus != 3 && ({where})"), (reason, 0)
        )
        return int(result["TotalSuccess"])

    def edit(self, where: str, attribute: str, value: str) -> int:
        """Set one attribute of this user's jobs for which `where` holds."""
        return int(self.schedd.edit(self._and(where), attribute, value))

    def submit(self, description: Mapping[str, str], rows: Sequence[Mapping[str, str]]) -> Any:
        """Put one job per row into the queue, all or none; they wait for their files."""
        submission = self._lib.Submit(dict(description))
        return self.schedd.submit(submission, spool=True, itemdata=iter([dict(r) for r in rows]))

    def totals(self) -> Ad:
        """Return what the collector tells of the schedd, and of nodes if it knows any."""
        lib = self._lib
        slots = self.collector.query(lib.AdType.Startd, "Cpus > 0", ["Cpus", "PartitionableSlot"])
        return {"free_cpus": sum(int(ad.get("Cpus", 0)) for ad in slots) if slots else None}

    def _and(self, where: str) -> str:
        return f"({self._mine}) && OffloadKey =!= undefined && ({where})"


def _plain(ad: Any, names: Sequence[str]) -> Ad:
    """Return an ad's values as JSON has them; expressions are evaluated, undefined ones left out."""
    plain = {}
    for name in names:
        value = ad.get(name)
        if hasattr(value, "eval"):
            value = value.eval()
        if isinstance(value, str | bool | int | float):
            plain[name] = value
    return plain


def _ids(ids: Sequence[str]) -> str:
    """Return the expression for jobs with these ids, `cluster.proc`."""
    clusters: dict[str, list[str]] = {}
    for one in ids:
        cluster, _, proc = one.partition(".")
        clusters.setdefault(str(int(cluster)), []).append(str(int(proc)))
    parts = (
        f"(ClusterId == {cluster} && member(ProcId, {{{', '.join(procs)}}}))"
        for cluster, procs in clusters.items()
    )
    return " || ".join(parts) or "false"


def _id(ad: Ad) -> str:
    return f"{ad['ClusterId']}.{ad['ProcId']}"


# --- the calls ------------------------------------------------------------------------------------


def query(client: _Client, where: str, attributes: list[str]) -> dict[str, Any]:
    """Return the user's jobs for which `where` holds."""
    return {"ads": client.query(where, attributes)}


def history(client: _Client, ids: list[str], attributes: list[str]) -> dict[str, Any]:
    """Return those of `ids` that have left the queue."""
    return {"ads": client.history(_ids(ids), attributes, len(ids))}


def cancel(client: _Client, ids: list[str]) -> dict[str, Any]:
    """Remove those of `ids` that have not ended, and return them; ended ones stay as they are."""
    alive = f"JobStatus != 4 && ({_ids(ids)})"
    there = client.query(alive, ["ClusterId", "ProcId"])
    if there:
        client.remove(alive, "no longer wanted")
    return {"ids": [_id(ad) for ad in there]}


def health(client: _Client) -> dict[str, Any]:
    """Answer, which is all that is to be known of a CE; and count free cores of a pool."""
    client.query("false", ["ClusterId"])
    return client.totals()


def logs(client: _Client, id_: str, tail_bytes: int) -> dict[str, Any]:
    """Return the ends of what a finished job has printed; None if the queue has it not."""
    found = client.query(f"JobStatus == 4 && ({_ids([id_])})", ["ClusterId", "ProcId"])
    if not found:
        return {"stdout": None, "stderr": None}
    # Output goes to where the job was submitted from, on whatever machine that was: to here. A
    # schedd gives all of it or nothing; the start script has cut it to what is worth a transfer.
    client.edit(_ids([id_]), "SUBMIT_Iwd", json.dumps(str(client.folder)))
    client.schedd.retrieve([id_])
    return {name: _tail(client.folder / file, tail_bytes) for name, file in _STREAMS.items()}


_STREAMS = {"stdout": "out", "stderr": "err"}


def _tail(path: Path, count: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - count))
            return file.read(count).decode(errors="replace") if count > 0 else ""
    except OSError:
        return ""


# --- submitting -----------------------------------------------------------------------------------

_OF_A_KEY = (
    "ClusterId",
    "ProcId",
    "JobStatus",
    "HoldReasonCode",
    "QDate",
    "OffloadKey",
    "OffloadSubmission",
    "OffloadUploaded",
)


def submit(client: _Client, order: Mapping[str, Any]) -> dict[str, Any]:
    """Queue one job per key, or find the one that is there. See the theory of operation."""
    for _ in range(_ROUNDS):
        found = _settled(client, order)
        missing = [key for key in order["jobs"] if key not in found]
        if not missing:
            return {"jobs": found}
        made = _submit_missing(client, order, missing)
        if made is not None:
            return {"jobs": {**found, **made}}
    raise RuntimeError("others submit the same keys again and again")


def _settled(client: _Client, order: Mapping[str, Any]) -> dict[str, str]:
    """Return key to id of jobs whose files have arrived, once no other upload is on its way."""
    while True:
        ads = _of_keys(client, list(order["jobs"]))
        found = {str(ad["OffloadKey"]): _id(ad) for ad in reversed(ads) if not _uploading(ad)}
        pending = [ad for ad in ads if _uploading(ad)]
        dead = [ad for ad in pending if str(ad["OffloadKey"]) in found or _is_dead(ad, order)]
        if dead:
            client.remove(_still_uploading(dead), "its submission was cut off")
        if len(dead) == len(pending):
            return found
        time.sleep(_PAUSE_S)


def _submit_missing(
    client: _Client, order: Mapping[str, Any], keys: Sequence[str]
) -> dict[str, str] | None:
    """Submit `keys` and return their ids; None if somebody else was quicker."""
    folder = Path(tempfile.mkdtemp(dir=client.folder))
    rows = _write_files(folder, order, keys)
    description = {
        **order["description"],
        "executable": str(folder / order["description"]["executable"]),
        "initialdir": str(folder),
    }
    result = client.submit(description, rows)
    mine = [f"{result.cluster()}.{result.first_proc() + n}" for n in range(len(keys))]
    while rivals := [ad for ad in _of_keys(client, keys) if _id(ad) not in mine]:
        older = any(_order_of(ad) < (result.cluster(), 0) for ad in rivals)
        if older or not all(map(_uploading, rivals)):
            client.remove(_ids(mine), "another submission of the same keys was quicker")
            return None
        dead = [ad for ad in rivals if _is_dead(ad, order)]
        if dead:
            client.remove(_still_uploading(dead), "its submission was cut off")
        time.sleep(_PAUSE_S)
    client.schedd.spool(result)
    client.edit(_ids(mine), "OffloadUploaded", "true")
    return dict(zip(keys, mine, strict=True))


def _write_files(
    folder: Path, order: Mapping[str, Any], keys: Sequence[str]
) -> list[dict[str, str]]:
    """Write what travels with the jobs, and return their rows."""
    start = folder / order["description"]["executable"]
    start.write_text(order["start"], encoding="utf-8")
    start.chmod(0o755)
    shared = []
    for name, path in order["inputs"].items():
        (folder / name).symlink_to(path)  # under the name it has in the job
        shared.append(str(folder / name))
    rows = []
    for number, key in enumerate(keys):
        place = folder / f"{number}"
        place.mkdir()
        names = list(order["jobs"][key])
        for name in names:
            fd = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(base64.b64decode(order["jobs"][key][name]))
        files = [*shared, *(str(place / name) for name in names)]
        rows.append(
            {
                "key": key,
                "files": ", ".join(files),
                "secrets": " ".join(names),
                "outputs": ", ".join(names),
            }
        )
    return rows


def _of_keys(client: _Client, keys: Sequence[str]) -> list[Ad]:
    """Return the jobs of these keys that are not removed, the oldest first."""
    listed = ", ".join(json.dumps(key) for key in keys)
    ads = client.query(f"JobStatus != 3 && member(OffloadKey, {{{listed}}})", _OF_A_KEY)
    return sorted(ads, key=_order_of)


def _uploading(ad: Ad) -> bool:
    held = ad.get("JobStatus") == 5 and ad.get("HoldReasonCode") == _SPOOLING
    return held and not ad.get("OffloadUploaded")


def _still_uploading(ads: Sequence[Ad]) -> str:
    ids = _ids([_id(ad) for ad in ads])
    return f"JobStatus == 5 && HoldReasonCode =?= {_SPOOLING} && !(OffloadUploaded ?: false) && ({ids})"


def _is_dead(ad: Ad, order: Mapping[str, Any]) -> bool:
    """Tell whether nobody will finish this upload."""
    age_s = int(ad.get("ServerTime", 0)) - int(ad.get("QDate", 0))
    return ad.get("OffloadSubmission") in order["dead"] or age_s > order["patience_s"]


def _order_of(ad: Ad) -> tuple[int, int]:
    return int(ad["ClusterId"]), int(ad["ProcId"])


_CALLS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "query": query,
    "history": history,
    "cancel": cancel,
    "health": health,
    "logs": logs,
    "submit": submit,
}


def main() -> int:
    """Do one call."""
    request = json.load(sys.stdin)
    # The kernel ends us in time whoever holds the GIL, and whatever became of the parent.
    signal.alarm(int(request["limit_s"]) + 5)
    # Not in the environment we were started with: others could read that one.
    os.environ.update(request["environment"])
    try:
        answer = _CALLS[request["call"]](_Client(request["place"]), **request["arguments"])
    except Exception as error:  # noqa: BLE001 - whatever the library raises; the parent finds words
        sys.stdout.write(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return 1
    sys.stdout.write(json.dumps({"answer": answer}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
