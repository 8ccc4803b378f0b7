"""A snapshot as text, as one line of a terminal, and as HTML. Pure; all that comes in is escaped."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable
from html import escape

from dask_offload.snapshot import JobRow, Note, SiteRow, Snapshot

__all__ = ["headline", "render_html", "render_line", "render_notes", "render_text"]

_WORDS = ("working", "starting", "queued", "held", "lost")
_NOTE_LINES = 6


def render_text(snapshot: Snapshot, class_name: str = "OffloadCluster") -> str:
    """Return the `repr` of a cluster: one line, and more where something is to be said."""
    parts = [f"{snapshot.name!r}", f"workers={snapshot.count('working')}/{snapshot.wanted}"]
    parts += [f"{word}={n}" for word in _WORDS[1:] if (n := snapshot.count(word))]
    parts.append(f"threads={sum(site.threads for site in snapshot.sites)}")
    parts.append(f"memory='{_memory(sum(site.memory_bytes for site in snapshot.sites))}'")
    titles = ", ".join(site.title for site in snapshot.sites)
    first = f"{class_name}({', '.join(parts)}, sites='{titles}')"
    stopped = [_plain(f"  {headline(snapshot)}")] if snapshot.stopped else []
    return "\n".join([first, *stopped, *render_notes(snapshot)])


def headline(snapshot: Snapshot) -> str:
    """Return the one sentence that says how the cluster is."""
    working = snapshot.count("working")
    if snapshot.stopped:
        queued = snapshot.count("queued")
        rest = f", {queued} {'is' if queued == 1 else 'are'} queued" if queued else ""
        return (
            f"No more jobs are submitted: {snapshot.stopped}. "
            f"{working} of {snapshot.wanted} workers are working{rest}."
        )
    text = f"{working} of {snapshot.wanted} workers are working."
    if snapshot.adaptive:
        low, high = snapshot.adaptive
        text += f" Adaptive from {low} to {high}, wants {snapshot.wanted} now."
    others = [f"{n} {word}" for word in _WORDS[1:] if (n := snapshot.count(word))]
    if others:
        first, *more = others
        number, word = first.split(" ", 1)
        verb = "is" if number == "1" else "are"
        text += f" {', '.join([f'{number} {verb} {word}', *more])}."
    return text


# --- terminal ------------------------------------------------------------------------------------


def render_line(snapshot: Snapshot, wanted: int, elapsed_s: float, width: int = 80) -> str:
    """Return one line for a terminal: plain ASCII, at most `width` characters."""
    counts = {word: snapshot.count(word) for word in _WORDS}
    total = max(wanted, 1)
    head = f"{snapshot.name} {counts['working']:>{len(str(wanted))}}/{wanted} "
    tail = (
        f" {counts['starting']} starting {counts['queued']} queued {counts['held']} held "
        f"{_clock(elapsed_s)}"
    )
    room = min(28, width - len(head) - len(tail) - 2)
    bar = f"[{_bar(counts, total, room)}]" if room >= 8 else ""
    return (head + bar + tail)[:width]


def _bar(counts: dict[str, int], total: int, room: int) -> str:
    signs = {"working": "#", "starting": "=", "lost": "?", "queued": ".", "held": "!"}
    bar = "".join(sign * (counts[word] * room // total) for word, sign in signs.items())
    return bar[:room].ljust(room, "." if counts["queued"] else " ")


def render_notes(snapshot: Snapshot, width: int = 80) -> list[str]:
    """Return each note as a few lines for a terminal, without escape sequences in a site's words."""
    return [
        textwrap.fill(
            _plain(f"{note.icon}: {note.head} {note.text} {_quoted(note.said)} {note.advice}"),
            max(width, 40),
            initial_indent="  ",
            subsequent_indent="    ",
            max_lines=_NOTE_LINES,
            placeholder=" ...",
        )
        for note in snapshot.notes
    ]


def _quoted(said: str) -> str:
    return f'The site says: "{said.strip()}".' if said.strip() else ""


def _plain(text: str) -> str:
    ascii_only = " ".join(text.split()).encode("ascii", "replace").decode()
    return "".join(sign if sign.isprintable() else "?" for sign in ascii_only)


def _clock(elapsed_s: float) -> str:
    minutes, seconds = divmod(int(elapsed_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


# --- HTML ----------------------------------------------------------------------------------------

_STYLE = """
.ofl-cluster{--ok:#2270a8;--wait:#5c636a;--warn:#8a5a00;--bad:#c4161a;
--line:var(--jp-border-color2,#d5d9dd);
--soft:var(--jp-layout-color2,#f3f4f5);--text:var(--jp-content-font-color1,#212529);
--sub:var(--jp-content-font-color2,#5c636a);color:var(--text);
font:13px/1.45 var(--jp-ui-font-family,system-ui,sans-serif);max-width:60rem;border:1px solid var(--line);
border-radius:4px}
[data-jp-theme-light="false"] .ofl-cluster{--ok:#80b0d3;--wait:#adb5bd;--warn:#ffda6a;--bad:#ea868f}
.ofl-cluster .i{width:1em;height:1em;vertical-align:-.125em}
.ofl-cluster .ok{color:var(--ok)}.ofl-cluster .wait{color:var(--wait)}
.ofl-cluster .warn{color:var(--warn)}.ofl-cluster .bad{color:var(--bad)}
.ofl-cluster>*{padding:8px 12px;margin:0}.ofl-cluster>*+*{border-top:1px solid var(--line)}
.ofl-cluster>style{display:none}
.ofl-cluster .hd{display:flex;flex-wrap:wrap;gap:2px 12px;align-items:baseline;border-top:0}
.ofl-cluster .hd b{font-size:15px}.ofl-cluster .hd a{margin-left:auto;color:var(--ok)}
.ofl-cluster .sub{color:var(--sub)}
.ofl-cluster code{font-family:var(--jp-code-font-family,monospace);font-size:12px;background:none;
color:inherit;padding:0;overflow-wrap:anywhere}
.ofl-cluster .wrap{position:relative;overflow-x:auto;padding-bottom:4px}
.ofl-cluster table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;margin:0;
font-size:13px;table-layout:auto}
.ofl-cluster td,.ofl-cluster th{padding:3px 0 3px 14px;text-align:right;white-space:nowrap;
font-weight:400;border:0;background:none}
.ofl-cluster tr>:first-child{text-align:left;padding-left:0}
.ofl-cluster thead th{color:var(--sub);font-size:12px}
.ofl-cluster td.b{width:36%;min-width:140px;text-align:left}
.ofl-cluster tfoot>tr>*{border-top:1px solid var(--line);font-weight:600}.ofl-cluster .z{color:var(--sub)}
.ofl-cluster .bar{display:flex;height:12px;gap:1px}
.ofl-cluster .bar i,.ofl-cluster .sw{display:block;border:1px solid;border-radius:1px;box-sizing:border-box}
.ofl-cluster .sw{display:inline-block;width:12px;height:10px;margin-right:4px;vertical-align:-1px}
.ofl-cluster .working{background:var(--ok);border-color:var(--ok)!important}
.ofl-cluster .starting{background:repeating-linear-gradient(135deg,var(--ok) 0 2px,transparent 2px 5px);
border-color:var(--ok)!important}
.ofl-cluster .queued{background:none;border-color:var(--wait)!important}
.ofl-cluster .held{background:repeating-linear-gradient(90deg,var(--warn) 0 2px,transparent 2px 4px);
border-color:var(--warn)!important}
.ofl-cluster .lost{background:none;border-color:var(--wait)!important;border-style:dashed!important}
.ofl-cluster ul{list-style:none;margin:0;padding:0;display:grid;gap:6px}
.ofl-cluster li{display:grid;grid-template-columns:16px 1fr;column-gap:6px;margin:0}
.ofl-cluster li .i{margin-top:3px}
.ofl-cluster details table{margin-top:6px}
.ofl-cluster details td,.ofl-cluster details th{text-align:left;padding:2px 12px 2px 0;white-space:normal}
.ofl-cluster :focus-visible{outline:2px solid var(--ok);outline-offset:1px}
"""

_ICONS = {
    "warn": '<path fill="none" stroke="currentColor" stroke-width="1.6" stroke-linejoin="round" '
    'd="M8 1.8 15 14.2H1ZM8 6v4.2M8 11.6v1.2"/>',
    "bad": '<path fill="currentColor" fill-rule="evenodd" d="M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 '
    "10.9V5.1Zm.6 3.5L4.5 5.7 6.8 8l-2.3 2.3 1.2 1.2L8 9.2l2.3 2.3 1.2-1.2L9.2 8l2.3-2.3-1.2-1.2L8 "
    '6.8Z"/>',
    "unknown": '<circle cx="8" cy="8" r="6.4" fill="none" stroke="currentColor" stroke-width="1.6" '
    'stroke-dasharray="2.6 1.9"/><path fill="none" stroke="currentColor" stroke-width="1.5" '
    'd="M6 6.4c0-2.4 4-2.4 4 0 0 1.5-2 1.5-2 3M8 10.8v1.4"/>',
    "held": '<circle cx="8" cy="8" r="6.4" fill="none" stroke="currentColor" stroke-width="1.6"/>'
    '<path stroke="currentColor" stroke-width="1.8" d="M6.3 5v6M9.7 5v6"/>',
    "lost": '<path fill="none" stroke="currentColor" stroke-width="1.8" '
    'd="M.5 8h4.6M10.9 8h4.6M5.4 4.2 8 8.6M8 7.4l2.6 4.4"/>',
}


def render_html(snapshot: Snapshot, dashboard: str = "", *, calls: bool = True) -> str:
    """Return the cluster as one block of HTML without scripts or outside requests.

    Parameters
    ----------
    snapshot : Snapshot
        What to show.
    dashboard : str
        Link to Dask's dashboard; empty for none.
    calls : bool
        Name the calls that scale, where no buttons stand beside.
    """
    parts = [
        _header(snapshot, dashboard),
        f"<div>{_headline_html(snapshot)}</div>",
        f'<div class="wrap">{_table(snapshot)}</div>',
    ]
    if snapshot.notes:
        notes = "".join(_note(note) for note in snapshot.notes)
        parts.append(f'<div role="status"><ul>{notes}</ul></div>')
    parts.append(_jobs_table(snapshot.jobs))
    parts.append(f'<div class="sub">{_footer(snapshot, calls=calls)}</div>')
    return f'<div class="ofl-cluster"><style>{_STYLE}</style>{"".join(parts)}</div>'


def _header(snapshot: Snapshot, dashboard: str) -> str:
    link = ""
    if dashboard:
        link = f' <a href="{escape(dashboard)}" target="_blank" rel="noopener">Dashboard</a>'
    return (
        f'<div class="hd"><b>{escape(snapshot.name)}</b> <span class="sub">OffloadCluster, '
        f"{escape(snapshot.title)}, <code>{escape(snapshot.image)}</code></span>{link}</div>"
    )


def _headline_html(snapshot: Snapshot) -> str:
    text = escape(headline(snapshot))
    if snapshot.stopped:
        head, colon, rest = text.partition(":")
        return f"{_icon('bad', 'bad')} <b>{head}{colon}</b>{rest}"
    head, middle, rest = text.partition(" workers are")
    return f"<b>{head}</b>{middle}{rest}"


def _table(snapshot: Snapshot) -> str:
    words = [w for w in _WORDS if w != "lost" or snapshot.count("lost")]
    gpus = any(site.gpus for site in snapshot.sites)
    heads = "".join(
        f'<th scope="col"><span class="sw {word}"></span>{word.capitalize()}</th>' for word in words
    )
    last = '<th scope="col">GPUs</th>' if gpus else ""
    scale = max([snapshot.wanted, *(site.total for site in snapshot.sites), 1])
    rows = "".join(_site(site, words, scale, gpus=gpus) for site in snapshot.sites)
    total = SiteRow(
        "",
        "All",
        **{word: snapshot.count(word) for word in _WORDS},
        threads=sum(site.threads for site in snapshot.sites),
        memory_bytes=sum(site.memory_bytes for site in snapshot.sites),
        gpus=sum(site.gpus for site in snapshot.sites),
    )
    return (
        '<table><thead><tr><th scope="col">Site</th><th scope="col"><span style="position:absolute;'
        f'clip-path:inset(50%)">Workers by state</span></th>{heads}<th scope="col">Threads</th>'
        f'<th scope="col">Memory</th>{last}</tr></thead><tbody>{rows}</tbody><tfoot><tr>'
        f'<th scope="row">All</th><td></td>{_numbers(total, words, gpus=gpus)}</tr></tfoot></table>'
    )


def _site(site: SiteRow, words: Iterable[str], scale: int, *, gpus: bool) -> str:
    shown = [(word, getattr(site, word)) for word in words if getattr(site, word)]
    label = escape(f"{site.title}: {', '.join(f'{n} {w}' for w, n in shown) or 'no workers'}")
    pieces = "".join(f'<i class="{word}" style="flex:{n}"></i>' for word, n in shown)
    width = round(100 * site.total / scale)
    return (
        f'<tr><th scope="row">{escape(site.title)}</th><td class="b"><div class="bar" role="img" '
        f'style="width:{width}%" aria-label="{label}">{pieces}</div></td>'
        f"{_numbers(site, words, gpus=gpus)}</tr>"
    )


def _numbers(site: SiteRow, words: Iterable[str], *, gpus: bool) -> str:
    values = [_count(getattr(site, word)) for word in words]
    values += [_count(site.threads), _memory(site.memory_bytes) if site.memory_bytes else _DASH]
    if gpus:
        values.append(_count(site.gpus))
    return "".join(f'<td class="z">{v}</td>' if v == _DASH else f"<td>{v}</td>" for v in values)


def _note(note: Note) -> str:
    said = f" The site says: <code>{escape(note.said)}</code>" if note.said else ""
    advice = f'<br><span class="sub">{escape(note.advice)}</span>' if note.advice else ""
    return (
        f"<li>{_icon(note.icon, note.tone)}<span><b>{escape(note.head)}</b> {escape(note.text)}"
        f"{said}{advice}</span></li>"
    )


def _jobs_table(jobs: Iterable[JobRow]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(job.key)}</code></td><td>{escape(job.word)}</td>"
        f"<td>{job.registered} of {job.workers}</td><td>{escape(job.where)}</td>"
        f"<td>{escape(job.reason)}</td></tr>"
        for job in jobs
    )
    if not rows:
        return ""
    return (
        "<details><summary>Jobs</summary><table><thead><tr><th>Job</th><th>State</th>"
        f"<th>Workers</th><th>Node</th><th>Reason</th></tr></thead><tbody>{rows}</tbody></table>"
        "</details>"
    )


def _footer(snapshot: Snapshot, *, calls: bool) -> str:
    alive = Counter(
        job.workers for job in snapshot.jobs if job.word in (*_WORDS, "submitted") and job.workers
    )
    jobs = ", ".join(
        f"{count} {'job' if count == 1 else 'jobs'} of {size} {'worker' if size == 1 else 'workers'}"
        for size, count in sorted(alive.items(), reverse=True)
    )
    text = f"{jobs or 'No jobs'}. "
    text += f"{_memory(snapshot.bytes_through_relay)} through the relay. Ends with this notebook. "
    if calls:
        n = snapshot.wanted or 8
        text += f"To scale: <code>cluster.scale({n})</code> or <code>cluster.adapt(0, {n})</code>."
    return text


def _icon(name: str, tone: str) -> str:
    return f'<svg class="i {tone}" viewBox="0 0 16 16" aria-hidden="true">{_ICONS[name]}</svg>'


_DASH = "\N{EN DASH}"


def _count(number: int) -> str:
    return f"{number:,}" if number else _DASH


def _memory(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:,.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError
