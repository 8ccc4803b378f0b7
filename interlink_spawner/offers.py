"""What users of a hub choose from: its catalog, or without one whatever KubeSpawner is set up for.

Which of the two it is, is decided once per spawner. All that depends on it stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from kubespawner import KubeSpawner

from interlink_spawner import pages
from interlink_spawner.options import parse_query, read_form, resolve_session
from interlink_spawner.spawn_failed import SpawnFailed, uncount
from offload_sites.errors import CatalogError, InvalidOptionsError, OffloadError
from offload_sites.resolve import Resolved

if TYPE_CHECKING:
    from interlink_spawner.spawner import InterLinkSpawner

__all__ = ["CatalogOffer", "KubeSpawnerOffer", "Offer"]


class Offer(Protocol):
    """What can be chosen, and what becomes of a choice."""

    def form(self) -> str | Callable[..., Any]:
        """Return the hub's `options_form`."""

    def read_form(self, form: Mapping[str, Any]) -> object:
        """Return the options in the fields of a form."""

    def read_query(self, query: Mapping[str, Any]) -> object:
        """Return the options in the query of a link that starts a session."""

    async def take(self, options: object) -> None:
        """Check options before anything is done with them."""

    async def load(self) -> None:
        """Set what KubeSpawner starts."""

    async def start(self) -> str:
        """Start what was taken; return its URL."""


class KubeSpawnerOffer:
    """A hub without a catalog: KubeSpawner as it is, with its `profile_list`.

    Parameters
    ----------
    spawner : InterLinkSpawner
        Whose it is.
    """

    def __init__(self, spawner: InterLinkSpawner) -> None:
        self._spawner: Any = spawner

    def form(self) -> str | Callable[..., Any]:
        """Return KubeSpawner's form."""
        form: str | Callable[..., Any] = self._spawner._options_form_default()  # noqa: SLF001
        return form

    def read_form(self, form: Mapping[str, Any]) -> object:
        """Return the options that KubeSpawner reads."""
        return self._spawner._options_from_form(form)  # noqa: SLF001

    def read_query(self, query: Mapping[str, Any]) -> object:
        """Return the options that the hub reads."""
        return KubeSpawner.options_from_query(self._spawner, query)

    async def take(self, options: object) -> None:
        """Do what the hub does."""
        await KubeSpawner._run_apply_user_options(self._spawner, options)  # noqa: SLF001

    async def load(self) -> None:
        """Do what KubeSpawner does."""
        await KubeSpawner.load_user_options(self._spawner)

    async def start(self) -> str:
        """Start KubeSpawner's pod."""
        return str(await self._spawner.start_as_kubespawner())


class CatalogOffer:
    """The profiles of the catalog that are for sessions of this user.

    Parameters
    ----------
    spawner : InterLinkSpawner
        Whose it is.
    """

    # User to what they have just chosen in vain; spawners come and go.
    _wanted: ClassVar[dict[str, object]] = {}

    def __init__(self, spawner: InterLinkSpawner) -> None:
        self._spawner = spawner
        self._taken: Resolved | None = None
        #: The last options that were good, as the hub has stored them.
        self._good = spawner.orm_spawner.user_options if spawner.orm_spawner else None

    def form(self) -> str | Callable[..., Any]:
        """Return what renders the form whenever it is shown."""
        return self._render

    async def _render(self, _: object) -> str:
        # Shown once: the form keeps all choices that were made in vain.
        wanted = self._wanted.pop(self._spawner.user.name, None)
        return await pages.render_form(self._spawner, wanted)

    def read_form(self, form: Mapping[str, Any]) -> object:
        """Return the options in the spawn form, or those of the last time if it says "again"."""
        spawner = self._spawner
        if form.get("again"):
            return spawner.orm_spawner.user_options or {}
        options: object = None
        try:
            options = read_form(form)
            resolve_session(spawner.desk.catalog, options, groups=spawner.groups)
        except OffloadError as error:
            self._wanted[spawner.user.name] = options
            raise self._refusal(error) from error
        return options

    def read_query(self, query: Mapping[str, Any]) -> object:
        """Return the options in the query of a link that starts a session."""
        try:
            return parse_query(query)
        except InvalidOptionsError as error:
            raise self._refusal(error) from error

    async def take(self, options: object) -> None:
        """Check what was asked for, before anything else is done with it.

        The hub has stored it by now; if it is bad, what was there before comes back.
        """
        spawner = self._spawner
        try:
            await spawner.desk.started()
            self._taken = resolve_session(spawner.desk.catalog, options, groups=spawner.groups)
        except OffloadError as error:
            spawner.orm_spawner.user_options = self._good
            spawner.commit()
            uncount(spawner.handler)
            raise self._refusal(error) from error
        self._good = spawner.orm_spawner.user_options
        spawner.outwait(self._taken.queue_budget)
        if spawner.apply_user_options:
            await KubeSpawner._run_apply_user_options(spawner, options)  # noqa: SLF001

    def _refusal(self, error: OffloadError) -> SpawnFailed:
        if isinstance(error, InvalidOptionsError):
            return SpawnFailed(400, str(error))
        what = "the catalog of this hub" if isinstance(error, CatalogError) else error.message
        self._spawner.log.error("nothing can be started: %s", error)
        return SpawnFailed(424, f"{what} cannot be used: tell an administrator")

    async def load(self) -> None:
        """Do nothing: what KubeSpawner would do with options has been done with the catalog's."""

    async def start(self) -> str:
        """Start what was taken."""
        if self._taken is None:
            raise SpawnFailed(400, "no options were checked for this server")
        return await self._spawner.start_resolved(self._taken)

    def taken_before(self) -> Resolved:
        """Return what the stored options of a session that is there already come to by now.

        Raises
        ------
        OffloadError
            The catalog cannot be read, or does not offer it any more.
        """
        spawner = self._spawner
        options = spawner.user_options or self._good
        return resolve_session(spawner.desk.catalog, options, groups=spawner.groups)
