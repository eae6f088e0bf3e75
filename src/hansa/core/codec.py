"""Bytes and values: strict MessagePack in array form, and the readable form of it.

What is signed is what is stored, so nothing is ever canonicalised; instead a decoder accepts
exactly one encoding of a value. MessagePack leaves four freedoms (length of integers, length
headers, map order, trailing bytes). Structs travel as arrays, so there are no maps; the rest is
closed by encoding the decoded value again and comparing.
"""

import re
import types
from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
)

import msgspec
from msgspec import Meta, Struct

from hansa.core.errors import Malformed, Numbered

T = TypeVar("T")

MAX_FREE_TEXT_BYTES: Final = 1_024
MAX_ERROR_BYTES: Final = 512
"""Of an error's text on a receipt."""

U8 = Annotated[int, Meta(ge=0, le=0xFF)]
U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
U63 = Annotated[int, Meta(ge=0, le=0x7FFF_FFFF_FFFF_FFFF)]
"""A count, height or amount: never negative, fits a signed 64-bit column."""
I64 = Annotated[int, Meta(ge=-0x8000_0000_0000_0000, le=0x7FFF_FFFF_FFFF_FFFF)]
TimeMs = U63
"""Milliseconds since 1970-01-01 UTC."""
DurationMs = Annotated[int, Meta(ge=0, le=100 * 366 * 24 * 3600 * 1000)]
"""Milliseconds, up to a hundred years: added to any block time they stay within 63 bits."""

Account = Annotated[bytes, Meta(min_length=20, max_length=20)]
"""A permanent account id, 160 bits."""
ObjectId = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""An object id, 128 bits, computed by the chain."""
Raw32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""A node of an RFC 9162 tree, bare as that RFC has it."""

# Every text bound is in bytes of UTF-8; msgspec bounds characters, the walker below bytes.
Name = Annotated[str, Meta(min_length=1, max_length=128)]
ShortText = Annotated[str, Meta(max_length=64)]
FreeText = Annotated[str, Meta(max_length=MAX_FREE_TEXT_BYTES)]
ChainName = Annotated[str, Meta(min_length=1, max_length=16)]
Country = Annotated[str, Meta(min_length=2, max_length=2)]
"""ISO 3166-1 alpha-2."""
Currency = Annotated[str, Meta(min_length=3, max_length=3)]
"""ISO 4217."""

# Control characters, line and paragraph separators, direction overrides and isolates, invisible
# joiners and the byte-order mark: with them, what a person reads is not what was signed. The list
# is fixed here and not taken from Unicode tables, which differ between Python versions.
FORBIDDEN: Final = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff0-\uffff\U000e0000-\U000e0fff]"
)


@dataclass_transform(frozen_default=True)
class Value(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """Base of all that is encoded: an array of the fields in order, no default, no spare."""


encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode


def check_text(text: str, field: str, limit: int) -> None:
    """Refuse a text that is too long in bytes or holds a forbidden character.

    Raises: Malformed.
    """
    if text.isascii() and text.isprintable():
        return  # Printable ASCII: as many bytes as characters, and none forbidden.
    if len(text.encode("utf-8", "surrogatepass")) > limit:
        raise Malformed(
            field=field, expected=f"at most {limit} bytes of UTF-8", given=len(text.encode())
        )
    if found := FORBIDDEN.search(text):
        given = f"U+{ord(found.group()):04X} at {found.start()}"
        raise Malformed(field=field, expected="no control or direction character", given=given)


def clean_error_text(error: Numbered) -> str:
    """Return an error's text as receipts and acknowledgements can carry it.

    It shows what was given; a character that the codec forbids would make the receipt unreadable.
    """
    text = error.text
    if len(text) <= MAX_ERROR_BYTES and text.isascii() and text.isprintable():
        return text
    cut = FORBIDDEN.sub("?", text).encode("utf-8", "replace")[:MAX_ERROR_BYTES]
    return cut.decode(errors="ignore")


Check = Callable[[Any, str], None]


def _text_check(limit: int) -> Check:
    return lambda value, field: check_text(value, field, limit)


def _each(check: Check) -> Check:
    def check_each(items: Any, field: str) -> None:
        for index, item in enumerate(items):
            check(item, f"{field}[{index}]")

    return check_each


def _struct_check(cls: type[Struct]) -> Check | None:
    parts = [
        (info.name, check)
        for info in msgspec.structs.fields(cls)
        if (check := text_check(info.type))
    ]
    if not parts:
        return None

    def check_fields(value: Any, field: str) -> None:
        for name, check in parts:
            check(getattr(value, name), f"{field}.{name}" if field else name)

    return check_fields


def _union_check(options: tuple[Any, ...]) -> Check | None:
    checks = {_runtime_type(option): check for option in options if (check := text_check(option))}
    if not checks:
        return None

    def check_option(value: Any, field: str) -> None:
        check = checks.get(type(value))
        if check is not None:
            check(value, field)

    return check_option


def _runtime_type(annotation: Any) -> Any:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _runtime_type(get_args(annotation)[0])
    return origin or annotation


def _max_length(annotation: Any) -> int:
    metas = [meta for meta in get_args(annotation)[1:] if isinstance(meta, Meta)]
    limits = [meta.max_length for meta in metas if meta.max_length is not None]
    if not limits:
        raise TypeError(f"text and lists need a maximum length: {annotation!r}")
    return min(limits)


def text_check(annotation: Any) -> Check | None:
    """Return the check of all texts inside a type, or None where it holds no text.

    A text or list without a named maximum is a TypeError when the module is loaded.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        inner = get_args(annotation)[0]
        if inner is str:
            return _text_check(_max_length(annotation))
        if get_origin(inner) in (tuple, list):
            _max_length(annotation)
            check = text_check(get_args(inner)[0])
            return _each(check) if check else None
        return text_check(inner)
    if origin in (Union, types.UnionType):
        return _union_check(get_args(annotation))
    if origin is tuple:
        return _fixed_tuple_check(annotation)
    if annotation in (str, list, dict) or origin in (list, dict):
        raise TypeError(f"text and lists need a maximum length: {annotation!r}")
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return _struct_check(annotation)
    return None


def _fixed_tuple_check(annotation: Any) -> Check | None:
    parts = get_args(annotation)
    if len(parts) == 2 and parts[1] is Ellipsis:
        raise TypeError(f"text and lists need a maximum length: {annotation!r}")
    checks = [(index, check) for index, part in enumerate(parts) if (check := text_check(part))]
    if not checks:
        return None

    def check_parts(value: Any, field: str) -> None:
        for index, check in checks:
            check(value[index], f"{field}[{index}]")

    return check_parts


def make_decoder(cls: Any, what: str) -> Callable[[bytes], Any]:
    """Return the strict decoder of a type: one value, one encoding, checked texts.

    Raises: Malformed naming the field, what was expected and what was given.
    """
    decode = msgspec.msgpack.Decoder(cls).decode
    check = text_check(cls)

    def decode_strictly(data: bytes) -> Any:
        try:
            value = decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(field=what, expected="a well-formed value", given=str(error)) from None
        if encode(value) != data:
            raise Malformed(
                field=what, expected="the shortest encoding", given=f"{len(data)} bytes"
            )
        if check is not None:
            check(value, what)
        return value

    return decode_strictly


# The readable form: JSON-able, bytes as hex. It is for people; bytes are for signing.


def to_readable(value: Any) -> Any:
    """Turn a decoded value into what JSON can hold: structs to objects, bytes to hex."""
    if isinstance(value, Struct):
        shown = {name: to_readable(getattr(value, name)) for name in value.__struct_fields__}
        tag = value.__struct_config__.tag
        return {"type": readable_name(type(value)), **shown} if tag is not None else shown
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [to_readable(item) for item in value]
    return value


def readable_name(cls: type) -> str:
    """Return a class name as people type it: ``RegisterCustomers`` is ``register_customers``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def from_readable(annotation: Any, value: Any, field: str = "") -> Any:
    """Build a typed value from its readable form; the inverse of :func:`to_readable`.

    Raises: Malformed naming the field, what was expected and what was given.
    """
    built = _build(annotation, value, field)
    try:
        return msgspec.convert(built, annotation, builtin_types=(bytes,), strict=True)
    except msgspec.ValidationError as error:
        raise Malformed(
            field=field or "value", expected="the documented form", given=str(error)
        ) from None


def _build(annotation: Any, value: Any, field: str) -> Any:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _build(get_args(annotation)[0], value, field)
    if annotation is bytes:
        return _bytes_from_hex(value, field)
    if annotation is str and isinstance(value, str):
        return _checked_unicode(value, field)
    if origin is Literal or annotation in (int, str, bool) or annotation is type(None):
        return value
    if origin in (Union, types.UnionType):
        return _build_union(get_args(annotation), value, field)
    if origin in (tuple, list):
        return _build_items(get_args(annotation), value, field)
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return _build_struct(annotation, value, field)
    return value


def _checked_unicode(value: str, field: str) -> str:
    """JSON can escape half a surrogate pair, which no UTF-8 can hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Malformed(field=field, expected="Unicode text", given=ascii(value)) from None
    return value


def _bytes_from_hex(value: Any, field: str) -> bytes:
    try:
        return value if isinstance(value, bytes) else bytes.fromhex(value)
    except (TypeError, ValueError):
        raise Malformed(field=field, expected="hexadecimal digits", given=value) from None


def _build_items(parts: tuple[Any, ...], value: Any, field: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise Malformed(field=field, expected="a list", given=value)
    if len(parts) == 2 and parts[1] is Ellipsis:
        parts = (parts[0],) * len(value)
    if len(parts) == 1:
        parts = parts * len(value)
    if len(parts) != len(value):
        raise Malformed(field=field, expected=f"{len(parts)} items", given=len(value))
    pairs = zip(parts, value, strict=True)
    return tuple(
        _build(part, item, f"{field}[{index}]") for index, (part, item) in enumerate(pairs)
    )


def _build_union(options: tuple[Any, ...], value: Any, field: str) -> Any:
    if value is None:
        return None
    structs = {
        readable_name(option): option
        for option in options
        if isinstance(option, type) and issubclass(option, Struct)
    }
    if not structs:
        return _build(next(o for o in options if o is not type(None)), value, field)
    if len(structs) == 1:
        return _build(next(iter(structs.values())), value, field)
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in structs:
        raise Malformed(field=f"{field}.type", expected=" or ".join(structs), given=name)
    return _build(structs[name], {k: v for k, v in value.items() if k != "type"}, field)


def _build_struct(cls: type[Struct], value: Any, field: str) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, dict):
        raise Malformed(field=field or readable_name(cls), expected="an object", given=value)
    infos = {info.name: info for info in msgspec.structs.fields(cls)}
    given = {name: item for name, item in value.items() if name != "type" or "type" in infos}
    for name in given:
        if name not in infos:
            raise Malformed(
                field=f"{field}.{name}".lstrip("."), expected="a known field", given=name
            )
    for name in infos:
        if name not in given:
            raise Malformed(
                field=f"{field}.{name}".lstrip("."), expected="a value", given="nothing"
            )
    parts = {
        name: _convert_field(info.type, given[name], f"{field}.{name}".lstrip("."))
        for name, info in infos.items()
    }
    return cls(**parts)


def _convert_field(annotation: Any, value: Any, field: str) -> Any:
    built = _build(annotation, value, field)
    try:
        return msgspec.convert(built, annotation, builtin_types=(bytes,), from_attributes=True)
    except msgspec.ValidationError as error:
        expected = str(error).removeprefix("Expected ")
        raise Malformed(field=field, expected=expected, given=value) from None
