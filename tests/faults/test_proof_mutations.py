"""Every kind of proof, changed bit by bit and by structure: none is accepted and none crashes."""

from __future__ import annotations

import base64
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tools.make_vectors import Network, list_bundles

from hansa.core.block import compute_app_hash, decode_header
from hansa.core.codec import encode
from hansa.core.finality import CheckpointSigner
from hansa.core.proof import MAGIC, Outcome, Trust, pack_bundle, verify_bundle

SHORT, LONG = 20_000, 1_000_000

Tree = list[Any]
"""A bundle as MessagePack has it: version, network, headers, facts."""

STRANGER = CheckpointSigner(sha256(b"stranger").digest())


class OtherNetwork(Network):
    """The same keys, the same names and the same history under another genesis."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        other = replace(self.genesis, name="another network")
        rulebooks = {name: chain.rulebook for name, chain in self.ledger.chains.items()}
        self.ledger.close()
        self.ledger = type(self.ledger)(folder / "other", other, rulebooks, self.signer)
        self.genesis = other


class Corpus:
    """Sound bundles of one network, what else lies around, and a source of chance."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bundles, self.trust = make_bundles(Network)
        others, _ = make_bundles(OtherNetwork)
        self.foreign = [tree_of(data) for data in others.values()]
        self.trees = {name: tree_of(data) for name, data in self.bundles.items()}

    def pick(self, items: Any) -> Any:
        """One of them."""
        return self.random.choice(list(items))


def make_bundles(kind: type[Network]) -> tuple[dict[str, bytes], Trust]:
    """One bundle of each kind of fact, and the trust under which they are valid."""
    with tempfile.TemporaryDirectory() as folder:
        network = kind(Path(folder))
        network.play()
        bundles = {name: pack_bundle(bundle) for name, bundle in list_bundles(network).items()}
        network.ledger.close()
    return bundles, network.trust


def tree_of(data: bytes) -> Tree:
    """The lists and bytes of a bundle."""
    tree: Tree = msgspec.msgpack.decode(data[len(MAGIC) :])
    return tree


def pack(tree: Tree) -> bytes:
    """The file of a tree."""
    return MAGIC + encode(tree)


def copy(tree: Tree) -> Tree:
    """A tree of its own."""
    return tree_of(pack(tree))


# Where things stand in a tree.


def list_paths(tree: Tree) -> list[Tree]:
    """Every inclusion or consistency path."""
    found = []
    for fact in tree[3]:
        kind = fact[0]
        event = fact[1] if kind == 4 else fact
        if kind in (1, 2, 3, 4):
            found.append(event[1][3])
        if kind in (3, 4):
            found.append(event[5])
        if kind in (5, 6):
            found.append(fact[4])
    return found


def list_leaves(tree: Tree) -> list[Tree]:
    """Every leaf: chain, index, entry, path."""
    return [(fact[1] if fact[0] == 4 else fact)[1] for fact in tree[3] if fact[0] <= 4]


def list_indexed(tree: Tree) -> list[tuple[Tree, int]]:
    """Every list that holds an index, and where in it."""
    found: list[tuple[Tree, int]] = [(leaf, 1) for leaf in list_leaves(tree)]
    for fact in tree[3]:
        event = fact[1] if fact[0] == 4 else fact
        if fact[0] in (3, 4):
            found.append((event, 4))
        if fact[0] == 5:
            found.append((fact, 3))
    return found


def list_finalities(tree: Tree) -> list[tuple[Tree, int]]:
    """Every header with its finality: a list, and where in it the finality stands."""
    return [(final, 1) for final in tree[2]] + [(fact, 3) for fact in tree[3] if fact[0] == 6]


# Mutations. Each changes the tree in place and says whether it could, or returns other bytes.


def flip_bit(corpus: Corpus, data: bytes) -> bytes:
    """One bit of the file."""
    at = corpus.random.randrange(8 * len(data))
    changed = bytearray(data)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


def change_byte(corpus: Corpus, data: bytes) -> bytes:
    """One byte of the file."""
    at = corpus.random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ corpus.random.randrange(1, 256)]) + data[at + 1 :]


def insert_bytes(corpus: Corpus, data: bytes) -> bytes:
    """Bytes more, anywhere."""
    at = corpus.random.randrange(len(data) + 1)
    return data[:at] + corpus.random.randbytes(corpus.random.randrange(1, 40)) + data[at:]


def append_bytes(corpus: Corpus, data: bytes) -> bytes:
    """Bytes after the end."""
    return data + corpus.random.randbytes(corpus.random.randrange(1, 40))


def remove_bytes(corpus: Corpus, data: bytes) -> bytes:
    """A run of bytes less, anywhere."""
    at = corpus.random.randrange(len(data))
    return data[:at] + data[at + corpus.random.randrange(1, 40) :]


def truncate(corpus: Corpus, data: bytes) -> bytes:
    """The end is gone."""
    return data[: corpus.random.randrange(len(data))]


def move_bytes(corpus: Corpus, data: bytes) -> bytes:
    """Two runs of equal length change places."""
    length = corpus.random.randrange(1, 34)
    first, second = sorted(corpus.random.sample(range(len(data) - 2 * length), 2))
    second += length
    return (data[:first] + data[second : second + length] + data[first + length : second]
            + data[first : first + length] + data[second + length :])  # fmt: skip


def lengthen_form(corpus: Corpus, data: bytes) -> bytes | None:
    """A length header in the next longer form: the same value, other bytes."""
    places = [at for at in range(len(MAGIC), len(data) - 1) if data[at] == 0xC4]
    at = corpus.pick(places)
    return data[:at] + b"\xc5\x00" + data[at + 1 :]


BYTES: dict[str, Callable[[Corpus, bytes], bytes | None]] = {
    "flipped bit": flip_bit,
    "changed byte": change_byte,
    "inserted bytes": insert_bytes,
    "extra bytes": append_bytes,
    "removed bytes": remove_bytes,
    "truncated file": truncate,
    "moved bytes": move_bytes,
    "longer form": lengthen_form,
}


def swap_siblings(corpus: Corpus, tree: Tree) -> bool:
    """Two nodes of a path change places."""
    paths = [path for path in list_paths(tree) if len(set(path)) > 1]
    if not paths:
        return False
    path = corpus.pick(paths)
    first, second = corpus.random.sample(range(len(path)), 2)
    path[first], path[second] = path[second], path[first]
    return True


def truncate_path(corpus: Corpus, tree: Tree) -> bool:
    """A node less, at either end or between."""
    paths = [path for path in list_paths(tree) if path]
    if paths:
        path = corpus.pick(paths)
        del path[corpus.random.randrange(len(path))]
    return bool(paths)


def extend_path(corpus: Corpus, tree: Tree) -> bool:
    """A node more: a random one, or one of the path again."""
    path = corpus.pick(list_paths(tree))
    node = corpus.pick([corpus.random.randbytes(32), *path])
    path.insert(corpus.random.randrange(len(path) + 1), node)
    return True


def leaf_as_node(corpus: Corpus, tree: Tree) -> bool:
    """An inner node's two children in place of an entry, the path shorter by one."""
    leaves = [leaf for leaf in list_leaves(tree) if leaf[3]]
    if not leaves:
        return False
    leaf = corpus.pick(leaves)
    children = [sha256(b"\x00" + leaf[2]).digest(), leaf[3].pop(0)]
    leaf[2] = b"".join(children[:: corpus.pick([1, -1])])
    leaf[1] >>= corpus.pick([0, 1])
    return True


def node_as_leaf(corpus: Corpus, tree: Tree) -> bool:
    """A node of the path in place of the entry."""
    leaves = [leaf for leaf in list_leaves(tree) if leaf[3]]
    if leaves:
        leaf = corpus.pick(leaves)
        leaf[2] = corpus.pick(leaf[3])
    return bool(leaves)


def change_header(corpus: Corpus, tree: Tree, field: int, is_signed: bool) -> bool:
    """Another number in a header; signed again by a stranger where it is."""
    final = corpus.pick(tree[2])
    fields = msgspec.msgpack.decode(final[0])
    fields[field] = max(0, fields[field] + corpus.pick([-2, -1, 1, 2, 256]))
    changed = encode(fields)
    is_other = changed != final[0]
    final[0] = changed
    if is_signed:
        header = decode_header(changed)
        final[1] = STRANGER.sign(header, compute_app_hash(header))
    return bool(is_other)


def other_size(corpus: Corpus, tree: Tree) -> bool:
    """Another size of the log in a header."""
    return change_header(corpus, tree, 5, False)


def other_size_resigned(corpus: Corpus, tree: Tree) -> bool:
    """The same, with a checkpoint that fits, signed by a stranger."""
    return change_header(corpus, tree, 5, True)


def other_header_height(corpus: Corpus, tree: Tree) -> bool:
    """Another height in a header."""
    return change_header(corpus, tree, 3, corpus.pick([False, True]))


def other_outbox_size(corpus: Corpus, tree: Tree) -> bool:
    """Another number of pages in a header."""
    return change_header(corpus, tree, 7, False)


def other_height(corpus: Corpus, tree: Tree) -> bool:
    """Another height in an entry, and in its receipt where it has one."""
    facts = [fact for fact in tree[3] if fact[0] in (1, 2)]
    if not facts:
        return False
    fact = corpus.pick(facts)
    step = corpus.pick([1, 2, 100])
    for holder, place, field in ((fact[1], 2, 1), (fact, len(fact) - 1, 2)):
        fields = msgspec.msgpack.decode(holder[place])
        fields[field] += step
        holder[place] = encode(fields)
    return True


def other_index(corpus: Corpus, tree: Tree) -> bool:
    """Another index of an entry, an event or a page."""
    places = list_indexed(tree)
    if not places:
        return False
    holder, place = corpus.pick(places)
    before = holder[place]
    holder[place] = max(0, before + corpus.pick([-2, -1, 1, 2, 4, 8, 1 << 31]))
    return bool(before != holder[place])


def other_chain(corpus: Corpus, tree: Tree) -> bool:
    """A fact said to be of the other chain."""
    fact = corpus.pick(tree[3])
    event = fact[1] if fact[0] == 4 else fact
    holder, place = (fact, 1) if fact[0] >= 5 else (event[1], 0)
    holder[place] = {"left": "right", "right": "left"}[holder[place]]
    return True


def other_chain_throughout(corpus: Corpus, tree: Tree) -> bool:
    """A file in which one chain's name is another's, headers and all."""
    name = corpus.pick([b"\xa4le t", b"\xa4le+t", b"\xa5right", b"\xa5l\xe2\x80\xa8t", b"\xa0"])
    changed = pack(tree).replace(b"\xa4left", name)
    try:
        tree[:] = tree_of(changed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False  # The four bytes stood in a digest by chance.
    for final in tree[2]:
        final[0] = final[0].replace(b"\xa4left", name)
    return True


def other_network(corpus: Corpus, tree: Tree) -> bool:
    """The whole file is of another network with the same keys, but for the network it names."""
    network = tree[1]
    tree[:] = copy(corpus.pick(corpus.foreign))
    tree[1] = network
    return True


def header_of_other_network(corpus: Corpus, tree: Tree) -> bool:
    """A header of another network, signed by the same validator."""
    foreign = [
        final
        for other in corpus.foreign
        for final in other[2]
        if decode_header(final[0]).chain == decode_header(tree[2][0][0]).chain
    ]
    tree[2][0] = corpus.pick(foreign)
    return True


def fact_of_other_network(corpus: Corpus, tree: Tree) -> bool:
    """A fact of another network under this one's header."""
    tree[3] = copy(corpus.pick(corpus.foreign))[3]
    return True


def header_of_other_block(corpus: Corpus, tree: Tree) -> bool:
    """A sound header of the same chain, with another log or another outbox."""
    before = tree[2][0]
    others = [final for other in corpus.trees.values() for final in other[2]]
    tree[2][0] = corpus.pick([final for final in others if final != before])
    return True


def resign(corpus: Corpus, tree: Tree) -> bool:
    """The same checkpoint, signed by a stranger."""
    final = corpus.pick(tree[2])
    header = decode_header(final[0])
    final[1] = STRANGER.sign(header, compute_app_hash(header))
    return True


def edit_note(corpus: Corpus, tree: Tree, edit: Callable[[list[str]], None]) -> bool:
    """A change to the lines of a checkpoint."""
    holder, place = corpus.pick(list_finalities(tree))
    lines = holder[place][1:].decode().split("\n")
    edit(lines)
    changed = holder[place][:1] + "\n".join(lines).encode()
    is_other = changed != holder[place]
    holder[place] = changed
    return bool(is_other)


def extra_signature_line(corpus: Corpus, tree: Tree) -> bool:
    """A line of a stranger, or the true one twice, before or after the true one."""
    stranger = f"— stranger {base64.b64encode(corpus.random.randbytes(68)).decode()}"

    def edit(lines: list[str]) -> None:
        line = corpus.pick([stranger, lines[-2]])
        lines.insert(corpus.pick([len(lines) - 1, len(lines) - 2]), line)

    return edit_note(corpus, tree, edit)


def stranger_beside(corpus: Corpus, tree: Tree) -> bool:
    """A stranger's line under the log's own name, beside the true one."""
    final = corpus.pick(tree[2])
    header = decode_header(final[0])
    line = STRANGER.sign(header, compute_app_hash(header)).decode("latin-1").split("\n")[-2]
    final[1] = final[1] + line.encode("latin-1") + b"\n"
    return True


def extra_extension(corpus: Corpus, tree: Tree) -> bool:
    """An extension line more, or the one there is less."""

    def edit(lines: list[str]) -> None:
        if corpus.pick([True, False]):
            lines.insert(corpus.pick([3, 4]), "more")
        else:
            del lines[3]

    return edit_note(corpus, tree, edit)


def other_base64(corpus: Corpus, tree: Tree) -> bool:
    """Base64 that decodes to the same bytes: other trailing bits, or no padding."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

    def edit(lines: list[str]) -> None:
        at = corpus.pick([2, 5])
        padding = len(lines[at]) - len(lines[at].rstrip("="))
        bare = lines[at].rstrip("=")
        last = digits.index(bare[-1]) + 1
        lines[at] = corpus.pick([bare[:-1] + digits[last] + "=" * padding, bare, bare + " ="])

    return edit_note(corpus, tree, edit)


def other_newlines(corpus: Corpus, tree: Tree) -> bool:
    """Carriage returns, spaces and empty lines in a checkpoint."""

    def edit(lines: list[str]) -> None:
        at = corpus.random.randrange(len(lines))
        lines[at] = corpus.pick(
            [lines[at] + "\r", lines[at] + " ", " " + lines[at], lines[at] + "\n"]
        )

    return edit_note(corpus, tree, edit)


def other_size_text(corpus: Corpus, tree: Tree) -> bool:
    """The size in the checkpoint written otherwise."""

    def edit(lines: list[str]) -> None:
        lines[1] = corpus.pick(
            ["0" + lines[1], "+" + lines[1], lines[1] + ".0", "\N{ARABIC-INDIC DIGIT ONE}"]
        )

    return edit_note(corpus, tree, edit)


def other_finality_type(corpus: Corpus, tree: Tree) -> bool:
    """Another type byte before the note."""
    holder, place = corpus.pick(list_finalities(tree))
    holder[place] = bytes([corpus.pick([0, 2, 3, 255])]) + holder[place][1:]
    return True


def unused_header(corpus: Corpus, tree: Tree) -> bool:
    """A sound header that no fact stands under."""
    names = [decode_header(final[0]).chain for final in tree[2]]
    if len(names) > 1:
        return False
    both = next(other for other in corpus.trees.values() if len(other[2]) == 2)
    tree[2] = copy(both)[2]
    return True


def missing_header(corpus: Corpus, tree: Tree) -> bool:
    """A header less than the facts need."""
    del tree[2][corpus.random.randrange(len(tree[2]))]
    return True


def doubled_header(corpus: Corpus, tree: Tree) -> bool:
    """A header twice."""
    tree[2].append(tree[2][-1])
    return True


def reordered_headers(corpus: Corpus, tree: Tree) -> bool:
    """Headers in another order."""
    tree[2].reverse()
    return len(tree[2]) > 1


def doubled_fact(corpus: Corpus, tree: Tree) -> bool:
    """A fact twice, side by side or apart."""
    tree[3].insert(corpus.random.randrange(len(tree[3]) + 1), corpus.pick(tree[3]))
    return True


def reordered_facts(corpus: Corpus, tree: Tree) -> bool:
    """Facts in another order."""
    tree[3].reverse()
    return len(tree[3]) > 1


def no_fact(corpus: Corpus, tree: Tree) -> bool:
    """No fact at all."""
    tree[3] = []
    return True


def other_kind(corpus: Corpus, tree: Tree) -> bool:
    """A fact passed off as another kind."""
    fact = corpus.pick(tree[3])
    before = fact[0]
    fact[0] = corpus.pick([0, 1, 2, 3, 4, 5, 6, 7])
    if (before, fact[0]) == (1, 2):
        del fact[2]
    return bool(before != fact[0])


def transaction_as_block(corpus: Corpus, tree: Tree) -> bool:
    """A transaction without its envelope, said to be the block's own."""
    facts = [fact for fact in tree[3] if fact[0] == 1]
    for fact in facts[:1]:
        fact[0] = 2
        del fact[2]
    return bool(facts)


def other_receipt(corpus: Corpus, tree: Tree) -> bool:
    """A sound receipt or envelope of another transaction."""
    facts = [fact for fact in tree[3] if fact[0] in (1, 2)]
    if not facts:
        return False
    fact = corpus.pick(facts)
    others = [f for other in corpus.trees.values() for f in other[3] if f[0] in (1, 2)]
    place = corpus.random.randrange(2, len(fact))
    given = corpus.pick(others)[-1 if place == len(fact) - 1 else 2]
    is_other = given != fact[place]
    fact[place] = given
    return bool(is_other)


def other_signatures(corpus: Corpus, tree: Tree) -> bool:
    """Signatures of the envelope in another order, one less, one more or a forged one."""
    facts = [fact for fact in tree[3] if fact[0] == 1]
    if not facts:
        return False
    fact = corpus.pick(facts)
    body, signatures = msgspec.msgpack.decode(fact[2])
    forged = b"\x01" + corpus.random.randbytes(64)
    choices = [[*signatures, signatures[0]], signatures[1:] or [forged], [*signatures, forged],
               [*signatures[1:], forged]]  # fmt: skip
    fact[2] = encode([body, corpus.pick(choices)])
    return True


def forged_rejection(corpus: Corpus, tree: Tree) -> bool:
    """A receipt's error removed, or put where there was none."""
    facts = [fact for fact in tree[3] if fact[0] in (1, 2)]
    if facts:
        fact = corpus.pick(facts)
        fields = msgspec.msgpack.decode(fact[-1])
        fields[5] = None if fields[5] else [250_001, "no"]
        fact[-1] = encode(fields)
    return bool(facts)


def other_event(corpus: Corpus, tree: Tree) -> bool:
    """Another event's bytes or salt, or the boundary between the two moved."""
    facts = [fact[1] if fact[0] == 4 else fact for fact in tree[3] if fact[0] in (3, 4)]
    if not facts:
        return False
    fact = corpus.pick(facts)
    event, salt = fact[2], fact[3]
    fact[2], fact[3] = corpus.pick(
        [
            (event + b"\x00", salt),
            (event[:-1], salt),
            (event, salt[::-1]),
            (salt[-1:] + event, salt[:-1]),
            (event[1:], salt + event[:1]),
        ]
    )
    return True


def other_content(corpus: Corpus, tree: Tree) -> bool:
    """Other content or another salt under the same commitment, or their boundary moved."""
    facts = [fact for fact in tree[3] if fact[0] == 4]
    for fact in facts[:1]:
        salt, content = fact[2], fact[3]
        fact[2], fact[3] = corpus.pick(
            [
                (salt, content + b"\x00"),
                (salt, content[:-1]),
                (salt[1:] + salt[:1], content),
                (salt[:-1], salt[-1:] + content),
                (salt, b""),
            ]
        )
    return bool(facts)


def other_page(corpus: Corpus, tree: Tree) -> bool:
    """An item of a page left out, doubled or moved, its first sequence or destination changed."""
    facts = [fact for fact in tree[3] if fact[0] == 5]
    for fact in facts[:1]:
        network, destination, first, items = msgspec.msgpack.decode(fact[2])
        changed = corpus.pick(
            [
                [network, destination, first, items[1:]],
                [network, destination, first, [*items, items[0]]],
                [network, destination, first, items[::-1]],
                [network, destination, first + 1, items],
                [network, "left", first, items],
                [b"\x01" + bytes(32), destination, first, items],
            ]
        )
        fact[2] = encode(changed)
    return bool(facts)


def swapped_consistency(corpus: Corpus, tree: Tree) -> bool:
    """The older and the newer header change places, or stand alone."""
    facts = [fact for fact in tree[3] if fact[0] == 6]
    for fact in facts[:1]:
        old, new = fact[2:4], tree[2][0]
        fact[2:4], tree[2][0] = corpus.pick([(new, old), (new, new), (old, old)])
        if corpus.pick([True, False]):
            fact[4] = fact[4][:-1]
    return bool(facts)


def other_version(corpus: Corpus, tree: Tree) -> bool:
    """Another version of the bundle, of a header or of an entry."""
    places = [(final, 0) for final in tree[2]] + [(leaf, 2) for leaf in list_leaves(tree)]
    version = corpus.pick([0, 2, 255])
    holder, at = corpus.pick([(tree, 0), *places])
    if holder is tree:
        tree[0] = version
        return True
    fields = msgspec.msgpack.decode(holder[at])
    fields[0] = version
    holder[at] = encode(fields)
    return True


def other_trusted_name(corpus: Corpus, tree: Tree) -> bool:
    """Another network's id on the file."""
    tree[1] = corpus.pick([corpus.foreign[0][1], b"\x01" + bytes(32), tree[1][1:], b""])
    return True


def wrong_types(corpus: Corpus, tree: Tree) -> bool:
    """A value of another kind anywhere."""
    holder: Any = tree
    while True:
        at = corpus.random.randrange(len(holder)) if holder else 0
        if holder and isinstance(holder[at], list) and holder[at] and corpus.random.random() < 0.8:
            holder = holder[at]
            continue
        before = holder[at] if holder else None
        value = corpus.pick([None, True, -1, 1 << 63, "", "text", b"", [], [[]], {}, 1.5])
        if holder:
            holder[at] = value
        else:
            holder.append(value)
        return bool(before != value or type(before) is not type(value))


STRUCTURE: dict[str, Callable[[Corpus, Tree], bool]] = {
    "swapped siblings": swap_siblings,
    "truncated path": truncate_path,
    "extended path": extend_path,
    "leaf as node": leaf_as_node,
    "node as leaf": node_as_leaf,
    "other size": other_size,
    "other size, signed by a stranger": other_size_resigned,
    "other height of a header": other_header_height,
    "other number of pages": other_outbox_size,
    "other height": other_height,
    "other index": other_index,
    "other chain": other_chain,
    "other chain throughout": other_chain_throughout,
    "other network": other_network,
    "header of other network": header_of_other_network,
    "fact of other network": fact_of_other_network,
    "header of other block": header_of_other_block,
    "re-signed by a stranger": resign,
    "extra signature line": extra_signature_line,
    "stranger beside the validator": stranger_beside,
    "other extension lines": extra_extension,
    "non-canonical base64": other_base64,
    "other newlines": other_newlines,
    "other writing of the size": other_size_text,
    "other type of finality": other_finality_type,
    "unused header": unused_header,
    "missing header": missing_header,
    "doubled header": doubled_header,
    "reordered headers": reordered_headers,
    "doubled fact": doubled_fact,
    "reordered facts": reordered_facts,
    "no fact": no_fact,
    "other kind of fact": other_kind,
    "transaction as block": transaction_as_block,
    "other receipt or envelope": other_receipt,
    "other signatures": other_signatures,
    "forged rejection": forged_rejection,
    "other event": other_event,
    "other content": other_content,
    "other page": other_page,
    "swapped consistency": swapped_consistency,
    "other version": other_version,
    "other network's name": other_trusted_name,
    "wrong types": wrong_types,
}


@pytest.fixture(scope="module")
def corpus(seed: int) -> Corpus:
    """Sound bundles, and the run's chance."""
    return Corpus(seed)


def mutate(corpus: Corpus, kind: str, name: str) -> bytes | None:
    """One mutation of a bundle, or None where it doesn't apply to it or changed nothing."""
    data = corpus.bundles[name]
    if kind in BYTES:
        changed = BYTES[kind](corpus, data)
    else:
        tree = copy(corpus.trees[name])
        try:
            changed = pack(tree) if STRUCTURE[kind](corpus, tree) else None
        except OverflowError:
            return None
    return None if changed == data else changed


def test_the_bundles_are_valid_before_they_are_changed(corpus: Corpus) -> None:
    """What is mutated below is sound, and packing it again gives the same file."""
    for name, data in corpus.bundles.items():
        judgement = verify_bundle(data, corpus.trust)
        assert (Outcome.VALID, "") == (judgement.outcome, judgement.reason), name
        assert data == pack(corpus.trees[name])


def test_every_bit_of_a_bundle_counts(corpus: Corpus) -> None:
    """No bit of a transaction's bundle can be flipped."""
    data = corpus.bundles["transaction of two signers"]
    accepted = []
    for at in range(8 * len(data)):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        if verify_bundle(bytes(changed), corpus.trust).outcome is Outcome.VALID:
            accepted.append(at)
    assert [] == accepted


def test_no_mutation_is_accepted_and_none_crashes(corpus: Corpus, seed: int, soak: bool) -> None:
    """Of each class of mutation many, on every kind of proof it applies to."""
    total = LONG if soak else SHORT
    print(f"proof mutations: {total}, HANSA_SEED={seed}")
    kinds = [*BYTES, *STRUCTURE]
    names = list(corpus.bundles)
    counts: Counter[str] = Counter()
    for number in range(10 * total):
        if counts.total() == total:
            break
        kind = kinds[number % len(kinds)]
        name = corpus.pick(names)
        changed = mutate(corpus, kind, name)
        if changed is None:
            continue
        judgement = verify_bundle(changed, corpus.trust)
        where = f"{kind} of {name}, HANSA_SEED={seed}: {changed.hex()}"
        assert Outcome.VALID is not judgement.outcome, where
        assert judgement.reason, where
        assert [] == judgement.facts, where
        counts[kind] += 1
    assert (total, set(kinds)) == (counts.total(), set(counts))
