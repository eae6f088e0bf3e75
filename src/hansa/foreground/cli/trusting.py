"""The trust file: which networks to believe, and by which keys. Kept light for `verify`."""

import json
from pathlib import Path
from typing import Any

from hansa.core.errors import Malformed, OperatorError
from hansa.core.finality import TrustedNetwork
from hansa.core.proof import Trust


def read_trust(path: Path) -> Trust:
    """Read a trust file.

    Raises: OperatorError for one that isn't readable, naming what was expected.
    """
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise OperatorError(f"{path}: expected a trust file in JSON, got {error}") from None
    networks = document.get("networks") if isinstance(document, dict) else None
    if not isinstance(networks, list):
        raise OperatorError(f"{path}: expected a list of networks, got {type(document).__name__}")
    return Trust(tuple(_read_network(path, network) for network in networks))


def _read_network(path: Path, given: Any) -> TrustedNetwork:
    from hansa.core.codec import from_readable

    fields = given if isinstance(given, dict) else {}
    wanted = {name: fields.get(name) for name in ("network", "validators", "consensus")}
    try:
        network: TrustedNetwork = from_readable(TrustedNetwork, wanted)
    except Malformed as error:
        said = error.values
        raise OperatorError(
            f"{path}: {said['field']}: expected {said['expected']}, got {said['given']!r}"
        ) from None
    return network
