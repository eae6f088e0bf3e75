"""The judging of a proof file, told to people and programs.

Nobody should have to trust this process for more than it needs: it reads two files and writes one
answer. It is kept apart from the command tree, whose imports would take longer than the judging.
"""

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hansa.foreground.cli.failures import DONE, REFUSED, WRONG_USE
from hansa.foreground.cli.output import Output, show_time

if TYPE_CHECKING:
    from hansa.core.proof import Judgement, ProvenFact

MAX_EVENTS_SAID: Final = 12
"""A genesis has one event for every founder; a screen has an end."""

MAX_TEXT_SAID: Final = 200
"""Characters of a text; the ids and digests that people compare are shorter."""


class PlainCall(NamedTuple):
    """`hansa verify FILE --trust FILE`, perhaps with `--json`, and nothing else."""

    file: Path
    trust_file: Path
    as_json: bool


def read_plain_call(arguments: Sequence[str]) -> PlainCall | None:
    """Return the call if it is a plain one; None leaves it to the command tree."""
    if not arguments or arguments[0] != "verify":
        return None
    rest = [argument for argument in arguments[1:] if argument != "--json"]
    as_json = len(arguments) - 1 - len(rest) == 1
    if not as_json and len(rest) != len(arguments) - 1:
        return None
    if len(rest) != 3 or "--trust" not in rest[:2]:
        return None
    place = rest.index("--trust")
    trust_file = rest[place + 1]
    file = rest[2] if place == 0 else rest[0]
    if file.startswith("-") or trust_file.startswith("-"):
        return None
    return PlainCall(Path(file), Path(trust_file), as_json)


def judge_files(file: Path, trust_file: Path, out: Output) -> int:
    """Judge a proof file, say so, and return the exit status.

    Raises: OSError for a file that can't be read, OperatorError for a trust file that isn't one.
    """
    from hansa.core.proof import MAX_BUNDLE_BYTES, Outcome, verify_bundle
    from hansa.foreground.cli.trusting import read_trust

    trusted = read_trust(trust_file)
    with file.open("rb") as stream:
        data = stream.read(MAX_BUNDLE_BYTES + 1)
    judgement = verify_bundle(data, trusted, time.time_ns() // 1_000_000)
    facts = [read_fact(fact) for fact in judgement.facts]
    if out.as_json:
        out.document(
            {
                "verdict": judgement.outcome.value,
                "reason": judgement.reason,
                "steps": judgement.steps,
                "facts": facts,
            }
        )
    else:
        _say_judgement(out, judgement, facts)
    status = {Outcome.VALID: DONE, Outcome.INVALID: REFUSED, Outcome.CANNOT_TELL: WRONG_USE}
    return status[judgement.outcome]


def run_plain_call(call: PlainCall) -> int:
    """Judge, and tell failures as the command tree does."""
    from hansa.foreground.cli.failures import describe, tell

    try:
        return judge_files(call.file, call.trust_file, Output(as_json=call.as_json))
    except Exception as error:
        failure = describe(error)
        if failure is None:
            raise
        tell(failure, as_json=call.as_json)
        return failure.status


def _say_judgement(out: Output, judgement: "Judgement", facts: list[dict[str, Any]]) -> None:
    for step in judgement.steps:
        out.say(step)
    for fact in facts:
        out.say("")
        out.say(_title(fact))
        for message in fact["messages"]:
            out.say(f"  asked     {_line(message)}")
        for signer in fact["signers"]:
            out.say(f"  signed by {signer}")
        if fact["error"] is not None:
            out.say(f"  refused   {fact['error']['number']} {fact['error']['text']}")
        for event in fact["events"][:MAX_EVENTS_SAID]:
            out.say(f"  happened  {_line(event)}")
        if (more := len(fact["events"]) - MAX_EVENTS_SAID) > 0:
            out.say(f"  ...       and {more} more events, all of them with --json")
        if fact["content"] is not None:
            out.say(f"  content   {fact['content']}")
    out.say("")
    reason = f": {judgement.reason}" if judgement.reason else ""
    out.say(f"{judgement.outcome.value.upper()}{reason}")


def _title(fact: dict[str, Any]) -> str:
    place = "" if fact["index"] is None else f", entry {fact['index']}"
    return (
        f"{fact['kind']} on {fact['chain']}{place}, height {fact['height']},"
        f" final by {show_time(fact['time_ms'])}"
    )


def _line(value: dict[str, Any]) -> str:
    import json

    name, fields = value.get("type", "?"), {k: v for k, v in value.items() if k != "type"}
    return f"{name} {json.dumps(_shorten(fields), ensure_ascii=False)}"


def _shorten(value: Any) -> Any:
    """Cut headers and signatures to what a person can compare; --json has them whole."""
    if isinstance(value, dict):
        return {name: _shorten(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shorten(item) for item in value]
    if isinstance(value, str) and len(value) > MAX_TEXT_SAID:
        return f"{value[:MAX_TEXT_SAID]}… ({len(value)} characters)"
    return value


def read_fact(fact: "ProvenFact") -> dict[str, Any]:
    """Return a proven fact as people read it, decoded where this release knows its types."""
    error = fact.receipt.error if fact.receipt is not None else None
    messages, signers = _read_envelope(fact.envelope)
    packets = fact.kind == "packets"
    return {
        "kind": fact.kind,
        "chain": fact.chain,
        "height": fact.height,
        "time_ms": fact.time_ms,
        "index": fact.index,
        "signers": signers,
        "messages": messages,
        "error": None if error is None else {"number": error.number, "text": error.text},
        "events": [
            {"type": "packet", "bytes": item.hex()} if packets else read_tagged(item)
            for item in fact.events
        ],
        "content": None if fact.content is None else fact.content.decode(errors="replace"),
    }


def _read_envelope(envelope: bytes | None) -> tuple[list[dict[str, Any]], list[str]]:
    if envelope is None:
        return [], []
    import msgspec

    from hansa.core.codec import encode
    from hansa.core.transaction import decode_envelope

    body = msgspec.msgpack.decode(decode_envelope(envelope).body)
    messages = [read_tagged(encode(message)) for message in body[7]]
    return messages, [account.hex() for account, _key in body[3]]


def read_tagged(data: bytes) -> dict[str, Any]:
    """Return a message or event as people read it; of unknown type, its number and bytes."""
    import msgspec

    from hansa.core.codec import to_readable

    tag = msgspec.msgpack.decode(data)[0]
    cls = find_type(tag)
    if cls is not None:
        try:
            readable: dict[str, Any] = to_readable(msgspec.msgpack.decode(data, type=cls))
        except msgspec.ValidationError:
            pass  # A later version of the type; its bytes are as well proven.
        else:
            return readable
    return {"type": f"{tag:#x}", "bytes": data.hex()}


MODULES: Final = {
    1: "link",
    2: "members",
    3: "bank",
    4: "catalogue",
    5: "orders",
    6: "shipments",
    7: "anchoring",
    8: "validators",
}


@cache
def find_type(tag: Any) -> Any:
    """Return the message or event of a number, or None; imports the one model it is in."""
    from importlib import import_module

    module = MODULES.get(tag >> 16) if isinstance(tag, int) else None
    if module is None:
        return None
    model = import_module(f"hansa.service.{module}.model")
    for value in vars(model).values():
        config = getattr(value, "__struct_config__", None)
        if isinstance(value, type) and config is not None and config.tag == tag:
            return value
    return None
