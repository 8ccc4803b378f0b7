"""Calls to one schedd, each in a child process with a hard limit of time.

The parent never loads HTCondor's library. A site that accepts a connection and never answers costs
one process for the limit, and nobody's event loop a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offload_sites.backend import TokenSource
from offload_sites.errors import SiteUnavailableError
from offload_sites.htcondor.refusals import Place, explain
from offload_sites.htcondor.tokens import claims_of
from offload_sites.site_models import Credential, HTCondorCESite

__all__ = ["Client", "client_environment", "owner_expression"]

log = logging.getLogger(__name__)

_CHILD = Path(__file__).with_name("child.py")
_GRID_CAS = Path("/etc/grid-security/certificates")
_LOG_BYTES = 65536


class Client:
    """Calls a site as one user.

    Parameters
    ----------
    name : str
        Name of the site in the catalog.
    site : HTCondorCESite
        Its model.
    tokens : TokenSource or None
        Whose jobs they are; None where the site asks for no bearer token.
    """

    def __init__(self, name: str, site: HTCondorCESite, tokens: TokenSource | None) -> None:
        self._name = name
        self._site = site
        self._tokens = tokens

    async def call(self, what: str, limit_s: float, /, **arguments: Any) -> Mapping[str, Any]:
        """Return what the child answers to `what`, one of `child._CALLS`.

        Cancelling is safe, and kills the child: what was asked may or may not have been done.

        Raises
        ------
        NotAuthorizedError
            There is no token, or the site refuses it.
        JobRejectedError
            The rules of the site do not allow this job.
        SiteUnavailableError
            No answer within `limit_s` seconds, or a broken connection.
        """
        token = await self._tokens.token() if self._tokens is not None else ""
        place = self._place(claims_of(token))
        with tempfile.TemporaryDirectory(prefix="offload-htcondor-") as folder:
            request = {
                "call": what,
                "arguments": arguments,
                "limit_s": limit_s,
                "environment": client_environment(self._site, token),
                "place": {
                    "collector": self._site.collector,
                    "schedd": self._site.schedd or self._site.collector.rpartition(":")[0],
                    "mine": owner_expression(place.claims),
                    "folder": folder,
                },
            }
            output, errors = await self._run(request, limit_s)
        try:
            answer = json.loads(output)
        except ValueError:
            log.error("site %s: the process for %s died: %s", self._name, what, errors[-500:])  # noqa: TRY400
            answer = {"error": "the child process died"}
        if "answer" in answer:
            return dict(answer["answer"])
        log.debug("site %s: %s failed: %s", self._name, what, answer["error"])
        raise explain(place, str(answer["error"]), errors, time.time())

    def _place(self, claims: Mapping[str, Any]) -> Place:
        credential = self._site.credential or Credential(issuer="environment")
        address = self._site.collector
        return Place(self._name, address, credential.audience or address, credential.scope, claims)

    async def _run(self, request: Mapping[str, Any], limit_s: float) -> tuple[bytes, str]:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # not the folder of the program: its neighbours are no modules of its
            str(_CHILD),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_inherited(os.environ),
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(limit_s):
                output, errors = await _talk(child, json.dumps(request).encode())
        except TimeoutError:
            raise SiteUnavailableError(
                f"site {self._name!r} has not answered within {limit_s:g} s"
            ) from None
        finally:
            await _killed(child)
        return output, errors.decode(errors="replace")


async def _talk(child: asyncio.subprocess.Process, request: bytes) -> tuple[bytes, bytes]:
    """Return what the child has to say, and the end of its log.

    While a line is dead in the middle of a sign-in, the client writes megabytes a second.
    """
    assert child.stdin and child.stdout and child.stderr  # noqa: PT018, S101  # pipes, all of them
    child.stdin.write(request)
    child.stdin.close()
    output, errors = await asyncio.gather(child.stdout.read(), _end_of(child.stderr))
    await child.wait()
    return output, errors


async def _end_of(stream: asyncio.StreamReader) -> bytes:
    """Return the last `_LOG_BYTES` bytes of a stream, and keep no more of it."""
    kept = b""
    while data := await stream.read(_LOG_BYTES):
        kept = (kept + data)[-_LOG_BYTES:]
    return kept


async def _killed(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


def _inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the child inherits: no token of anybody, the one to use comes by its input."""
    return {name: value for name, value in environ.items() if not name.startswith("BEARER_TOKEN")}


def client_environment(site: HTCondorCESite, token: str) -> dict[str, str]:
    """Return the settings of HTCondor's client for one call.

    What the machine's own HTCondor configuration says stands, but for how users prove who they are.
    """
    settings = {
        "SEC_CLIENT_AUTHENTICATION": "REQUIRED",
        "SEC_CLIENT_AUTHENTICATION_METHODS": site.authentication.upper(),
        "TOOL_DEBUG": "D_SECURITY",
    }
    if site.authentication == "idtokens" and site.token_directory:
        settings["SEC_TOKEN_DIRECTORY"] = site.token_directory
    if site.ca_file:
        settings["AUTH_SSL_CLIENT_CAFILE"] = site.ca_file
    elif _GRID_CAS.is_dir():
        settings["AUTH_SSL_CLIENT_CADIR"] = str(_GRID_CAS)
    environment = {f"_CONDOR_{name}": value for name, value in settings.items()}
    if token:
        environment["BEARER_TOKEN"] = token
    configured = Path("/etc/condor/condor_config").exists() or "CONDOR_CONFIG" in os.environ
    if not configured:
        environment["CONDOR_CONFIG"] = "ONLY_ENV"
    return environment


def owner_expression(claims: Mapping[str, Any]) -> str:
    """Return the expression for the jobs of a token's user; empty if there was no token.

    A site may let many users share an account, so that `Owner` says too little: the schedd notes the
    token's subject and issuer in each job.
    """
    subject, issuer = claims.get("sub"), claims.get("iss")
    if not isinstance(subject, str) or not isinstance(issuer, str):
        return ""
    return f"AuthTokenSubject =?= {json.dumps(subject)} && AuthTokenIssuer =?= {json.dumps(issuer)}"
