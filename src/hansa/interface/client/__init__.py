"""The SDK: builds and signs transactions, and believes a node only what it has verified."""

from hansa.interface.client.asynchronous import AsyncClient
from hansa.interface.client.believing import SeenCheckpoints, Unbelievable
from hansa.interface.client.outcomes import Outcome, Problem, RuleRefused
from hansa.interface.client.synchronous import Client
from hansa.interface.client.transports import (
    AsyncHttpTransport,
    AsyncTransport,
    HttpTransport,
    LocalTransport,
    Transport,
    Unreachable,
)
from hansa.interface.client.trusting import read_trust

__all__ = [
    "AsyncClient",
    "AsyncHttpTransport",
    "AsyncTransport",
    "Client",
    "HttpTransport",
    "LocalTransport",
    "Outcome",
    "Problem",
    "RuleRefused",
    "SeenCheckpoints",
    "Transport",
    "Unbelievable",
    "Unreachable",
    "read_trust",
]
