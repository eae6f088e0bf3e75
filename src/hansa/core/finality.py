"""What makes a header final, and the judging of it by someone who runs no node.

The solo engine's finality proof is the chain's checkpoint: a C2SP signed note over log size and
root, with the app_hash as an extension line, signed by the network's validator. The header that
the app_hash is the digest of then opens to log, outbox and state.
"""

from base64 import b64encode
from typing import Annotated, Final

from msgspec import Meta

from hansa.core.block import Header, compute_app_hash, decode_header
from hansa.core.codec import Value
from hansa.core.errors import Malformed
from hansa.core.genesis import checkpoint_origin
from hansa.core.hashing import Digest
from hansa.core.keys import ED25519, PublicKey
from hansa.core.merkle import ProofError
from hansa.core.note import Checkpoint, NoteError, NoteSigner, VerifierKey, open_note

SOLO: Final = 0x01
"""Type byte of a finality proof: a checkpoint signed by the validators."""

MAX_FINALITY_BYTES: Final = 16 * 1024
APP_HASH_LINE: Final = "hansa-app-hash "

Finality = Annotated[bytes, Meta(min_length=2, max_length=MAX_FINALITY_BYTES)]
"""A type byte and the proof; for SOLO the signed note."""


class FinalHeader(Value):
    """An encoded header and what makes it final."""

    header: Annotated[bytes, Meta(max_length=1024)]
    finality: Finality


class TrustedNetwork(Value):
    """What someone must already trust to judge proofs of a network."""

    network: Digest
    validators: Annotated[tuple[PublicKey, ...], Meta(min_length=1, max_length=100)]
    """Ed25519 keys; all of them sign, in this order."""


def make_checkpoint(header: Header, app_hash: bytes) -> Checkpoint:
    """Return the checkpoint that makes a header final once it is signed."""
    return Checkpoint(
        origin=checkpoint_origin(header.network, header.chain),
        size=header.log_size,
        root=header.log_root,
        extensions=(APP_HASH_LINE + b64encode(app_hash).decode(),),
    )


def make_verifier_key(network: bytes, chain: str, validator: bytes) -> VerifierKey:
    """Return a validator's key as C2SP note verifiers take it; its name is the chain's origin."""
    return VerifierKey(checkpoint_origin(network, chain), validator[1:])


class CheckpointSigner:
    """The validator's Ed25519 key, which signs nothing but checkpoints."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._signers: dict[str, NoteSigner] = {}
        self.public: bytes = bytes([ED25519]) + NoteSigner("validator", seed).key.public

    def sign(self, header: Header, app_hash: bytes) -> bytes:
        """Return the finality proof of a header."""
        checkpoint = make_checkpoint(header, app_hash)
        signer = self._signers.get(checkpoint.origin)
        if signer is None:
            signer = self._signers[checkpoint.origin] = NoteSigner(checkpoint.origin, self._seed)
        text = checkpoint.to_text()
        return bytes([SOLO]) + f"{text}\n{signer.sign_line(text)}".encode()

    def __repr__(self) -> str:
        return f"CheckpointSigner(public={self.public.hex()})"


def note_of(finality: bytes) -> bytes:
    """Return the signed note inside a finality proof.

    Raises: ProofError for another scheme.
    """
    if finality[:1] != bytes([SOLO]):
        raise ProofError(f"finality: expected type {SOLO:#04x}, got {finality[:1].hex()}")
    return finality[1:]


def verify_finality(finality: bytes, chain: str, trusted: TrustedNetwork) -> Checkpoint:
    """Judge a finality proof alone; returns the checkpoint that is final.

    Raises: ProofError for another scheme, a wrong signature, or any byte that is not needed.
    """
    try:
        # Inside, for the chain's name may come from the file: one with a space names no key.
        keys = [make_verifier_key(trusted.network, chain, key) for key in trusted.validators]
        opened = open_note(note_of(finality), keys, exact=True)
        checkpoint = Checkpoint.parse(opened.text)
    except NoteError as error:
        raise ProofError(f"finality: {error}") from None
    if checkpoint.origin != checkpoint_origin(trusted.network, chain):
        raise ProofError(f"finality: expected the origin of chain {chain}, got {checkpoint.origin}")
    return checkpoint


def verify_header(
    header_bytes: bytes, finality: bytes, chain: str, trusted: TrustedNetwork
) -> Header:
    """Judge a header and what makes it final; returns the header.

    Raises: ProofError if the header is malformed, is of another network or chain, the finality
    proof doesn't hold, or is about another header.
    """
    try:
        header = decode_header(header_bytes)
    except Malformed:
        # The codec's words differ between its versions, and this text may end on a receipt.
        raise ProofError("header: expected a well-formed header, got other bytes") from None
    if header.network != trusted.network:
        raise ProofError(f"network: expected {trusted.network.hex()}, got {header.network.hex()}")
    if header.chain != chain:
        raise ProofError(f"chain: expected {chain}, got {header.chain}")
    checkpoint = verify_finality(finality, chain, trusted)
    if checkpoint != make_checkpoint(header, compute_app_hash(header)):
        raise ProofError("checkpoint: expected size, root and app_hash of the header, got others")
    return header
