"""Reading what a client is to trust."""

from typing import Any, Final

import msgspec

from hansa.core.codec import encode, from_readable, make_decoder
from hansa.core.errors import Malformed, OperatorError
from hansa.core.finality import TrustedNetwork, trust_network
from hansa.core.genesis import Genesis, decode_genesis, network_id_of_bytes
from hansa.core.proof import Trust
from hansa.interface.client.believing import Unbelievable

_decode_trust: Final = make_decoder(Trust, "trust")


def read_trust(data: bytes) -> Trust:
    """Read a trust file: JSON, as ``hansa trust`` and ``/v1/trust`` give it.

    Raises: OperatorError.
    """
    try:
        content = msgspec.json.decode(data)
        networks = tuple(_read_network(network) for network in content["networks"])
        # Building a value checks no bound; decoding it does.
        trust: Trust = _decode_trust(encode(Trust(networks)))
        return trust
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, Malformed) as error:
        raise OperatorError(f"trust file: expected networks with validators, got {error}") from None


def _read_network(network: dict[str, Any]) -> TrustedNetwork:
    wanted = {name: network.get(name) for name in ("network", "validators", "consensus")}
    trusted: TrustedNetwork = from_readable(TrustedNetwork, wanted)
    return trusted


def believe_genesis(data: bytes, trust: Trust | None) -> tuple[Genesis, TrustedNetwork]:
    """Judge the genesis a node sent: its digest is the network's id, so it proves itself.

    Without trust given beforehand the network is taken as the node states it, once. Raises:
    Unbelievable.
    """
    try:
        genesis = decode_genesis(data)
    except Malformed as error:
        raise Unbelievable(f"genesis: {error.text}") from None
    network = network_id_of_bytes(data)
    if trust is None:
        return genesis, trust_network(genesis)
    for trusted in trust.networks:
        if trusted.network == network:
            return genesis, trusted
    known = ", ".join(trusted.network.hex() for trusted in trust.networks) or "none"
    raise Unbelievable(f"network: expected one that is trusted ({known}), got {network.hex()}")
