"""What one chain sends and another takes are the same format, though no module imports another."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.ledger_harness import make_account, make_digest, make_object

from hansa.core.codec import encode
from hansa.service.catalogue import ports as catalogue_ports
from hansa.service.orders import model as orders_model
from hansa.service.orders import ports as orders_ports
from hansa.service.shipments import model as shipments_model
from hansa.service.shipments import ports as shipments_ports

# The sender's mirror and the receiver's original.
PAIRS: tuple[tuple[Any, Any], ...] = (
    (catalogue_ports.ProductListed, orders_model.ProductListed),
    (orders_ports.OpenShipment, shipments_model.OpenShipment),
    (orders_ports.CancelShipment, shipments_model.CancelShipment),
    (shipments_ports.ShipmentDelivered, orders_model.ShipmentDelivered),
    (shipments_ports.ShipmentLost, orders_model.ShipmentLost),
    (shipments_ports.ShipmentRefused, orders_model.ShipmentRefused),
)

SAMPLES: dict[str, Any] = {
    "bool": True,
    "int": 7,
    "str": "GB",
    "16": make_object("object"),
    "20": make_account("account"),
    "33": make_digest("digest"),
}


def _sample(info: msgspec.inspect.Type) -> Any:
    match info:
        case msgspec.inspect.BoolType():
            return SAMPLES["bool"]
        case msgspec.inspect.IntType():
            return SAMPLES["int"]
        case msgspec.inspect.StrType():
            return SAMPLES["str"]
        case msgspec.inspect.BytesType(min_length=length):
            return SAMPLES[str(length)]
    raise AssertionError(f"no sample of {info}")


@pytest.mark.parametrize(("mirror", "original"), PAIRS, ids=lambda cls: cls.__module__)
def test_mirror_equals_original(mirror: Any, original: Any) -> None:
    """Same tag, same fields in the same order with the same bounds, same bytes."""
    ours, theirs = msgspec.inspect.type_info(mirror), msgspec.inspect.type_info(original)
    assert isinstance(ours, msgspec.inspect.StructType)
    assert isinstance(theirs, msgspec.inspect.StructType)
    assert theirs.tag == ours.tag
    assert theirs.fields == ours.fields
    values = [_sample(field.type) for field in ours.fields]
    assert encode(original(*values)) == encode(mirror(*values))
    assert original(*values) == msgspec.msgpack.decode(encode(mirror(*values)), type=original)
