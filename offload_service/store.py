"""What the service must know after it was killed: its clusters, and the last good catalog.

No secrets: of a cluster's token only a hash, of its certificates nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from offload_sites.database import Component, Database, Moment

__all__ = ["CLUSTERS", "ClusterRow", "ClusterStore"]

_tables = sa.MetaData()
_clusters = sa.Table(
    "offload_clusters",
    _tables,
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("user", sa.String(255), nullable=False, index=True),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("token_hash", sa.String(64), nullable=False),
    sa.Column("made", sa.Text, nullable=False),
    sa.Column("wanted", sa.Integer, nullable=False),
    sa.Column("created", Moment, nullable=False),
    sa.Column("closing", sa.Text, nullable=False),
    sa.Column("retried", Moment),
    sa.Column("ended", Moment, index=True),
)
_texts = sa.Table(
    "offload_texts",
    _tables,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
)

#: The tables of clusters, in their present version.
CLUSTERS = Component("clusters", _tables)


@dataclass(frozen=True)
class ClusterRow:
    """One cluster as it is kept.

    `closing` says why it is to end, if it is; failures before `retried` do not count any more.
    """

    id: str
    user: str
    name: str
    token_hash: str = field(repr=False)
    made: Mapping[str, Any] = field(repr=False)
    created: datetime
    wanted: int = 0
    closing: str = ""
    retried: datetime | None = None
    ended: datetime | None = None


class ClusterStore:
    """Keeps clusters in a database that has `CLUSTERS`. Synchronous, as the ledger beside it.

    All methods raise LedgerError if the database cannot be read or written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: ClusterRow) -> None:
        """Keep a new cluster."""
        values = {**row.__dict__, "made": json.dumps(row.made)}
        with self._database.write() as connection:
            connection.execute(_clusters.insert().values(values))

    def update(self, cluster: str, **values: object) -> None:
        """Change `wanted`, `closing`, `retried` or `ended` of a cluster."""
        with self._database.write() as connection:
            connection.execute(_clusters.update().where(_clusters.c.id == cluster).values(**values))

    def living(self) -> Sequence[ClusterRow]:
        """Return all clusters that have not ended, the oldest first."""
        query = (
            sa.select(_clusters).where(_clusters.c.ended.is_(None)).order_by(_clusters.c.created)
        )
        with self._database.read() as connection:
            return [_row(row) for row in connection.execute(query).mappings()]

    def ended(self, cluster: str) -> ClusterRow | None:
        """Return a cluster that has ended; None if there is none of this id."""
        query = sa.select(_clusters).where(
            _clusters.c.id == cluster, _clusters.c.ended.is_not(None)
        )
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
        return _row(row) if row is not None else None

    def forget(self, before: datetime) -> None:
        """Drop clusters that ended before a time."""
        with self._database.write() as connection:
            connection.execute(_clusters.delete().where(_clusters.c.ended < before))

    def keep_text(self, name: str, text: str) -> None:
        """Keep a text under a name, in place of what was there."""
        with self._database.write() as connection:
            connection.execute(_texts.delete().where(_texts.c.name == name))
            connection.execute(_texts.insert().values(name=name, text=text))

    def text(self, name: str) -> str | None:
        """Return the text that was kept under a name."""
        with self._database.read() as connection:
            return connection.scalar(sa.select(_texts.c.text).where(_texts.c.name == name))


def _row(row: sa.RowMapping) -> ClusterRow:
    values = dict(row)
    return ClusterRow(**{**values, "made": json.loads(values["made"])})
