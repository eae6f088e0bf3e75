"""What is encoded comes back, in one form alone; whatever is nearly right is refused, by name."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from hansa.core.codec import (
    FORBIDDEN,
    I64,
    MAX_FREE_TEXT_BYTES,
    U8,
    U63,
    FreeText,
    Name,
    Value,
    encode,
    from_readable,
    make_decoder,
    to_readable,
)
from hansa.core.errors import DuplicateSigner, Malformed, Refused
from hansa.core.module import Rulebook
from hansa.core.transaction import (
    MAX_MESSAGES,
    Body,
    Envelope,
    Message,
    Signer,
    Transaction,
    make_transaction_decoder,
)
from hansa.node.composition import CHAINS, make_rulebook

RULEBOOKS: Final[dict[str, Rulebook]] = {chain: make_rulebook(chain) for chain in CHAINS}
CASES: Final = {
    name: (chain, cls)
    for chain, rulebook in RULEBOOKS.items()
    for module in rulebook.modules
    for name, cls in module.message_names().items()
}
"""Each message once, on the last of the chains that know it."""
DECODERS: Final[dict[str, Callable[[bytes], Transaction]]] = {
    chain: make_transaction_decoder(rulebook.message_types) for chain, rulebook in RULEBOOKS.items()
}

LETTERS: Final = "aZ9 .-éß€漢🚢\u0301"
"""One to four bytes of UTF-8 each, and a combining mark, which is not for us to normalise."""


# Strategies from the types' own annotations.


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values in bounds of a type."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metas = get_args(annotation)
        return bounded_values(inner, next(meta for meta in metas if isinstance(meta, Meta)))
    if origin in (Union, types.UnionType):
        return st.one_of([values_of(option) for option in get_args(annotation)])
    if origin is Literal:
        return st.sampled_from(get_args(annotation))
    if origin is tuple:
        return st.tuples(*[values_of(part) for part in get_args(annotation)])
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return st.builds(
            annotation,
            **{info.name: values_of(info.type) for info in msgspec.structs.fields(annotation)},
        )
    plain: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-(1 << 63), (1 << 64) - 1),
        bytes: st.binary(max_size=40),
        bool: st.booleans(),
        type(None): st.none(),
    }
    return plain[annotation]


def bounded_values(inner: Any, meta: Meta) -> st.SearchStrategy[Any]:
    """Values of a type with bounds."""
    if inner is int:
        low, high = int(meta.ge or 0), int(meta.le or 0)
        return st.one_of(st.integers(low, high), st.sampled_from([low, high]))
    least, most = meta.min_length or 0, meta.max_length
    if inner is bytes:
        assert most is not None
        return st.binary(min_size=least, max_size=min(most, least + 40))
    if inner is str and meta.pattern:
        return st.from_regex(meta.pattern.removeprefix("^").removesuffix("$"), fullmatch=True)
    if inner is str:
        assert most is not None
        texts = st.text(st.sampled_from(LETTERS), max_size=min(most, 60))
        return texts.map(lambda text: fit(text, least, most))
    assert get_origin(inner) is tuple, inner
    items = values_of(get_args(inner)[0])
    return st.lists(items, min_size=least, max_size=max(least, min(most or 0, 3))).map(tuple)


def fit(text: str, least: int, most: int) -> str:
    """The text cut to so many bytes, and filled up to so many characters."""
    cut = text.encode()[:most].decode(errors="ignore")
    return cut if len(cut) >= least else "a" * least


def bodies(chain: str, *message_types: type[Message]) -> st.SearchStrategy[Body]:
    """Bodies with one to three messages of these types."""
    messages = st.lists(
        st.one_of([values_of(cls) for cls in message_types]), min_size=1, max_size=3
    )
    accounts = st.lists(st.binary(min_size=20, max_size=20), min_size=1, max_size=8, unique=True)
    signers = accounts.map(lambda found: tuple(Signer(one, b"\x01" + bytes(32)) for one in found))
    fields = {info.name: info.type for info in msgspec.structs.fields(Body)}
    return st.builds(
        Body,
        version=st.just(1),
        chain=st.just(chain),
        signers=signers,
        messages=messages.map(tuple),
        **{
            name: values_of(fields[name])
            for name in ("network", "lane", "sequence", "valid_until_ms")
        },
    )


def envelop(body: bytes, signers: int) -> bytes:
    """An envelope with so many signatures, which nobody checks here."""
    return encode(Envelope(body, tuple(b"\x01" + bytes(64) for _ in range(signers))))


def decode_body(chain: str, body: bytes, signers: int = 1) -> Body:
    """What a body decodes to on a chain."""
    return DECODERS[chain](envelop(body, signers)).body


# Round trips.


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=settings().max_examples // 3)
@given(data=st.data())
def test_every_message_comes_back(case: str, data: st.DataObject) -> None:
    """decode(encode(x)) == x and encode(decode(b)) == b, as bytes and in the readable form."""
    chain, cls = CASES[case]
    body = data.draw(bodies(chain, cls))
    encoded = encode(body)
    decoded = decode_body(chain, encoded, len(body.signers))
    assert list(msgspec.structs.astuple(body)) == list(msgspec.structs.astuple(decoded))
    assert encoded == encode(decoded)
    for message in body.messages:
        assert message == from_readable(cls, to_readable(message))


@pytest.mark.parametrize("chain", CHAINS)
@given(data=st.data())
def test_events_come_back(chain: str, data: st.DataObject) -> None:
    """Events and what they hold survive the way into a receipt and out again."""
    union: Any = RULEBOOKS[chain].event_types[0]
    for cls in RULEBOOKS[chain].event_types[1:]:
        union = union | cls
    event = data.draw(st.one_of([values_of(cls) for cls in RULEBOOKS[chain].event_types]))
    decode = make_decoder(union, "event")
    assert event == decode(encode(event))
    assert encode(event) == encode(decode(encode(event)))


# The longer forms.


def list_headers(data: bytes, at: int = 0) -> Iterator[tuple[int, int]]:
    """Offset and first byte of each value in MessagePack bytes, in order."""
    while at < len(data):
        first = data[at]
        yield at, first
        at += 1 + width_of(first, data[at + 1 : at + 5])


def width_of(first: int, rest: bytes) -> int:
    """How many bytes follow the first of a value before the next one begins."""
    if 0xA0 <= first <= 0xBF:
        return first - 0xA0
    if 0xCC <= first <= 0xD3:
        return 1 << (first - 0xCC) % 4
    lengths = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
    if first in lengths:
        width = lengths[first]
        return width + int.from_bytes(rest[:width], "big")
    return {0xDC: 2, 0xDD: 4}.get(first, 0)


def lengthen(data: bytes, at: int) -> list[bytes]:
    """The same value with the header at an offset in every longer form there is."""
    first, rest = data[at], data[at + 1 :]
    head = data[:at]
    found: list[bytes] = []
    if first <= 0x7F:
        found = [bytes([code]) + first.to_bytes(size, "big") for code, size in
                 ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8),
                  (0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8))]  # fmt: skip
    elif 0xCC <= first <= 0xCE:
        size = 1 << first - 0xCC
        found = [bytes([first + 1]) + bytes(size) + rest[:size]]
        found += [b"\xd3" + rest[:size].rjust(8, b"\0")]
        rest = rest[size:]
    elif 0xD0 <= first <= 0xD2:
        size = 1 << first - 0xD0
        found = [bytes([first + 1]) + b"\xff" * size + rest[:size]]
        rest = rest[size:]
    elif first >= 0xE0:
        found = [b"\xd0" + data[at : at + 1], b"\xd1\xff" + data[at : at + 1]]
    elif 0xA0 <= first <= 0xBF:
        found = [bytes([code]) + (first - 0xA0).to_bytes(size, "big")
                 for code, size in ((0xD9, 1), (0xDA, 2), (0xDB, 4))]  # fmt: skip
    elif 0x90 <= first <= 0x9F:
        found = [bytes([code]) + (first - 0x90).to_bytes(size, "big")
                 for code, size in ((0xDC, 2), (0xDD, 4))]  # fmt: skip
    elif first in (0xC4, 0xC5, 0xD9, 0xDA):
        size = 1 if first in (0xC4, 0xD9) else 2
        found = [bytes([first + 1]) + bytes(size) + rest[:size]]
        rest = rest[size:]
    elif first == 0xDC:
        found, rest = [b"\xdd\0\0" + rest[:2]], rest[2:]
    return [head + form + rest for form in found]


FAMILIES: Final = {
    "positive fixint": 5,
    "uint8": 200,
    "uint16": 1_000,
    "uint32": 1 << 20,
    "uint64 as int64": 1 << 40,
    "negative fixint": -5,
    "int8": -100,
    "int16": -1_000,
    "int32": -(1 << 20),
    "fixstr": "a",
    "str8": "a" * 40,
    "str16": "a" * 300,
    "bin8": b"a",
    "bin16": b"a" * 300,
    "fixarray": (1,),
    "array16": tuple(range(20)),
}


class Number(Value):
    """An integer of any width."""

    value: I64


class Words(Value):
    """A text."""

    value: Annotated[str, Meta(max_length=1_000)]


class Raw(Value):
    """A byte string."""

    value: Annotated[bytes, Meta(max_length=1_000)]


class Row(Value):
    """A list."""

    value: Annotated[tuple[U8, ...], Meta(max_length=100)]


HOLDERS: Final[dict[type, Any]] = {int: Number, str: Words, bytes: Raw, tuple: Row}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_one_form(family: str) -> None:
    """A value in any longer form than its shortest is refused, though it says the same."""
    value = FAMILIES[family]
    holder = HOLDERS[type(value)]
    decode = make_decoder(holder, "value")
    encoded = encode(holder(value))
    assert holder(value) == decode(encoded)
    forms = [form for at, _ in list_headers(encoded) for form in lengthen(encoded, at)]
    if family == "uint64 as int64":
        forms.append(encoded.replace(b"\xcf", b"\xd3"))
    assert len(forms) >= 3
    for form in forms:
        assert msgspec.msgpack.decode(encoded) == msgspec.msgpack.decode(form)
        with pytest.raises(Malformed, match="shortest encoding"):
            decode(form)


@given(data=st.data())
def test_no_body_has_a_second_form(data: st.DataObject) -> None:
    """Any header of any transaction written longer is refused."""
    chain = data.draw(st.sampled_from(CHAINS))
    body = data.draw(bodies(chain, *RULEBOOKS[chain].message_types))
    encoded = encode(body)
    at = data.draw(st.sampled_from([place for place, _ in list_headers(encoded)]))
    for form in lengthen(encoded, at):
        with pytest.raises(Malformed):
            decode_body(chain, form, len(body.signers))


# What is nearly right.


class Sample(Value):
    """Bounds of each kind."""

    name: Name
    text: FreeText
    count: U63
    items: Annotated[tuple[U8, ...], Meta(max_length=3)]


SAMPLE: Final = ["name", "text", 1, [1, 2]]
decode_sample = make_decoder(Sample, "sample")

NEARLY: Final[dict[str, Any]] = {
    "a field too many": [*SAMPLE, 1],
    "a field too few": SAMPLE[:-1],
    "a map": dict(zip(("name", "text", "count", "items"), SAMPLE, strict=True)),
    "empty name": ["", *SAMPLE[1:]],
    "name of 129 bytes": ["a" * 129, *SAMPLE[1:]],
    "name of 130 bytes in 65 characters": ["é" * 65, *SAMPLE[1:]],
    "name of 132 bytes in 33 characters": ["🚢" * 33, *SAMPLE[1:]],
    "text of 1,026 bytes in 342 characters": ["n", "€" * 342, 1, []],
    "negative count": ["n", "t", -1, []],
    "count over 63 bits": ["n", "t", 1 << 63, []],
    "largest 64 bits": ["n", "t", (1 << 64) - 1, []],
    "count as text": ["n", "t", "1", []],
    "count as float": ["n", "t", 1.0, []],
    "count as bool": ["n", "t", True, []],
    "list too long": ["n", "t", 1, [1, 2, 3, 4]],
    "item out of bounds": ["n", "t", 1, [256]],
    "nil for a text": [None, "t", 1, []],
    "bytes for a text": [b"name", "t", 1, []],
}


@pytest.mark.parametrize("case", NEARLY)
def test_what_is_nearly_right_is_refused(case: str) -> None:
    """Each bound, each type and each field counts."""
    assert Sample("name", "text", 1, (1, 2)) == decode_sample(encode(SAMPLE))
    with pytest.raises(Malformed, match="expected"):
        decode_sample(encode(NEARLY[case]))


def test_integers_beyond_64_bits_are_refused() -> None:
    """MessagePack has no form for them but extensions, and those are refused as well."""
    for tail in (b"\xc7\x09\x01" + bytes(9), b"\xd8\x01" + bytes(16), b"\xca" + bytes(4)):
        with pytest.raises(Malformed):
            decode_sample(b"\x94\xa1n\xa1t" + tail + b"\x90")
    for number in (-(1 << 63) - 1, 1 << 64):
        with pytest.raises(Malformed):
            from_readable(Sample, {"name": "n", "text": "t", "count": number, "items": []})


def test_trailing_bytes_are_refused() -> None:
    """After a value nothing may follow, be it a whole value."""
    for tail in (b"\x00", b"\xc0", encode(SAMPLE)):
        with pytest.raises(Malformed):
            decode_sample(encode(SAMPLE) + tail)


def test_texts_are_bounded_in_bytes() -> None:
    """Exactly as many bytes as allowed are fine, in characters of any width."""
    for character in "aé€🚢":
        width = len(character.encode())
        text = character * (MAX_FREE_TEXT_BYTES // width)
        assert text == decode_sample(encode(["n", text, 1, []])).text
        over = text + character * (1 + (MAX_FREE_TEXT_BYTES - len(text.encode())) // width)
        with pytest.raises(Malformed, match="1024"):
            decode_sample(encode(["n", over, 1, []]))


RANGES: Final = (
    (0x00, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x61C, 0x61C), (0x180E, 0x180E),
    (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0xFEFF, 0xFEFF), (0xFFF0, 0xFFFF),
    (0xE0000, 0xE0FFF),
)  # fmt: skip
"""As docs/spec/README.md lists them."""


def test_each_forbidden_character_is_refused() -> None:
    """Every one of the list, wherever in a text it stands, and no other character."""
    forbidden = [code for low, high in RANGES for code in range(low, high + 1)]
    listed = [
        code
        for code in range(0x110000)
        if not 0xD800 <= code <= 0xDFFF and FORBIDDEN.search(chr(code))
    ]
    assert forbidden == listed
    for code in [*forbidden[:200], *forbidden[::64]]:
        for text in (chr(code), f"a{chr(code)}", f"{chr(code)}é", f"a{chr(code)}b"):
            with pytest.raises(Malformed, match=f"U\\+{code:04X}"):
                decode_sample(encode(["n", text, 1, []]))


def test_bytes_that_are_no_utf8_are_refused() -> None:
    """Lone surrogates, overlong forms, cut characters."""
    for text in (b"\xed\xa0\x80", b"\xc0\xaf", b"\xe2\x82", b"\xff", b"\xf4\x90\x80\x80"):
        data = b"\x94\xa1n" + bytes([0xA0 + len(text)]) + text + b"\x01\x90"
        with pytest.raises(Malformed):
            decode_sample(data)


@given(data=st.data())
def test_a_signer_stands_once(data: st.DataObject) -> None:
    """One account twice among the signers is refused, with whatever keys."""
    chain = data.draw(st.sampled_from(CHAINS))
    body = data.draw(bodies(chain, *RULEBOOKS[chain].message_types))
    twin = Signer(body.signers[0].account, b"\x01" + bytes([7]) * 32)
    doubled = msgspec.structs.replace(body, signers=(*body.signers[:7], twin))
    with pytest.raises(DuplicateSigner):
        decode_body(chain, encode(doubled), len(doubled.signers))


@given(data=st.data())
def test_signatures_are_as_many_as_signers(data: st.DataObject) -> None:
    """One too few or too many, none, and nine are refused."""
    body = data.draw(bodies("trade", *RULEBOOKS["trade"].message_types))
    right = len(body.signers)
    for wrong in {0, right - 1, right + 1, 9}:
        with pytest.raises(Malformed):
            decode_body("trade", encode(body), wrong)


def test_messages_are_one_to_sixteen() -> None:
    """None and seventeen are refused, sixteen are taken."""
    cls = RULEBOOKS["trade"].modules[0].message_names()["link.update_client"]
    message = cls("product", b"h", b"\x01f")
    signer = Signer(bytes(20), b"\x01" + bytes(32))
    for count in (0, 1, MAX_MESSAGES, MAX_MESSAGES + 1):
        body = Body(1, b"\x01" + bytes(32), "trade", (signer,), 0, 0, 0, (message,) * count)
        if 1 <= count <= MAX_MESSAGES:
            assert count == len(decode_body("trade", encode(body)).messages)
        else:
            with pytest.raises(Malformed):
                decode_body("trade", encode(body))


@given(data=st.data())
def test_near_valid_bytes_never_crash_the_decoder(data: st.DataObject) -> None:
    """Changed, cut, doubled or spliced, bytes are refused or are their value's one encoding."""
    chain = data.draw(st.sampled_from(CHAINS))
    body = data.draw(bodies(chain, *RULEBOOKS[chain].message_types))
    whole = envelop(encode(body), len(body.signers))
    inner = encode(body)
    for _ in range(10):
        changed = data.draw(st.sampled_from([change, cut, splice]))(data, inner)
        check_refused_or_canonical(chain, envelop(changed, len(body.signers)) if changed else b"")
        check_refused_or_canonical(chain, change(data, whole))


def change(data: st.DataObject, encoded: bytes) -> bytes:
    """One byte replaced."""
    at = data.draw(st.integers(0, len(encoded) - 1))
    return encoded[:at] + bytes([data.draw(st.integers(0, 255))]) + encoded[at + 1 :]


def cut(data: st.DataObject, encoded: bytes) -> bytes:
    """Bytes removed."""
    at = data.draw(st.integers(0, len(encoded) - 1))
    return encoded[:at] + encoded[at + data.draw(st.integers(1, 20)) :]


def splice(data: st.DataObject, encoded: bytes) -> bytes:
    """Bytes put in: random ones, or a value's header that promises much."""
    at = data.draw(st.integers(0, len(encoded)))
    heads = [
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 3_000,
        b"\xdf\x7f\xff\xff\xff",
    ]
    put = data.draw(st.one_of(st.binary(min_size=1, max_size=20), st.sampled_from(heads)))
    return encoded[:at] + put + encoded[at:]


@given(st.sampled_from(CHAINS), st.binary(max_size=300))
def test_random_bytes_never_crash_the_decoder(chain: str, data: bytes) -> None:
    """Any bytes at all are refused, alone and as a body."""
    check_refused_or_canonical(chain, data)
    if data:
        check_refused_or_canonical(chain, envelop(data, 1))


def check_refused_or_canonical(chain: str, data: bytes) -> None:
    """Decode; what is taken must be the one encoding of what it says."""
    try:
        transaction = DECODERS[chain](data)
    except Refused:
        return
    signatures = tuple(signature for _, signature, _ in transaction.claims)
    assert data == encode(Envelope(encode(transaction.body), signatures))


def test_half_a_surrogate_pair_is_refused_by_name() -> None:
    """JSON can spell what UTF-8 cannot hold; the field is named and nothing crashes."""
    with pytest.raises(Malformed, match=r"name: expected Unicode text, got"):
        from_readable(str, "\ud800", "name")
