"""What an agent keeps on disk: one SQLite file, written in groups off the event loop.

Only sealed, signed or public bytes come here; nothing that would be a secret in the wrong hands is handed to `save`.
A write is durable (WAL, `synchronous=FULL`) when its future is done. Writes of many calls share one transaction, so
that no probe waits for a disk. What the disk refuses is written with the next group that it takes.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from beemesh.effects import Save
from beemesh.errors import BeemeshError
from beemesh.write_queue import QUEUE_WRITES_MAX, Write, WriteQueue

log = logging.getLogger("beemesh.store")


class StoreFailure(BeemeshError):
    """The disk refused a write: full, read-only or broken. The agent stops taking work until it is mended."""


class Store:
    """Key-value tables in SQLite."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = self._open(path)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._queue: WriteQueue[asyncio.Future[None]] = WriteQueue()
        self._flusher: asyncio.Task[None] | None = None

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA cache_size=-1024")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS kept (space TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, "
                "PRIMARY KEY (space, key)) WITHOUT ROWID"
            )
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise StoreFailure(
                f"{path}: cannot open the agent's store: {error}",
                hint="check that the disk is mounted, writable and not full; a file of another program must go away",
            ) from error
        path.chmod(0o600)
        return connection

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) pairs of a table, in the order of keys. Used at start only; raises `StoreFailure` when the
        file is damaged."""
        question = (
            "SELECT key, value FROM kept WHERE space=? AND typeof(key)='blob' AND typeof(value)='blob' ORDER BY key"
        )
        try:
            yield from self._connection.execute(question, (table,))
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise StoreFailure(
                f"{self._path}: the agent's store is damaged: {error}",
                hint="move the file away and start again: what this node kept for others, they have elsewhere",
            ) from error

    def owes(self, table: str, key: bytes) -> bool:
        """Whether the disk does not have yet what was written last there: it waits, or was refused."""
        return self._queue.owes(table, key)

    def write(self, writes: Iterable[Write]) -> asyncio.Future[None]:
        """Queue writes; the future is done once they are durable, and fails with `StoreFailure` when they cannot be.
        Groups become durable in the order in which they were queued; what failed goes in front of the next one, so an
        empty group is durable when all before it is."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        given_up = self._queue.add(writes, done)
        _settle(given_up, StoreFailure(f"{self._path}: {QUEUE_WRITES_MAX} writes wait for the disk"))
        if self._queue.is_waited_for and (self._flusher is None or self._flusher.done()):
            self._flusher = asyncio.create_task(self._flush())
        return done

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue.is_waited_for:
            writes = self._queue.begin()
            failure: StoreFailure | None = None
            try:
                await loop.run_in_executor(self._pool, self._commit, writes)
            except Exception as error:  # whatever it is, the disk does not have them, and somebody waits to hear so
                failure = StoreFailure(
                    f"{self._path}: cannot write the agent's store: {error}",
                    hint="free some disk space or mend the disk; the agent goes on by itself",
                )
            _settle(self._queue.end(is_durable=failure is None), failure)

    def _commit(self, writes: list[Write]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for write in writes:
                if isinstance(write, Save):
                    self._connection.execute(
                        "INSERT INTO kept (space, key, value) VALUES (?, ?, ?) "
                        "ON CONFLICT (space, key) DO UPDATE SET value=excluded.value",
                        (write.table, write.key, write.value),
                    )
                else:
                    self._connection.execute("DELETE FROM kept WHERE space=? AND key=?", (write.table, write.key))
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    async def close(self) -> None:
        """Finish what was queued, try once more what failed, and close the file."""
        if self._queue.failed_rows:
            self.write(()).add_done_callback(lambda done: done.exception())
        if self._flusher is not None:
            await asyncio.gather(self._flusher, return_exceptions=True)
        if self._queue.failed_rows:
            log.error("%s: %d rows could not be saved; nobody was promised them", self._path, self._queue.failed_rows)
        self._pool.shutdown(wait=True)
        self._connection.close()


def _settle(groups: Iterable[asyncio.Future[None]], failure: StoreFailure | None) -> None:
    for done in groups:
        if done.done():
            continue
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(failure)
