"""A PostgreSQL server of the system's binaries, in a folder of its own, behind a socket."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

INSTALLED: Final = Path("/usr/lib/postgresql")
MISSING: Final = "the read model's tests need PostgreSQL: sudo apt-get install postgresql"
UNPRIVILEGED: Final = ("postgres", "nobody")
FIRST_WITH_ICU: Final = 15


def find_binaries() -> Path:
    """The folder of the newest server's programs, or a failure that says what to install."""
    folders = [path.parent for path in INSTALLED.glob("*/bin/initdb")]
    if folders:
        return max(folders, key=lambda folder: int(folder.parent.name))
    found = shutil.which("initdb")
    if found is None:
        pytest.fail(MISSING, pytrace=False)
    return Path(found).resolve().parent


class PostgresServer:
    """A running server; its superuser is ``hansa``, and no password is asked."""

    def __init__(self, folder: Path, version: int) -> None:
        self.folder = folder
        self._has_icu = version >= FIRST_WITH_ICU

    def url(self, database: str) -> str:
        """The URL of a database, as config.json takes it."""
        return f"postgresql://hansa@/{database}?host={self.folder}"

    def create(self, database: str) -> str:
        """Make an empty database that sorts texts as people do; returns its URL."""
        sorts = " LOCALE_PROVIDER icu ICU_LOCALE 'en-US'" if self._has_icu else ""
        self.execute(f"CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'{sorts}")
        return self.url(database)

    def execute(self, statement: str, database: str = "postgres") -> int:
        """Run a statement; returns how many rows it touched."""
        connection = psycopg.connect(
            host=str(self.folder), user="hansa", dbname=database, autocommit=True
        )
        with connection:
            return connection.execute(statement.encode()).rowcount


@contextmanager
def run_postgres() -> Iterator[PostgresServer]:
    """A server for as long as the block lasts; root runs it as somebody with less rights."""
    binaries = find_binaries()
    # Not a folder of pytest's, which nobody else may enter; a socket's path has to be short.
    folder = Path(tempfile.mkdtemp(prefix="hansa-pg-"))
    data, log = str(folder / "data"), str(folder / "log")
    as_whom = _as_unprivileged(folder)

    def run(program: str, *arguments: str) -> None:
        command = [str(binaries / program), *arguments]
        # Output into a file: the server inherits it, and would keep a pipe open.
        with (folder / "said").open("a+b") as said:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                check=False, timeout=120, **as_whom,
            )  # fmt: skip
            said.seek(0)
            assert 0 == done.returncode, said.read().decode(errors="replace")

    try:
        run("initdb", "-D", data, "-U", "hansa", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        run("pg_ctl", "start", "--wait", "-D", data, "-l", log, "-o", options)
        try:
            version = int((folder / "data" / "PG_VERSION").read_text())
            yield PostgresServer(folder, version)
        finally:
            run("pg_ctl", "stop", "--wait", "-D", data, "-m", "immediate")
    finally:
        shutil.rmtree(folder)


def _as_unprivileged(folder: Path) -> dict[str, Any]:
    """Give the folder to whom the server may run as: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    owner = next(known[name] for name in UNPRIVILEGED if name in known)
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
