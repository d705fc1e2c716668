"""What is recorded, read from the database itself: only what the API does not tell."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def query(data: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a query. Args: data: the server's data folder."""
    with closing(sqlite3.connect(f"file:{data}/corral.db?mode=ro", uri=True)) as connection:
        return connection.execute(sql, values).fetchall()
