"""Wait for a condition with a deadline, never for a time.

``await eventually(condition, within_s=20)`` and, without an event loop, ``eventually_sync(...)``.
"""

from offload_sites.testing.waiting import eventually, eventually_sync, scaled

__all__ = ["eventually", "eventually_sync", "scaled"]
