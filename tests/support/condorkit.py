"""A real HTCondor pool behind a CE, brought up by `tests/services/htcondor`, for tests and by hand."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil

from offload_sites.htcondor import HTCondorBackend, create
from offload_sites.site_models import HTCondorCESite
from tests.support.testbedkit import Testbed


class FileTokens:
    """The token of one user, as the testbed has written it: a `TokenSource`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def token(self) -> str:
        return self.path.read_text().strip()


class GivenTokens:
    """A token that the test gives: a `TokenSource`."""

    def __init__(self, token: str) -> None:
        self.value = token

    async def token(self) -> str:
        return self.value


class Pool(Testbed):
    """One pool with its CE and its issuer."""

    scripts = "htcondor"

    @contextlib.contextmanager
    def frozen(self, name: str = "ce") -> Iterator[None]:
        """Let the `ce` accept connections, as the kernel does for it, and answer nothing."""
        pids = self._pids(name)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _pids(self, name: str) -> list[int]:
        return [child.pid for child in psutil.Process(self.pid(name)).children(recursive=True)]

    def port(self, name: str) -> int:
        """Return the port of the `CE` or of the `POOL`."""
        return int(self.env[f"{name}_ADDRESS"].rpartition(":")[2])

    def condor(self, where: str, *command: str) -> str:
        """Run one of HTCondor's own tools as root in the `pool` or at the `ce`."""
        return self.run("enter", where, *command)

    def as_account(self, where: str, *command: str, number: int = 3001) -> str:
        """Run one of HTCondor's own tools as an account of the site: 3001 is alice's."""
        who = ("--reuid", str(number), "--regid", str(number), "--clear-groups")
        return self.condor(where, "setpriv", *who, *command)

    def token(self, *args: str) -> str:
        return self.run("token", *args).strip()

    def site(self, **changes: object) -> HTCondorCESite:
        """Return the model of the CE."""
        env = self.env
        fields = {
            "kind": "htcondor-ce",
            "title": "Test pool",
            "collector": env["CE_ADDRESS"],
            "schedd": env["CE_SCHEDD"],
            "ca_file": env["IAM_CA"],
            "max_walltime": "48h",
            "node": {"cpus": 96, "memory": "96GiB"},
            "disk": "1MiB",
        }
        return HTCondorCESite.model_validate({**fields, **changes})

    def backend(
        self, user: str = "alice", *, token: str = "", **changes: object
    ) -> HTCondorBackend:
        """Return the back end of `user`, or of whoever `token` says; not entered yet."""
        tokens = GivenTokens(token) if token else FileTokens(self.state / "tokens" / user)
        return create("pool", self.site(**changes), tokens)

    def plain(self, tokens: Path) -> HTCondorBackend:
        """Return the back end of the pool's own schedd, for whoever holds the tokens in a folder."""
        return create(
            "pool",
            self.site(
                collector=self.env["POOL_ADDRESS"],
                schedd="pool.localdomain",
                authentication="idtokens",
                token_directory=str(tokens),
                ca_file=None,
            ),
        )

    def write_idtoken(self, folder: Path, account: str = "wp5") -> None:
        """Put one of HTCondor's own tokens into `folder`."""
        folder.mkdir(mode=0o700)
        file = folder / account
        file.touch(mode=0o600)
        file.write_text(
            self.condor("pool", "condor_token_create", "-identity", f"{account}@test.local")
        )
