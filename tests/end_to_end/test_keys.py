"""`hansa keys` on an organisation's key tree: made, confirmed, restored, cut, and never shown."""

from __future__ import annotations

import ctypes
import json
import os
import pty
import re
import select
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.command_line import hansa
from tests.conftest import REPOSITORY

from hansa.core.keystore import KeyStore
from hansa.core.keytree import FUNCTIONS, LEVELS, Branch, parse_place
from hansa.core.mnemonic import compute_seed, read_words
from hansa.foreground.cli.dumping import PR_SET_DUMPABLE

PASSPHRASE: Final = "a passphrase of some length"
OTHER: Final = "another passphrase, of sales"
KNOWN: Final = "abandon " * 23 + "art"
KNOWN_CHINESE: Final = "的" * 11 + "在"
DESK: Final = "sales/orders/desk-3"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let no setting of whoever runs the tests get in; the passphrase comes from a file."""
    for name in list(os.environ):
        if name.startswith("HANSA_") and name != "HANSA_SEED":
            monkeypatch.delenv(name)
    file = tmp_path_factory.mktemp("secret") / "passphrase"
    file.write_text(PASSPHRASE + "\n")
    monkeypatch.setenv("HANSA_PASSPHRASE_FILE", str(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the known words, a passphrase for sales, and a home restored from the words."""
    path = tmp_path_factory.mktemp("keys")
    (path / "words").write_text(KNOWN + "\n")
    (path / "passphrase").write_text(PASSPHRASE + "\n")
    (path / "passphrase.sales").write_text(OTHER + "\n")
    made = hansa(
        *("keys", "restore", "--words-file", path / "words", "--home", path / "home"),
        *("--passphrase-file", path / "passphrase"),
    )
    assert (0, "") == (made.status, made.stderr)
    return path


@pytest.fixture(scope="module")
def company() -> Branch:
    """The tree of the known words."""
    return Branch.from_seed(compute_seed(read_words(KNOWN)), network=0, organisation=0)


# Made and restored.


@pytest.mark.parametrize("language", ["english", "chinese_simplified"])
def test_words_bring_the_same_keys_back(tmp_path: Path, language: str) -> None:
    """What was made in one home is restored in another, desk and all; the language is found."""
    words = ("keys", "new", "--words", 24, "--unconfirmed", "--language", language, "--json")
    made = hansa(*words, "--home", tmp_path / "one").document
    assert (24, language) == (len(made["words"]), made["language"])
    (tmp_path / "words").write_text("\n".join(made["words"]), encoding="utf-8")
    back = hansa(
        *("keys", "restore", "--words-file", tmp_path / "words", "--home", tmp_path / "two"),
        "--json",
    )
    assert {**back.document, "words": made["words"], "language": language} == made
    desks = [
        hansa("keys", "show", DESK, "--home", tmp_path / home, "--json").document
        for home in ("one", "two")
    ]
    assert desks[0] == desks[1]
    assert 0o600 == stat.S_IMODE((tmp_path / "one" / "keys.json").stat().st_mode)


def test_each_making_has_words_of_its_own(tmp_path: Path) -> None:
    """The entropy is the system's; two homes have nothing in common."""
    made = [
        hansa(
            *("keys", "new", "--words", 12, "--unconfirmed", "--json", "--home", tmp_path / home)
        ).document
        for home in ("one", "two")
    ]
    assert [12, 12] == [len(one["words"]) for one in made]
    assert made[0]["words"] != made[1]["words"]
    assert made[0]["public"] != made[1]["public"]


def test_numbers_lead_to_other_trees(folder: Path, tmp_path: Path, company: Branch) -> None:
    """A trial network and a second organisation have keys of their own under the same words."""
    restore = ("keys", "restore", "--words-file", folder / "words", "--json", "--home")
    other = hansa(*restore, tmp_path / "x", "--network", 1, "--organisation", 2).document
    seed = compute_seed(read_words(KNOWN))
    expected = Branch.from_seed(seed, network=1, organisation=2)
    assert (expected.node.public.hex(), "m/1212239443'/1'/2'") == (other["public"], other["path"])
    assert other["public"] != company.node.public.hex()


def test_a_home_of_single_keys_takes_a_tree(folder: Path, tmp_path: Path) -> None:
    """A real network's home keeps its keys by name beside the tree; accounts are shown."""
    home = ("--home", tmp_path / "h", "--json")
    founder = ("--organisation", "Quayside Ltd", "--country", "GB", "--licence", "GB-1")
    assert 0 == hansa("init", "--no-sandbox", *founder, *home).status
    before = hansa("keys", "list", *home).document["items"]
    assert 0 == hansa("keys", "restore", "--words-file", folder / "words", *home).status
    after = hansa("keys", "list", *home).document["items"]
    assert ["organisation", "owner", "relay", "validator"] == [item["id"] for item in after]
    assert before == after[1:]
    shown = hansa("keys", "show", DESK, *home).document
    assert re.fullmatch("[0-9a-f]{40}", shown["account"])
    signed = hansa(
        *("bank", "open-currency", "--currency", "GBP", "--exponent", 2), "--as", DESK, *home
    )
    assert 1 == signed.status  # Signed, and judged by a rule: the account is no member's yet.
    assert f"got {shown['account']}" in signed.document["error"]["text"]
    token = hansa("token", "new", "--scope", "read", "--account", DESK, *home)
    assert DESK == token.document["account"]
    balance = hansa("balance", DESK, *home)
    assert shown["account"] in balance.stdout


# Cut for a department.


def test_a_department_gets_its_node_alone(folder: Path, tmp_path: Path, company: Branch) -> None:
    """The new store opens by its own passphrase, and answers for what is below and no more."""
    file = tmp_path / "sales" / "keys.json"
    derive = ("keys", "derive", "sales", "-o", file, "--home", folder / "home", "--json")
    made = hansa(*derive, "--new-passphrase-file", folder / "passphrase.sales").document
    assert ("sales", str(file)) == (made["id"], made["file"])
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    home = ("--home", file.parent, "--passphrase-file", folder / "passphrase.sales", "--json")
    shown = hansa("keys", "show", DESK, *home).document
    assert shown == hansa("keys", "show", DESK, "--home", folder / "home", "--json").document
    assert company.find(parse_place(DESK)).public.hex() == shown["public"]
    for name in ("organisation", "finance", "finance/payments/desk-0"):
        refused = hansa("keys", "show", name, *home)
        assert (2, True) == (refused.status, f"below sales, got {name}" in refused.stderr)
    assert (
        2 == hansa("keys", "list", "--home", file.parent).status
    )  # The organisation's passphrase.
    desk = ("keys", "derive", DESK, "-o", tmp_path / "desk.json", *home)
    assert 0 == hansa(*desk, "--new-passphrase-file", folder / "passphrase").status
    beside = ("keys", "derive", "finance", "-o", tmp_path / "finance.json", *home)
    refused = hansa(*beside, "--new-passphrase-file", folder / "passphrase")
    assert (2, False) == (refused.status, (tmp_path / "finance.json").exists())


# Refused.

REFUSED: Final = [
    ("name and words", ("new", "anna", "--words", "24"), "got both"),
    ("neither", ("new",), "got neither"),
    (
        "a number of words",
        ("new", "--words", "13", "--unconfirmed"),
        "12, 15, 18, 21 or 24, got 13",
    ),
    (
        "language",
        ("new", "--words", "12", "--language", "latin"),
        "chinese_simplified, got 'latin'",
    ),
    ("nobody to ask back", ("new", "--words", "12"), "--unconfirmed"),
    ("JSON unconfirmed", ("new", "--words", "12", "--json"), "--unconfirmed"),
    ("a second tree", ("new", "--words", "12", "--unconfirmed"), "without a key tree"),
    ("nobody to type", ("restore",), "--words-file"),
    ("no such file", ("restore", "--words-file", "nowhere"), "nowhere"),
    ("a second restored", ("restore", "--words-file", "words"), "without a key tree"),
    ("an unknown word", ("restore", "--words-file", "unknown"), "word 12 of 12: expected one of"),
    ("a wrong checksum", ("restore", "--words-file", "checksum"), "whose checksum fits"),
    ("too few words", ("restore", "--words-file", "few"), "got 3"),
    ("an unknown Chinese word", ("restore", "--words-file", "chinese"), "simplified Chinese list"),
    ("no place", ("derive", "moon", "-o", "x"), "got 'moon'"),
    ("a file that is there", ("derive", "sales", "-o", "words"), "never overwritten"),
    ("no passphrase for it", ("derive", "sales", "-o", "x"), "--new-passphrase-file"),
    (
        "a short passphrase for it",
        ("derive", "sales", "-o", "x", "--new-passphrase-file", "few"),
        "at least 12 characters",
    ),
    ("wrong passphrase", ("list", "--passphrase-file", "passphrase.sales"), "its passphrase, got"),
    ("a name that is a place", ("new", "sales/orders"), "which is a place"),
    ("an unknown key", ("show", "poetry"), "at or below organisation; "),
]


@pytest.mark.parametrize(("name", "words", "says"), REFUSED, ids=[row[0] for row in REFUSED])
def test_wrong_use_says_what_is_expected(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    words: tuple[str, ...],
    says: str,
) -> None:
    """Status 2, one sentence, nothing written; and none of the words that were typed."""
    monkeypatch.chdir(folder)
    (folder / "unknown").write_text("abandon " * 11 + "hunter")
    (folder / "checksum").write_text("abandon " * 11 + "zoo")
    (folder / "few").write_text("zoo zoo zoo")
    (folder / "chinese").write_text("的" * 11 + "鲸", encoding="utf-8")
    before = (folder / "home" / "keys.json").read_bytes()
    answer = hansa("keys", *words, "--home", "home")
    assert (2, True) == (answer.status, says in answer.stderr), f"{name}: {answer.stderr}"
    assert 1 == answer.stderr.count("\n")
    for typed in ("abandon", "hunter", "zoo", "的", "鲸"):
        assert typed not in answer.stderr + answer.stdout
    assert before == (folder / "home" / "keys.json").read_bytes()
    assert not (folder / "x").exists()


def test_a_sandbox_takes_no_tree(folder: Path, tmp_path: Path) -> None:
    """Its file shows every key; and it has no tree to cut from."""
    home = ("--home", tmp_path / "h")
    assert 0 == hansa("init", *home).status
    refused = hansa("keys", "restore", "--words-file", folder / "words", *home)
    assert (2, True) == (refused.status, "got a sandbox's" in refused.stderr)
    cut = hansa("keys", "derive", "sales", "-o", tmp_path / "x", *home)
    assert (2, True) == (cut.status, "got one without" in cut.stderr)


# Asked back, at a terminal.


class Terminal:
    """A person at a terminal: reads what is said, types what is asked."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, "-m", "hansa.foreground.cli.main", *map(str, words)]
        self.said = ""
        self._read = 0
        self._child, self._screen = pty.fork()
        if self._child == 0:
            os.environ["PYTHONPATH"] = str(REPOSITORY / "src")
            os.environ["LANG"] = "C.UTF-8"
            os.execv(sys.executable, command)

    def read(self, pattern: str) -> re.Match[str]:
        """Wait until something is said, after what was read before; returns it."""
        while (found := re.compile(pattern).search(self.said, self._read)) is None:
            ready, _, _ = select.select([self._screen], [], [], 60)
            assert ready, self.said
            try:
                self.said += os.read(self._screen, 4096).decode()
            except OSError:
                raise AssertionError(f"expected {pattern}, got the end: {self.said}") from None
        self._read = found.end()
        return found

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._screen, text.encode() + b"\n")

    def end(self) -> int:
        """Read to the end; returns the exit status."""
        try:
            while data := os.read(self._screen, 4096):
                self.said += data.decode()
        except OSError:
            pass  # The last one to have the terminal open is gone.
        os.close(self._screen)
        return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])


def make_at_terminal(home: Path, *, is_attentive: bool) -> tuple[int, str]:
    """Make an initial key as a person does who has written the words down, or hasn't."""
    terminal = Terminal("keys", "new", "--words", "12", "--home", home)
    terminal.read("organisation\\.\r\n")
    words = {str(number): terminal.read(rf"{number} +([a-z]+)\s")[1] for number in range(1, 13)}
    for number in range(3):
        position = terminal.read(r"Word (\d+): ")[1]
        is_wrong = number == 2 and not is_attentive
        terminal.type("wrong" if is_wrong else words[position])
    return terminal.end(), terminal.said


def test_words_are_asked_back(tmp_path: Path) -> None:
    """Whoever knows three of them keeps the key; what is typed isn't shown."""
    status, said = make_at_terminal(tmp_path / "home", is_attentive=True)
    assert (0, True) == (status, (tmp_path / "home" / "keys.json").exists()), said
    assert 3 == len(set(re.findall(r"Word (\d+):", said)))
    shown = hansa("keys", "show", "organisation", "--home", tmp_path / "home", "--json")
    assert shown.document["public"] in said


def test_a_wrong_answer_keeps_nothing(tmp_path: Path) -> None:
    """Words that were not written down make no key."""
    status, said = make_at_terminal(tmp_path / "home", is_attentive=False)
    assert (2, False) == (status, (tmp_path / "home").exists())
    assert "expected the one shown, got another; nothing is kept" in said


# Never shown.


def list_secrets(company: Branch) -> Iterator[str]:
    """All that must not be seen, in the forms in which it could be."""
    yield from (KNOWN, KNOWN.replace(" ", "\n"), PASSPHRASE, OTHER)
    secrets = [compute_seed(read_words(KNOWN))]
    for name in ("organisation", "sales", DESK):
        node = company.find(parse_place(name))
        yield node.to_extended_key()
        secrets += [node.secret, bytes(node._chain_code)]
        secrets.append(node.make_encryption_key().private.private_bytes_raw())
    for secret in secrets:
        yield from (secret.hex(), repr(secret)[2:-1], str(list(secret))[1:-1])


def test_no_command_shows_or_stores_a_key(folder: Path, tmp_path: Path, company: Branch) -> None:
    """Everything the commands say and write, grepped for every secret; also where they fail."""
    home = ("--home", tmp_path / "home")
    new = ("--new-passphrase-file", folder / "passphrase.sales")
    lines: list[tuple[object, ...]] = [
        ("restore", "--words-file", folder / "words"),
        ("restore", "--words-file", folder / "words"),
        ("list",),
        ("show", DESK),
        ("show", "sales/poetry"),
        ("export-public", DESK, "-o", tmp_path / "desk.pub"),
        ("derive", "sales", "-o", tmp_path / "sales" / "keys.json", *new),
        ("derive", "sales", "-o", tmp_path / "sales" / "keys.json", *new),
        ("new", "sales"),
        ("list", "--passphrase-file", folder / "passphrase.sales"),
    ]
    said = ""
    for words in lines:
        for form in ((), ("--json",)):
            answer = hansa("keys", *words, *home, *form)
            said += answer.stdout + answer.stderr
    assert {"home", "sales", "desk.pub"} <= {path.name for path in tmp_path.iterdir()}
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for secret in list_secrets(company):
        assert secret not in said
        assert not any(secret.encode() in data for data in files)
        assert not any(secret.encode().hex().encode() in data for data in files)


def test_a_node_logs_no_key(folder: Path, tmp_path: Path, company: Branch) -> None:
    """A node that runs on a home with a key tree: all it says from start to stop, and writes."""
    home = ("--home", tmp_path / "h")
    founder = ("--organisation", "Quayside Ltd", "--country", "GB", "--licence", "GB-1")
    assert 0 == hansa("init", "--no-sandbox", *founder, *home).status
    assert 0 == hansa("keys", "restore", "--words-file", folder / "words", *home).status
    words = ("start", "--port", "0", "--json", "--log", "json", *map(str, home))
    process = subprocess.Popen(
        [sys.executable, "-m", "hansa.foreground.cli.main", *words], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    while not said.endswith("}\n"):
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        said += line
    url = json.loads(said)["url"]
    shown = hansa("keys", "show", DESK, *home, "--json").document
    # Through the running node: the desk signs, a rule refuses, and the node logs the request.
    words = ("bank", "open-currency", "--currency", "GBP", "--exponent", "2", "--as", DESK)
    refused = hansa(*words, *home)
    assert (1, True) == (refused.status, shown["account"] in refused.stderr)
    process.terminate()
    said += "".join(process.communicate(timeout=30))
    assert url in said
    files = [path.read_bytes() for path in (tmp_path / "h").rglob("*") if path.is_file()]
    for secret in list_secrets(company):
        assert secret not in said
        assert not any(secret.encode() in data for data in files)


def test_no_traceback_shows_a_key(company: Branch) -> None:
    """A bug while keys are at hand: the traceback, its causes and the error's own text."""
    store = KeyStore(seed=b"", keys={}, is_sandbox=False, branch=company.cut(parse_place("sales")))
    store.seal("open", os.urandom)
    mistakes: list[Callable[[], object]] = [
        lambda: company.node.derive(7),  # type: ignore[arg-type]
        lambda: store.get("finance"),
        lambda: store.get(7),  # type: ignore[arg-type]
        lambda: store.add(DESK, company.node.secret),
        lambda: store.get(DESK).sign(b"short"),
        lambda: store.get(DESK).sign(None),  # type: ignore[arg-type]
        lambda: KeyStore.unseal(b"{}", lambda: "open"),
        lambda: Branch.from_seed(compute_seed(read_words(KNOWN)), network=-1, organisation=0),
        lambda: read_words(KNOWN.replace("art", "zoo")),
    ]
    said = []
    for mistake in mistakes:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is, it is told
            mistake()
        said.append("".join(traceback.format_exception(caught.value)) + repr(caught.value))
    for secret in list_secrets(company):
        assert not any(secret in text for text in said)


DUMPABLE: Final = """\
import ctypes, resource, sys
from hansa.foreground.cli.main import main
sys.argv = ["hansa", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
print("now", ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))
"""
"""Runs the program, then asks the kernel: prctl(PR_GET_DUMPABLE) and the limit of a core."""


@pytest.mark.parametrize("words", [("keys", "--help"), ("start", "--help")])
def test_the_program_leaves_no_core(words: tuple[str, ...]) -> None:
    """Commands and the node's start alike forbid dumps before anything is opened."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run(
        [sys.executable, "-c", DUMPABLE, *words], capture_output=True, text=True, check=True,
        env=environment, timeout=60,
    )  # fmt: skip
    assert "now 0 0 0" == done.stdout.splitlines()[-1]
    # What a process has that doesn't forbid it: this one is untouched by commands run within it.
    assert 1 == ctypes.CDLL(None).prctl(PR_SET_DUMPABLE - 1, 0, 0, 0, 0)


# The page.


def read_numbers(page: str, title: str) -> dict[str, int]:
    """The names and numbers of a table of the page, its columns side by side."""
    table = page.split(f"<!-- numbers: {title} -->\n")[1].split("\n\n", maxsplit=1)[0]
    pairs = re.findall(r"(?<=\| )([a-z]+) \| (\d+)", table)
    return {name: int(number) for name, number in pairs}


def test_the_page_has_the_numbers_and_the_vectors(company: Branch) -> None:
    """docs/keys.md names every number, and gives the keys of the known words."""
    page = (REPOSITORY / "docs" / "keys.md").read_text(encoding="utf-8")
    assert FUNCTIONS == read_numbers(page, "functions")
    assert LEVELS == read_numbers(page, "levels")
    rows = re.findall(r"^\| ([a-z0-9/-]+) \| ([0-9a-f]{66}) \| ([0-9a-f]{66}) \|$", page, re.M)
    assert ["organisation", DESK] == [row[0] for row in rows]
    for name, public, encryption in rows:
        node = company.find(parse_place(name))
        assert public == node.public.hex()
        assert encryption == node.make_encryption_key().public.hex()
