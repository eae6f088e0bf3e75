"""What can be asked of anchoring: how far each chain is anchored, and which have forked."""

from typing import Final

import sqlalchemy as sa

from hansa.core.readmodel import Batch, Fact, Kind, Views, place_columns, place_of
from hansa.service.anchoring.model import (
    FORKED,
    LIVE,
    STALE,
    Anchored,
    AnchorReset,
    ForkConfirmed,
    ForkRecorded,
    WentStale,
)

METADATA: Final = sa.MetaData()

ANCHORS: Final = sa.Table(
    "anchoring_anchors",
    METADATA,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("status", sa.String(8), nullable=False),
    sa.Column("peer_height", sa.BigInteger, nullable=False),
    sa.Column("peer_time_ms", sa.BigInteger, nullable=False),
    sa.Column("log_size", sa.BigInteger, nullable=False),
    sa.Column("log_root", sa.String(64), nullable=False),
    sa.Column("app_hash", sa.String(66), nullable=False),
    sa.Column("heard_ms", sa.BigInteger, nullable=False),
    *place_columns(),
    sa.Index("anchoring_anchors_by_status", "status", "id"),
)
"""One row per anchored chain; the id is its name."""

FORKS: Final = sa.Table(
    "anchoring_forks",
    METADATA,
    sa.Column("id", sa.String(33), primary_key=True),
    sa.Column("peer", sa.String(16), nullable=False),
    sa.Column("evidence", sa.String(66), nullable=False),
    *place_columns(),
    sa.Index("anchoring_forks_by_peer", "peer", "id"),
)
"""One row per chain that judged and chain that forked: ``trade:product``."""

_STATUS: Final = {LIVE: "live", STALE: "stale", FORKED: "forked"}


def _put_anchor(batch: Batch, fact: Fact) -> None:
    anchor = fact.event.anchor
    row = {
        "id": anchor.chain,
        "status": _STATUS[anchor.status],
        "peer_height": anchor.height,
        "peer_time_ms": anchor.time_ms,
        "log_size": anchor.log_size,
        "log_root": anchor.log_root.hex(),
        "app_hash": anchor.app_hash.hex(),
        "heard_ms": anchor.heard_ms,
        **place_of(fact),
    }
    batch.put(ANCHORS, (anchor.chain,), row)
    batch.note(fact, anchor.chain)


def _put_fork(batch: Batch, fact: Fact, peer: str) -> None:
    row_id = f"{fact.chain}:{peer}"
    evidence = fact.event.evidence.hex()
    row = {"id": row_id, "peer": peer, "evidence": evidence, **place_of(fact)}
    batch.put(FORKS, (row_id,), row)
    batch.note(fact, row_id)


def _on_fork_recorded(batch: Batch, fact: Fact) -> None:
    _put_anchor(batch, fact)
    _put_fork(batch, fact, fact.event.anchor.chain)


def _on_fork_confirmed(batch: Batch, fact: Fact) -> None:
    _put_fork(batch, fact, fact.event.chain)


VIEWS: Final = Views(
    METADATA,
    {
        Anchored: _put_anchor,
        WentStale: _put_anchor,
        ForkRecorded: _on_fork_recorded,
        ForkConfirmed: _on_fork_confirmed,
        AnchorReset: _put_anchor,
    },
    (
        Kind(
            name="anchor",
            plural="anchors",
            table=ANCHORS,
            search=("id",),
            filters=("status",),
            columns=("id", "status", "peer_height", "log_size", "heard_ms"),
        ),
        Kind(
            name="fork",
            plural="forks",
            table=FORKS,
            search=("id", "evidence"),
            filters=("peer",),
            columns=("id", "peer", "evidence", "height"),
        ),
    ),
)
