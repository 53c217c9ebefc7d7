"""Tables of `records.sqlite`, their version, and the changes from earlier versions.

Rows are only ever added. Later judgements, overrides and corrections of a part are rows of other tables.

Migration policy: a newer cmdiad opens every earlier version. It adds tables and columns in one transaction, and never
changes a stored row, so the hash chain stays whole. An older cmdiad refuses a newer version.
"""

from __future__ import annotations

import sqlite3

VERSION = 1
"""Version of the schema, in `PRAGMA user_version`."""
APPLICATION = 0x434D4C31
"""Mark of the file in `PRAGMA application_id`: "CML1"."""

COLUMNS: dict[str, dict[str, str]] = {
    "results": {
        "acquisition_id": "INTEGER NOT NULL PRIMARY KEY",
        "time": "TEXT NOT NULL",
        "triggered_ns": "INTEGER NOT NULL",
        "part_id": "TEXT NOT NULL",
        "meas_id": "TEXT NOT NULL",
        "channel": "TEXT NOT NULL",
        "recipe_id": "TEXT NOT NULL",
        "bundle_digest": "TEXT NOT NULL",
        "sensors": "TEXT NOT NULL",
        "engine": "TEXT NOT NULL",
        "score": "REAL",
        "map_max": "REAL",
        "threshold": "REAL",
        "verdict": "TEXT NOT NULL CHECK (verdict IN ('OK', 'NG'))",
        "reason": "TEXT NOT NULL",
        "message": "TEXT NOT NULL",
        "timings_ms": "TEXT NOT NULL",
    },
    "corrections": {
        "acquisition_id": "INTEGER NOT NULL REFERENCES results (acquisition_id)",
        "time": "TEXT NOT NULL",
        "verdict": "TEXT NOT NULL CHECK (verdict = 'NG')",
        "reason": "TEXT NOT NULL",
        "message": "TEXT NOT NULL",
    },
    "judgements": {
        "acquisition_id": "INTEGER NOT NULL REFERENCES results (acquisition_id)",
        "time": "TEXT NOT NULL",
        "user": "TEXT NOT NULL",
        "judgement": "TEXT NOT NULL CHECK (judgement IN ('good', 'defect', 'unsure'))",
        "note": "TEXT NOT NULL",
    },
    "overrides": {
        "acquisition_id": "INTEGER NOT NULL REFERENCES results (acquisition_id)",
        "time": "TEXT NOT NULL",
        "user": "TEXT NOT NULL",
        "verdict": "TEXT NOT NULL CHECK (verdict IN ('OK', 'NG'))",
        "note": "TEXT NOT NULL",
    },
    "audit": {
        "time": "TEXT NOT NULL",
        "user": "TEXT NOT NULL",
        "action": "TEXT NOT NULL",
        "subject": "TEXT NOT NULL",
        "details": "TEXT NOT NULL",
    },
}
"""Columns by table, in addition to `sequence` and `hash`. `sensors`, `timings_ms` and `details` are JSON objects."""

INDEXES = {
    "results_time": "results (time)",
    "results_part_id": "results (part_id)",
    "results_verdict": "results (verdict, acquisition_id)",
    "corrections_part": "corrections (acquisition_id)",
    "judgements_part": "judgements (acquisition_id)",
    "overrides_part": "overrides (acquisition_id)",
}
"""Indexes, with the table and the columns of each."""

PUBLISHED = """
CREATE VIEW published AS SELECT
    r.sequence, r.hash, r.acquisition_id, r.time, r.triggered_ns, r.part_id, r.meas_id, r.channel, r.recipe_id,
    r.bundle_digest, r.sensors, r.engine, r.score, r.map_max, r.threshold, r.timings_ms,
    coalesce(c.verdict, r.verdict) AS verdict,
    coalesce(c.reason, r.reason) AS reason,
    coalesce(c.message, r.message) AS message,
    (SELECT judgement FROM judgements j WHERE j.acquisition_id = r.acquisition_id ORDER BY j.sequence DESC LIMIT 1)
        AS judgement,
    (SELECT verdict FROM overrides o WHERE o.acquisition_id = r.acquisition_id ORDER BY o.sequence DESC LIMIT 1)
        AS override
FROM results r LEFT JOIN corrections c ON c.sequence =
    (SELECT max(sequence) FROM corrections k WHERE k.acquisition_id = r.acquisition_id)
"""
"""Results as they were published, with the last judgement and the last override of each part."""

HEAD = "CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), sequence INTEGER, hash TEXT) STRICT"
"""Table with the end of the chain, in one row."""


def create(connection: sqlite3.Connection) -> None:
    """Create all tables in an empty database, within the caller's transaction."""
    for table, columns in COLUMNS.items():
        described = [f"{name} {kind}" for name, kind in columns.items()]
        key = "UNIQUE" if table == "results" else "PRIMARY KEY"
        parts = ", ".join([*described, f"sequence INTEGER NOT NULL {key}", "hash TEXT NOT NULL"])
        connection.execute(f"CREATE TABLE {table} ({parts}) STRICT")
    for index, place in INDEXES.items():
        connection.execute(f"CREATE INDEX {index} ON {place}")
    connection.execute(PUBLISHED)
    connection.execute(HEAD)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
