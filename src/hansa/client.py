"""The SDK: sign transactions, hand them in, and believe no answer that isn't proven."""

from hansa.interface.client import (
    AsyncClient,
    AsyncHttpTransport,
    Client,
    HttpTransport,
    LocalTransport,
    Outcome,
    Problem,
    RuleRefused,
    SeenCheckpoints,
    Unbelievable,
    Unreachable,
    read_trust,
)

__all__ = [
    "AsyncClient",
    "AsyncHttpTransport",
    "Client",
    "HttpTransport",
    "LocalTransport",
    "Outcome",
    "Problem",
    "RuleRefused",
    "SeenCheckpoints",
    "Unbelievable",
    "Unreachable",
    "read_trust",
]
