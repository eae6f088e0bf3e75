"""CometBFT's headers, commits and validator sets: what they hold, hash to, and have signed.

A network that runs on CometBFT proves its blocks by light blocks: a header, the votes that commit
it, and the validators who cast them. Hashes and sign bytes are those of the engine; its protobuf
messages are written here by hand, for only a dozen forms are needed and none is ever read.
"""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from hansa.core.codec import U32, U63, Raw32, Value, encode, make_decoder
from hansa.core.errors import Malformed
from hansa.core.keys import ED25519, PublicKey
from hansa.core.merkle import compute_root, leaf_hash
from hansa.core.validatorset import MAX_VALIDATORS, Validator

T = TypeVar("T")

ABSENT: Final = 1
"""Block id flag: no vote was received in time."""
COMMIT: Final = 2
"""Block id flag: the vote is for the block of the commit."""
NIL: Final = 3
"""Block id flag: the vote is for no block."""

PREVOTE: Final = 1
PRECOMMIT: Final = 2

SIGNATURE_BYTES: Final = 64
ADDRESS_BYTES: Final = 20

Hash = Annotated[bytes, Meta(max_length=32)]
"""A SHA-256 digest, or empty where CometBFT has none; any other length is refused on judging."""
Address = Annotated[bytes, Meta(max_length=ADDRESS_BYTES)]
"""SHA-256 of the 32 key bytes, cut to 20; empty where nobody voted."""
ChainId = Annotated[str, Meta(min_length=1, max_length=50)]
"""CometBFT's name of a network (MaxChainIDLen)."""
AppHash = Annotated[bytes, Meta(max_length=64)]
"""Any length to CometBFT; 32 bytes in Hansa, where it is the network hash."""
Height = Annotated[int, Meta(ge=1, le=0x7FFF_FFFF_FFFF_FFFF)]
Round = Annotated[int, Meta(ge=0, le=0x7FFF_FFFF)]
TimeNs = U63
"""Nanoseconds since 1970-01-01 UTC, up to the year 2262. Go's zero time, which only an absent vote
has, stands as 0: that time is neither signed nor read."""
Validators = Annotated[tuple[Validator, ...], Meta(min_length=1, max_length=MAX_VALIDATORS)]
"""In CometBFT's order: power descending, then address ascending."""


class BlockId(Value):
    """A header's hash and the root over the parts that its block is gossiped in."""

    hash: Hash
    parts_total: U32
    parts_hash: Hash


NO_BLOCK: Final = BlockId(b"", 0, b"")
"""What a vote for no block names, and the first header as its predecessor."""


class CometHeader(Value):
    """All fields of a CometBFT header, in the order in which they are hashed."""

    version_block: U63
    version_app: U63
    chain_id: ChainId
    height: Height
    time_ns: TimeNs
    last_block_id: BlockId
    last_commit_hash: Hash
    data_hash: Hash
    validators_hash: Raw32
    next_validators_hash: Raw32
    consensus_hash: Hash
    app_hash: AppHash
    """After the block before this one: the network hash of height - 1."""
    last_results_hash: Hash
    evidence_hash: Hash
    proposer_address: Address


class CommitSignature(Value):
    """One validator's precommit in a commit, at the validator's place in the set."""

    flag: Literal[1, 2, 3]
    """ABSENT (the other fields are empty), COMMIT or NIL."""
    address: Address
    time_ns: TimeNs
    signature: Annotated[bytes, Meta(max_length=SIGNATURE_BYTES)]


NO_VOTE: Final = CommitSignature(ABSENT, b"", 0, b"")
"""The one form of an absent vote."""


class Commit(Value):
    """The precommits of one round that decided a block."""

    height: Height
    round: Round
    block_id: BlockId
    signatures: Annotated[
        tuple[CommitSignature, ...], Meta(min_length=1, max_length=MAX_VALIDATORS)
    ]
    """One for each validator, in the order of the set."""


class LightBlock(Value):
    """A header, why it is final, and the validators that the next header is judged by."""

    header: CometHeader
    commit: Commit
    validators: Validators
    """Whose hash is the header's validators_hash."""
    next_validators: Validators | None
    """Whose hash is the header's next_validators_hash; None if and only if it is the same set."""

    @property
    def height(self) -> int:
        """Return the height of the header."""
        return self.header.height


class SignedVote(Value):
    """What one of two votes for the same place says on its own."""

    block_id: BlockId
    """NO_BLOCK for a vote for no block."""
    time_ns: TimeNs
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


class DuplicateVote(Value):
    """Two votes of one validator for different blocks at one height, round and step.

    What both votes must share stands once, and what is not signed (the index in the set, the
    powers) not at all, so nothing in it can be changed unseen.
    """

    key: PublicKey
    """Of the validator: Ed25519, scheme byte first."""
    type: Literal[1, 2]
    """PREVOTE or PRECOMMIT."""
    height: Height
    round: Round
    first: SignedVote
    second: SignedVote
    """The block ids rise: evidence has one form."""


decode_light_block: Callable[[bytes], LightBlock] = make_decoder(LightBlock, "light block")
encode_light_block: Callable[[LightBlock], bytes] = encode
decode_duplicate_vote: Callable[[bytes], DuplicateVote] = make_decoder(
    DuplicateVote, "duplicate vote"
)


# Hashes.


def validator_address(key: bytes) -> bytes:
    """Return the 20 bytes by which CometBFT names a consensus key (33 bytes, scheme first)."""
    return sha256(key[1:]).digest()[:ADDRESS_BYTES]


def sort_validators(validators: Sequence[Validator]) -> tuple[Validator, ...]:
    """Return validators in CometBFT's order: power descending, then address ascending."""
    return tuple(sorted(validators, key=lambda v: (-v.power, validator_address(v.key))))


def validators_hash(validators: Sequence[Validator]) -> bytes:
    """Return the 32 byte hash of a set in CometBFT's order.

    Source: CometBFT data structures, "ValidatorSet": the RFC 6962 root over SimpleValidators.
    """
    return compute_root(
        [
            leaf_hash(b"\x0a\x22\x0a\x20" + validator.key[1:] + b"\x10" + _varint(validator.power))
            for validator in validators
        ]
    )


def header_hash(header: CometHeader) -> bytes:
    """Return the 32 byte hash of a header, which is the hash of its block.

    Source: CometBFT data structures, "Header": the RFC 6962 root over its 14 encoded fields.
    """
    fields = (
        _number(b"\x08", header.version_block) + _number(b"\x10", header.version_app),
        _field(b"\x0a", header.chain_id.encode()),
        _number(b"\x08", header.height),
        _timestamp(header.time_ns),
        _block_id(header.last_block_id),
        _field(b"\x0a", header.last_commit_hash),
        _field(b"\x0a", header.data_hash),
        _field(b"\x0a", header.validators_hash),
        _field(b"\x0a", header.next_validators_hash),
        _field(b"\x0a", header.consensus_hash),
        _field(b"\x0a", header.app_hash),
        _field(b"\x0a", header.last_results_hash),
        _field(b"\x0a", header.evidence_hash),
        _field(b"\x0a", header.proposer_address),
    )
    return compute_root([leaf_hash(item) for item in fields])


# What is signed.


class VoteTemplate:
    """The sign bytes of votes that differ in nothing but their time, as those of a commit do."""

    __slots__ = ("_head", "_tail")

    def __init__(
        self, chain_id: str, vote_type: int, height: int, round_: int, block_id: BlockId
    ) -> None:
        self._head = (
            _number(b"\x08", vote_type)
            + (b"\x11" + height.to_bytes(8, "little") if height else b"")
            + (b"\x19" + round_.to_bytes(8, "little") if round_ else b"")
            + (b"" if block_id == NO_BLOCK else _field(b"\x22", _block_id(block_id)))
            + b"\x2a"
        )
        self._tail = _field(b"\x32", chain_id.encode())

    def sign_bytes(self, time_ns: int) -> bytes:
        """Return what a vote of this time signs."""
        time = _timestamp(time_ns)
        message = self._head + _varint(len(time)) + time + self._tail
        return _varint(len(message)) + message


def canonical_vote_bytes(
    chain_id: str, vote_type: int, height: int, round_: int, block_id: BlockId, time_ns: int
) -> bytes:
    """Return what a vote signs: the length-prefixed CanonicalVote.

    Source: CometBFT data structures, "CanonicalVote"; numbers that are zero are left out, as
    protobuf does, and so is the block id of a vote for no block.
    """
    return VoteTemplate(chain_id, vote_type, height, round_, block_id).sign_bytes(time_ns)


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _number(tag: bytes, number: int) -> bytes:
    return tag + _varint(number) if number else b""


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content if content else b""


def _timestamp(time_ns: int) -> bytes:
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return _number(b"\x08", seconds) + _number(b"\x10", nanos)


def _block_id(block_id: BlockId) -> bytes:
    # BlockID and CanonicalBlockID have the same bytes. The part set header is there even if empty.
    parts = _number(b"\x08", block_id.parts_total) + _field(b"\x12", block_id.parts_hash)
    return _field(b"\x0a", block_id.hash) + b"\x12" + _varint(len(parts)) + parts


# CometBFT's JSON, as its RPC answers it.

_GO_ZERO_TIME: Final = "0001-01-01T00:00:00Z"
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_RFC3339: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?Z"
)
_DIGITS: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_HEX: Final = re.compile(r"(?:[0-9A-F]{2})*")
_ED25519_TYPE: Final = "tendermint/PubKeyEd25519"
_DUPLICATE_VOTE_TYPE: Final = "tendermint/DuplicateVoteEvidence"


def light_block_from_rpc(
    commit: Mapping[str, Any],
    validators: Sequence[Any],
    next_validators: Sequence[Any] | None = None,
) -> LightBlock:
    """Build a light block from the answers of CometBFT's RPC.

    ``commit`` is the result of `/commit`; ``validators`` and ``next_validators`` are the lists in
    the results of `/validators` at this height and the next, all pages joined; the latter may be
    left out where the header says that the set stays the same. Nothing is verified.

    Raises: Malformed naming the field, also for a key that is not Ed25519.
    """
    signed = _member(commit, "signed_header", "commit")
    header = _read_header(_member(signed, "header", "signed_header"))
    same = header.next_validators_hash == header.validators_hash
    if not same and next_validators is None:
        raise Malformed(field="next_validators", expected="the set that comes next", given="none")
    block = LightBlock(
        header=header,
        commit=_read_commit(_member(signed, "commit", "signed_header")),
        validators=validators_from_rpc(validators),
        next_validators=None if same else validators_from_rpc(next_validators or ()),
    )
    return _check_bounds(block, LightBlock, "light_block")


def validators_from_rpc(validators: Sequence[Any]) -> tuple[Validator, ...]:
    """Read the list of validators in the result of CometBFT's `/validators`, in its order.

    Raises: Malformed naming the field, also for a key that is not Ed25519, an address that is not
    the key's, or a power outside its bounds.
    """
    if not isinstance(validators, list | tuple):
        raise Malformed(field="validators", expected="a list", given=validators)
    return tuple(
        _read_validator(item, f"validators[{index}]") for index, item in enumerate(validators)
    )


def duplicate_vote_from_rpc(
    evidence: Mapping[str, Any], validators: Sequence[Validator]
) -> DuplicateVote:
    """Build a duplicate vote from CometBFT's JSON of it, as a block's evidence list has it.

    ``validators`` are those of the height of the votes, for the evidence holds no key.

    Raises: Malformed naming the field, for votes that are not at one place or by one validator,
    or a validator that is not among those given.
    """
    if _member(evidence, "type", "evidence") != _DUPLICATE_VOTE_TYPE:
        raise Malformed(
            field="evidence.type", expected=_DUPLICATE_VOTE_TYPE, given=evidence["type"]
        )
    content = _member(evidence, "value", "evidence")
    votes = [_member(content, name, "evidence") for name in ("vote_a", "vote_b")]
    for name in ("type", "height", "round", "validator_address"):
        first, second = (_member(vote, name, "vote") for vote in votes)
        if first != second:
            raise Malformed(field=f"vote_b.{name}", expected=str(first), given=second)
    address = _read_hex(votes[0], "validator_address", "vote_a")
    keys = [item.key for item in validators if validator_address(item.key) == address]
    if not keys:
        raise Malformed(
            field="vote_a.validator_address", expected="a validator's", given=address.hex()
        )
    first, second = sorted(
        (_read_vote(vote) for vote in votes), key=lambda vote: block_id_order(vote.block_id)
    )
    built = DuplicateVote(
        key=keys[0],
        type=_read_small(votes[0], "type", "vote_a"),  # type: ignore[arg-type]
        height=_read_number(votes[0], "height", "vote_a"),
        round=_read_small(votes[0], "round", "vote_a"),
        first=first,
        second=second,
    )
    return _check_bounds(built, DuplicateVote, "duplicate_vote")


def block_id_order(block_id: BlockId) -> tuple[bytes, int, bytes]:
    """Return the key by which the two votes of a duplicate vote are ordered."""
    return block_id.hash, block_id.parts_total, block_id.parts_hash


def _check_bounds(value: Any, cls: type[T], field: str) -> T:
    # Construction checks no bounds; decoding does, and what is built here will be encoded.
    try:
        return msgspec.convert(msgspec.to_builtins(value, builtin_types=(bytes,)), cls)
    except msgspec.ValidationError as error:
        raise Malformed(field=field, expected="values in their bounds", given=str(error)) from None


def _read_header(data: Any) -> CometHeader:
    version = _member(data, "version", "header")
    return CometHeader(
        version_block=_read_number(version, "block", "header.version"),
        # amino's JSON leaves out an app version of zero.
        version_app=_read_number(version, "app", "header.version") if "app" in version else 0,
        chain_id=_read_text(data, "chain_id", "header"),
        height=_read_number(data, "height", "header"),
        time_ns=_read_time(data, "time", "header"),
        last_block_id=_read_block_id(data, "last_block_id", "header"),
        last_commit_hash=_read_hex(data, "last_commit_hash", "header"),
        data_hash=_read_hex(data, "data_hash", "header"),
        validators_hash=_read_hex(data, "validators_hash", "header"),
        next_validators_hash=_read_hex(data, "next_validators_hash", "header"),
        consensus_hash=_read_hex(data, "consensus_hash", "header"),
        app_hash=_read_hex(data, "app_hash", "header"),
        last_results_hash=_read_hex(data, "last_results_hash", "header"),
        evidence_hash=_read_hex(data, "evidence_hash", "header"),
        proposer_address=_read_hex(data, "proposer_address", "header"),
    )


def _read_commit(data: Any) -> Commit:
    signatures = _member(data, "signatures", "commit")
    if not isinstance(signatures, list):
        raise Malformed(field="commit.signatures", expected="a list", given=signatures)
    return Commit(
        height=_read_number(data, "height", "commit"),
        round=_read_small(data, "round", "commit"),
        block_id=_read_block_id(data, "block_id", "commit"),
        signatures=tuple(
            _read_signature(item, f"commit.signatures[{index}]")
            for index, item in enumerate(signatures)
        ),
    )


def _read_signature(data: Any, field: str) -> CommitSignature:
    flag = _read_small(data, "block_id_flag", field)
    address = _read_hex(data, "validator_address", field)
    if flag == ABSENT:
        time = _read_text(data, "timestamp", field)
        if address or time != _GO_ZERO_TIME or _member(data, "signature", field):
            raise Malformed(field=field, expected="an absent vote without content", given=time)
        return NO_VOTE
    return CommitSignature(
        flag=flag,  # type: ignore[arg-type]
        address=address,
        time_ns=_read_time(data, "timestamp", field),
        signature=_read_base64(data, "signature", field),
    )


def _read_vote(data: Any) -> SignedVote:
    return SignedVote(
        block_id=_read_block_id(data, "block_id", "vote"),
        time_ns=_read_time(data, "timestamp", "vote"),
        signature=_read_base64(data, "signature", "vote"),
    )


def _read_validator(data: Any, field: str) -> Validator:
    key = _member(data, "pub_key", field)
    if _member(key, "type", f"{field}.pub_key") != _ED25519_TYPE:
        raise Malformed(field=f"{field}.pub_key.type", expected=_ED25519_TYPE, given=key["type"])
    validator = Validator(
        bytes([ED25519]) + _read_base64(key, "value", f"{field}.pub_key"),
        _read_number(data, "voting_power", field),
    )
    address = _read_hex(data, "address", field)
    if address != validator_address(validator.key):
        raise Malformed(
            field=f"{field}.address",
            expected=validator_address(validator.key).hex(),
            given=address.hex(),
        )
    return _check_bounds(validator, Validator, field)


def _read_block_id(data: Any, name: str, field: str) -> BlockId:
    block_id = _member(data, name, field)
    parts = _member(block_id, "parts", f"{field}.{name}")
    return BlockId(
        hash=_read_hex(block_id, "hash", f"{field}.{name}"),
        parts_total=_read_small(parts, "total", f"{field}.{name}.parts"),
        parts_hash=_read_hex(parts, "hash", f"{field}.{name}.parts"),
    )


def _member(data: Any, name: str, field: str) -> Any:
    if not isinstance(data, Mapping):
        raise Malformed(field=field, expected="an object", given=data)
    if name not in data:
        raise Malformed(field=f"{field}.{name}", expected="a value", given="nothing")
    return data[name]


def _read_text(data: Any, name: str, field: str) -> str:
    value = _member(data, name, field)
    if not isinstance(value, str):
        raise Malformed(field=f"{field}.{name}", expected="a text", given=value)
    return value


def _read_number(data: Any, name: str, field: str) -> int:
    """64-bit numbers are texts in amino's JSON."""
    text = _read_text(data, name, field)
    if not _DIGITS.fullmatch(text):
        raise Malformed(field=f"{field}.{name}", expected="digits", given=text)
    return int(text)


def _read_small(data: Any, name: str, field: str) -> int:
    value = _member(data, name, field)
    if type(value) is not int:
        raise Malformed(field=f"{field}.{name}", expected="a whole number", given=value)
    return value


def _read_hex(data: Any, name: str, field: str) -> bytes:
    text = _read_text(data, name, field)
    if not _HEX.fullmatch(text):
        raise Malformed(field=f"{field}.{name}", expected="uppercase hex digits", given=text)
    return bytes.fromhex(text)


def _read_base64(data: Any, name: str, field: str) -> bytes:
    text = _read_text(data, name, field)
    try:
        value = b64decode(text, validate=True)
    except (Base64Error, ValueError):
        raise Malformed(field=f"{field}.{name}", expected="base64", given=text) from None
    if b64encode(value).decode() != text:
        raise Malformed(field=f"{field}.{name}", expected="canonical base64", given=text)
    return value


def _read_time(data: Any, name: str, field: str) -> int:
    """RFC 3339 in UTC, as Go writes it: up to nine digits after the point."""
    text = _read_text(data, name, field)
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise Malformed(field=f"{field}.{name}", expected="a time in UTC", given=text)
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:
        raise Malformed(field=f"{field}.{name}", expected="a calendar day", given=text) from None
    if hour > 23 or minute > 59 or second > 59:
        raise Malformed(field=f"{field}.{name}", expected="a time of day", given=text)
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + second
    return seconds * 1_000_000_000 + int((match[7] or "").ljust(9, "0"))
