"""`asyncio.timeout` for every Python that the agent meets.

Not `asyncio.wait_for`: before Python 3.12 it swallows a cancellation that comes together with what is
waited for, and whoever has cancelled then waits for ever.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from asyncio import timeout  # novermin
else:
    from websockets.asyncio.async_timeout import timeout

__all__ = ["timeout"]
