"""What can be asked of link: which chains are trusted, and what became of each packet."""

from typing import Any, Final

import sqlalchemy as sa

from hansa.core.packet import DONE, EXPIRED, REFUSED
from hansa.core.readmodel import Batch, Fact, Kind, Views, place_columns, place_of
from hansa.service.link.model import (
    Acknowledged,
    AcknowledgementUnheard,
    ClientOpened,
    ClientRecovered,
    ClientUpdated,
    ForkRecorded,
    PacketRefused,
    Received,
    Sent,
)

METADATA: Final = sa.MetaData()

CLIENTS: Final = sa.Table(
    "link_clients",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("peer", sa.String(16), nullable=False),
    sa.Column("status", sa.String(8), nullable=False),
    sa.Column("reason", sa.String(64), nullable=False),
    sa.Column("network", sa.String(66), nullable=False),
    sa.Column("peer_height", sa.BigInteger, nullable=False),
    sa.Column("peer_time_ms", sa.BigInteger, nullable=False),
    sa.Column("peer_log_size", sa.BigInteger, nullable=False),
    sa.Column("peer_app_hash", sa.String(66), nullable=False),
    sa.Column("trusted_until_ms", sa.BigInteger, nullable=False),
    *place_columns(),
    sa.Index("link_clients_by_peer", "peer", "id"),
    sa.Index("link_clients_by_status", "status", "id"),
)
"""One row per chain and peer: ``trade:logistics`` is what trade knows of logistics."""

PACKETS: Final = sa.Table(
    "link_packets",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("destination", sa.String(16), nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("module", sa.Integer, nullable=False),
    sa.Column("status", sa.String(8), nullable=False),
    sa.Column("deadline_ms", sa.BigInteger, nullable=False),
    sa.Column("sent_height", sa.BigInteger, nullable=False),
    sa.Column("error", sa.BigInteger, nullable=False),
    sa.Column("error_text", sa.Text, nullable=False),
    *place_columns(),
    sa.Index("link_packets_by_status", "status", "id"),
    sa.Index("link_packets_by_destination", "destination", "id"),
)
"""One row per packet, on the chain that sent it: ``trade:logistics:17``."""

_STATUS: Final = {DONE: "done", REFUSED: "refused", EXPIRED: "expired"}


def _put_client(batch: Batch, fact: Fact) -> None:
    client = fact.event.client
    latest = client.latest
    row_id = f"{fact.chain}:{client.chain}"
    row = {
        "id": row_id,
        "peer": client.chain,
        "status": "frozen" if client.is_frozen else "live",
        "reason": client.frozen_reason,
        "network": client.trusted.network.hex(),
        "peer_height": latest.height,
        "peer_time_ms": latest.time_ms,
        "peer_log_size": latest.log_size,
        "peer_app_hash": latest.app_hash.hex(),
        "trusted_until_ms": latest.time_ms + client.trusting_period_ms,
        **place_of(fact),
    }
    batch.put(CLIENTS, (row_id,), row)


def _put_client_and_note(batch: Batch, fact: Fact) -> None:
    _put_client(batch, fact)
    batch.note(fact, f"{fact.chain}:{fact.event.client.chain}")


def _put_packet(batch: Batch, fact: Fact, status: str, fields: dict[str, Any]) -> None:
    event = fact.event
    row_id = f"{fact.chain}:{event.destination}:{event.sequence}"
    row = {
        "id": row_id,
        "destination": event.destination,
        "sequence": event.sequence,
        "module": event.module,
        "status": status,
        "deadline_ms": event.deadline_ms,
        **fields,
        **place_of(fact),
    }
    batch.put(PACKETS, (row_id,), row)


def _on_sent(batch: Batch, fact: Fact) -> None:
    fields = {"sent_height": fact.height, "error": 0, "error_text": ""}
    _put_packet(batch, fact, "pending", fields)


def _on_acknowledged(batch: Batch, fact: Fact) -> None:
    event: Acknowledged = fact.event
    fields = {"sent_height": event.sent_height, "error": event.number, "error_text": event.text}
    _put_packet(batch, fact, _STATUS[event.outcome], fields)


def _on_packet_refused(batch: Batch, fact: Fact) -> None:
    event: PacketRefused = fact.event
    batch.note(fact, f"{event.source}:{fact.chain}:{event.sequence}")


def _on_unheard(batch: Batch, fact: Fact) -> None:
    event: AcknowledgementUnheard = fact.event
    batch.note(fact, f"{fact.chain}:{event.destination}:{event.sequence}")


def _on_received(batch: Batch, fact: Fact) -> None:
    """Change nothing: the row of each packet is kept by the chain that sent it."""


VIEWS: Final = Views(
    METADATA,
    {
        ClientOpened: _put_client_and_note,
        ClientUpdated: _put_client,
        ForkRecorded: _put_client_and_note,
        ClientRecovered: _put_client_and_note,
        Sent: _on_sent,
        Acknowledged: _on_acknowledged,
        Received: _on_received,
        PacketRefused: _on_packet_refused,
        AcknowledgementUnheard: _on_unheard,
    },
    (
        Kind(
            name="client",
            plural="clients",
            table=CLIENTS,
            search=("peer", "reason"),
            filters=("peer", "status"),
            columns=("id", "status", "peer_height", "peer_log_size", "trusted_until_ms", "reason"),
        ),
        Kind(
            name="packet",
            plural="packets",
            table=PACKETS,
            search=("id", "error_text"),
            filters=("status", "destination"),
            columns=("id", "status", "module", "sent_height", "deadline_ms", "error_text"),
        ),
    ),
)
