"""Durations and memory sizes: text to value and back."""
# ruff: noqa: PT017, RUF001  # any input is read or refused; digits of other scripts are input

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from offload_sites.units import parse_duration, parse_memory, render_duration, render_memory

TRAPS = ["", " ", "0", "8", "-1h", "+1h", "1.5h", "22:22", "1e3h", "h", "1h1h", "30m1h", "1w", "1H"]


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("30min", timedelta(minutes=30)),
        ("24h", timedelta(hours=24)),
        ("2d", timedelta(days=2)),
        ("1h30m", timedelta(minutes=90)),
        ("1d 2h 3m 4s", timedelta(days=1, hours=2, minutes=3, seconds=4)),
        (" 48 h ", timedelta(hours=48)),
        ("0s", timedelta(0)),
        ("999999d", timedelta(days=999999)),
    ],
)
def test_a_duration_is_whole_numbers_with_units(text, duration):
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", [*TRAPS, "٣h", "３h", "1h\n1m", "1000000s", "1h;", "1 hour"])
def test_what_is_no_duration_is_refused_with_the_units_and_the_text(text):
    with pytest.raises(ValueError) as error:
        parse_duration(text)
    assert str(error.value) == (
        f"expected a duration such as '24h' (units: s, m, h, d), got {text!r}"
    )


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(seconds=-5), "0 s"),
        (timedelta(0), "0 s"),
        (timedelta(milliseconds=3999), "3 s"),
        (timedelta(seconds=60), "1 min"),
        (timedelta(minutes=23, seconds=41), "23 min 41 s"),
        (timedelta(hours=1, seconds=59), "1 h"),
        (timedelta(hours=48), "48 h"),
        (timedelta(days=3), "3 d"),
        (timedelta(days=7, hours=5, minutes=59), "7 d 5 h"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units_and_never_below_zero(duration, text):
    assert render_duration(duration) == text


@given(st.integers(0, 999999 * 86400))
def test_what_is_shown_as_a_duration_can_be_typed_in_again(seconds):
    shown = render_duration(timedelta(seconds=seconds))
    read = parse_duration(shown)
    assert render_duration(read) == shown
    assert timedelta(0) <= timedelta(seconds=seconds) - read < timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4GiB", 4 * 1024**3),
        ("1.5GiB", 3 * 512 * 1024**2),
        ("500MB", 500_000_000),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("2 TiB", 2 * 1024**4),
        (" 1TB ", 10**12),
        ("0GiB", 0),
        ("0.1KiB", 102),
    ],
)
def test_a_memory_size_is_a_number_with_a_unit(text, size_bytes):
    assert parse_memory(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "4G",
        "4Gi",
        "4gib",
        "4Gb",
        "4KB",
        "4kiB",
        "-4GiB",
        "4,5GiB",
        ".5GiB",
        "1e3MB",
        "٤GiB",
        "4GiB 4GiB",
        "4\nGiB",
        "nanGiB",
        "4PiB",
    ],
)
def test_what_is_no_memory_size_is_refused_with_the_units_and_the_text(text):
    with pytest.raises(ValueError) as error:
        parse_memory(text)
    assert str(error.value).startswith("expected a memory size such as '4GiB' (units: KiB, MiB,")
    assert str(error.value).endswith(f"got {text!r}")


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (512 * 1024**2, "512 MiB"),
        (4 * 1024**3, "4 GiB"),
        (1024**3 * 3 // 2, "1.5 GiB"),
        (1024**3 - 1, "1023.9 MiB"),
        (5000 * 1024**4, "5000 TiB"),
    ],
)
def test_a_memory_size_is_shown_in_the_largest_unit_it_fills_and_cut_off(size_bytes, text):
    assert render_memory(size_bytes) == text


@given(st.integers(1024, 10**18))
def test_what_is_shown_as_memory_can_be_typed_in_again_and_is_never_more(size_bytes):
    shown = render_memory(size_bytes)
    read = parse_memory(shown)
    assert read <= size_bytes
    assert size_bytes - read <= size_bytes // 10


@given(st.text())
@example("9" * 100_000 + "h")
@example("9" * 100_000 + "GiB")
def test_any_text_is_read_or_refused_in_one_short_line(text):
    for parse in (parse_duration, parse_memory):
        try:
            assert parse(text) is not None
        except ValueError as error:
            assert str(error).isprintable()
            assert len(str(error)) < 200
