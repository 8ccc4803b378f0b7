"""A database of ours: opened, brought to the present schema, its errors turned into sentences.

The only module that knows SQLAlchemy's errors. SQLite is made for one host: the hub and the service
may share a file there. With PostgreSQL they need not share a host.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from offload_sites.errors import LedgerError

__all__ = ["Component", "Database", "Moment"]

log = logging.getLogger(__name__)

# A writer of the other process is done within milliseconds; a backup may take longer.
_BUSY_S = 10.0
_ADVISORY_LOCK = 730_541_881
_ASK_AGAIN_S = 0.2
# A server that has gone without a word is an error, and not a wait without end.
_POSTGRESQL = {
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "options": "-c statement_timeout=30s",
}
_VERSIONS = sa.Table(
    "offload_schema",
    sa.MetaData(),
    sa.Column("component", sa.String(40), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)


class Moment(sa.TypeDecorator[datetime]):
    """A time: aware and in UTC for us, without a zone in the database (SQLite knows none)."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Return `value` in UTC, without its zone."""
        return value.astimezone(UTC).replace(tzinfo=None) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Return `value` with its zone."""
        return value.replace(tzinfo=UTC) if value is not None else None


@dataclass(frozen=True)
class Component:
    """A group of tables that are versioned together.

    Parameters
    ----------
    name : str
        Stands in the database with the version.
    tables : MetaData
        The tables as they are now.
    migrations : sequence of callable
        `migrations[n]` takes a connection and brings version n + 1 to n + 2. The present version
        is their number plus one.
    """

    name: str
    tables: sa.MetaData
    migrations: Sequence[Callable[[sa.Connection], None]] = ()

    @property
    def version(self) -> int:
        """The version that this release writes."""
        return len(self.migrations) + 1


class Database:
    """One database with the tables of one or more components. Safe to use from several threads.

    Parameters
    ----------
    url : str
        `sqlite:////path/to/file`, `postgresql://user:password@host/name`, or the path of a file
        for SQLite.
    components : Component
        What has to be there.

    Raises
    ------
    LedgerError
        The URL is none, the database cannot be opened, or a newer release has written it.
    """

    def __init__(self, url: str, *components: Component) -> None:
        self._url = _parse(url)
        #: The URL without a password, for people.
        self.name = self._url.render_as_string(hide_password=True)
        self._engine = _engine(self._url)
        try:
            with self._errors("opened"):
                for component in components:
                    self._upgrade(component)
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def alone(self, who: str, *, wait_s: float = 60.0) -> Iterator[None]:
        """Be the only program that is `who` on this database, until left.

        Parameters
        ----------
        who : str
            What there may be only one of: a word.
        wait_s : float
            How long to wait for another one to end: a restart may overlap.

        Raises
        ------
        LedgerError
            There still is another one.
        """
        with contextlib.ExitStack() as stack:
            deadline_s = time.monotonic() + wait_s
            while not self._lock(who, stack):
                if time.monotonic() > deadline_s:
                    raise LedgerError(
                        f"another {who} uses the ledger {self.name}",
                        "there can be only one at a time: end the other one first",
                    )
                time.sleep(_ASK_AGAIN_S)
            yield

    def _lock(self, who: str, stack: contextlib.ExitStack) -> bool:
        """Take the lock of `who` until `stack` is closed; return whether it was free."""
        if self._url.get_backend_name() == "postgresql":
            return self._lock_postgresql(who, stack)
        try:
            file = os.open(f"{self._url.database}.{who}-lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise LedgerError(
                f"the ledger {self.name} cannot be locked: {error.strerror}",
                "this program has to be able to make files beside it",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        stack.callback(os.close, file)
        return True

    def _lock_postgresql(self, who: str, stack: contextlib.ExitStack) -> bool:
        with self._errors("opened"), contextlib.ExitStack() as own:
            # The lock belongs to the connection, and is free as soon as this program has ended.
            connection = own.enter_context(self._engine.connect())
            # Without a transaction: an open one would keep old rows alive for as long.
            plain = connection.execution_options(isolation_level="AUTOCOMMIT")
            lock = _ADVISORY_LOCK, zlib.crc32(who.encode()) >> 1
            if not plain.scalar(sa.select(sa.func.pg_try_advisory_lock(*lock))):
                return False
            # The connection itself goes back to the pool, and would take the lock with it.
            own.callback(self._unlock, plain, lock)
            stack.enter_context(own.pop_all())
        return True

    def _unlock(self, connection: sa.Connection, lock: tuple[int, int]) -> None:
        with contextlib.suppress(SQLAlchemyError):
            connection.execute(sa.select(sa.func.pg_advisory_unlock(*lock)))

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection for reading. Raises LedgerError."""
        with self._errors("read"), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction, committed at the end or not at all.

        Raises
        ------
        LedgerError
            Nothing has been written: the disk is full, the file is read-only, nobody answers.
        """
        with self._errors("written"), self._engine.connect() as plain:
            # SQLite must take its lock at once: one that reads first cannot wait for another.
            connection = plain.execution_options(offload_write=True)
            with connection.begin():
                yield connection

    def _upgrade(self, component: Component) -> None:
        with self._engine.connect() as plain:
            connection = plain.execution_options(offload_write=True)
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    # Two programs may start at once, and PostgreSQL has no lock on what is not there.
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
                _VERSIONS.create(connection, checkfirst=True)
                version = connection.scalar(
                    sa.select(_VERSIONS.c.version).where(_VERSIONS.c.component == component.name)
                )
                self._bring(connection, component, version)

    def _bring(self, connection: sa.Connection, component: Component, version: int | None) -> None:
        if version is None:
            component.tables.create_all(connection)
            row = {"component": component.name, "version": component.version}
            connection.execute(_VERSIONS.insert().values(row))
            return
        if version > component.version:
            raise LedgerError(
                f"the ledger {self.name} was written by a newer release: its {component.name} has "
                f"version {version}, this release knows {component.version}",
                "install the newer release again, or restore the backup from before it",
            )
        for migrate in component.migrations[version - 1 :]:
            migrate(connection)
        if version < component.version:
            log.info("ledger: %s from version %d to %d", component.name, version, component.version)
            connection.execute(
                _VERSIONS.update()
                .where(_VERSIONS.c.component == component.name)
                .values(version=component.version)
            )

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise LedgerError(
                f"the ledger {self.name} cannot be {what}: {_why(error)}",
                "nothing new is started until then, and what runs goes on; see that there is room "
                "on the disk, and that this program may write there",
            ) from error


def _parse(url: str) -> URL:
    if "://" not in url:
        path = Path(url).expanduser().absolute()
        return URL.create("sqlite", database=str(path))
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise LedgerError(
            "the URL of the ledger cannot be understood",
            "expected sqlite:////path/to/file or postgresql://user:password@host/name",
        ) from error
    # What `pip install interlink-offload[postgresql]` brings.
    return (
        parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed
    )


def _engine(url: URL) -> sa.Engine:
    name = url.render_as_string(hide_password=True)
    try:
        if url.get_backend_name() == "postgresql":
            return sa.create_engine(url, pool_pre_ping=True, connect_args=_POSTGRESQL)
        if url.get_backend_name() != "sqlite":
            return sa.create_engine(url, pool_pre_ping=True)
        if url.database:
            # Others on this computer have no business with who runs what.
            with contextlib.suppress(OSError):
                os.close(os.open(url.database, os.O_RDWR | os.O_CREAT, 0o600))
        engine = sa.create_engine(url, connect_args={"timeout": _BUSY_S})
    except (NoSuchModuleError, ImportError) as error:
        raise LedgerError(
            f"the ledger {name} needs a module that is not installed: {error}",
            "for PostgreSQL: pip install 'interlink-offload[postgresql]'",
        ) from error
    sa.event.listen(engine, "connect", _configure_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    # Python's module would begin transactions by itself, and too late (SQLAlchemy's page on
    # pysqlite, "Serializable isolation / Savepoints / Transactional DDL").
    connection.isolation_level = None
    cursor = connection.cursor()
    # Readers do not wait for a writer, nor a writer for readers.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("offload_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _why(error: SQLAlchemyError) -> str:
    """Return the reason in the database's own words, without statement and parameters."""
    original = error.orig if isinstance(error, DBAPIError) else None
    lines = str(original).strip().splitlines() if original is not None else []
    return lines[0] if lines else type(error).__name__
