"""The readable form of values as OpenAPI schemas, so that every message has one of its own."""

import types
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    Parameter,
    RequestBody,
    Schema,
)
from msgspec import Meta, Struct

from hansa.core.codec import readable_name
from hansa.core.readmodel import Kind

INTEGER: Final = Schema(type=OpenAPIType.INTEGER)
STRING: Final = Schema(type=OpenAPIType.STRING)
BINARY: Final = Schema(content_media_type="application/octet-stream")


def make_schema(annotation: Any) -> Schema:
    """Return the schema of a type's readable form: bytes as hex, structs as objects."""
    return _make_schema(annotation, Meta())


def _make_schema(annotation: Any, meta: Meta) -> Schema:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metas = get_args(annotation)
        return _make_schema(inner, next((m for m in metas if isinstance(m, Meta)), meta))
    if annotation is bytes:
        return _hex_schema(meta)
    if annotation is str:
        return Schema(
            type=OpenAPIType.STRING,
            pattern=meta.pattern,
            min_length=meta.min_length,
            max_length=meta.max_length,
        )
    if annotation is bool:
        return Schema(type=OpenAPIType.BOOLEAN)
    if annotation is int:
        return Schema(type=OpenAPIType.INTEGER, minimum=meta.ge, maximum=meta.le)
    if annotation is type(None):
        return Schema(type=OpenAPIType.NULL)
    if origin is Literal:
        return Schema(enum=list(get_args(annotation)))
    if origin in (Union, types.UnionType):
        return Schema(one_of=[_make_option(option) for option in get_args(annotation)])
    if origin in (tuple, list):
        return _array_schema(get_args(annotation), meta)
    assert isinstance(annotation, type), annotation
    assert issubclass(annotation, Struct), annotation
    return _object_schema(annotation)


def _hex_schema(meta: Meta) -> Schema:
    shortest, longest = meta.min_length or 0, meta.max_length
    return Schema(
        type=OpenAPIType.STRING,
        pattern="^([0-9a-f]{2})*$",
        min_length=2 * shortest,
        max_length=None if longest is None else 2 * longest,
        description=f"{shortest} bytes, hexadecimal"
        if shortest == longest
        else "bytes, hexadecimal",
    )


def _array_schema(parts: tuple[Any, ...], meta: Meta) -> Schema:
    if len(parts) == 2 and parts[1] is Ellipsis:
        return Schema(
            type=OpenAPIType.ARRAY,
            items=make_schema(parts[0]),
            min_items=meta.min_length,
            max_items=meta.max_length,
        )
    items = [make_schema(part) for part in parts]
    count = len(items)
    return Schema(
        type=OpenAPIType.ARRAY, prefix_items=items, min_items=count, max_items=count
    )  # fmt: skip


def _make_option(option: Any) -> Schema:
    """Return one option of a union; where it is tagged its readable form says its type."""
    schema = make_schema(option)
    is_struct = isinstance(option, type) and issubclass(option, Struct)
    if is_struct and option.__struct_config__.tag is not None:
        named = {"type": Schema(const=readable_name(option)), **(schema.properties or {})}
        schema.properties = named
        schema.required = list(named)
    return schema


def _object_schema(cls: type[Struct]) -> Schema:
    fields = msgspec.structs.fields(cls)
    return Schema(
        type=OpenAPIType.OBJECT,
        title=cls.__name__,
        description=(cls.__doc__ or "").strip().split("\n")[0],
        properties={field.name: make_schema(field.type) for field in fields},
        required=[field.name for field in fields],
        additional_properties=False,
    )


def make_query(name: str, description: str, schema: Schema = STRING) -> Parameter:
    """Return an optional query parameter."""
    return Parameter(
        name=name, param_in="query", description=description, schema=schema, required=False
    )  # fmt: skip


def make_operation(
    *, body: dict[str, Schema] | None = None, parameters: list[Parameter] | None = None
) -> type[Operation]:
    """Return an operation class that documents a raw body by media type, and more parameters."""
    media = {name: OpenAPIMediaType(schema=schema) for name, schema in (body or {}).items()}

    @dataclass
    class Documented(Operation):
        def __post_init__(self) -> None:
            if media:
                self.request_body = RequestBody(content=dict(media), required=True)
            if parameters:
                self.parameters = [*(self.parameters or []), *parameters]

    return Documented


MIN_HEIGHT: Final = make_query(
    "min_height", "Wait until the answer holds this block.", Schema(type=OpenAPIType.INTEGER)
)


def make_page_operation(kind: Kind, max_limit: int) -> type[Operation]:
    """Return the operation of a kind's list: its filters, and what turns pages."""
    limit = Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=max_limit)
    return make_operation(
        parameters=[
            *(make_query(name, f"Only those with this {name}.") for name in kind.filters),
            make_query("limit", "Items on a page.", limit),
            make_query("cursor", "The next of the page before."),
            MIN_HEIGHT,
        ]
    )
