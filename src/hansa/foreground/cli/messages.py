"""One command for every message, made from the message types themselves.

A field is an option and its docstring is the option's help, so that a module is complete on the
command line the moment its model is.
"""

import ast
import inspect
import json
import re
import time
import types
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
)

import msgspec
import typer
from msgspec import Meta

from hansa.core.codec import from_readable, readable_name
from hansa.core.errors import Malformed, show
from hansa.core.transaction import Message
from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.options import example
from hansa.foreground.cli.session import Session, with_session

ACCOUNT_BYTES: Final = 20

PATTERNS: Final = {"^[A-Z]{2}$": "two capital letters", "^[A-Z]{3}$": "three capital letters"}
TIME_FORM: Final = "milliseconds since 1970, or a time ahead like +14d, +8h, +30m"

_AHEAD: Final = re.compile(r"\+([0-9]{1,6})([dhms])")
_UNIT_MS: Final = {"d": 24 * 3600 * 1000, "h": 3600 * 1000, "m": 60 * 1000, "s": 1000}

SAMPLES: Final[Mapping[str, Any]] = {
    "accept_by_ms": 1_800_000_000_000,
    "amount_minor": 125_000,
    "country": "GB",
    "currency": "GBP",
    "dated_ms": 1_800_000_000_000,
    "deliver_by_ms": 1_801_000_000_000,
    "description": "Cotton bag, 38 x 42 cm",
    "destination": "NL",
    "fund_by_ms": 1_800_100_000_000,
    "gtin": "",
    "hs_code": "420222",
    "inspection_ms": 259_200_000,
    "name": "Cotton bag",
    "origin": "GB",
    "place": "NLRTM",
    "reason": "Damaged on arrival",
    "reference": "2026-0042",
    "ship_by_ms": 1_800_200_000_000,
    "unit": "C62",
}
"""What stands in the examples where a field's type alone says too little."""


def message_commands(module: str, chain: str | None) -> typer.Typer:
    """Return the command group of a module: one command for each of its messages.

    ``chain`` is where its messages usually go; None where there is no usual one.
    """
    model = import_module(f"hansa.service.{module}.model")
    group = typer.Typer(name=module, help=_describe_module(model), no_args_is_help=True)
    for message in get_messages(module):
        _add_command(group, module, message, chain)
    return group


def get_messages(module: str) -> list[type[Message]]:
    """Return a module's messages in the order of its model."""
    model = import_module(f"hansa.service.{module}.model")
    found = [
        value
        for value in vars(model).values()
        if isinstance(value, type) and issubclass(value, Message) and value is not Message
    ]
    return sorted(found, key=lambda message: int(message.__struct_config__.tag or 0))


def command_name(message: type[Message]) -> str:
    """Return what people type: ``RegisterCustomers`` is ``register-customers``."""
    return readable_name(message).replace("_", "-")


# The shape of a field, as far as the command line cares.


class Field(NamedTuple):
    """A field of a message and how it is given."""

    name: str
    annotation: Any
    shape: Literal["account", "bytes", "number", "time", "flag", "text", "choice", "structure"]
    is_optional: bool
    help: str


def read_fields(message: type[Message]) -> list[Field]:
    """Return the fields of a message as options."""
    words = read_docstrings(message)
    return [
        _read_field(info.name, info.type, words.get(info.name, ""))
        for info in msgspec.structs.fields(message)
    ]


def _read_field(name: str, annotation: Any, words: str) -> Field:
    inner, is_optional = _strip_optional(annotation)
    kind, bounds = _strip_bounds(inner)
    shape, form = _shape(kind, bounds)
    if kind is int and is_time(name, bounds):
        shape, form = "time", TIME_FORM
    said = f"{words.rstrip('.')}; {form}." if words else f"{form[0].upper()}{form[1:]}."
    return Field(name, inner, shape, is_optional, said)


def _strip_optional(annotation: Any) -> tuple[Any, bool]:
    options = get_args(annotation)
    is_union = get_origin(annotation) in (Union, types.UnionType)
    if is_union and len(options) == 2 and type(None) in options:
        return next(option for option in options if option is not type(None)), True
    return annotation, False


def _strip_bounds(annotation: Any) -> tuple[Any, Meta]:
    if get_origin(annotation) is Annotated:
        kind, *notes = get_args(annotation)
        return kind, next((note for note in notes if isinstance(note, Meta)), Meta())
    return annotation, Meta()


def _shape(kind: Any, bounds: Meta) -> tuple[Any, str]:
    if kind is bytes:
        return _bytes_shape(bounds)
    if kind is bool:
        return "flag", "yes or no"
    if kind is int:
        return "number", _number_form(bounds)
    if kind is str:
        return "text", _text_form(bounds)
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        form = "one of " + ", ".join(str(choice) for choice in choices)
        return ("number" if isinstance(choices[0], int) else "choice"), form
    return "structure", f"JSON, {_structure_form(kind)}; or @FILE that holds it"


def _structure_form(annotation: Any) -> str:
    """Return what a structure looks like, down to the names of its fields."""
    kind, bounds = _strip_bounds(annotation)
    parts = [part for part in get_args(kind) if part is not Ellipsis]
    if get_origin(kind) is tuple:
        most = f" of at most {bounds.max_length:,}" if bounds.max_length else ""
        return f"a list{most}, each {_structure_form(parts[0])}"
    if get_origin(kind) is Literal or not (parts or hasattr(kind, "__struct_fields__")):
        return _shape(kind, bounds)[1]
    if parts:
        return "one of " + ", ".join(_structure_form(part) for part in parts)
    tag = kind.__struct_config__.tag
    names = [f"type: {readable_name(kind)}"] if tag is not None else []
    return "{" + ", ".join([*names, *kind.__struct_fields__]) + "}"


def is_time(name: str, bounds: Meta) -> bool:
    """Say whether a field is a moment and not a span: a span has a nearer bound."""
    return name.endswith("_ms") and (bounds.le is None or bounds.le >= 2**63 - 1)


def _bytes_shape(bounds: Meta) -> tuple[str, str]:
    least, most = bounds.min_length, bounds.max_length
    if least == most == ACCOUNT_BYTES:
        return "account", "40 hexadecimal digits, or the name of a key or an organisation"
    if least == most and most is not None:
        return "bytes", f"{2 * most} hexadecimal digits"
    return "bytes", f"hexadecimal digits, at most {2 * (most or 0)}"


def _number_form(bounds: Meta) -> str:
    least, most = bounds.ge, bounds.le
    if least is None or least < -(2**62):
        return "a whole number"
    if most is None or most >= 2**63 - 1:
        return f"a whole number from {least}"
    return f"a whole number, {least} to {most}"


def _text_form(bounds: Meta) -> str:
    if bounds.pattern:
        return PATTERNS.get(bounds.pattern, f"text that fits {bounds.pattern}")
    if bounds.min_length and bounds.min_length == bounds.max_length:
        return f"{bounds.max_length} characters"
    return f"text of at most {bounds.max_length} bytes"


# Docstrings, which Python drops for fields, are read from the source.


def read_docstrings(cls: type) -> dict[str, str]:
    """Return the docstring under each field of a class."""
    path = inspect.getsourcefile(cls)
    assert path is not None, "a model is a file"
    return _docstrings_of_file(Path(path)).get(cls.__name__, {})


_READ: Final[dict[Path, dict[str, dict[str, str]]]] = {}


def _docstrings_of_file(path: Path) -> dict[str, dict[str, str]]:
    if path not in _READ:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        _READ[path] = {node.name: _docstrings_of_class(node) for node in classes}
    return _READ[path]


def _docstrings_of_class(node: ast.ClassDef) -> dict[str, str]:
    words: dict[str, str] = {}
    for field, after in zip(node.body, node.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if is_text and isinstance(after.value.value, str):  # type: ignore[attr-defined]
            words[field.target.id] = " ".join(after.value.value.split())  # type: ignore[attr-defined]
    return words


def _describe_module(model: Any) -> str:
    name = model.__name__.split(".")[-2]
    return f"Messages of {name}: each signed, sent, and answered with its receipt."


# Commands.


def _add_command(
    group: typer.Typer, module: str, message: type[Message], chain: str | None
) -> None:
    fields = read_fields(message)

    def send(session: Session, **given: Any) -> None:
        signers = tuple(given.pop("signers_"))
        lane, where = given.pop("lane_"), given.pop("chain_")
        readable = {field.name: _read_value(session, field, given[field.name]) for field in fields}
        session.send(where, [_build(message, readable)], signers, lane)

    parameters = [_make_parameter(field) for field in fields]
    parameters += _sending_parameters(chain)
    send.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("session", inspect.Parameter.POSITIONAL_OR_KEYWORD), *parameters]
    )
    name = command_name(message)
    group.command(
        name,
        help=inspect.cleandoc(message.__doc__ or ""),
        epilog=example(make_example(module, message, chain)),
    )(with_session(send))


def _build(message: type[Message], readable: Mapping[str, Any]) -> Message:
    """Build the message; one that isn't well-formed is wrong use, since nobody was asked yet."""
    try:
        built: Message = from_readable(message, dict(readable))
    except Malformed as error:
        said = error.values
        field = "--" + str(said["field"]).replace("_", "-")
        text = f"{field}: expected {said['expected']}, got {show(said['given'])}"
        raise WrongUse(text) from None
    return built


def _sending_parameters(chain: str | None) -> list[inspect.Parameter]:
    signers = typer.Option(
        "--as", metavar="NAME", help="Name of the key that signs; once for each signer, in order."
    )
    lane = typer.Option("--lane", min=0, max=0xFFFF, help="Lane of the first signer's sequence.")
    where = typer.Option("--chain", metavar="CHAIN", help="Chain that the message goes to.")
    return [
        _parameter("signers_", Annotated[list[str], signers]),
        _parameter("lane_", Annotated[int, lane], 0),
        _parameter(
            "chain_", Annotated[str, where], inspect.Parameter.empty if chain is None else chain
        ),
    ]


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> Any:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)


_METAVARS: Final = {
    "account": "ACCOUNT",
    "bytes": "HEX",
    "number": "NUMBER",
    "time": "TIME",
    "text": "TEXT",
    "choice": "WORD",
    "structure": "JSON",
}


def _make_parameter(field: Field) -> Any:
    flag = "--" + field.name.replace("_", "-")
    kind: Any = {"number": int, "flag": bool}.get(field.shape, str)
    if field.shape == "flag":
        option = typer.Option(f"{flag}/--no-{flag[2:]}", help=field.help)
    else:
        option = typer.Option(flag, metavar=_METAVARS[field.shape], help=field.help)
    if field.is_optional:
        return _parameter(field.name, Annotated[kind | None, option], None)
    return _parameter(field.name, Annotated[kind, option])


def _read_value(session: Session, field: Field, given: Any) -> Any:
    if given is None:
        return None
    if field.shape == "account":
        return session.resolve_account(given).hex()
    if field.shape == "structure":
        return read_times(_read_structure(field, given))
    if field.shape == "time":
        return _read_moment(field, given)
    return given


def _read_moment(field: Field, given: str) -> int:
    moment = read_time(given)
    if moment is None and not re.fullmatch("-?[0-9]{1,19}", given):
        flag = "--" + field.name.replace("_", "-")
        raise WrongUse(f"{flag}: expected {TIME_FORM}, got {given!r}")
    return int(given) if moment is None else moment


def read_time(given: Any) -> int | None:
    """Return the moment that ``+14d`` and the like mean, from this machine's time on."""
    ahead = _AHEAD.fullmatch(given) if isinstance(given, str) else None
    if ahead is None:
        return None
    return time.time_ns() // 1_000_000 + int(ahead[1]) * _UNIT_MS[ahead[2]]


def read_times(given: Any) -> Any:
    """Replace times ahead by moments in the fields of a structure that are in milliseconds."""
    if isinstance(given, list):
        return [read_times(item) for item in given]
    if not isinstance(given, dict):
        return given
    return {
        name: (read_time(value) if name.endswith("_ms") else None) or read_times(value)
        for name, value in given.items()
    }


def _read_structure(field: Field, given: str) -> Any:
    flag = "--" + field.name.replace("_", "-")
    text = Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") else given
    try:
        return json.loads(text)
    except ValueError as error:
        raise WrongUse(f"{flag}: expected JSON, got {text[:40]!r} ({error})") from None


# Examples, made so that they are well-formed.


def make_example(module: str, message: type[Message], chain: str | None) -> str:
    """Return a call of a message's command that the message's type accepts."""
    parts = [f"hansa {module} {command_name(message)}"]
    for field in read_fields(message):
        flag = "--" + field.name.replace("_", "-")
        value = make_sample(field.name, field.annotation)
        if field.shape == "flag":
            parts.append(flag)
        elif field.shape == "account":
            parts.append(f"{flag} {field.name}")
        elif field.shape == "structure":
            parts.append(f"{flag} '{json.dumps(value)}'")
        else:
            parts.append(f"{flag} {_quote(str(value))}")
    if chain is None:
        parts.append("--chain trade")
    return " ".join([*parts, "--as NAME"])


def _quote(text: str) -> str:
    return text if re.fullmatch(r"[\w.+-]+", text) else f'"{text}"'


def make_sample(name: str, annotation: Any) -> Any:
    """Return a readable value that a field of this name and type accepts."""
    inner, _ = _strip_optional(annotation)
    kind, bounds = _strip_bounds(inner)
    if kind in (int, str) and name in SAMPLES and _fits(inner, SAMPLES[name]):
        return SAMPLES[name]
    return _sample_of_kind(name, kind, bounds)


def _fits(annotation: Any, value: Any) -> bool:
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        return False
    return True


def _sample_of_kind(name: str, kind: Any, bounds: Meta) -> Any:
    if kind is bytes:
        return ("0f" * (bounds.min_length or 1)) if bounds.max_length else "0f"
    if kind is bool:
        return True
    if kind is int:
        return bounds.ge if bounds.ge is not None and bounds.ge > 0 else 1
    if kind is str:
        return "A" * max(1, bounds.min_length or 0) if bounds.min_length else ""
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    if get_origin(kind) is tuple:
        return _sample_of_tuple(name, get_args(kind))
    options = [option for option in get_args(kind) if option is not type(None)]
    return _sample_of_struct(options[0] if options else kind)


def _sample_of_tuple(name: str, parts: tuple[Any, ...]) -> list[Any]:
    if len(parts) == 2 and parts[1] is Ellipsis:
        parts = parts[:1]
    return [make_sample(name, part) for part in parts]


def _sample_of_struct(cls: Any) -> dict[str, Any]:
    sample = {info.name: make_sample(info.name, info.type) for info in msgspec.structs.fields(cls)}
    tag = cls.__struct_config__.tag
    return {"type": readable_name(cls), **sample} if tag is not None else sample
