"""What is drawn agrees with the snapshot, and nothing that a site says is taken as markup."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dask_offload.show import headline, render_html, render_line, render_notes, render_text
from dask_offload.snapshot import JobRow, Note, SiteRow, Snapshot
from offload_sites.jobs import AgentState, JobState
from tests.unit.dask.samples import BASE, GIB, crew, failure, job, silence, snapshot, working

EVIL = "<script>alert(1)</script>\"'&\x1b[2J\r\n<img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Collects the elements, the cells of each row of a table, and the text of a page."""

    VOID = ("br", "path", "circle", "img", "input")

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.rows, self.words = [], [], [], []
        self.open = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def numbers(self, title):
        """Return the cells of the row that begins with `title`, by the heads of its columns."""
        heads = self.rows[0][2:]
        row = next(row for row in self.rows if row and row[0] == title)
        return dict(zip(heads, row[2:], strict=True))


def full(**fields):
    """Return a cluster with workers in every state at two sites."""
    return snapshot(
        working(1),
        job(2, JobState.RUNNING),
        job(3),
        job(4, JobState.HELD, reason="no space"),
        job(5, JobState.RUNNING, AgentState.LOST, site="leonardo"),
        working(6, site="leonardo", workers=1),
        workers=[*crew("c7-1", 3), *crew("c7-6", 1)],
        wanted=21,
        **fields,
    )


# --- text ----------------------------------------------------------------------------------------


def test_the_repr_counts_workers_by_state_and_leaves_zeros_out():
    assert render_text(full()).splitlines()[0] == (
        "OffloadCluster('alice-1', workers=4/21, starting=5, queued=4, held=4, lost=4, threads=8, "
        "memory='16 GiB', sites='RAC Naples, Leonardo')"
    )
    assert render_text(snapshot(wanted=0), "Mine") == (
        "Mine('alice-1', workers=0/0, threads=0, memory='0 B', sites='RAC Naples, Leonardo')"
    )


def test_the_repr_says_why_jobs_are_held_and_why_none_are_submitted():
    assert "held at RAC Naples" in render_text(full())
    over = replace(snapshot(wanted=0), stopped="the scheduler has ended: killed")
    assert "No more jobs are submitted: the scheduler has ended: killed." in render_text(over)


def test_the_headline_says_how_many_work_and_where_the_others_are():
    assert headline(full()) == (
        "4 of 21 workers are working. 5 are starting, 4 queued, 4 held, 4 lost."
    )
    assert headline(snapshot(working(1), workers=crew("c7-1", 3), wanted=4)) == (
        "3 of 4 workers are working. 1 is starting."
    )


def test_the_headline_of_an_adaptive_cluster_says_its_bounds_and_what_it_wants():
    shown = snapshot(wanted=8, base=replace(BASE, adaptive=(0, 100)))
    assert headline(shown) == "0 of 8 workers are working. Adaptive from 0 to 100, wants 8 now."


@pytest.mark.parametrize(
    ("workers", "rest"), [(1, ", 1 is queued."), (4, ", 4 are queued."), (0, ".")]
)
def test_the_headline_of_a_stopped_cluster_begins_with_why(workers, rest):
    shown = snapshot(job(1, workers=workers), wanted=8, stopped="3 jobs failed in the same way")
    assert headline(shown) == (
        "No more jobs are submitted: 3 jobs failed in the same way. "
        f"0 of 8 workers are working{rest}"
    )


# --- one line of a terminal ----------------------------------------------------------------------


def test_the_line_shows_a_bar_the_counts_and_the_time():
    shown = snapshot(working(1), job(2), workers=crew("c7-1"))
    assert render_line(shown, 8, 75) == (
        "alice-1 4/8 [##############..............] 0 starting 4 queued 0 held 1:15"
    )


@pytest.mark.parametrize("width", [1, 20, 40, 60, 79, 80, 200])
@pytest.mark.parametrize("wanted", [0, 1, 8, 100_000])
def test_the_line_never_is_longer_than_the_terminal(width, wanted):
    line = render_line(full(), wanted, 3 * 3600 + 59, width)
    assert len(line) <= width
    assert line.isascii()
    assert line.isprintable()


def test_the_line_shows_hours_once_there_are_some():
    assert render_line(full(), 21, 3725).endswith(" 1:02:05")


def test_more_workers_than_are_waited_for_do_not_burst_the_bar():
    shown = snapshot(working(1), job(2), workers=crew("c7-1"))
    bar = re.search(r"\[(.*)\]", render_line(shown, 2, 0)).group(1)
    assert bar == "#" * len(bar)


# --- notes for a terminal ------------------------------------------------------------------------


def test_a_note_is_wrapped_and_keeps_its_advice():
    held = job(
        1,
        JobState.HELD,
        reason="Its memory was used up.",
        said="Error from slot1@wn042.na.infn.it: memory usage exceeded request_memory of 4096 MB",
        hint="choose a larger profile",
    )
    (note,) = render_notes(snapshot(held), width=60)
    assert note.startswith("  held: 1 job with 4 workers is held at RAC Naples")
    assert all(len(line) <= 60 for line in note.splitlines())
    assert " ".join(note.split()).endswith(
        'The site says: "Error from slot1@wn042.na.infn.it: memory usage exceeded request_memory of '
        '4096 MB". Choose a larger profile.'
    )


def test_a_very_long_reason_does_not_flood_the_terminal():
    (note,) = render_notes(snapshot(job(1, JobState.HELD, reason="word " * 5000)), width=80)
    assert len(note.splitlines()) <= 6
    assert note.endswith(" ...")


def test_a_site_cannot_send_escape_sequences_to_a_terminal():
    held = job(1, JobState.HELD, reason="a\x1b]0;title\x07b\rc", said="\x1b[2J\x9b31m\u202e\x00")
    (note,) = render_notes(snapshot(held), width=80)
    assert note.replace("\n", "").isascii()
    assert note.replace("\n", "").isprintable()
    assert "A?]0;title?b c" in note


# --- HTML ----------------------------------------------------------------------------------------


def test_the_table_agrees_with_the_snapshot():
    shown = full()
    page = Page(render_html(shown))
    heads = ("working", "starting", "queued", "held", "lost")
    for row in shown.sites:
        cells = page.numbers(row.title)
        assert {w: cells[w.capitalize()] for w in heads} == {
            w: str(getattr(row, w) or "\N{EN DASH}") for w in heads
        }
    total = page.numbers("All")
    assert {w: total[w.capitalize()] for w in heads} == {w: str(shown.count(w)) for w in heads}
    assert (total["Threads"], total["Memory"]) == ("8", "16 GiB")
    assert headline(shown) in page.text


def test_lost_workers_and_gpus_have_columns_only_where_there_are_some():
    plain = Page(render_html(snapshot(working(1), workers=crew("c7-1")))).rows[0]
    assert "Lost" not in plain
    assert "GPUs" not in plain
    with_gpus = full(base=replace(BASE, gpus_per_worker=2))
    assert Page(render_html(with_gpus)).numbers("All")["GPUs"] == "8"
    assert "Lost" in Page(render_html(with_gpus)).rows[0]


def test_each_bar_is_described_for_those_who_do_not_see_it():
    labels = [v for k, v in Page(render_html(full())).attributes if k == "aria-label"]
    assert labels == [
        "RAC Naples: 3 working, 5 starting, 4 queued, 4 held",
        "Leonardo: 1 working, 4 lost",
    ]


def test_a_cluster_without_workers_can_be_drawn():
    page = Page(render_html(snapshot(wanted=0)))
    assert "0 of 0 workers are working." in page.text
    assert "No jobs." in page.text
    assert "details" not in page.tags
    assert set(page.numbers("All").values()) == {"\N{EN DASH}"}


def test_a_cluster_before_its_first_snapshot_can_be_drawn():
    empty = Snapshot("alice-1", 0, 0, "", "")
    assert "alice-1" in Page(render_html(empty)).text
    assert render_text(empty).startswith("OffloadCluster('alice-1', workers=0/0")
    assert render_line(empty, 0, 0).startswith("alice-1 0/0")


def test_many_sites_have_a_row_each_and_one_sum():
    titles = {f"s{n}": f"Site {n}" for n in range(40)}
    jobs = [working(n, site=f"s{n}", workers=1) for n in range(40)]
    workers = [worker for n in range(40) for worker in crew(f"c7-{n}", 1)]
    page = Page(render_html(snapshot(*jobs, workers=workers, titles=titles, wanted=40)))
    assert [page.numbers(title)["Working"] for title in titles.values()] == ["1"] * 40
    assert page.numbers("All")["Working"] == "40"
    widths = [int(v[6:-1]) for k, v in page.attributes if k == "style" and v.startswith("width:")]
    assert all(0 <= width <= 100 for width in widths)


def test_a_site_with_more_than_is_wanted_does_not_burst_its_bar():
    page = Page(render_html(snapshot(working(1), job(2), workers=crew("c7-1"), wanted=1)))
    assert ("style", "width:100%") in page.attributes


def test_the_footer_counts_jobs_that_are_there_or_coming_by_size():
    page = Page(render_html(full()))
    assert "5 jobs of 4 workers, 1 job of 1 worker." in page.text
    ended = snapshot(job(1, JobState.COMPLETED), job(2, leaving="no longer wanted"))
    assert "No jobs." in Page(render_html(ended)).text


def test_calls_are_named_only_where_no_buttons_stand_beside():
    assert "cluster.scale(21)" in render_html(full())
    assert "cluster.scale" not in render_html(full(), calls=False)


def test_the_dashboard_is_linked_where_there_is_one():
    link = "http://127.0.0.1:8787/status?a=1&b='2'"
    assert ("href", link) in Page(render_html(full(), link)).attributes
    assert "a" not in Page(render_html(full())).tags


def evil_snapshot():
    words = ("working", "queued", "held", "lost", "failed")
    return Snapshot(
        name=EVIL,
        version=1,
        wanted=8,
        title=EVIL,
        image=EVIL,
        sites=(SiteRow(EVIL, EVIL, working=2, queued=2, memory_bytes=GIB),),
        jobs=tuple(
            JobRow(EVIL, EVIL, EVIL, 4, 0, w, EVIL, EVIL, EVIL, EVIL, EVIL) for w in (*words, EVIL)
        ),
        notes=tuple(
            Note(tone, icon, EVIL, EVIL, EVIL, EVIL)
            for tone, icon in (("bad", "bad"), ("warn", "held"), ("wait", "unknown"))
        ),
        stopped=EVIL,
    )


@pytest.mark.parametrize("changes", [{}, {"stopped": ""}])
def test_no_text_from_outside_becomes_markup(changes):
    html = render_html(replace(evil_snapshot(), **changes), EVIL)
    page = Page(html)
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.open == []
    assert html.count("&lt;script&gt;") > 20
    assert "alert(1)" in page.text


def test_what_a_site_says_in_any_place_is_escaped_on_its_way_to_the_page():
    shown = snapshot(
        job(1, JobState.HELD, reason=EVIL, said=EVIL, hint=EVIL, where=EVIL),
        replace(job(2, JobState.UNKNOWN, site="leonardo"), silent=EVIL),
        failures=(failure(reason=EVIL, said=EVIL, hint=EVIL),),
        troubles={"naples": silence(EVIL)},
        stopped=EVIL,
    )
    page = Page(render_html(shown))
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 7


def test_a_long_reason_is_shown_whole():
    reason = f"Begin {'x' * 3000} end."
    page = Page(render_html(snapshot(job(1, JobState.HELD, reason=reason))))
    assert page.text.count(reason) == 2  # as a note, and in the row of the job


def test_the_page_asks_nothing_of_the_outside_and_runs_nothing():
    page = Page(render_html(full(), "http://127.0.0.1:8787/status"))
    assert not {"script", "iframe", "link", "img", "object"} & set(page.tags)
    assert [k for k, _ in page.attributes if k in ("src", "href")] == ["href"]
    assert "url(" not in render_html(full())
    assert "@import" not in render_html(full())
