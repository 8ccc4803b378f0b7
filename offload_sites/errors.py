"""The errors of the site layer; every package above catches these and no others."""

from __future__ import annotations

from collections.abc import Sequence


class OffloadError(Exception):
    """Something failed in a way that a user or an administrator can act on.

    Parameters
    ----------
    message : str
        One sentence: what failed, for which job or site, why, the value and the limit.
    hint : str
        What to do about it; empty if there is nothing to do.
    transient : bool
        True if the same call may succeed later without any change.
    """

    def __init__(self, message: str, hint: str = "", *, transient: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.transient = transient

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Exception pickles its args alone: the hint would be lost on the way from another process.
        return (_rebuild, (type(self), dict(self.__dict__), self.args))


def _rebuild(
    kind: type[OffloadError], fields: dict[str, object], args: tuple[object, ...]
) -> OffloadError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class CatalogError(OffloadError):
    """The administrator's catalog has problems; `problems` holds one line for each."""

    def __init__(self, problems: Sequence[str], hint: str = "") -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems), hint)


class InvalidOptionsError(OffloadError):
    """The user asked for something that the catalog does not offer."""


class JobRejectedError(OffloadError):
    """The site refuses this job; the same job will be refused again."""


class JobLimitError(JobRejectedError):
    """The site takes no more jobs for now: fewer at a time may pass, and more once others have ended."""


class NotAuthorizedError(OffloadError):
    """The site refuses this user; the same call fails until the credential changes."""


class SiteUnavailableError(OffloadError):
    """The site does not answer. Nothing is known about what was asked of it; ask again."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, transient=True)


class LedgerError(OffloadError):
    """The ledger cannot be opened, read or written: nothing new is started, what runs goes on."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, transient=True)
