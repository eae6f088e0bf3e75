"""Signed notes and checkpoints: the published examples, and all that strictness refuses."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.core.note import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    MAX_TREE_SIZE,
    Checkpoint,
    NoteError,
    NoteSigner,
    VerifierKey,
    assemble_note,
    open_note,
    sign_note,
)

# The example of C2SP signed-note, "Verifier keys".
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_NOTE = (
    "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2"
    "ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()

TEXT = "hansa.example/trade\n1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
LOG = NoteSigner("hansa.example/trade", b"\x01" * 32)
WITNESS = NoteSigner("witness.example", b"\x02" * 32)
STRANGER = NoteSigner("stranger.example", b"\x03" * 32)
LOG_LINE, WITNESS_LINE = LOG.sign_line(TEXT), WITNESS.sign_line(TEXT)
STRANGER_LINE = STRANGER.sign_line(TEXT)
SIGNED = assemble_note(TEXT, [LOG_LINE, WITNESS_LINE])


def test_the_published_example_opens() -> None:
    """Key and note of the specification verify, and the key prints as it was read."""
    key = VerifierKey.parse(EXAMPLE_KEY)
    assert EXAMPLE_KEY == str(key)
    opened = open_note(EXAMPLE_NOTE, [key])
    assert ("This is an example message.\n", (key,), 0) == (
        opened.text,
        opened.verified,
        opened.unverified,
    )
    assert opened == open_note(EXAMPLE_NOTE, [key], exact=True)


def test_a_note_is_opened_by_any_known_key_and_unknown_ones_are_counted() -> None:
    """Lines of keys that are not known do no harm unless the note must be exact."""
    note = assemble_note(TEXT, [STRANGER_LINE, WITNESS_LINE, LOG_LINE])
    opened = open_note(note, [LOG.key, WITNESS.key])
    assert (TEXT, (WITNESS.key, LOG.key), 1) == (opened.text, opened.verified, opened.unverified)
    with pytest.raises(NoteError, match="expected signature lines of hansa"):
        open_note(note, [LOG.key, WITNESS.key], exact=True)


def test_a_line_that_looks_like_a_signature_inside_the_text_is_text() -> None:
    """Only what follows the last empty line signs."""
    text = f"{TEXT}\n{LOG_LINE}"
    note = sign_note(text, "stranger.example", b"\x03" * 32)
    assert text == open_note(note, [STRANGER.key]).text
    with pytest.raises(NoteError, match="signature of a known key"):
        open_note(note, [LOG.key])


def test_a_key_of_the_same_name_and_another_id_is_unknown() -> None:
    """Name and id name a key only together."""
    namesake = NoteSigner("hansa.example/trade", b"\x09" * 32)
    with pytest.raises(NoteError, match="signature of a known key, got 2"):
        open_note(SIGNED, [namesake.key])


def respell(line: str) -> str:
    """The same signature in base64 with another last character: its trailing bits are not zero."""
    encoded = line.rstrip("\n")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = encoded.rstrip("=")
    respelled = last[:-1] + alphabet[alphabet.index(last[-1]) + 1] + encoded[len(last) :] + "\n"
    blob = encoded.rsplit(" ", 1)[1]
    assert b64decode(blob) == b64decode(respelled.rstrip("\n").rsplit(" ", 1)[1])
    return respelled


def lengthen(line: str, extra: bytes) -> str:
    """A line whose signature has further bytes after the true one."""
    start, blob = line.rstrip("\n").rsplit(" ", 1)
    return f"{start} {b64encode(b64decode(blob) + extra).decode()}\n"


MALFORMED = {
    "not UTF-8": (SIGNED + b"\xff", "UTF-8, got another byte"),
    "carriage return": (SIGNED.replace(b"\n", b"\r\n"), r"control character, got U\+000D"),
    "tab": (SIGNED.replace(b"1\n", b"1\t\n", 1), r"control character, got U\+0009"),
    "empty": (b"", "empty line before the signatures"),
    "no empty line": (TEXT.encode() + LOG_LINE.encode(), "empty line before the signatures"),
    "no signature": (TEXT.encode() + b"\n", "ending in a newline"),
    "no last newline": (SIGNED[:-1], "ending in a newline"),
    "further newline": (SIGNED + b"\n", "ending in a newline"),
    "further line": (SIGNED + b"x\n", "start with an em dash"),
    "hyphen": (SIGNED.replace("—".encode(), b"-"), "start with an em dash"),
    "no name": (f"{TEXT}\n— {LOG_LINE.rsplit(' ', 1)[1]}".encode(), "name and signature"),
    "empty name": (f"{TEXT}\n—  {LOG_LINE.rsplit(' ', 1)[1]}".encode(), "name that is not empty"),
    "plus in name": (SIGNED.replace(b"witness.example", b"a+b"), "without space or plus"),
    "wide space in name": (
        SIGNED.replace(b"witness.example", "a\u3000b".encode()),
        "without space or plus",
    ),
    "two spaces": (SIGNED.replace(b"witness.example ", b"witness.example  "), "in base64"),
    "trailing space": (SIGNED[:-1] + b" \n", "in base64"),
    "other base64": (
        assemble_note(TEXT, [LOG_LINE, respell(WITNESS_LINE)]),
        "canonical base64",
    ),
    "no padding": (SIGNED.replace(b"=\n", b"\n"), "base64"),
    "nothing but a key id": (
        f"{TEXT}\n— hansa.example/trade {b64encode(b'1234').decode()}\n".encode(),
        "key id and a signature, got 4",
    ),
    "long signature": (
        assemble_note(TEXT, [lengthen(LOG_LINE, TEXT[:1].encode())]),
        "signature of 64 bytes, got 65",
    ),
    "other text": (SIGNED.replace(b"\n1\n", b"\n2\n"), "expected a valid signature"),
    "other signature": (
        assemble_note(TEXT, [LOG.sign_line("other\n"), WITNESS_LINE]),
        "expected a valid signature",
    ),
    "stranger alone": (assemble_note(TEXT, [STRANGER_LINE]), "signature of a known key, got 1"),
    "too many lines": (
        f"{TEXT}\n{LOG_LINE * (MAX_SIGNATURES + 1)}".encode(),
        "up to 100 signature lines, got 101",
    ),
    "too long": (SIGNED + b"x" * MAX_NOTE_BYTES, "up to 1000000 bytes"),
}


@pytest.mark.parametrize(("note", "text"), MALFORMED.values(), ids=MALFORMED.keys())
def test_open_refuses(note: bytes, text: str) -> None:
    """A malformed or falsely signed note is refused with what was expected."""
    with pytest.raises(NoteError, match=text):
        open_note(note, [LOG.key, WITNESS.key])


@pytest.mark.parametrize(
    "note",
    [
        assemble_note(TEXT, [LOG_LINE]),
        assemble_note(TEXT, [WITNESS_LINE, LOG_LINE]),
        assemble_note(TEXT, [LOG_LINE, WITNESS_LINE, STRANGER_LINE]),
        assemble_note(TEXT, [LOG_LINE, WITNESS_LINE, WITNESS_LINE]),
    ],
    ids=["one missing", "other order", "stranger added", "one twice"],
)
def test_exact_wants_the_lines_of_the_keys_and_no_other(note: bytes) -> None:
    """In a proof bundle a note has one line for each key, in order."""
    with pytest.raises(NoteError, match="expected signature lines of"):
        open_note(note, [LOG.key, WITNESS.key], exact=True)


def test_exact_refuses_every_flipped_bit_and_every_byte_more_or_less() -> None:
    """There is one sequence of bytes for a text and its signers."""
    keys = [LOG.key, WITNESS.key]
    assert TEXT == open_note(SIGNED, keys, exact=True).text
    changed = [
        SIGNED[:at] + bytes([SIGNED[at] ^ 1 << bit]) + SIGNED[at + 1 :]
        for at in range(len(SIGNED))
        for bit in range(8)
    ]
    changed += [SIGNED[:at] + SIGNED[at + 1 :] for at in range(len(SIGNED))]
    changed += [SIGNED[:at] + b"\n" + SIGNED[at:] for at in range(len(SIGNED) + 1)]
    for note in changed:
        with pytest.raises(NoteError):
            open_note(note, keys, exact=True)


def test_keys_are_told_apart() -> None:
    """Giving one key twice is a mistake of the caller."""
    with pytest.raises(NoteError, match="different name and id"):
        open_note(SIGNED, [LOG.key, LOG.key])


BAD_KEYS = {
    "two parts": ("example.com/foo+530d903a", "three parts"),
    "upper case id": (EXAMPLE_KEY.replace("530d903a", "530D903A"), "8 lowercase hex digits"),
    "short id": (EXAMPLE_KEY.replace("530d903a", "530d903"), "8 lowercase hex digits"),
    "other id": (EXAMPLE_KEY.replace("530d903a", "530d903b"), "expected key id 530d903a"),
    "other name": (EXAMPLE_KEY.replace("foo", "bar"), "expected key id"),
    "space in name": (EXAMPLE_KEY.replace("foo", "f o"), "without space"),
    "no name": (EXAMPLE_KEY.replace("example.com/foo", ""), "not empty"),
    "not base64": (EXAMPLE_KEY[:-1] + "!", "in base64"),
    "newline": (EXAMPLE_KEY + "\n", "base64"),
    "other type": (EXAMPLE_KEY.replace("+Aeky", "+Beky"), "key type 01"),
    "short key": ("a+00000000+AQ==", "public key of 32 bytes, got 0"),
}


@pytest.mark.parametrize(("vkey", "text"), BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_key_parse_refuses(vkey: str, text: str) -> None:
    """A verifier key has one form."""
    with pytest.raises(NoteError, match=text):
        VerifierKey.parse(vkey)


def test_signing_refuses_what_could_not_be_opened() -> None:
    """No note is made that would not be read."""
    with pytest.raises(NoteError, match="seed of 32 bytes, got 31"):
        NoteSigner("a", b"\0" * 31)
    with pytest.raises(NoteError, match="ending in a newline"):
        LOG.sign_line("text")
    with pytest.raises(NoteError, match="control character"):
        LOG.sign_line("te\rxt\n")
    with pytest.raises(NoteError, match="Unicode text"):
        LOG.sign_line("\ud800\n")
    with pytest.raises(NoteError, match="1 to 100 signature lines, got 0"):
        assemble_note(TEXT, [])


ROOT_LINE = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
BAD_CHECKPOINTS = {
    "no newline": (f"a\n1\n{ROOT_LINE}", "ending in a newline"),
    "two lines": ("a\n1\n", "three lines or more, got 2"),
    "leading zero": (f"a\n01\n{ROOT_LINE}\n", "without leading zero, got '01'"),
    "sign": (f"a\n+1\n{ROOT_LINE}\n", "in digits"),
    "negative": (f"a\n-1\n{ROOT_LINE}\n", "in digits"),
    "space": (f"a\n 1\n{ROOT_LINE}\n", "in digits"),
    "other digits": (f"a\n\u0661\n{ROOT_LINE}\n", "in digits"),
    "no size": (f"a\n\n{ROOT_LINE}\n", "in digits"),
    "too large": (f"a\n{MAX_TREE_SIZE + 1}\n{ROOT_LINE}\n", "from 0 to"),
    "far too large": (f"a\n{'9' * 5000}\n{ROOT_LINE}\n", "in digits"),
    "short root": ("a\n1\nAAAA\n", "root of 32 bytes, got 3"),
    "trailing bits": (f"a\n1\n{ROOT_LINE[:-2]}V=\n", "canonical base64"),
    "other alphabet": (f"a\n1\n{ROOT_LINE.replace('+', '-')}\n", "in base64"),
    "no origin": (f"\n1\n{ROOT_LINE}\n", "origin that is not empty"),
    "empty extension": (f"a\n1\n{ROOT_LINE}\n\n", "extension line that is not empty"),
    "control character": (f"a\n1\n{ROOT_LINE}\nb\rc\n", "no control character"),
}


@pytest.mark.parametrize(("text", "error"), BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS.keys())
def test_checkpoint_parse_refuses(text: str, error: str) -> None:
    """A checkpoint has one form."""
    with pytest.raises(NoteError, match=error):
        Checkpoint.parse(text)


def test_a_checkpoint_cannot_smuggle_a_line() -> None:
    """An origin or extension with a newline would read back as another checkpoint."""
    with pytest.raises(NoteError, match="origin of one line"):
        Checkpoint("a\n9", 1, bytes(32))
    with pytest.raises(NoteError, match="extension line of one line"):
        Checkpoint("a", 1, bytes(32), ("b\nc",))


LINES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[chr(n) for n in range(32)]),
    min_size=1,
)


@given(
    LINES,
    st.integers(0, MAX_TREE_SIZE),
    st.binary(min_size=32, max_size=32),
    st.lists(LINES, max_size=3),
)
def test_a_checkpoint_reads_back(
    origin: str, size: int, root: bytes, extensions: list[str]
) -> None:
    """Writing and reading a checkpoint, signed, are each other's inverse."""
    checkpoint = Checkpoint(origin, size, root, tuple(extensions))
    text = checkpoint.to_text()
    assert checkpoint == Checkpoint.parse(text)
    assert text == Checkpoint.parse(text).to_text()
    note = assemble_note(text, [LOG.sign_line(text)])
    assert text == open_note(note, [LOG.key], exact=True).text
