"""Errors as problem details (RFC 9457): one table says which family is answered how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from hansa.core.errors import (
    Expired,
    Numbered,
    Refused,
    Rejected,
    TooLarge,
    UnknownKey,
    WrongNonce,
    WrongSignature,
    show,
)
from hansa.core.prover import NotFinal, NotThere
from hansa.network.intake import EngineBusy, EngineStopped, UnknownChain

MEDIA_TYPE: Final = "application/problem+json"


class BadParameter(Numbered):
    """A question that can't be answered as it was asked."""

    number = 901
    says = "{field}: expected {expected}, got {given}"


class TokenNeeded(Numbered):
    """No bearer token, or none that is known, in force and not revoked."""

    number = 902
    says = "authorization: expected a bearer token {expected}, got {given}"


class ScopeMissing(Numbered):
    """The token is good, but not for this."""

    number = 903
    says = "token: expected the scope {expected}, got {given}"


class KeyNotAllowed(Numbered):
    """A gateway signs for a caller with the keys of his token, and no others."""

    number = 904
    says = "signers: expected {expected}, got {given}"


class IdempotencyKeyReused(Numbered):
    """The same key came with another request before."""

    number = 905
    says = "idempotency-key: expected the request it came with first, got another under {given}"


class RateExceeded(Numbered):
    """One address asks more than its share."""

    number = 906
    says = "requests: expected at most {limit} a second from {address}, got more"

    def __init__(self, *, retry_after_s: int, **values: object) -> None:
        super().__init__(**values)
        self.retry_after_s = retry_after_s


class BatchTooLong(Numbered):
    """More envelopes than one request may carry."""

    number = 907
    says = "envelopes: expected 1 to {limit}, got {given}"


class RequestInProgress(Numbered):
    """The same key came with a request that isn't answered yet."""

    number = 908
    says = "idempotency-key: expected the first request under {given} to be answered, got it again"


class ReadModelBehind(Numbered):
    """What was written is durable, but can't be listed yet."""

    number = 909
    says = "min_height: expected a read model at {expected} in time, got {given}"
    retry_after_s = 1


class FeedFull(Numbered):
    """All places at the feed are taken."""

    number = 910
    says = "feed: expected at most {limit} readers, got one more"
    retry_after_s = 10


class UnsupportedMediaType(Numbered):
    """A body of a kind that this address doesn't read."""

    number = 911
    says = "content-type: expected {expected}, got {given}"


STATUS_NUMBERS: Final[Mapping[int, int]] = {
    400: 912,
    404: 913,
    405: 914,
    413: 915,
    500: 916,
    429: 918,
    503: 919,
}
"""Numbers of the problems that say no more than an HTTP status."""

OTHER_STATUS: Final = 917
"""Number for a status that is not in the table."""


STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (TooLarge, 413),
    (BatchTooLong, 413),
    (UnsupportedMediaType, 415),
    (WrongSignature, 403),
    (UnknownKey, 403),
    (WrongNonce, 409),
    (Expired, 410),
    (UnknownChain, 404),
    (Refused, 400),
    # A rule's no is a receipt and answered with 200; it gets here only where there is no receipt.
    (Rejected, 422),
    (BadParameter, 400),
    (TokenNeeded, 401),
    (ScopeMissing, 403),
    (KeyNotAllowed, 403),
    (IdempotencyKeyReused, 422),
    (RequestInProgress, 409),
    (RateExceeded, 429),
    (NotFinal, 503),
    (NotThere, 404),
    (ReadModelBehind, 503),
    (FeedFull, 503),
    (EngineBusy, 429),
    (EngineStopped, 503),
)
"""The one table from families of errors to HTTP; the first that fits counts."""

ANSWERED: Final = tuple(family for family, _ in STATUS)
"""What a caller can be told about; anything else is a bug of ours."""


@dataclass(frozen=True)
class ProblemDetails:
    """One problem as it is sent."""

    type: str
    title: str
    status: int
    detail: str
    number: int | None
    """The error's number where it has one."""
    values: Mapping[str, str] = field(default_factory=dict)
    """The offending values by field."""
    retry_after_s: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the members of the problem object."""
        return {
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "number": self.number,
            "values": dict(self.values),
        }


def describe(error: Exception) -> ProblemDetails:
    """Return the problem details of an error that is in the table."""
    status = next(status for family, status in STATUS if isinstance(error, family))
    retry_after_s = getattr(error, "retry_after_s", None)
    if isinstance(error, Numbered):
        return ProblemDetails(
            type=f"urn:hansa:error:{error.number}",
            title=error.name().replace("_", " "),
            status=status,
            detail=error.text,
            number=error.number,
            values={name: show(value) for name, value in error.values.items()},
            retry_after_s=retry_after_s,
        )
    return describe_status(status, str(error), retry_after_s)


def describe_status(
    status: int, detail: str, retry_after_s: int | None = None
) -> ProblemDetails:  # fmt: skip
    """Return problem details that say no more than an HTTP status and a sentence."""
    title = HTTPStatus(status).phrase
    number = STATUS_NUMBERS.get(status, OTHER_STATUS)
    kind = f"urn:hansa:error:{number}"
    return ProblemDetails(kind, title, status, detail, number, {}, retry_after_s)
