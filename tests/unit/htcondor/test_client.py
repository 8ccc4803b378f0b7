"""What is kept of what a child of ours logs."""

import asyncio

from offload_sites.htcondor.client import _LOG_BYTES, _end_of


async def test_of_a_log_without_end_the_last_words_are_kept():
    stream = asyncio.StreamReader()
    for _ in range(40):
        stream.feed_data(b"SSL Auth: Error communicating with peer.\n" * 1000)
    stream.feed_data(b"ERROR: the reason")
    stream.feed_eof()
    kept = await _end_of(stream)
    assert len(kept) == _LOG_BYTES
    assert kept.endswith(b"ERROR: the reason")
