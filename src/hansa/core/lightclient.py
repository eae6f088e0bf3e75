"""Following a CometBFT network from what is trusted of it, without running a node.

Pure: the time is given, blocks are given, nothing is kept. The rules are those of CometBFT's light
client (its specification, "Core Verification" and "Attack Detector"): a header is believed when
more than a third of the power trusted so far and more than two thirds of its own validators'
power have signed it, and the trust is no older than the trusting period, within which validators
can still be called to account.

Signatures are judged by libsodium, which is stricter than the ZIP-215 of CometBFT: it refuses keys
and nonces of small order and encodings that are not canonical, and doesn't multiply by the
cofactor. What it accepts ZIP-215 accepts, so nothing is believed here that the network doesn't
believe. The reverse doesn't hold, and need not: honest validators make no such signature, and one
that a cheat makes is left out by `trim_commit` before a block is passed on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from msgspec import structs
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from hansa.core.codec import U63, DurationMs, Value
from hansa.core.keys import ED25519
from hansa.core.lightblock import (
    ABSENT,
    ADDRESS_BYTES,
    COMMIT,
    NIL,
    NO_VOTE,
    PRECOMMIT,
    SIGNATURE_BYTES,
    DuplicateVote,
    Hash,
    LightBlock,
    TimeNs,
    Validators,
    VoteTemplate,
    block_id_order,
    header_hash,
    sort_validators,
    validator_address,
    validators_hash,
)
from hansa.core.merkle import HASH_BYTES, ProofError
from hansa.core.validatorset import MAX_TOTAL_POWER, Validator

ONE_THIRD: Final = (1, 3)
"""The default trust level and the least: more than a third holds at least one honest validator."""

TWO_THIRDS: Final = (2, 3)

NS_PER_MS: Final = 1_000_000

TrustLevel = tuple[int, int]
"""Numerator and denominator of the part of the trusted power that must be exceeded."""


_Hop = tuple[LightBlock, "TrustedConsensus"]


class LightClientError(ProofError):
    """A light block is not believed."""


class NotEnoughTrust(LightClientError):
    """Too little of the trusted power signed: nothing is wrong, a nearer header may do."""


class TrustExpired(LightClientError):
    """What is trusted is older than the trusting period: trust must be found anew elsewhere."""


class TrustOutrun(TrustExpired):
    """The header is later than the trusted one by the trusting period: a nearer one may do."""


class InvalidLightBlock(LightClientError):
    """The block is no block of this network after the trusted one, whatever the trust."""


class HeaderFromFuture(InvalidLightBlock):
    """The header's time is beyond the clock and its drift; the clock may be wrong."""


class NotEnoughPower(InvalidLightBlock):
    """The block's own validators have not committed it."""


class WrongSignature(InvalidLightBlock):
    """A signature that was looked at does not hold."""


class TrustedConsensus(Value):
    """What a verifier trusts of a CometBFT network."""

    height: U63
    """Of the trusted header; 0 for the genesis."""
    time_ns: TimeNs
    """Of the trusted header, or of the genesis."""
    header_hash: Hash
    """Empty for the genesis, which has no header."""
    validators: Validators
    """Of the next height, as the trusted header's next_validators_hash names them."""
    trusting_period_ms: DurationMs
    """Shorter than the time for which validators can be punished."""


class Attack(Enum):
    """How two committed blocks at one height came to be, as far as the blocks tell."""

    LUNATIC = "lunatic"
    """They disagree on what the chain determines: one is no outcome of any valid block."""
    EQUIVOCATION = "equivocation"
    """Both were committed in one round: validators signed twice."""
    AMNESIA = "amnesia"
    """Committed in different rounds: validators broke their lock; whose fault is not to be seen."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Two blocks at one height that a light client would each have believed."""

    attack: Attack
    height: int
    first_hash: bytes
    second_hash: bytes
    double_signers: tuple[bytes, ...]
    """Keys whose signatures for both blocks in the same round hold, in the order of the set."""


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """Which witnesses, by index, have the header that the primary has."""

    agreeing: tuple[int, ...]
    diverging: tuple[int, ...]
    silent: tuple[int, ...]

    @property
    def is_confirmed(self) -> bool:
        """Return whether a witness has the same header and none another."""
        return bool(self.agreeing) and not self.diverging


def trust_genesis(
    validators: Sequence[Validator], time_ns: int, trusting_period_ms: int
) -> TrustedConsensus:
    """Return the trust in a network's first validators, given in any order."""
    return TrustedConsensus(0, time_ns, b"", sort_validators(validators), trusting_period_ms)


def trust_block(block: LightBlock, trusting_period_ms: int) -> TrustedConsensus:
    """Return the trust in a block that the caller has judged, or takes on somebody's word."""
    return TrustedConsensus(
        height=block.height,
        time_ns=block.header.time_ns,
        header_hash=header_hash(block.header),
        validators=block.validators if block.next_validators is None else block.next_validators,
        trusting_period_ms=trusting_period_ms,
    )


def verify_light_block(block: LightBlock, chain_id: str) -> bytes:
    """Check that the parts of a light block belong together; returns the header's hash.

    No signature is judged: what passes here anybody can make.

    Raises: InvalidLightBlock if (1) the chain id is another, (2) a hash or address in the header
    is of another length than CometBFT makes, (3) the commit is for another height, (4) or another
    header, (5) the validators are not those of the header, (6) nor the next ones, or (7) the
    signatures are not one of each validator in the order of the set.
    """
    header, commit = block.header, block.commit
    if header.chain_id != chain_id:
        raise _invalid("chain id", chain_id, header.chain_id)
    _check_lengths(block)
    if commit.height != header.height:
        raise _invalid("commit height", header.height, commit.height)
    computed = header_hash(header)
    if commit.block_id.hash != computed:
        raise _invalid("commit block id", computed.hex(), commit.block_id.hash.hex())
    _check_set(block.validators, header.validators_hash, "validators")
    _check_next_validators(block)
    _check_signature_forms(block)
    return computed


def verify_commit(block: LightBlock, chain_id: str, *, exact: bool = False) -> None:
    """Check that more than two thirds of a block's own validators have signed it.

    The block must have passed `verify_light_block`, which sees to it that no key counts twice.
    Only votes for the block are judged, in the order of the set, and no more than needed, as
    CometBFT's light client does: two thirds make the block final whatever the others say. With
    ``exact`` every vote carried must hold and votes for no block are refused: nothing is carried
    that isn't checked, so that no bit can be changed unseen.

    Raises: WrongSignature for a signature that is judged and does not hold, NotEnoughPower, then
    with ``exact`` InvalidLightBlock for a vote for no block.
    """
    _judge_own_set(_Ballots(block, chain_id), block, exact=exact)


def follow(
    trusted: TrustedConsensus,
    block: LightBlock,
    chain_id: str,
    *,
    now_ms: int | None,
    max_clock_drift_ms: int,
    trust_level: TrustLevel = ONE_THIRD,
    exact: bool = False,
) -> TrustedConsensus:
    """Judge a later block by what is trusted; returns the trust in that block.

    ``now_ms`` is the verifier's time; without it, where a proof is judged of which only the order
    in time is known, expiry is judged between the two headers alone. For ``exact`` see
    `verify_commit`; proofs that are kept or passed on are judged so.

    Raises: ValueError for a trust level outside a third to one; (1) TrustExpired by the clock;
    (2) InvalidLightBlock as `verify_light_block`; (3) InvalidLightBlock for a height that is not
    greater or a time that is not later; (4) HeaderFromFuture; (5) TrustOutrun by the header's
    time; (6) for the next height InvalidLightBlock if its validators are not those announced,
    for a later one NotEnoughTrust or WrongSignature; (7) as `verify_commit`.
    """
    numerator, denominator = trust_level
    if not 0 < denominator <= 3 * numerator <= 3 * denominator:
        raise ValueError(f"expected a trust level from 1/3 to 1, got {numerator}/{denominator}")
    expiry_ns = _check_unexpired(trusted, now_ms)
    verify_light_block(block, chain_id)
    _check_succession(trusted, block)
    time_ns = block.header.time_ns
    if now_ms is not None and time_ns >= (now_ms + max_clock_drift_ms) * NS_PER_MS:
        raise HeaderFromFuture(
            f"header time: expected before {now_ms} + {max_clock_drift_ms} ms, got {time_ns} ns"
        )
    if time_ns >= expiry_ns:
        raise TrustOutrun(f"header time: expected before {expiry_ns} ns, got {time_ns} ns")
    ballots = _Ballots(block, chain_id)
    if block.height == trusted.height + 1:
        # Both sets hash to what was announced if and only if they are equal.
        if block.validators != trusted.validators:
            raise _invalid(
                "validators",
                validators_hash(trusted.validators).hex(),
                block.header.validators_hash.hex(),
            )
    else:
        _judge_trusted_set(ballots, block, trusted, trust_level)
    # Last, for the size of this set is the other side's choice.
    _judge_own_set(ballots, block, exact=exact)
    return trust_block(block, trusted.trusting_period_ms)


def look_back(
    trusted: TrustedConsensus,
    block: LightBlock,
    chain_id: str,
    *,
    now_ms: int | None,
    exact: bool = False,
) -> None:
    """Judge a block at or below the trusted height, as one meets it who reads an older proof.

    More than a third of the trusted power holds one validator who is correct, always was, and
    votes only for blocks it has executed up to. So the block's app hash and validators are those
    that the one history has at this height, whoever else signed it with keys long given up. More
    is not shown: in another round another block may have been decided, so two such blocks at one
    height are no fork, and trust stays where it is. Raises:

    (1) TrustExpired by the clock; (2) InvalidLightBlock as `verify_light_block`, (3) if it is not
    earlier than the trusted one, or another at its height; (4) NotEnoughTrust or WrongSignature,
    unless it is the trusted one itself; (5) as `verify_commit`.
    """
    _check_unexpired(trusted, now_ms)
    computed = verify_light_block(block, chain_id)
    ballots = _Ballots(block, chain_id)
    if block.height == trusted.height:
        if computed != trusted.header_hash:
            raise _invalid("header", trusted.header_hash.hex(), computed.hex())
    else:
        # BFT time rises with every block.
        if block.height > trusted.height or block.header.time_ns >= trusted.time_ns:
            raise _invalid("height and time", "both before the trusted ones", block.height)
        _judge_trusted_set(ballots, block, trusted, ONE_THIRD)
    _judge_own_set(ballots, block, exact=exact)


def follow_all(
    trusted: TrustedConsensus,
    blocks: Sequence[LightBlock],
    chain_id: str,
    *,
    now_ms: int | None,
    max_clock_drift_ms: int,
    trust_level: TrustLevel = ONE_THIRD,
    exact: bool = False,
) -> TrustedConsensus:
    """Judge blocks one after another, each by the one before; returns the trust in the last.

    Raises: as `follow`, at the first block that is not believed.
    """
    for block in blocks:
        trusted = follow(
            trusted,
            block,
            chain_id,
            now_ms=now_ms,
            max_clock_drift_ms=max_clock_drift_ms,
            trust_level=trust_level,
            exact=exact,
        )
    return trusted


def bisect(
    trusted: TrustedConsensus,
    target_height: int,
    fetch: Callable[[int], LightBlock],
    chain_id: str,
    *,
    now_ms: int | None,
    max_clock_drift_ms: int,
    trust_level: TrustLevel = ONE_THIRD,
) -> tuple[LightBlock, ...]:
    """Return the blocks, trimmed, by which someone with this trust comes to believe the target.

    Tries the target; while the trust doesn't reach, the block halfway to it. Of the blocks found
    those are left out again that a longer hop makes needless. ``fetch`` returns the block at a
    height and is asked at most about log2 of the distance times for each hop; what it raises
    passes through. The hops hold for `follow_all` with ``exact``.

    Raises: InvalidLightBlock if the target is below the trusted height or ``fetch`` returns
    another height; else as `follow` except NotEnoughTrust, TrustOutrun only for neighbours.
    """
    if target_height < trusted.height:
        raise _invalid("target height", f"at least {trusted.height}", target_height)

    def hop(trust: TrustedConsensus, block: LightBlock) -> _Hop | None:
        trimmed = trim_commit(trust, block, chain_id, trust_level=trust_level)
        try:
            after = follow(
                trust,
                trimmed,
                chain_id,
                now_ms=now_ms,
                max_clock_drift_ms=max_clock_drift_ms,
                trust_level=trust_level,
                exact=True,
            )
        except (NotEnoughTrust, TrustOutrun):
            if block.height == trust.height + 1:
                raise  # There is no nearer one.
            return None
        return trimmed, after

    found: list[LightBlock] = []
    reached = trusted
    waiting = [] if target_height == trusted.height else [_fetch(fetch, target_height)]
    while waiting:
        block = waiting[-1]
        if done := hop(reached, block):
            reached = done[1]
            found.append(waiting.pop())
        else:
            waiting.append(_fetch(fetch, (reached.height + block.height) // 2))
    return _take_longest_hops(trusted, found, hop)


def _take_longest_hops(
    trusted: TrustedConsensus,
    blocks: Sequence[LightBlock],
    hop: Callable[[TrustedConsensus, LightBlock], _Hop | None],
) -> tuple[LightBlock, ...]:
    """Go through blocks, each within reach of the one before, by as few of them as can be."""
    hops: list[LightBlock] = []
    at = 0
    while at < len(blocks):
        for farthest in range(len(blocks) - 1, at - 1, -1):
            if done := hop(trusted, blocks[farthest]):
                trimmed, trusted = done
                hops.append(trimmed)
                at = farthest + 1
                break
        else:
            raise AssertionError(f"block {blocks[at].height} was within reach of {trusted.height}")
    return tuple(hops)


def trim_commit(
    trusted: TrustedConsensus,
    block: LightBlock,
    chain_id: str,
    *,
    trust_level: TrustLevel = ONE_THIRD,
) -> LightBlock:
    """Return a block with no more votes than someone with this trust needs to believe it.

    Votes for no block and signatures that do not hold are left out: one of a cheat, which the
    network accepts and libsodium does not, must not spoil the votes of the others. Nothing is
    refused here; a block that is not to be believed comes back as such.
    """
    if len(block.commit.signatures) != len(block.validators):
        return block
    ballots = _Ballots(block, chain_id)
    kept = [False] * len(block.validators)
    if block.height != trusted.height + 1:
        total = sum(validator.power for validator in trusted.validators)
        _keep_enough(ballots, _trusted_powers(block, trusted), _part(total, trust_level), kept)
    own = [validator.power for validator in block.validators]
    _keep_enough(ballots, own, _part(sum(own), TWO_THIRDS), kept)
    pairs = zip(block.commit.signatures, kept, strict=True)
    signatures = tuple(vote if keep else NO_VOTE for vote, keep in pairs)
    return structs.replace(block, commit=structs.replace(block.commit, signatures=signatures))


def cross_check(primary: LightBlock, witnesses: Sequence[LightBlock | None]) -> CrossCheck:
    """Compare a believed block with what witnesses have at its height; None is no answer.

    Headers alone are compared. Whether a diverging witness lies or the primary does is shown by
    following the witness's blocks from the same trust: if they are believed too, validators have
    cheated and `detect_divergence` says how.
    """
    expected = header_hash(primary.header)
    found: dict[str, list[int]] = {"agreeing": [], "diverging": [], "silent": []}
    for index, block in enumerate(witnesses):
        if block is None:
            found["silent"].append(index)
        elif header_hash(block.header) == expected:
            found["agreeing"].append(index)
        else:
            found["diverging"].append(index)
    return CrossCheck(**{name: tuple(indexes) for name, indexes in found.items()})


def detect_divergence(
    first: Sequence[LightBlock],
    second: Sequence[LightBlock],
    trusted: TrustedConsensus,
    chain_id: str,
    *,
    now_ms: int | None,
    max_clock_drift_ms: int,
    trust_level: TrustLevel = ONE_THIRD,
    exact: bool = False,
) -> Divergence:
    """Check that hops from one trust lead to two blocks at one height, which must never be.

    Each list of hops ends in one of the two blocks.

    Raises: InvalidLightBlock if a list is empty or the heights differ, as `follow` if a hop is
    not believed, then InvalidLightBlock if both lead to the same header.
    """
    if not first or not second:
        raise _invalid("hops", "one at least", "none")
    one, other = first[-1], second[-1]
    if one.height != other.height:
        raise _invalid("second height", one.height, other.height)
    hashes = [
        follow_all(
            trusted,
            hops,
            chain_id,
            now_ms=now_ms,
            max_clock_drift_ms=max_clock_drift_ms,
            trust_level=trust_level,
            exact=exact,
        ).header_hash
        for hops in (first, second)
    ]
    return _make_divergence(one, other, hashes, chain_id)


def verify_two_blocks(
    first: LightBlock,
    second: LightBlock,
    trusted: TrustedConsensus,
    chain_id: str,
    *,
    now_ms: int | None,
    max_clock_drift_ms: int,
    trust_level: TrustLevel = ONE_THIRD,
    exact: bool = False,
) -> Divergence:
    """Check that the trust believes two different blocks at one height in one hop each.

    At or below the trusted height each must be signed by more than two thirds of the trusted
    power: a third, which is enough to read an older proof, shows no fork, see `look_back`.

    Raises: as `detect_divergence`, of which this is the shortest case; at or below the trusted
    height TrustExpired by the clock, InvalidLightBlock for another height, as
    `verify_light_block`, NotEnoughTrust, as `verify_commit`, InvalidLightBlock for one header.
    """
    if first.height > trusted.height:
        return detect_divergence(
            (first,),
            (second,),
            trusted,
            chain_id,
            now_ms=now_ms,
            max_clock_drift_ms=max_clock_drift_ms,
            trust_level=trust_level,
            exact=exact,
        )
    _check_unexpired(trusted, now_ms)
    if first.height != second.height:
        raise _invalid("second height", first.height, second.height)
    hashes = []
    for block in (first, second):
        hashes.append(verify_light_block(block, chain_id))
        ballots = _Ballots(block, chain_id)
        _judge_trusted_set(ballots, block, trusted, TWO_THIRDS)
        _judge_own_set(ballots, block, exact=exact)
    return _make_divergence(first, second, hashes, chain_id)


def verify_duplicate_vote(evidence: DuplicateVote, chain_id: str) -> None:
    """Check that a validator signed two different votes for one height, round and step.

    Whether ``evidence.key`` was a validator's at that height is for the caller, who knows the
    sets, and so is the age of the evidence.

    Raises: InvalidLightBlock if the key is not Ed25519 or the block ids do not rise, then
    WrongSignature if either signature does not hold.
    """
    if evidence.key[0] != ED25519:
        raise _invalid("key scheme", ED25519, evidence.key[0])
    first, second = evidence.first, evidence.second
    # In one order only: the same two votes must not be punished twice as different evidence.
    if block_id_order(first.block_id) >= block_id_order(second.block_id):
        raise _invalid("second block id", "above the first", second.block_id.hash.hex())
    for vote in (first, second):
        template = VoteTemplate(
            chain_id, evidence.type, evidence.height, evidence.round, vote.block_id
        )
        if not _is_signed(evidence.key, vote.signature, template.sign_bytes(vote.time_ns)):
            raise WrongSignature(
                f"vote for {vote.block_id.hash.hex()}: expected a signature of "
                f"{evidence.key.hex()}, got another"
            )


class _Ballots:
    """The votes of a commit for its block, each judged when it is needed and once at most."""

    __slots__ = ("_block", "_signed", "_template")

    def __init__(self, block: LightBlock, chain_id: str) -> None:
        commit = block.commit
        self._block = block
        self._template = VoteTemplate(
            chain_id, PRECOMMIT, commit.height, commit.round, commit.block_id
        )
        self._signed: dict[int, bool] = {}

    def holds(self, index: int) -> bool:
        """Return whether the vote at an index of the set is for the block and signed."""
        known = self._signed.get(index)
        if known is None:
            vote = self._block.commit.signatures[index]
            known = self._signed[index] = vote.flag == COMMIT and _is_signed(
                self._block.validators[index].key,
                vote.signature,
                self._template.sign_bytes(vote.time_ns),
            )
        return known

    def count(self, powers: Sequence[int], needed: int) -> int:
        """Return the power that has voted for the block, counted until it exceeds ``needed``.

        Raises: WrongSignature for a vote of some power whose signature does not hold.
        """
        power = 0
        for index, vote in enumerate(self._block.commit.signatures):
            if vote.flag != COMMIT or not powers[index]:
                continue
            self.check(index)
            power += powers[index]
            if power > needed:
                break
        return power

    def check(self, index: int) -> None:
        """Raise WrongSignature if the vote at an index of the set does not hold."""
        if not self.holds(index):
            key = self._block.validators[index].key
            raise WrongSignature(f"vote {index}: expected a signature of {key.hex()}, got another")


def _is_signed(key: bytes, signature: bytes, message: bytes) -> bool:
    # The binding takes signature and message as one run of bytes: a signature of another length
    # would move the boundary between them.
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, key[1:])
    except BadSignatureError:
        return False
    return True


def _part(total: int, level: TrustLevel) -> int:
    """The power to be exceeded; rounding down loses nothing, for power is whole."""
    return total * level[0] // level[1]


def _trusted_powers(block: LightBlock, trusted: TrustedConsensus) -> list[int]:
    """What each of the block's validators weighs in the trusted set.

    By key and not, as CometBFT has it, by address: an address is only 160 bits of a hash.
    """
    powers = {validator.key: validator.power for validator in trusted.validators}
    return [powers.get(validator.key, 0) for validator in block.validators]


def _judge_trusted_set(
    ballots: _Ballots, block: LightBlock, trusted: TrustedConsensus, level: TrustLevel
) -> None:
    needed = _part(sum(validator.power for validator in trusted.validators), level)
    power = ballots.count(_trusted_powers(block, trusted), needed)
    if power <= needed:
        raise NotEnoughTrust(
            f"trusted validators of height {trusted.height + 1}: expected more than {needed} of "
            f"their power for block {block.height}, got {power}"
        )


def _judge_own_set(ballots: _Ballots, block: LightBlock, *, exact: bool) -> None:
    powers = [validator.power for validator in block.validators]
    needed = _part(sum(powers), TWO_THIRDS)
    power = ballots.count(powers, needed)
    if power <= needed:
        raise NotEnoughPower(
            f"validators of height {block.height}: expected more than {needed} of their power "
            f"for the block, got {power}"
        )
    if exact:
        for index, vote in enumerate(block.commit.signatures):
            if vote.flag == NIL:
                raise _invalid(f"vote {index}", "for the block or absent", "one for no block")
            if vote.flag == COMMIT:
                ballots.check(index)


def _keep_enough(ballots: _Ballots, powers: Sequence[int], needed: int, kept: list[bool]) -> None:
    power = sum(weight for weight, keep in zip(powers, kept, strict=True) if keep)
    for index, weight in enumerate(powers):
        if power > needed:
            return
        if weight and not kept[index] and ballots.holds(index):
            kept[index] = True
            power += weight


def _check_unexpired(trusted: TrustedConsensus, now_ms: int | None) -> int:
    """Return when the trust ends, in nanoseconds."""
    expiry_ns = trusted.time_ns + trusted.trusting_period_ms * NS_PER_MS
    if now_ms is not None and expiry_ns <= now_ms * NS_PER_MS:
        raise TrustExpired(f"now: expected before {expiry_ns} ns, got {now_ms} ms")
    return expiry_ns


def _check_succession(trusted: TrustedConsensus, block: LightBlock) -> None:
    if block.height <= trusted.height:
        raise _invalid("height", f"above {trusted.height}", block.height)
    # The first block has the time of the genesis; every other is later than the one before.
    earliest = trusted.time_ns if trusted.height == 0 else trusted.time_ns + 1
    if block.header.time_ns < earliest:
        raise _invalid("header time", f"at least {earliest} ns", block.header.time_ns)


def _check_lengths(block: LightBlock) -> None:
    header, block_id = block.header, block.commit.block_id
    if len(header.proposer_address) != ADDRESS_BYTES:
        raise _invalid("proposer address", "20 bytes", len(header.proposer_address))
    if block_id.parts_total == 0 or len(block_id.parts_hash) != HASH_BYTES:
        raise _invalid("commit block id", "parts", f"{block_id.parts_total} parts")
    for value in (
        header.last_block_id.hash,
        header.last_block_id.parts_hash,
        header.last_commit_hash,
        header.data_hash,
        header.consensus_hash,
        header.last_results_hash,
        header.evidence_hash,
    ):
        if value and len(value) != HASH_BYTES:
            raise _invalid("hash in the header", "32 bytes or none", len(value))


def _check_set(validators: Sequence[Validator], expected: bytes, what: str) -> None:
    if len({validator.key for validator in validators}) != len(validators):
        raise _invalid(what, "no key twice", f"{len(validators)} validators")
    # The scheme byte is not hashed: another value would be a second form of the same set.
    if any(validator.key[0] != ED25519 for validator in validators):
        raise _invalid(what, "Ed25519 keys", "another scheme")
    if (total := sum(validator.power for validator in validators)) > MAX_TOTAL_POWER:
        raise _invalid(f"power of {what}", f"at most {MAX_TOTAL_POWER}", total)
    if (computed := validators_hash(validators)) != expected:
        raise _invalid(f"hash of {what}", expected.hex(), computed.hex())


def _check_next_validators(block: LightBlock) -> None:
    header = block.header
    same = header.next_validators_hash == header.validators_hash
    if (block.next_validators is None) != same:
        raise _invalid(
            "next validators", "none as the set stays" if same else "a set", "the contrary"
        )
    if block.next_validators is not None:
        _check_set(block.next_validators, header.next_validators_hash, "next validators")


def _check_signature_forms(block: LightBlock) -> None:
    signatures = block.commit.signatures
    if len(signatures) != len(block.validators):
        raise _invalid("signatures", len(block.validators), len(signatures))
    for index, (vote, validator) in enumerate(zip(signatures, block.validators, strict=True)):
        if vote.flag == ABSENT:
            if vote != NO_VOTE:
                raise _invalid(f"vote {index}", "an absent vote without content", "content")
            continue
        if vote.address != (address := validator_address(validator.key)):
            raise _invalid(f"address of vote {index}", address.hex(), vote.address.hex())
        if len(vote.signature) != SIGNATURE_BYTES:
            raise _invalid(f"signature of vote {index}", "64 bytes", len(vote.signature))


def _make_divergence(
    one: LightBlock, other: LightBlock, hashes: Sequence[bytes], chain_id: str
) -> Divergence:
    if hashes[0] == hashes[1]:
        raise _invalid("second header", "another than the first", hashes[1].hex())
    return Divergence(
        attack=_name_attack(one, other),
        height=one.height,
        first_hash=hashes[0],
        second_hash=hashes[1],
        double_signers=_list_double_signers(one, other, chain_id),
    )


def _name_attack(first: LightBlock, second: LightBlock) -> Attack:
    one, other = first.header, second.header
    # What the blocks before determine: if it differs, one header was made out of nothing.
    determined = (
        (one.validators_hash, other.validators_hash),
        (one.next_validators_hash, other.next_validators_hash),
        (one.consensus_hash, other.consensus_hash),
        (one.app_hash, other.app_hash),
        (one.last_results_hash, other.last_results_hash),
    )
    if any(left != right for left, right in determined):
        return Attack.LUNATIC
    if first.commit.round == second.commit.round:
        return Attack.EQUIVOCATION
    return Attack.AMNESIA


def _list_double_signers(first: LightBlock, second: LightBlock, chain_id: str) -> tuple[bytes, ...]:
    if first.commit.round != second.commit.round:
        return ()  # A vote in a later round is no fault by itself.
    one, other = _Ballots(first, chain_id), _Ballots(second, chain_id)
    places = {validator.key: index for index, validator in enumerate(second.validators)}
    return tuple(
        validator.key
        for index, validator in enumerate(first.validators)
        if validator.key in places and one.holds(index) and other.holds(places[validator.key])
    )


def _fetch(fetch: Callable[[int], LightBlock], height: int) -> LightBlock:
    block = fetch(height)
    if block.height != height:
        raise _invalid("height", height, block.height)
    return block


def _invalid(what: str, expected: object, given: object) -> InvalidLightBlock:
    return InvalidLightBlock(f"{what}: expected {expected}, got {given}")
