"""A program that has never heard of Hansa verifies the logs of a running node."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.end_to_end.go_verifier import find_go, run_go_verifier
from tests.end_to_end.node_world import account_of, make_transfer, open_market, write_envelope

from hansa.interface.http.app import HttpServer
from hansa.node.node import Node

MORE = 600
"""Entries, so that the log has full tiles and a partial one."""


def grow(node: Node) -> None:
    """Add entries to the trade log."""
    first = node.get_sequence("trade", account_of("alice"), 7)
    envelopes = [
        write_envelope(node, make_transfer(f"entry {i}"), sequence=first + i) for i in range(MORE)
    ]
    node.submit_batch("trade", envelopes).result()


def test_go_verifies_every_log_of_a_node(tmp_path: Path) -> None:
    """Go's note and tlog accept each chain's checkpoint, records and trees, and its past."""
    if find_go() is None:
        if os.environ.get("CI"):
            pytest.fail("expected go in CI, got none", pytrace=False)
        return
    home, old = tmp_path / "home", tmp_path / "old"
    with open_market(home) as node, HttpServer(node) as server:
        old.write_bytes(node.checkpoint("trade"))
        grow(node)
        for chain in ("trade", "anchor"):
            earlier = old if chain == "trade" else None
            done = run_go_verifier(f"{server.url}/log/{chain}", node.vkey(chain), earlier)
            assert (0, "OK") == (done.returncode, done.stdout[:2]), done.stdout + done.stderr
