"""P6: the judging of a proof file."""

import time
from typing import Any

from hansa.core.proof import Outcome, pack_bundle, verify_bundle
from hansa.core.prover import Place, prove_places
from hansa.interface.bench.order_lives import register_products
from hansa.interface.bench.scratch import Progress, compute_percentiles, open_bench_node
from hansa.node.home import make_trust


def measure_verification(is_quick: bool, progress: Progress) -> dict[str, Any]:
    """Return the figure P6: milliseconds to judge the proof of one transaction."""
    entries = 2_000 if is_quick else 20_000
    with open_bench_node() as node:
        register_products(node, entries)
        node.wait_projected(node.ledger.height, 120.0)
        trust = make_trust(node.genesis)
        rows = node.read_model.list_rows(node.kinds["product"], limit=100)
        places = [Place(row["chain"], row["height"], row["leaf"]) for row in rows]
        files = node.call(
            lambda: [pack_bundle(prove_places(node.ledger, [place])) for place in places]
        )
        taken_ms: list[float] = []
        for number, file in enumerate(files):
            started = time.perf_counter()
            judgement = verify_bundle(file, trust)
            taken_ms.append((time.perf_counter() - started) * 1_000)
            assert judgement.outcome is Outcome.VALID, judgement.reason
            progress("proofs", number, len(files))
        log_size = node.ledger.chains["product"].log.size
    percentiles = compute_percentiles(taken_ms)
    return {
        "value": percentiles["p50"],
        "unit": "ms",
        "limit": 5,
        "limit_is": "at most, beyond the start of the process",
        "conditions": {
            **percentiles,
            "bytes": round(sum(map(len, files)) / len(files)),
            "log_size": log_size,
            "signatures": "one Ed25519 of the checkpoint, one BIP-340 of the transaction",
        },
    }
