"""What the spawn form shows: a card for each profile, its settings, and last time's choice. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from interlink_spawner.desk import Seen, sites_in_order
from interlink_spawner.options import FREE_IMAGE, parse_options, walltime_choices
from interlink_spawner.progress import Elapsed
from interlink_spawner.wording import (
    Tag,
    count,
    image_tag,
    resources_text,
    site_tag,
    wait_text,
)
from offload_sites.catalog import BaseSite, Catalog, Profile
from offload_sites.errors import InvalidOptionsError
from offload_sites.jobs import SiteState
from offload_sites.ledger_records import Waits
from offload_sites.references import DEFAULT_WALLTIME
from offload_sites.resolve import Choice, Resolved, image_reference, offered, resolve
from offload_sites.units import render_duration, render_memory

__all__ = ["Again", "Card", "Form", "form_of"]

_DOWN = (SiteState.DOWN,)
_KUBERNETES = "kubernetes"

WaitsOf = Callable[[str, str], Waits]


@dataclass(frozen=True)
class SiteLine:
    """One site of a card, as it is now."""

    title: str
    tag: Tag
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Choosable:
    """One value of a setting: what is sent, what is read, and what stands beside Start."""

    value: str
    label: str
    short: str
    checked: bool
    tag: str = ""
    description: str = ""


@dataclass(frozen=True)
class Card:
    """One profile with its settings. What has a single value is not asked for."""

    name: str
    title: str
    description: str
    cpus: str
    memory: str
    gpus: int
    groups: tuple[str, ...]
    sites: tuple[SiteLine, ...]
    disabled: bool
    checked: bool
    when: str
    images: tuple[Choosable, ...]
    free_image: str | None
    free_pattern: str
    cpu_choices: tuple[Choosable, ...]
    walltimes: tuple[Choosable, ...]
    site_choices: tuple[Choosable, ...]
    files_kept: bool
    files: str


@dataclass(frozen=True)
class Again:
    """Last time's choice: what it was, and whether it can be started as it is."""

    what: str
    tag: str
    note: str
    possible: bool


@dataclass(frozen=True)
class Form:
    """The whole form."""

    cards: tuple[Card, ...]
    again: Again | None
    read: Elapsed | None


def form_of(
    catalog: Catalog,
    *,
    groups: Collection[str],
    seen: Mapping[str, Seen],
    waits: WaitsOf,
    last: object,
    wanted: object,
    now: datetime,
) -> Form:
    """Return the form for one user.

    Parameters
    ----------
    catalog : Catalog
        What there is.
    groups : collection of str
        The user's groups.
    seen : mapping
        How sites are; those that have not answered yet are missing.
    waits : callable
        Takes a profile and a site, returns how long sessions waited.
    last : object
        The stored options of last time; any JSON, None if there are none.
    wanted : object
        What was chosen on this form before it came back with an error; None if it is new.
    now : datetime
        Aware UTC.
    """
    profiles = offered(catalog, purpose="session", groups=groups)
    choice = _choice(wanted) or _choice(last) or Choice()
    sites = {name: [catalog.sites[site] for site in p.sites] for name, p in profiles.items()}
    down = {name for name, profile in profiles.items() if _all_down(profile.sites, seen)}
    possible = [name for name in profiles if name not in down]
    checked = choice.profile if choice.profile in possible else next(iter(possible), None)
    cards = [
        _Maker(catalog, name, profile, sites[name], seen, waits).card(
            choice if choice.profile == name else Choice(),
            checked=name == checked,
            disabled=name in down,
            groups=groups,
        )
        for name, profile in profiles.items()
    ]
    used = {site for profile in profiles.values() for site in profile.sites}
    times = [seen[site].at for site in used if site in seen]
    return Form(
        tuple(cards),
        _again(catalog, last, groups, seen, waits),
        Elapsed.of(min(times), now) if times else None,
    )


def _choice(value: object) -> Choice | None:
    try:
        choice = parse_options(value)
    except InvalidOptionsError:
        return None
    return choice if choice.profile else None


def _all_down(sites: Sequence[str], seen: Mapping[str, Seen]) -> bool:
    return all(site in seen and seen[site].health.state in _DOWN for site in sites)


@dataclass(frozen=True)
class _Maker:
    """Makes the card of one profile."""

    catalog: Catalog
    name: str
    profile: Profile
    sites: Sequence[BaseSite]
    seen: Mapping[str, Seen]
    waits: WaitsOf

    def card(
        self, choice: Choice, *, checked: bool, disabled: bool, groups: Collection[str]
    ) -> Card:
        profile, resources = self.profile, self.profile.resources
        cpus = resources.cpus.choices
        memory = [resources.memory.bytes_for(number) for number in cpus]
        free = [image.pattern for image in profile.images if image.pattern is not None]
        typed = choice.image if choice.image and choice.image.startswith("/") else ""
        lost = [site.title for site in self.sites if not _keeps_files(site)]
        return Card(
            name=self.name,
            title=profile.title,
            description=profile.description,
            cpus=_span([str(number) for number in cpus]),
            memory=_memory_span(memory),
            gpus=resources.gpus,
            groups=tuple(group for group in profile.groups if group in groups),
            sites=tuple(self._site_line(name, disabled) for name in profile.sites),
            disabled=disabled,
            checked=checked,
            when=self._when(),
            images=tuple(self._images(choice)),
            free_image=(typed if free else None),
            free_pattern=free[0] if len(free) == 1 else "|".join(f"(?:{one})" for one in free),
            cpu_choices=tuple(self._cpus(choice)),
            walltimes=tuple(self._walltimes(choice)),
            site_choices=tuple(self._site_choices(choice)),
            files_kept=not lost,
            files=_files(lost, pods=all(site.kind == _KUBERNETES for site in self.sites)),
        )

    def _when(self) -> str:
        """Return where it would start now, and when."""
        best = self._best()
        tag = site_tag(self.seen[best].health if best in self.seen else None)
        wait = wait_text(self.waits(self.name, best))
        return f"{self.catalog.sites[best].title}: {tag.word}. {wait}."

    def _best(self) -> str:
        return sites_in_order(self.name, self.profile.sites, self.seen, self.waits)[0]

    def _site_line(self, name: str, disabled: bool) -> SiteLine:
        seen = self.seen.get(name)
        waits = wait_text(self.waits(self.name, name))
        notes = [seen.health.reason] if seen and seen.health.reason else []
        if disabled:
            notes.append("This profile cannot start now.")
        elif not seen or seen.health.state not in _DOWN:
            notes.append(waits)
        notes = [note[:1].upper() + note[1:] for note in notes]
        return SiteLine(
            self.catalog.sites[name].title, site_tag(seen.health if seen else None), tuple(notes)
        )

    def _images(self, choice: Choice) -> list[Choosable]:
        names = [image.name for image in self.profile.images if image.name is not None]
        free = len(names) < len(self.profile.images)
        typed = bool(choice.image and choice.image.startswith("/") and free)
        chosen = choice.image if choice.image in names else next(iter(names), None)
        images = []
        for name in names:
            image = self.catalog.images[name]
            tag = image_tag(image_reference(name, image))
            images.append(
                Choosable(
                    name,
                    image.title,
                    tag,
                    checked=name == chosen and not typed,
                    tag=tag if tag != name or image.cvmfs or image.docker else "",
                    description=image.description,
                )
            )
        if free:
            only = not names
            images.append(
                Choosable(FREE_IMAGE, "Another image from CVMFS", "own image", typed or only)
            )
        return images

    def _cpus(self, choice: Choice) -> list[Choosable]:
        request = self.profile.resources
        choices = request.cpus.choices
        chosen = choice.cpus if choice.cpus in choices else choices[0]
        return [
            Choosable(str(cpus), text, text, checked=cpus == chosen)
            for cpus in choices
            for text in [f"{count(cpus, 'CPU')}, {render_memory(request.memory.bytes_for(cpus))}"]
        ]

    def _walltimes(self, choice: Choice) -> list[Choosable]:
        allowed = min(site.max_walltime for site in self.sites)
        most = min(self.profile.walltime.max or allowed, allowed)
        usual = min(self.profile.walltime.default or DEFAULT_WALLTIME, most)
        asked = self._asked_walltime(choice)
        chosen = asked or usual
        times = sorted({*walltime_choices(usual, most), chosen})
        return [
            Choosable(_compact(time), text, text, checked=time == chosen)
            for time in times
            for text in [render_duration(time)]
        ]

    def _asked_walltime(self, choice: Choice) -> timedelta | None:
        """Return the walltime of last time, if it is still offered."""
        if choice.walltime is None:
            return None
        try:
            asked = Choice(profile=self.name, image=self._any_image, walltime=choice.walltime)
            return resolve(self.catalog, asked, purpose="session", groups=None).walltime
        except InvalidOptionsError:
            return None

    @property
    def _any_image(self) -> str | None:
        return next((image.name for image in self.profile.images if image.name), None)

    def _site_choices(self, choice: Choice) -> list[Choosable]:
        names = self.profile.sites
        if len(names) < 2:
            return []
        best = self._best()
        chosen = choice.site if choice.site in names else ""
        title = self.catalog.sites[best].title
        choices = [
            Choosable("", f"Shortest wait (now {title})", f"shortest wait, now {title}", not chosen)
        ]
        for name in names:
            title = self.catalog.sites[name].title
            choices.append(Choosable(name, f"{title} only", title, name == chosen))
        return choices


def _span(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{values[0]}–{values[-1]}"


def _memory_span(sizes: Sequence[int]) -> str:
    low, high = render_memory(min(sizes)), render_memory(max(sizes))
    if low == high:
        return low
    number, _, unit = low.rpartition(" ")
    return f"{number}–{high}" if high.endswith(f" {unit}") else f"{low} – {high}"


def _compact(time: timedelta) -> str:
    """Return a duration as the catalog writes it."""
    return render_duration(time).replace(" ", "").replace("min", "m")


def _keeps_files(site: BaseSite) -> bool:
    """Tell whether a user finds the files of one session there in the next one."""
    return site.kind == _KUBERNETES or bool(getattr(site, "home", None))


def _files(titles: Sequence[str], *, pods: bool) -> str:
    if not titles and pods:
        return "Your home folder is mounted."
    if not titles:
        return "You have a folder of your own there; it stays when the session ends."
    where = titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"
    return (
        f"Your home folder stays on the hub: {where} cannot mount it. "
        "Save results elsewhere before the session ends."
    )


def _again(
    catalog: Catalog,
    last: object,
    groups: Collection[str],
    seen: Mapping[str, Seen],
    waits: WaitsOf,
) -> Again | None:
    choice = _choice(last)
    if choice is None:
        return None
    try:
        resolved = resolve(catalog, choice, purpose="session", groups=groups)
    except InvalidOptionsError as error:
        return Again(f"profile {choice.profile}", "", f"{error}.", possible=False)
    best = sites_in_order(resolved.profile, resolved.sites, seen, waits)[0]
    tag = image_tag(resolved.image)
    title = catalog.sites[best].title
    state = site_tag(seen[best].health if best in seen else None)
    if _all_down(resolved.sites, seen):
        reason = seen[best].health.reason
        note = f"{title} is down{': ' + reason if reason else ''}."
        return Again(_summary(resolved), tag, note, possible=False)
    wait = wait_text(waits(resolved.profile, best))
    note = f"{title}: {state.word}. {wait}."
    return Again(_summary(resolved), tag, note, possible=True)


def _summary(resolved: Resolved) -> str:
    return f"{resolved.title}, {resources_text(resolved.resources)}, " + render_duration(
        resolved.walltime
    )
