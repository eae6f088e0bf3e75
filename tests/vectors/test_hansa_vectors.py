"""The vectors still come out, and a second reading of `docs/spec` arrives at the same hashes.

The second reading is below: hashlib, a small MessagePack reader, and nothing of ours.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from nacl.bindings import crypto_sign_open
from tools.make_vectors import FOLDER, make_vectors, render

VECTORS = Path(__file__).resolve().parent.parent.parent / FOLDER


def load(name: str) -> Any:
    """The content of a file, bytes in hexadecimal."""
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def regenerated() -> dict[str, Any]:
    """The vectors as this code makes them."""
    return make_vectors()


def test_the_vectors_still_come_out(regenerated: dict[str, Any]) -> None:
    """What is checked in is what `python -m tools.make_vectors` writes, byte for byte."""
    found = {path.name: path.read_text(encoding="utf-8") for path in VECTORS.glob("*.json")}
    assert {name: render(vector) for name, vector in regenerated.items()} == found


# The second reading.


def read(data: bytes) -> Any:
    """The one MessagePack value in `data`."""
    value, end = read_at(data, 0)
    assert len(data) == end
    return value


def read_at(data: bytes, at: int) -> tuple[Any, int]:
    """The MessagePack value at an offset, and where it ends."""
    first, at = data[at], at + 1
    if first <= 0x7F:
        return first, at
    if first >= 0xE0:
        return first - 256, at
    if first in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[first], at
    if 0xCC <= first <= 0xD3:
        width = 1 << (first - 0xCC) % 4
        return int.from_bytes(data[at : at + width], "big", signed=first >= 0xD0), at + width
    if 0xA0 <= first <= 0xBF:
        return data[at : at + first - 0xA0].decode(), at + first - 0xA0
    if 0x90 <= first <= 0x9F:
        return read_items(data, at, first - 0x90)
    headers = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4}
    width = headers[first]
    length, at = int.from_bytes(data[at : at + width], "big"), at + width
    if first in (0xDC, 0xDD):
        return read_items(data, at, length)
    raw = data[at : at + length]
    return raw if first <= 0xC6 else raw.decode(), at + length


def read_items(data: bytes, at: int, count: int) -> tuple[list[Any], int]:
    """So many values in a row."""
    items = []
    for _ in range(count):
        item, at = read_at(data, at)
        items.append(item)
    return items, at


def tagged(tag: str, data: bytes) -> bytes:
    """The tagged hash: 32 bytes."""
    name = hashlib.sha256(f"hansa/{tag}".encode()).digest()
    return hashlib.sha256(name + name + data).digest()


def digest(tag: str, data: bytes) -> bytes:
    """The typed digest: 33 bytes."""
    return b"\x01" + tagged(tag, data)


def hash_leaf(data: bytes) -> bytes:
    """RFC 9162 leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """RFC 9162 node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(hashes: list[bytes]) -> bytes:
    """RFC 9162 root, as its section 2.1.1 defines it: split at the largest power of two."""
    if len(hashes) < 2:
        return hashes[0] if hashes else hashlib.sha256().digest()
    split = 1
    while 2 * split < len(hashes):
        split *= 2
    return hash_node(root_of(hashes[:split]), root_of(hashes[split:]))


def path_of(hashes: list[bytes], index: int) -> list[bytes]:
    """RFC 9162 inclusion path, as its section 2.1.3.1 defines it."""
    if len(hashes) == 1:
        return []
    split = 1
    while 2 * split < len(hashes):
        split *= 2
    if index < split:
        return [*path_of(hashes[:split], index), root_of(hashes[split:])]
    return [*path_of(hashes[split:], index - split), root_of(hashes[:split])]


def proof_of(hashes: list[bytes], old: int, is_whole: bool = True) -> list[bytes]:
    """RFC 9162 consistency path, as its section 2.1.4.1 defines it."""
    if old == len(hashes):
        return [] if is_whole else [root_of(hashes)]
    split = 1
    while 2 * split < len(hashes):
        split *= 2
    if old <= split:
        return [*proof_of(hashes[:split], old, is_whole), root_of(hashes[split:])]
    return [*proof_of(hashes[split:], old - split, False), root_of(hashes[:split])]


def h(text: str) -> bytes:
    """Bytes of hexadecimal digits."""
    return bytes.fromhex(text)


def test_identity() -> None:
    """Tagged hashes, the network's id, accounts, object ids, commitments."""
    known = load("identity.json")
    for case in known["tagged_hash"]:
        assert h(case["hash"]) == tagged(case["tag"], h(case["data"]))
    assert h(known["network"]) == digest("genesis", h(known["genesis"]))
    assert h(known["consortium"]) == read(h(known["genesis"]))[2]
    for name, ordinal in (("account", 0), ("account_1", 1)):
        seed = h(known["consortium"]) + h(known["public_key"]) + ordinal.to_bytes(4, "big")
        assert h(known[name]) == tagged("account", seed)[:20]
    made = known["object"]
    place = made["message_index"].to_bytes(2, "big") + made["ordinal"].to_bytes(2, "big")
    seed = made["chain"].encode() + b"\x00" + h(made["envelope_digest"]) + place
    assert h(made["id"]) == tagged("object", seed)[:16]
    kept = known["commitment"]
    assert h(kept["commitment"]) == digest("commitment", h(kept["salt"]) + h(kept["content"]))


def test_transactions() -> None:
    """Envelope, body, what is signed, digest and salt."""
    network = h(load("identity.json")["network"])
    for case in load("transactions.json"):
        envelope = h(case["envelope"])
        body, signatures = read(envelope)
        assert (h(case["body"]), [h(each) for each in case["signatures"]]) == (body, signatures)
        assert h(case["signing_hash"]) == tagged("body", body)
        assert h(case["envelope_digest"]) == digest("envelope", envelope)
        assert h(case["salt"]) == tagged("salt", envelope)[:16]
        version, net, chain, signers, lane, sequence, valid_until, messages = read(body)
        shown = case["readable"]
        assert (1, network, "left") == (version, net, chain)
        assert [lane, sequence, valid_until] == [
            shown[name] for name in ("lane", "sequence", "valid_until_ms")
        ]
        assert [[h(s["account"]), h(s["key"])] for s in shown["signers"]] == signers
        assert len(shown["messages"]) == len(messages)
        assert len(signers) == len(signatures)
        for message in messages:
            assert 250 == message[0] >> 16


def test_blocks() -> None:
    """Receipts, events, entries, headers, app_hash, outbox root, network hash, and the log."""
    envelopes = {h(case["envelope_digest"]): h(case["envelope"])
                 for case in load("transactions.json")}  # fmt: skip
    network = h(load("identity.json")["network"])
    previous, leaves = network, []
    for block in load("blocks.json"):
        for position, case in enumerate(block["receipts"]):
            leaves.append(check_receipt(case, envelopes, block["height"], position, network))
        header = read(h(block["header"]))
        assert [1, network, "left", block["height"], block["time_ms"]] == header[:5]
        assert [len(leaves), root_of(leaves)] == header[5:7]
        pages = [hash_leaf(h(page)) for page in block["pages"]]
        assert [len(pages), root_of(pages)] == header[7:9]
        assert previous == header[9]
        previous = digest("app", h(block["header"]))
        assert h(block["app_hash"]) == previous == h(block["app_hashes"]["left"])
        pairs = [
            hash_leaf(b"\x92" + bytes([0xA0 + len(name)]) + name.encode() + b"\xc4\x21" + h(app))
            for name, app in sorted(block["app_hashes"].items())
        ]
        assert h(block["network_hash"]) == root_of(pairs)
        check_note(block["note"], network, len(leaves), root_of(leaves), previous)
    check_log(leaves)


def check_receipt(
    case: dict[str, Any], envelopes: dict[bytes, bytes], height: int, position: int, network: bytes
) -> bytes:
    """Check a receipt and its entry; returns the entry's leaf hash."""
    receipt, entry = read(h(case["receipt"])), read(h(case["entry"]))
    version, source, at_height, index, salt, _, events = receipt
    assert (1, height, position) == (version, at_height, index)
    kind = 1 if source in envelopes else 0 if source == network else 2
    if kind == 1:
        assert salt == tagged("salt", envelopes[source])[:16]
    salts = [tagged("event-salt", salt + at.to_bytes(2, "big"))[:16] for at in range(len(events))]
    hashes = [hash_leaf(one + event) for one, event in zip(salts, events, strict=True)]
    assert [h(each) for each in case["event_salts"]] == salts
    assert [h(each) for each in case["event_hashes"]] == hashes
    receipt_digest = digest("receipt", h(case["receipt"]))
    expected = [1, height, index, kind, source, receipt_digest, len(events), root_of(hashes)]
    assert expected == entry
    assert h(case["leaf_hash"]) == hash_leaf(h(case["entry"]))
    return hash_leaf(h(case["entry"]))


def check_note(note: str, network: bytes, size: int, root: bytes, app_hash: bytes) -> None:
    """Check the text and the signature line of a checkpoint, but for the signature."""
    origin, size_text, root_text, extension, empty, signature, end = note.split("\n")
    assert (f"hansa/{network.hex()[2:18]}/left", str(size), "", "") == (
        origin, size_text, empty, end,
    )  # fmt: skip
    assert base64.b64encode(root).decode() == root_text
    assert f"hansa-app-hash {base64.b64encode(app_hash).decode()}" == extension
    dash, name, blob = signature.split(" ")
    key = h(load("log.json")["validator"])
    assert b"\x02" == key[:1]
    key_id = hashlib.sha256(origin.encode() + b"\n\x01" + key[1:]).digest()[:4]
    assert ("—", origin, key_id, 68) == (
        dash, name, base64.b64decode(blob)[:4], len(base64.b64decode(blob)),
    )  # fmt: skip
    material = base64.b64encode(b"\x01" + key[1:]).decode()
    assert f"{origin}+{key_id.hex()}+{material}" == load("log.json")["vkey"]


def check_log(leaves: list[bytes]) -> None:
    """Check every path against the definitions of RFC 9162."""
    known = load("log.json")
    assert (len(leaves), root_of(leaves)) == (known["size"], h(known["root"]))
    for case in known["inclusion"]:
        assert path_of(leaves, case["index"]) == [h(node) for node in case["path"]]
    for case in known["consistency"]:
        assert proof_of(leaves, case["old"]) == [h(node) for node in case["path"]]


def test_state() -> None:
    """The digest of writes, chunks, their root and the proofs under it."""
    known = load("state.json")
    writes = b"\x92\x92\xc4\x03\x00\x01\x02\xc4\x03\xc0\xff\xee\x92\xc4\x02\x00\x03\xc0"
    assert h(known["writes_digest"]) == digest("writes", writes)
    empty = b"\x93\xc4\x00\x90\xc3"
    assert (h(known["empty_chunk"]), h(known["empty_root"])) == (empty, hash_leaf(empty))
    chunks = [hash_leaf(chunk) for chunk in cut_chunks()]
    assert [h(each) for each in known["chunk_hashes"]] == chunks
    assert h(known["root"]) == root_of(chunks)
    for proof in known["proofs"]:
        assert h(proof["chunk_hash"]) == chunks[proof["index"]]
        assert [h(node) for node in proof["path"]] == path_of(chunks, proof["index"])
        is_there = len(proof["key"]) == 6 and int(h(proof["key"])) < 16
        assert (9_000 if is_there else None) == proof["value_bytes"]


def cut_chunks() -> list[bytes]:
    """The sixteen pairs of the vector: seven pairs of 9,003 bytes stay below 65,536."""
    chunks = []
    for first in (0, 7, 14):
        numbers = range(first, min(first + 7, 16))
        after = b"%03d" % (first - 1) if first else b""
        pairs = b"".join(
            b"\x92\xc4\x03"
            + b"%03d" % n
            + b"\xc5"
            + (9_000).to_bytes(2, "big")
            + bytes([n]) * 9_000
            for n in numbers
        )
        head = b"\x93\xc4" + bytes([len(after)]) + after + bytes([0x90 + len(numbers)])
        chunks.append(head + pairs + (b"\xc3" if first == 14 else b"\xc2"))
    return chunks


def test_bundles() -> None:
    """The frame of a bundle, its headers, and every path it carries."""
    leaves = [h(r["leaf_hash"]) for block in load("blocks.json") for r in block["receipts"]]
    for case in load("bundles.json")["cases"]:
        data = h(case["bundle"])
        assert b"hansa\x00\xb1\x01" == data[:8]
        version, network, headers, facts = read(data[8:])
        assert (1, h(load("identity.json")["network"])) == (version, network)
        trusted = [each["network"] for each in case["trust"]]
        assert (network.hex() in trusted) == (case["outcome"] != "cannot tell")
        heads = {}
        for header, finality in headers:
            fields = read(header)
            heads[fields[2]] = fields
            assert 1 == finality[0]
            app_hash = base64.b64encode(digest("app", header)).decode()
            assert f"\nhansa-app-hash {app_hash}\n\n".encode() in finality
        assert sorted(heads) == list(heads)
        for fact in facts:
            check_fact(fact, heads, leaves)


def check_fact(fact: list[Any], heads: dict[str, Any], leaves: list[bytes]) -> None:
    """Check one fact of a bundle by recomputing its path from all leaves."""
    kind = fact[0]
    if kind == 4:
        (_, event, salt, content) = fact
        assert digest("commitment", salt + content) in read(event[2])
        return
    if kind == 5:
        _, chain, page, index, path = fact
        pages = [hash_leaf(h(each)) for each in load("blocks.json")[5]["pages"]]
        assert (hash_leaf(page), path) == (pages[index], path_of(pages, index))
        assert [len(pages), root_of(pages)] == heads[chain][7:9]
        return
    if kind == 6:
        _, chain, old, _, path = fact
        assert path == proof_of(leaves[: heads[chain][5]], read(old)[5])
        return
    chain, index, entry, path = fact[1]
    if chain == "left":
        assert (hash_leaf(entry), path) == (leaves[index], path_of(leaves, index))
    if kind in (1, 2):
        assert read(entry)[5] == digest("receipt", fact[-1])
    if kind == 3:
        _, _, event, salt, at, event_path = fact
        block = load("blocks.json")[read(entry)[1]]["receipts"][0]
        hashes = [h(each) for each in block["event_hashes"]]
        assert (hash_leaf(salt + event), event_path) == (hashes[at], path_of(hashes, at))


def test_finality() -> None:
    """Light blocks: hashes of headers and sets, votes, and the path to the network hash."""
    known = load("finality.json")
    finality = h(known["finality"])
    assert b"\x02" == finality[:1]
    hops, index, size, path = read(finality[1:])
    apps = sorted(known["app_hashes"].items())
    assert digest("app", h(known["header"])) == h(known["app_hashes"][known["chain"]])
    pairs = [
        hash_leaf(b"\x92" + bytes([0xA0 + len(name)]) + name.encode() + b"\xc4\x21" + h(app))
        for name, app in apps
    ]
    assert (len(pairs), path) == (size, path_of(pairs, index))
    assert root_of(pairs) == h(known["network_hash"]) == hops[-1][0][11]
    assert f"hansa-{known['network'][2:18]}" == known["chain_id"]
    for (header, commit, own, following), expected in zip(
        hops, known["header_hashes"], strict=True
    ):
        fields = write_header(header)
        assert h(expected) == root_of([hash_leaf(field) for field in fields]) == commit[2][0]
        assert header[8] == hash_validators(own)
        assert header[9] == hash_validators(following or own)
        check_votes(header, commit, own, known["sign_bytes"])


def varint(number: int) -> bytes:
    """A number as protobuf has it."""
    out = b""
    while number >= 0x80:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    """A protobuf field; none if it is zero or empty."""
    if isinstance(value, int):
        return bytes([number << 3]) + varint(value) if value else b""
    return bytes([number << 3 | 2]) + varint(len(value)) + value if value else b""


def write_block_id(block_id: list[Any]) -> bytes:
    """A block id; its second field is always there."""
    parts = field(1, block_id[1]) + field(2, block_id[2])
    return field(1, block_id[0]) + b"\x12" + varint(len(parts)) + parts


def write_time(time_ns: int) -> bytes:
    """Seconds and nanoseconds."""
    return field(1, time_ns // 10**9) + field(2, time_ns % 10**9)


def write_header(header: list[Any]) -> list[bytes]:
    """The fourteen messages that a header is hashed as."""
    block, app, chain_id, height, time_ns, last_block_id, *hashes = header
    versions = field(1, block) + field(2, app)
    head = [versions, field(1, chain_id.encode()), field(1, height), write_time(time_ns)]
    return [*head, write_block_id(last_block_id), *(field(1, each) for each in hashes)]


def hash_validators(validators: list[Any]) -> bytes:
    """The hash of a set."""
    return root_of(
        [hash_leaf(b"\x0a\x22\x0a\x20" + key[1:] + field(2, power)) for key, power in validators]
    )


def check_votes(
    header: list[Any], commit: list[Any], own: list[Any], sign_bytes: list[str]
) -> None:
    """Check each signature of a commit, and that more than two thirds have signed."""
    height, round_, block_id, votes = commit
    assert (header[3], len(own)) == (height, len(votes))
    signed = 0
    for (flag, address, time_ns, signature), (key, power) in zip(votes, own, strict=True):
        if flag == 1:
            assert (b"", 0, b"") == (address, time_ns, signature)
            continue
        assert hashlib.sha256(key[1:]).digest()[:20] == address
        message = b"\x08\x02\x11" + height.to_bytes(8, "little")
        message += b"\x19" + round_.to_bytes(8, "little") if round_ else b""
        message += field(4, write_block_id(block_id)) + field(5, write_time(time_ns))
        message += field(6, header[2].encode())
        message = varint(len(message)) + message
        if height == 6 and not signed:
            assert [message.hex()] == sign_bytes
        crypto_sign_open(signature + message, key[1:])
        signed += power
    assert 3 * signed > 2 * sum(power for _, power in own)


def test_examples_in_the_specification_are_from_the_vectors() -> None:
    """Every run of 16 or more hexadecimal digits on a page stands in a vector."""
    known = "".join(path.read_text(encoding="utf-8") for path in VECTORS.glob("*.json"))
    pages = sorted((VECTORS.parents[2] / "docs" / "spec").glob("*.md"))
    assert 9 == len(pages)
    for page in pages:
        for run in re.findall(r"\b[0-9a-f]{16,}\b", page.read_text(encoding="utf-8")):
            assert run in known, f"{page.name}: {run}"
