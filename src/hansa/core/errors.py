"""The families of failure: rejected by a rule, refused at the door, a bug.

A rule that says no raises a :class:`Rejected`: it ends up, numbered, on a receipt in the log.
A transaction that is not even well-formed, in order or signed raises :class:`Refused`: it
leaves nothing and costs nothing. Anything else that comes out of a rule is a bug and stops
the node.
"""

from typing import ClassVar


def show(value: object) -> str:
    """Render a value for an error text: bytes as hex, text quoted, numbers plain."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show(item) for item in value) + "]"
    return str(value)


class Numbered(Exception):
    """An exception with a number that is never reused and a text with the offending values."""

    number: ClassVar[int]
    """Module number x 1,000 plus the error's number in its module; the core's module is 0."""

    says: ClassVar[str]
    """Template of the text: the field, what was expected, what was given."""

    def __init__(self, **values: object) -> None:
        self.values = values
        shown = {
            # What was given is somebody's text and stands in quotes; the rest are our words.
            name: show(value) if name == "given" or not isinstance(value, str) else value
            for name, value in values.items()
        }
        super().__init__(self.says.format(**shown))

    @property
    def text(self) -> str:
        """The message with its values, at most 512 bytes once on a receipt."""
        return str(self.args[0])

    @classmethod
    def name(cls) -> str:
        """The error's name as shown to people: words with underscores."""
        word = cls.__name__
        return "".join("_" + c.lower() if c.isupper() else c for c in word).lstrip("_")


class Rejected(Numbered):
    """A rule says no: the effects are dropped, a receipt with the number is kept."""


class Refused(Numbered):
    """Not a transaction that could be judged: skipped, no leaf, no nonce spent."""


class NotThere(LookupError):
    """No such fact in this ledger."""


class OperatorError(Exception):
    """Configuration, disk or network: the message says what is wrong and what to do."""


class Malformed(Refused):
    number = 1
    says = "{field}: expected {expected}, got {given}"


class TooLarge(Refused):
    number = 2
    says = "{field}: expected at most {limit} bytes, got {given}"


class WrongNetwork(Refused):
    number = 3
    says = "network: expected {expected}, got {given}"


class WrongChain(Refused):
    number = 4
    says = "chain: expected {expected}, got {given}"


class DuplicateSigner(Refused):
    number = 5
    says = "signers: expected each account once, got {account} again"


class UnknownKey(Refused):
    number = 6
    says = "signers: expected a key that account {account} has at height {height}, got {key}"


class WrongSignature(Refused):
    number = 7
    says = "signatures: expected a signature of {key} over the body, got {given}"


class WrongNonce(Refused):
    number = 8
    says = "sequence: expected {expected} on lane {lane}, got {given}"


class Expired(Refused):
    number = 9
    says = "valid_until_ms: expected at least the block time {time}, got {given}"


class InactiveMessage(Refused):
    number = 10
    says = "messages: expected a version in force at height {height}, got {name} version {version}"


class TooFarAhead(Refused):
    number = 11
    says = "valid_until_ms: expected at most {limit}, got {given}"


class BlockFull(Refused):
    """The block has grown as large as it may; the engine tries the next one."""

    number = 13
    says = "block: expected at most {limit} bytes before this transaction, got {given}"
