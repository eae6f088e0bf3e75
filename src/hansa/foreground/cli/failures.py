"""How failures end: the sentence on stderr and the exit status."""

import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hansa.interface.client import Problem, RuleRefused

DONE: Final = 0
REFUSED: Final = 1
"""Refused by a rule or at the door, or found to be invalid."""
WRONG_USE: Final = 2
"""Wrong use, or it cannot be told."""

FIRST_OF_DOORS: Final = 900
"""Numbers from here to 999 are of questions asked wrongly; below it, of transactions refused."""


@dataclass(frozen=True)
class Failure:
    """One sentence, and the status to leave with."""

    text: str
    status: int
    document: dict[str, Any] = field(default_factory=dict)
    is_told: bool = False
    """Whether standard output has its document already."""


class WrongUse(Exception):
    """The command line cannot be carried out as it stands; the text says what to do."""


class Invalid(Exception):
    """What was asked for was judged and the answer is no; the sentence, if any, says why.

    Standard output has its document already.
    """


def tell(failure: Failure, *, as_json: bool) -> None:
    """Say what went wrong: a sentence on stderr, and for a program a document on stdout."""
    if as_json and not failure.is_told:
        sys.stdout.write(json.dumps({"error": failure.document}, ensure_ascii=False) + "\n")
    if failure.text:
        sys.stderr.write(f"hansa: {failure.text}\n")


def describe(error: Exception) -> Failure | None:
    """Return how an expected failure is told; None for a bug, which keeps its traceback."""
    from hansa.core.errors import Numbered, OperatorError
    from hansa.core.merkle import ProofError

    if isinstance(error, Invalid):
        return Failure(str(error), REFUSED, is_told=True)
    if isinstance(error, Numbered):
        return _numbered(error.number, error.name(), error.text)
    if _is_difference(error):
        return _plain(str(error), REFUSED)
    if isinstance(error, OperatorError | WrongUse):
        return _plain(str(error), WRONG_USE)
    if isinstance(error, ProofError):
        return _plain(f"not believed: {error}", REFUSED)
    if isinstance(error, OSError):
        return _plain(_describe_os_error(error), WRONG_USE)
    return _describe_usage(error) or _describe_node(error)


def _is_difference(error: Exception) -> bool:
    """Say whether what was played on a sandbox came out otherwise than the books say."""
    desk = sys.modules.get("hansa.interface.sandbox.desk")  # Where it is raised, it is loaded.
    return desk is not None and isinstance(error, desk.SandboxError)


def _numbered(number: int, name: str, text: str) -> Failure:
    document = {"number": number, "name": name, "text": text}
    return Failure(f"refused, {number} {name}: {text}", REFUSED, document)


def _plain(text: str, status: int) -> Failure:
    return Failure(text, status, {"text": text})


def _describe_os_error(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"


def _describe_usage(error: Exception) -> Failure | None:
    from typer.exceptions import Abort, TyperException

    if isinstance(error, Abort):
        return _plain("stopped before it was done; ask again to go on", WRONG_USE)
    if isinstance(error, TyperException):
        if not error.format_message():
            return _plain("", WRONG_USE)  # Its help has been shown.
        context = getattr(error, "ctx", None)
        hint = f"; see {context.command_path} --help" if context is not None else ""
        return _plain(error.format_message().rstrip(".") + hint, WRONG_USE)
    return None


def _describe_node(error: Exception) -> Failure | None:
    import httpx

    from hansa.core.prover import NotThere
    from hansa.formats.online_retail import UnreadableFile
    from hansa.interface.client import Problem, RuleRefused, Unbelievable, Unreachable
    from hansa.network.intake import EngineBusy, EngineStopped

    if isinstance(error, RuleRefused):
        return _rule_refused(error)
    if isinstance(error, Problem):
        return _problem(error)
    if isinstance(error, Unbelievable):
        return _plain(f"not believed: {error}", REFUSED)
    if isinstance(error, Unreachable):
        return _plain(f"node: expected an answer, got none ({error}); is it running?", WRONG_USE)

    if isinstance(error, NotThere | UnreadableFile):
        return _plain(str(error), WRONG_USE)
    if isinstance(error, EngineBusy):
        return _plain(f"{error}; nothing was taken, ask again in a second", WRONG_USE)
    if isinstance(error, EngineStopped):
        return _plain(str(error), WRONG_USE)
    if isinstance(error, httpx.HTTPError):
        return _plain(f"node: expected an answer, got {type(error).__name__}: {error}", WRONG_USE)
    return None


def _rule_refused(error: "RuleRefused") -> Failure:
    outcome = error.outcome
    document = {
        "number": error.number,
        "text": error.text,
        "digest": outcome.digest.hex(),
        "chain": outcome.chain,
        "height": outcome.height,
        "leaf": outcome.leaf,
    }
    return Failure(f"refused, {error.number}: {error.text}", REFUSED, document)


def _problem(error: "Problem") -> Failure:
    """Tell wrong questions and busy nodes from transactions that are refused at the door."""
    document = {"number": error.number, "text": error.detail, "title": error.title}
    number = f" {error.number}" if error.number is not None else ""
    is_judged = error.number is not None and error.status not in (404, 429, 503)
    is_question = error.number is not None and error.number >= FIRST_OF_DOORS
    if is_judged and not is_question:
        return Failure(f"refused,{number}: {error.detail}", REFUSED, document)
    return Failure(f"{error.detail}{f' [{error.number}]' if number else ''}", WRONG_USE, document)
