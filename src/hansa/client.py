"""The SDK: sign transactions, hand them in, and believe no answer that isn't proven."""

from hansa.core.keystore import KeyStore
from hansa.core.proof import Trust
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
    "KeyStore",
    "LocalTransport",
    "Outcome",
    "Problem",
    "RuleRefused",
    "SeenCheckpoints",
    "Trust",
    "Unbelievable",
    "Unreachable",
    "read_trust",
]
