"""Writes the test vectors of Hansa's formats: `python -m tools.make_vectors`.

All keys are derived from names and signatures carry no randomness, so the same files come out each
time. The module of this network is numbered 250, which no module of a release bears.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from hansa.core.block import (
    compute_app_hash,
    compute_event_hashes,
    compute_event_salt,
    compute_network_hash,
    compute_salt,
    compute_writes_digest,
    decode_header,
    decode_receipt,
)
from hansa.core.codec import (
    U8,
    ChainName,
    ShortText,
    TimeMs,
    Value,
    encode,
    to_readable,
)
from hansa.core.errors import Refused, Rejected
from hansa.core.finality import (
    CheckpointSigner,
    TrustedNetwork,
    make_verifier_key,
    note_of,
    trust_network,
)
from hansa.core.genesis import ChainGenesis, Genesis, ModuleGenesis, compute_network_id
from hansa.core.hashing import Digest, tagged_hasher
from hansa.core.keys import SigningKey, compute_account
from hansa.core.ledger import Ledger
from hansa.core.merkle import leaf_hash
from hansa.core.module import Context, Deadlines, Module, Rulebook, compute_object_id
from hansa.core.packet import Acknowledgement, Outgoing, Packet
from hansa.core.proof import Bundle, Trust, compute_commitment, pack_bundle, verify_bundle
from hansa.core.prover import (
    Place,
    prove_consistency,
    prove_disclosure,
    prove_event,
    prove_packets,
    prove_places,
)
from hansa.core.state import Table
from hansa.core.stateroot import compute_state_root, make_chunks, prove_state
from hansa.core.transaction import (
    MAX_TRANSACTION_BYTES,
    Body,
    Envelope,
    Event,
    Message,
    Signer,
    decode_envelope,
    envelope_digest,
    message_number,
    sign_body,
    sign_transaction,
    signing_hash,
)
from tools.consensus_vectors import make_finality_vectors

FOLDER: Final = Path("tests/vectors/hansa")
NUMBER: Final = 250
START_MS: Final = 1_760_000_000_000
CONSORTIUM: Final = b"\x01" + sha256(b"consortium").digest()
SALT: Final = bytes(range(16))
CONTENT: Final = b"kept off the chain"


class Say(Message, tag=message_number(NUMBER, 1)):
    """Emit an event so many times."""

    text: ShortText
    times: U8


class Commit(Message, tag=message_number(NUMBER, 2)):
    """Put down a salted commitment."""

    commitment: Digest


class Send(Message, tag=message_number(NUMBER, 3)):
    """Send packets to the other chain."""

    destination: ChainName
    count: U8


class Remind(Message, tag=message_number(NUMBER, 4)):
    """Have a deadline run."""

    at_ms: TimeMs


class Said(Event, tag=message_number(NUMBER, 0x81)):
    """Something was said."""

    text: ShortText


class Committed(Event, tag=message_number(NUMBER, 0x82)):
    """A commitment was put down."""

    commitment: Digest


class Unspeakable(Rejected):
    number = NUMBER * 1000 + 1
    says = "text: expected something to say, got {given}"


class Text(Value):
    """What was said last, and how often anything was."""

    text: str
    count: int


TEXTS: Final = Table(NUMBER, 1, Text)
DEADLINES: Final = Deadlines(NUMBER)


def say(ctx: Context, msg: Say) -> None:
    """Keep the text under a new object id, and say it."""
    if not msg.text:
        raise Unspeakable(given=msg.text)
    TEXTS.put(ctx, ctx.new_id(), Text(msg.text, msg.times))
    for _ in range(msg.times):
        ctx.emit(Said(msg.text))


def commit(ctx: Context, msg: Commit) -> None:
    """Say the commitment."""
    ctx.emit(Committed(msg.commitment))


def send(ctx: Context, msg: Send) -> None:
    """Send packets, and an acknowledgement after them."""
    items: list[Packet | Acknowledgement] = [
        Packet(module=NUMBER, deadline_ms=ctx.time_ms + 60_000, payload=bytes([index]) * 300)
        for index in range(msg.count)
    ]
    items.append(Acknowledgement(sequence=0, outcome=1, number=NUMBER * 1000 + 1, text="no"))
    for sequence, item in enumerate(items):
        ctx.outbox.append(Outgoing(ctx.network, msg.destination, sequence, encode(item)))


def remind(ctx: Context, msg: Remind) -> None:
    """Schedule."""
    DEADLINES.schedule(ctx, msg.at_ms, b"r")


def on_deadline(ctx: Context, key: bytes) -> None:
    """Say which."""
    ctx.emit(Said(f"deadline {key.decode()}"))


class NoParams(Value):
    """No parameters."""


MODULE: Final = Module(
    name="vectors",
    number=NUMBER,
    version=1,
    handlers={Say: say, Commit: commit, Send: send, Remind: remind},
    events=(Said, Committed),
    errors=(Unspeakable,),
    params=NoParams,
    on_deadline=on_deadline,
)


def make_key(name: str) -> SigningKey:
    """The key of a name: SHA-256 of it."""
    return SigningKey(sha256(name.encode()).digest())


class Network:
    """Two chains on which a few things have happened."""

    def __init__(self, folder: Path) -> None:
        self.signer = CheckpointSigner(sha256(b"validator").digest())
        module = ModuleGenesis(number=NUMBER, version=1, params=encode(NoParams()))
        self.genesis = Genesis(
            version=1,
            name="vectors",
            consortium=CONSORTIUM,
            is_sandbox=True,
            time_ms=START_MS,
            chains=tuple(ChainGenesis(name=name, modules=(module,)) for name in ("left", "right")),
            validators=(self.signer.public,),
            consensus=(),
            max_block_transactions=100,
            state_root_interval=4,
            state_root_delay=2,
        )
        rulebooks = {name: Rulebook((MODULE,)) for name in ("left", "right")}
        self.ledger = Ledger(folder, self.genesis, rulebooks, self.signer)
        self.envelopes: list[bytes] = []

    def make_body(self, signers: Sequence[str], *messages: Message, **changes: Any) -> Body:
        """A body, its sequence that of the first signer on lane 0."""
        keys = [make_key(name) for name in signers]
        fields: dict[str, Any] = {
            "version": 1,
            "network": self.ledger.network,
            "chain": "left",
            "signers": tuple(
                Signer(compute_account(CONSORTIUM, key.public), key.public) for key in keys
            ),
            "lane": 0,
            "sequence": len(self.envelopes) if signers[0] == "anna" else 0,
            "valid_until_ms": START_MS + 3_600_000,
            "messages": messages,
        }
        return Body(**{**fields, **changes})

    def run(self, time_ms: int, *messages: Message, signers: Sequence[str] = ("anna",)) -> None:
        """Run one transaction in a block of its own."""
        keys = [make_key(name) for name in signers]
        envelope = sign_transaction(self.make_body(signers, *messages), keys)
        transaction = self.ledger.chains["left"].decode_transaction(envelope)
        block = self.ledger.apply(time_ms, {"left": [(transaction, True)]})
        assert not block.chains["left"].refusals, block.chains["left"].refusals
        self.ledger.commit(block)
        self.ledger.block_log.sync()
        self.ledger.publish(block)
        self.envelopes.append(envelope)

    def tick(self, time_ms: int) -> None:
        """Make a block for what is due."""
        block = self.ledger.apply(time_ms, {})
        self.ledger.commit(block)
        self.ledger.block_log.sync()
        self.ledger.publish(block)

    def play(self) -> None:
        """Heights 1 to 9."""
        self.run(START_MS + 1, Say("hello", 1))
        self.run(START_MS + 2, Say("zwölf Kisten", 3), Say("two", 2), signers=("anna", "bert"))
        self.run(START_MS + 3, Say("", 1))
        self.run(START_MS + 4, Commit(compute_commitment(SALT, CONTENT)), Say("x", 1))
        self.run(START_MS + 5, Send("right", 150))
        self.run(START_MS + 6, Remind(START_MS + 7))
        self.tick(START_MS + 8)
        self.run(START_MS + 9, Say("nine", 1))
        self.run(START_MS + 10, Say("ten", 1))

    @property
    def trust(self) -> Trust:
        """Trust in this network."""
        return Trust((trust_network(self.genesis),))


def make_identity(network: Network) -> dict[str, Any]:
    """Hashes that name things."""
    anna = make_key("anna")
    digest = envelope_digest(network.envelopes[0])
    return {
        "tagged_hash": [
            {"tag": tag, "data": data.hex(), "hash": tagged_hasher(tag)(data).hex()}
            for tag, data in (("body", b""), ("genesis", b"\x00"), ("app", b"hansa"))
        ],
        "genesis": encode(network.genesis).hex(),
        "network": compute_network_id(network.genesis).hex(),
        "consortium": CONSORTIUM.hex(),
        "secret": anna.secret.hex(),
        "public_key": anna.public.hex(),
        "account": compute_account(CONSORTIUM, anna.public).hex(),
        "account_1": compute_account(CONSORTIUM, anna.public, 1).hex(),
        "object": {
            "chain": "left",
            "envelope_digest": digest.hex(),
            "message_index": 0,
            "ordinal": 0,
            "id": compute_object_id("left", digest, 0).hex(),
        },
        "commitment": {
            "salt": SALT.hex(),
            "content": CONTENT.hex(),
            "commitment": compute_commitment(SALT, CONTENT).hex(),
        },
    }


def make_transactions(network: Network) -> list[dict[str, Any]]:
    """Each envelope, taken apart."""
    found = []
    for envelope in network.envelopes:
        parts = decode_envelope(envelope)
        readable = to_readable(network.ledger.chains["left"].decode_transaction(envelope).body)
        found.append(
            {
                "envelope": envelope.hex(),
                "body": parts.body.hex(),
                "signing_hash": signing_hash(parts.body).hex(),
                "signatures": [signature.hex() for signature in parts.signatures],
                "envelope_digest": envelope_digest(envelope).hex(),
                "salt": compute_salt(envelope).hex(),
                "readable": readable,
            }
        )
    return found


def make_refused(network: Network) -> list[dict[str, Any]]:
    """Envelopes that no decoder may take, with the number of the refusal."""
    good = sign_transaction(network.make_body(["anna"], Say("hello", 1)), [make_key("anna")])
    parts = decode_envelope(good)
    anna = [make_key("anna")]

    def resign(body: bytes) -> bytes:
        return sign_body(body, anna)

    def replace(old: bytes, new: bytes) -> bytes:
        assert parts.body.count(old) == 1, old
        return resign(parts.body.replace(old, new))

    text = b"\xa5hello"
    twice = network.make_body(["anna", "anna"], Say("hello", 1))
    cases = {
        "empty": b"",
        "one byte over 64 KiB": bytes(MAX_TRANSACTION_BYTES + 1),
        "trailing byte": good + b"\x00",
        "truncated": good[:-1],
        "body's trailing byte": resign(parts.body + b"\x00"),
        "text in str8 though it fits fixstr": replace(text, b"\xd9\x05hello"),
        "text as bin": replace(text, b"\xc4\x05hello"),
        "times in uint8 though it fits fixint": replace(text + b"\x01", text + b"\xcc\x01"),
        "times in int8": replace(text + b"\x01", text + b"\xd0\x01"),
        "times over 255": replace(text + b"\x01", text + b"\xcd\x01\x00"),
        "array16 of messages": replace(b"\x91\x93\xce", b"\xdc\x00\x01\x93\xce"),
        "a field too many": replace(b"\x91\x93\xce", b"\x91\x94\xce")[:-1] + b"\x01",
        "unknown message": replace(b"\x00\xfa\x01\x01", b"\x00\xfa\x63\x01"),
        "direction override": replace(text, b"\xa8he\xe2\x80\xaello"),
        "control character": replace(text, b"\xa5he\x07lo"),
        "text of 65 bytes in 33 characters": replace(text, b"\xd9\x41" + "é".encode() * 32 + b"x"),
        "not UTF-8": replace(text, b"\xa5he\xfflo"),
        "body version 2": resign(b"\x98\x02" + parts.body[2:]),
        "no message": resign(encode(network.make_body(["anna"]))),
        "17 messages": resign(encode(network.make_body(["anna"], *[Say("a", 1)] * 17))),
        "a signer twice": sign_transaction(twice, anna * 2),
        "two signatures of one signer": encode(Envelope(parts.body, parts.signatures * 2)),
        "signature of 64 bytes": good.replace(b"\xc4\x41\x01", b"\xc4\x40", 1),
    }
    decode = network.ledger.chains["left"].decode_transaction
    found = []
    for name, data in cases.items():
        try:
            decode(data)
        except Refused as refusal:
            shown = data.hex() if len(data) < 1_000 else f"{len(data)} zero bytes"
            found.append({"case": name, "envelope": shown, "refusal": refusal.number})
        else:
            raise AssertionError(f"{name}: expected a refusal, got a transaction")
    return found


def make_blocks(network: Network) -> list[dict[str, Any]]:
    """Receipts, entries, headers and hashes of each block."""
    found = []
    log = network.ledger.chains["left"].log
    leaf = 0
    for record in network.ledger.iterate_blocks(0):
        part = record.chains[0]
        assert part.header is not None
        receipts = []
        for receipt_bytes in part.receipts:
            receipt = decode_receipt(receipt_bytes)
            hashes = compute_event_hashes(receipt.salt, receipt.events)
            salts = [compute_event_salt(receipt.salt, index) for index in range(len(hashes))]
            receipts.append(
                {
                    "receipt": receipt_bytes.hex(),
                    "event_salts": [salt.hex() for salt in salts],
                    "event_hashes": [each.hex() for each in hashes],
                    "entry": log.entry(leaf).hex(),
                    "leaf_hash": leaf_hash(log.entry(leaf)).hex(),
                }
            )
            leaf += 1
        found.append(
            {
                "height": record.height,
                "time_ms": record.time_ms,
                "receipts": receipts,
                "pages": [encode(page).hex() for page in part.pages],
                "outbox_root": part.header.outbox_root.hex(),
                "header": encode(part.header).hex(),
                "app_hash": compute_app_hash(part.header).hex(),
                "app_hashes": {each.chain: each.app_hash.hex() for each in record.chains},
                "network_hash": compute_network_hash(
                    [(each.chain, each.app_hash) for each in record.chains]
                ).hex(),
                "note": note_of(part.finality).decode(),
            }
        )
    return found


def make_log(network: Network) -> dict[str, Any]:
    """The checkpoint's key, and the paths of the log."""
    log = network.ledger.chains["left"].log
    key = make_verifier_key(network.ledger.network, "left", network.signer.public)
    size = log.size
    return {
        "validator_seed": sha256(b"validator").hexdigest(),
        "validator": network.signer.public.hex(),
        "vkey": str(key),
        "size": size,
        "root": log.root().hex(),
        "inclusion": [
            {"index": index, "size": size, "path": [node.hex() for node in path]}
            for index in range(size)
            for path in [log.prove_inclusion(index, size)]
        ],
        "consistency": [
            {"old": old, "new": size, "path": [node.hex() for node in path]}
            for old in range(1, size)
            for path in [log.prove_consistency(old, size)]
        ],
    }


def make_state() -> dict[str, Any]:
    """A state of several chunks, its root, and proofs of values and of absence."""
    pairs = [(b"%03d" % number, bytes([number]) * 9_000) for number in range(16)]
    keys = {"first": b"000", "last": b"015", "absent between": b"0075", "absent before": b"\x00"}
    keys["absent after"] = b"999"
    return {
        "writes": [["000102", "c0ffee"], ["0003", None]],
        "writes_digest": compute_writes_digest(
            [(b"\x00\x01\x02", b"\xc0\xff\xee"), (b"\x00\x03", None)]
        ).hex(),
        "empty_root": compute_state_root([]).hex(),
        "empty_chunk": next(make_chunks([])).hex(),
        "pairs": "key NNN in three digits, value 9,000 bytes of NNN, for NNN from 0 to 15",
        "chunk_hashes": [leaf_hash(chunk).hex() for chunk in make_chunks(pairs)],
        "root": compute_state_root(pairs).hex(),
        "proofs": [
            {
                "case": case,
                "key": key.hex(),
                "index": proof.index,
                "size": proof.size,
                "chunk_hash": leaf_hash(proof.chunk).hex(),
                "path": [node.hex() for node in proof.path],
                "value_bytes": len(dict(pairs).get(key, b"")) or None,
            }
            for case, key in keys.items()
            for proof in [prove_state(pairs, key)]
        ],
    }


def list_bundles(network: Network) -> dict[str, Bundle]:
    """One bundle of each kind of fact, and one of several facts."""
    ledger = network.ledger
    places = [Place("left", height, height) for height in range(1, 10)]
    return {
        "transaction": prove_places(ledger, [places[0]]),
        "transaction of two signers": prove_places(ledger, [places[1]]),
        "rejected transaction": prove_places(ledger, [places[2]]),
        "genesis": prove_places(ledger, [Place("left", 0, 0)]),
        "deadlines": prove_places(ledger, [places[6]]),
        "event": prove_event(ledger, places[1], 3),
        "event alone": prove_event(ledger, places[0], 0),
        "disclosure": prove_disclosure(ledger, places[3], 0, SALT, CONTENT),
        "packets": prove_packets(ledger, "left", 5, 1),
        "consistency": prove_consistency(ledger, "left", 4),
        "several facts on two chains": prove_places(
            ledger, [*places[:3], Place("right", 0, 0), places[7]]
        ),
    }


def make_bundles(network: Network) -> dict[str, Any]:
    """Bundles with the answer they must get, under the trust given."""
    trust = network.trust
    stranger = CheckpointSigner(sha256(b"stranger").digest())
    wrong = Trust((TrustedNetwork(network.ledger.network, (stranger.public,), None),))
    bundles = list_bundles(network)
    cases = [(name, trust, bundle) for name, bundle in bundles.items()]
    cases.append(("trusting another key", wrong, bundles["transaction"]))
    cases.append(("trusting nobody", Trust(()), bundles["transaction"]))
    return {"cases": [make_case(*case) for case in cases]}


def make_case(name: str, trust: Trust, bundle: Bundle) -> dict[str, Any]:
    """A bundle, what its reader trusts, and the answer."""
    data = pack_bundle(bundle)
    judgement = verify_bundle(data, trust)
    return {
        "case": name,
        "trust": to_readable(trust)["networks"],
        "bundle": data.hex(),
        "outcome": judgement.outcome.value,
        "steps": judgement.steps,
    }


def make_headers(network: Network) -> dict[str, Any]:
    """The headers in force, to be read."""
    return {
        name: to_readable(decode_header(final.header))
        for name, final in sorted(network.ledger.published.items())
    }


def make_vectors() -> dict[str, Any]:
    """All files by name."""
    with tempfile.TemporaryDirectory() as folder:
        network = Network(Path(folder))
        network.play()
        vectors = {
            "identity.json": make_identity(network),
            "transactions.json": make_transactions(network),
            "refused.json": make_refused(network),
            "blocks.json": make_blocks(network),
            "headers.json": make_headers(network),
            "log.json": make_log(network),
            "state.json": make_state(),
            "bundles.json": make_bundles(network),
            "finality.json": make_finality_vectors(),
        }
        network.ledger.close()
    return vectors


def render(vector: Any) -> str:
    """The text of one file."""
    return json.dumps(vector, indent=1, ensure_ascii=False) + "\n"


def main(root: Path) -> int:
    """Write the files below `root`."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, vector in make_vectors().items():
        (folder / name).write_text(render(vector), encoding="utf-8")
        print(f"wrote {folder / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
