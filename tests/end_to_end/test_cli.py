"""The command line: every message has a command, every answer is one document, files prove."""

import json
import os
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.command_line import Answer, hansa
from tools.draw_cli import PAGE, draw_page, list_commands

from hansa.core.codec import from_readable
from hansa.core.errors import OperatorError
from hansa.core.transaction import Message
from hansa.foreground.cli.bench import make_page
from hansa.foreground.cli.judging import PlainCall, read_plain_call
from hansa.foreground.cli.messages import (
    command_name,
    get_messages,
    is_time,
    make_sample,
    read_fields,
    read_time,
    read_times,
)
from hansa.foreground.cli.options import example, read_example
from hansa.foreground.cli.output import show_minor
from hansa.foreground.cli.relay import read_ends
from hansa.foreground.cli.tree import FILES, GROUPS
from hansa.node.composition import CHAINS, make_rulebook

MODULES: Final = (
    *("members", "bank", "catalogue", "orders", "shipments", "link", "anchoring", "validators"),
)
COMMANDS: Final = {path: command for path, command, _ in list_commands()}
MESSAGES: Final[list[tuple[str, type[Message]]]] = [
    (module, message) for module in MODULES for message in get_messages(module)
]
MESSAGE_IDS: Final = [f"{module}.{command_name(message)}" for module, message in MESSAGES]

PASSPHRASE: Final = "a long enough passphrase"
REFERENCE: Final = "0f" * 16


def hansa_process(*arguments: object, env: dict[str, str] | None = None) -> Answer:
    """Run a command line in a process of its own."""
    command = [sys.executable, "-m", "hansa.foreground.cli.main", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60,
        env={**_clean_environment(), **(env or {})},
    )  # fmt: skip
    return Answer(done.returncode, done.stdout, done.stderr)


def _clean_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HANSA_")}
    return {**kept, "PYTHONPATH": str(PAGE.parent.parent / "src")}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no setting of whoever runs the tests get in."""
    for name in list(os.environ):
        if name.startswith("HANSA_") and name != "HANSA_SEED":
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sandbox in which Threadgold Payments has issued pounds to a shop."""
    folder = tmp_path_factory.mktemp("cli") / "home"
    assert 0 == hansa("init", "--home", folder, "--name", "Test market").status
    bank = ("--home", folder, "--as", "payments/threadgold", "--currency", "GBP")
    assert 0 == hansa("bank", "open-currency", *bank, "--exponent", 2).status
    issue = ("--credit", "buyer/marlow", "--amount-minor", 250_000, "--reference", REFERENCE)
    issued = hansa("bank", "issue", *bank, *issue, "--json")
    (folder.parent / "issued").write_text(issued.document["digest"])
    return folder


@pytest.fixture(scope="module")
def trust(home: Path) -> Path:
    """The sandbox's trust file."""
    path = home.parent / "hansa.trust"
    assert 0 == hansa("trust", "-o", path, "--home", home).status
    return path


@pytest.fixture(scope="module")
def transfer(home: Path) -> str:
    """The digest of the transaction that issued the money."""
    return (home.parent / "issued").read_text()


@pytest.fixture(scope="module")
def proof(home: Path, transfer: str) -> Path:
    """The proof file of that transaction."""
    path = home.parent / "issue.proof"
    assert 0 == hansa("proof", "transaction", transfer, "-o", path, "--home", home).status
    return path


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[str]:
    """The address of a node that runs on the sandbox, in a process of its own."""
    command = [sys.executable, "-m", "hansa.foreground.cli.main", "start", "--json"]
    process = subprocess.Popen(
        [*command, "--home", str(home), "--port", "0"], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.PIPE, env=_clean_environment(),
    )  # fmt: skip
    assert process.stdout is not None
    lines = ""
    while not lines.endswith("}\n"):
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        lines += line
    yield json.loads(lines)["url"]
    process.terminate()
    process.communicate(timeout=30)


# The tree.


def test_every_message_has_a_command() -> None:
    """Each message of each chain's rulebook is a command of its module's group."""
    expected = {
        f"hansa {module.name} {command_name(message)}"
        for chain in CHAINS
        for module in make_rulebook(chain).modules
        for message in module.handlers
    }
    assert set() == expected - set(COMMANDS)


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_help_has_an_example(path: str) -> None:
    """Every command explains itself and shows a call of itself."""
    answer = hansa(*path.split()[1:], "--help")
    assert 0 == answer.status
    assert "Example:" in answer.stdout
    assert read_example(COMMANDS[path].epilog).startswith(path)


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_examples_name_real_options(path: str) -> None:
    """Whoever copies an example gets no answer about unknown options."""
    command = COMMANDS[path]
    words = shlex.split(read_example(command.epilog))
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    assert [] == [word for word in words if word.startswith("--") and word not in known]


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_every_option_is_explained(path: str) -> None:
    """No option is without a word of help."""
    silent = [param.name for param in COMMANDS[path].params if not getattr(param, "help", "")]
    assert [] == silent


@pytest.mark.parametrize(("module", "message"), MESSAGES, ids=MESSAGE_IDS)
def test_samples_build_the_message(module: str, message: type[Message]) -> None:
    """The values in a message's example are well-formed for its type."""
    readable = {
        field.name: make_sample(field.name, field.annotation) for field in read_fields(message)
    }
    assert message is type(from_readable(message, readable)), module


def test_page_is_current() -> None:
    """docs/cli.md is what tools/draw_cli.py draws."""
    assert draw_page() == PAGE.read_text(encoding="utf-8")


def test_every_file_keeps_its_commands() -> None:
    """The tree's table names each command once, and groups are commands."""
    names = [name for held in FILES.values() for name in held]
    assert sorted(set(names)) == sorted(names)
    assert set() == GROUPS - set(names)


def test_tree_opens_no_node() -> None:
    """Reading every command imports no engine, no server and no database driver."""
    code = (
        "import sys; from tools.draw_cli import list_commands; list_commands();"
        "print([m for m in ('hansa.node.node', 'uvicorn', 'litestar', 'lmdb') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=PAGE.parent.parent, env=_clean_environment(),
    )  # fmt: skip
    assert "[]\n" == done.stdout


def test_version() -> None:
    """`--version` names program and version."""
    assert hansa("--version").stdout.startswith("hansa ")


def test_completion_is_offered() -> None:
    """The shell's completion script can be had, and it completes commands."""
    answer = hansa_process(
        env={"_HANSA_COMPLETE": "complete_bash", "COMP_WORDS": "hansa ver", "COMP_CWORD": "1"}
    )
    assert "--install-completion" in hansa("--help").stdout
    assert 0 == answer.status or "verify" in answer.stdout


# Making a home.


def test_init_is_a_sandbox_and_says_so(tmp_path: Path) -> None:
    """Without options a sandbox is made, loudly, its keys for the owner's eyes alone."""
    answer = hansa("init", "--home", tmp_path / "h", "--json")
    assert (0, True) == (answer.status, answer.document["is_sandbox"])
    assert "SANDBOX" in answer.stderr
    assert 0o600 == stat.S_IMODE((tmp_path / "h" / "keys.json").stat().st_mode)


def test_init_twice_is_refused(home: Path) -> None:
    """A home that has a network keeps it."""
    answer = hansa("init", "--home", home)
    assert 2 == answer.status
    assert "expected a folder without a network" in answer.stderr


NEEDS: Final = [
    ("without an organisation", ("--no-sandbox",), "--organisation"),
    ("sandbox with an organisation", ("--organisation", "X"), "--no-sandbox"),
    ("no passphrase", ("--no-sandbox", "--organisation", "X", "--country", "GB"), "passphrase"),
]


@pytest.mark.parametrize(("name", "options", "words"), NEEDS, ids=[need[0] for need in NEEDS])
def test_init_says_what_it_needs(
    tmp_path: Path, name: str, options: tuple[str, ...], words: str
) -> None:
    """A real network needs a founder and a passphrase."""
    answer = hansa("init", "--home", tmp_path / "h", *options)
    assert (2, True) == (answer.status, words in answer.stderr), name
    assert not (tmp_path / "h" / "genesis.bin").exists()


def test_real_network_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sandbox the key store opens by passphrase, from a file or a systemd credential."""
    folder, secret = tmp_path / "h", tmp_path / "hansa-passphrase"
    secret.write_text(PASSPHRASE + "\n")
    founder = ("--organisation", "Quayside Ltd", "--country", "GB", "--licence", "GB-1")
    made = hansa("init", "--home", folder, "--no-sandbox", *founder, "--passphrase-file", secret)
    assert (0, "") == (made.status, made.stderr)
    assert 2 == hansa("keys", "list", "--home", folder).status
    (tmp_path / "other").write_text("some other passphrase")
    other = ("--passphrase-file", tmp_path / "other")
    assert 2 == hansa("keys", "list", "--home", folder, *other).status
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    items = hansa("keys", "list", "--home", folder, "--json").document["items"]
    assert ["owner", "relay", "validator"] == [item["id"] for item in items]
    rows = hansa("list", "organisations", "--home", folder, "--json").document["items"]
    assert [("Quayside Ltd", "admitted")] == [(row["name"], row["status"]) for row in rows]


def test_short_passphrase_is_refused(tmp_path: Path) -> None:
    """A new passphrase has a length worth the name."""
    (tmp_path / "p").write_text("short")
    founder = ("--organisation", "X", "--country", "GB", "--passphrase-file", tmp_path / "p")
    answer = hansa("init", "--home", tmp_path / "h", "--no-sandbox", *founder)
    assert 2 == answer.status
    assert "at least 12 characters" in answer.stderr


def test_home_before_and_after_the_command(home: Path) -> None:
    """`--home` means the same on both sides of the command's name, and the environment too."""
    after = hansa("keys", "list", "--home", home, "--json").document
    before = hansa("--home", home, "--json", "keys", "list").document
    environment = hansa_process("keys", "list", "--json", env={"HANSA_HOME": str(home)}).document
    assert after == before == environment


# Asking.


SHOWING: Final = [
    ("list", "organisations"),
    ("list", "balances", "--filter", "currency=GBP"),
    ("search", "marlow"),
    ("balance", "buyer/marlow"),
    ("checkpoint", "trade"),
    ("keys", "list"),
    ("keys", "show", "relay"),
    ("keys", "export-public", "relay"),
    ("token", "list"),
    ("fsck",),
    ("trust", "-o", "/dev/null"),
]


@pytest.mark.parametrize("words", SHOWING, ids=[" ".join(words) for words in SHOWING])
def test_json_is_one_document(home: Path, words: tuple[str, ...]) -> None:
    """With --json standard output is one document; without it, something for people."""
    answer = hansa(*words, "--home", home, "--json")
    assert (0, dict) == (answer.status, type(answer.document))
    plain = hansa(*words, "--home", home)
    assert (0, False) == (plain.status, plain.stdout.startswith("{"))


def test_list_pages(home: Path) -> None:
    """Pages follow each other by cursor without a gap or a repetition, down to the last."""
    every = hansa("list", "organisation", "--home", home, "--json").document
    ids: list[str] = []
    cursor: tuple[str, ...] = ()
    while True:
        page = hansa("list", "organisations", "--home", home, "--json", "--limit", 5, *cursor)
        ids += [item["id"] for item in page.document["items"]]
        if page.document["next"] is None:
            break
        cursor = ("--after", page.document["next"])
    assert [item["id"] for item in every["items"]] == ids
    assert 16 == len(ids)


def test_answers_are_verified(home: Path) -> None:
    """What is shown was compared with its proof."""
    items = hansa("list", "organisations", "--home", home, "--json").document["items"]
    assert {True} == {item["verified"] for item in items}


def test_balance_by_any_name(home: Path) -> None:
    """Account digits, the key's name and the organisation's name mean the same account."""
    by_key = hansa("balance", "buyer/marlow", "--home", home, "--json").document
    by_name = hansa("balance", "Marlow & Pike Stores", "--home", home, "--json").document
    by_digits = hansa("balance", by_key["account"], "--home", home, "--json").document
    assert by_key == by_name == by_digits
    assert [("GBP", 250_000)] == [(i["currency"], i["posted_minor"]) for i in by_key["items"]]
    assert "2,500.00" in hansa("balance", "buyer/marlow", "--home", home).stdout


def test_show_a_transaction(home: Path, transfer: str) -> None:
    """A transaction is read out of its own proof: who asked for what, and what came of it."""
    shown = hansa("show", "transaction", transfer, "--home", home, "--json").document
    assert ["issue"] == [message["type"] for message in shown["messages"]]
    assert ["transferred"] == [event["type"] for event in shown["events"]]
    assert shown["verified"] is True


def test_list_transactions(home: Path, transfer: str) -> None:
    """What was asked of a chain is a list like any other, verified, narrowed by who signed."""
    every = hansa("list", "transactions", "--home", home, "--json").document["items"]
    signer = next(item["signer"] for item in every if item["id"] == transfer)
    narrowed = hansa(
        "list", "transaction", "--filter", f"signer={signer}", "--filter", "chain=trade",
        "--filter", "error=0", "--home", home, "--json",
    ).document["items"]  # fmt: skip
    assert {(True, signer)} == {(item["verified"], item["signer"]) for item in narrowed}
    assert {transfer} <= {item["id"] for item in narrowed} <= {item["id"] for item in every}
    table = hansa("list", "transactions", "--home", home).stdout
    assert "bank.issue" in table
    wrong = hansa("list", "transactions", "--filter", "error=many", "--home", home)
    assert (2, 1) == (wrong.status, wrong.stderr.count("\n"))


# Refusals.

WRONG: Final = [
    ("no such command", ("lst",), 2, "Did you mean 'list'?"),
    ("no such option", ("list", "orders", "--colour"), 2, "--colour"),
    ("missing argument", ("show", "order"), 2, "ID"),
    ("unknown kind", ("list", "ships"), 2, "expected one of accounts"),
    ("unknown filter", ("list", "orders", "--filter", "a=b"), 2, "expected buyer=VALUE"),
    ("no sign", ("list", "orders", "--filter", "status"), 2, "got 'status'"),
    ("bad limit", ("list", "orders", "--limit", "0"), 2, "--limit"),
    ("bad cursor", ("list", "orders", "--after", "xyz"), 2, "cursor"),
    ("unknown id", ("show", "order", "00"), 2, "expected the id of one that exists"),
    ("unknown transaction", ("show", "transaction", "00"), 2, "transaction"),
    ("unknown chain", ("checkpoint", "moon"), 2, "chain"),
    ("nothing to prove", ("proof", "order", "00", "-o", "/dev/null"), 2, "order"),
    ("unknown token", ("token", "revoke", "00"), 2, "token"),
    ("unknown scope", ("token", "new", "--scope", "all"), 2, "scope"),
    ("key taken", ("keys", "new", "relay"), 2, "taken"),
    ("bad digits", ("orders", "accept", "--order", "zz", "--as", "relay"), 2, "--order"),
    (
        "bad JSON",
        ("members", "propose", "--action", "{", "--as", "relay"),
        2,
        "--action: expected JSON",
    ),
    (
        "unknown order",
        ("orders", "accept", "--order", "0f" * 16, "--as", "seller/fenwold"),
        1,
        "refused, 5",
    ),
    (
        "unknown currency",
        (
            *("bank", "transfer", "--credit", "seller/fenwold", "--currency", "XXX"),
            *("--amount-minor", "1", "--reference", "aa" * 16, "--as", "buyer/marlow"),
        ),
        1,
        "refused, 3001: currency",
    ),
]


@pytest.mark.parametrize(
    ("name", "words", "status", "said"), WRONG, ids=[wrong[0] for wrong in WRONG]
)
def test_failures_end_in_one_sentence(
    home: Path, name: str, words: tuple[str, ...], status: int, said: str
) -> None:
    """A failure is one line on standard error, a document with --json, and the right status."""
    answer = hansa("--home", home, *words)
    assert (status, "") == (answer.status, answer.stdout), name
    assert said in answer.stderr
    assert answer.stderr.startswith("hansa: ")
    assert 1 == answer.stderr.count("\n")
    assert "text" in hansa("--home", home, *words, "--json").document["error"]


def test_refused_by_a_rule_has_its_number(home: Path) -> None:
    """A receipt that says no is a document with number and place, which can be proven too."""
    words = ("--order", "0f" * 16, "--as", "seller/fenwold", "--home", home, "--json")
    error = hansa("orders", "accept", *words).document["error"]
    assert 5 == error["number"] // 1000
    document = hansa("show", "transaction", error["digest"], "--home", home, "--json").document
    assert error["number"] == document["error"]["number"]


def test_missing_home_says_what_to_do(tmp_path: Path) -> None:
    """A folder without a network names the command that makes one."""
    answer = hansa("list", "orders", "--home", tmp_path)
    assert 2 == answer.status
    assert "hansa init" in answer.stderr


# Proofs.


def test_proof_is_valid(proof: Path, trust: Path) -> None:
    """A proof file is judged valid in numbered steps, and what it proves is readable."""
    answer = hansa("verify", proof, "--trust", trust, "--json")
    assert (0, "valid") == (answer.status, answer.document["verdict"])
    assert ["1", "2", "3", "4", "5"] == [step[0] for step in answer.document["steps"]]
    fact = answer.document["facts"][0]
    assert [("issue", 250_000)] == [(m["type"], m["amount_minor"]) for m in fact["messages"]]
    plain = hansa("verify", proof, "--trust", trust)
    assert plain.stdout.endswith("VALID\n")
    assert "happened  transferred" in plain.stdout


def test_any_changed_byte_is_invalid(proof: Path, trust: Path, tmp_path: Path) -> None:
    """With any byte of the file changed the verdict is no longer valid, and nothing is proven."""
    from hansa.core.proof import Outcome, verify_bundle
    from hansa.foreground.cli.trusting import read_trust

    data, trusted = proof.read_bytes(), read_trust(trust)
    verdicts = [
        verify_bundle(data[:i] + bytes((data[i] ^ 1,)) + data[i + 1 :], trusted)
        for i in range(len(data))
    ]
    assert [] == [i for i, verdict in enumerate(verdicts) if verdict.outcome is Outcome.VALID]
    assert [] == [fact for verdict in verdicts for fact in verdict.facts]
    for place in (0, len(data) // 2, len(data) - 1):
        changed = tmp_path / "changed.proof"
        changed.write_bytes(data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :])
        answer = hansa("verify", changed, "--trust", trust, "--json")
        assert (1, "invalid", []) == (
            answer.status, answer.document["verdict"], answer.document["facts"]
        )  # fmt: skip


def test_unknown_network_cannot_be_told(proof: Path, tmp_path: Path) -> None:
    """A proof of a network that isn't trusted is neither valid nor invalid."""
    other = tmp_path / "other"
    assert 0 == hansa("init", "--home", other).status
    assert 0 == hansa("trust", "-o", tmp_path / "t", "--home", other).status
    answer = hansa("verify", proof, "--trust", tmp_path / "t", "--json")
    assert (2, "cannot tell") == (answer.status, answer.document["verdict"])


BAD_TRUST: Final = [
    ("no JSON", b"trust me"),
    ("no networks", b"{}"),
    ("no list", b'{"networks": 7}'),
    ("no validators", b'{"networks": [{"network": "00"}]}'),
    ("no digits", b'{"networks": [{"network": "zz", "validators": []}]}'),
    ("not an object", b'{"networks": ["x"]}'),
    ("not text", b"\xff\xfe"),
]


@pytest.mark.parametrize(("name", "content"), BAD_TRUST, ids=[bad[0] for bad in BAD_TRUST])
def test_bad_trust_file_is_wrong_use(
    proof: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    """A trust file that can't be read says nothing about the proof."""
    path = tmp_path / "t"
    path.write_bytes(content)
    answer = hansa("verify", proof, "--trust", path)
    assert (2, 1) == (answer.status, answer.stderr.count("\n")), name


def test_missing_proof_is_wrong_use(trust: Path, tmp_path: Path) -> None:
    """A file that isn't there is named."""
    answer = hansa("verify", tmp_path / "nothing", "--trust", trust)
    assert 2 == answer.status
    assert "nothing" in answer.stderr


PLAIN: Final = [
    ("file first", ("verify", "f", "--trust", "t"), PlainCall(Path("f"), Path("t"), False)),
    ("trust first", ("verify", "--trust", "t", "f"), PlainCall(Path("f"), Path("t"), False)),
    ("json", ("verify", "--json", "f", "--trust", "t"), PlainCall(Path("f"), Path("t"), True)),
    ("another command", ("list", "f", "--trust", "t"), None),
    ("nothing", (), None),
    ("no trust", ("verify", "f"), None),
    ("help", ("verify", "f", "--trust", "--help"), None),
    ("unknown option", ("verify", "-x", "--trust", "t"), None),
    ("too much", ("verify", "f", "--trust", "t", "g"), None),
    ("json twice", ("verify", "--json", "--json", "f", "--trust", "t"), None),
    ("trust last", ("verify", "f", "g", "--trust"), None),
]


@pytest.mark.parametrize(("name", "words", "call"), PLAIN, ids=[plain[0] for plain in PLAIN])
def test_plain_calls_are_recognised(
    name: str, words: tuple[str, ...], call: PlainCall | None
) -> None:
    """The short way takes plain calls alone; anything else goes to the command tree."""
    assert call == read_plain_call(words), name


def test_short_way_agrees_with_the_tree(proof: Path, trust: Path, tmp_path: Path) -> None:
    """The short way of `verify` answers exactly as the command tree does."""
    changed = tmp_path / "changed.proof"
    changed.write_bytes(proof.read_bytes()[:-1] + b"\0")
    for file in (proof, changed, tmp_path / "nothing"):
        for more in ((), ("--json",)):
            words = ("verify", file, "--trust", trust, *more)
            short, tree = hansa_process(*words), hansa(*words)
            assert (short.status, short.stdout, short.stderr) == (
                tree.status, tree.stdout, tree.stderr
            )  # fmt: skip


def test_short_way_imports_little() -> None:
    """Judging a proof loads neither the command tree nor a database, a server or an HTTP client."""
    code = (
        "import sys, hansa.foreground.cli.judging as j, hansa.core.proof;"
        "import hansa.foreground.cli.trusting;"
        "print([m for m in ('typer', 'rich', 'sqlalchemy', 'httpx', 'litestar', 'lmdb', 'pydantic')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=_clean_environment(),
    )  # fmt: skip
    assert "[]\n" == done.stdout


def test_proof_to_standard_output(home: Path, transfer: str, proof: Path) -> None:
    """`-o -` writes the file's bytes to standard output and nothing else."""
    command = [sys.executable, "-m", "hansa.foreground.cli.main", "proof", "transaction", transfer]
    done = subprocess.run(
        [*command, "-o", "-", "--home", str(home)], capture_output=True, check=True,
        env=_clean_environment(),
    )  # fmt: skip
    assert proof.read_bytes()[:8] == done.stdout[:8]


# Keys and tokens.


def test_keys_come_and_go(home: Path, tmp_path: Path) -> None:
    """A key is made, shown, exported by its public half, and another imported."""
    made = hansa("keys", "new", "driver/7", "--home", home, "--json").document
    assert made == hansa("keys", "show", "driver/7", "--home", home, "--json").document
    hansa("keys", "export-public", "driver/7", "-o", tmp_path / "pub", "--home", home)
    assert made["public"] + "\n" == (tmp_path / "pub").read_text()
    (tmp_path / "secret").write_text("11" * 32)
    words = ("keys", "import", "driver/8", "--file", tmp_path / "secret", "--home", home)
    taken = hansa(*words, "--json")
    assert (0, False) == (taken.status, "11" * 32 in taken.stdout + taken.stderr)
    assert 0o600 == stat.S_IMODE((home / "keys.json").stat().st_mode)


def test_bad_key_file_is_not_quoted(home: Path, tmp_path: Path) -> None:
    """A file that was meant to be a secret isn't shown in the error."""
    (tmp_path / "secret").write_text("hunter2")
    words = ("keys", "import", "driver/9", "--file", tmp_path / "secret", "--home", home)
    answer = hansa(*words)
    assert (2, False) == (answer.status, "hunter2" in answer.stderr)


def test_tokens_are_shown_once(home: Path) -> None:
    """A token is printed when it is made; its list holds no secret; revoked it is gone."""
    words = ("--scope", "submit:orders", "--account", "seller/fenwold", "--home", home, "--json")
    made = hansa("token", "new", *words).document
    listed = hansa("token", "list", "--home", home, "--json")
    assert made["id"] in [item["id"] for item in listed.document["items"]]
    assert made["token"] not in listed.stdout
    assert made["token"] not in (home / "tokens.json").read_text()
    assert 0 == hansa("token", "revoke", made["id"], "--home", home).status
    left = hansa("token", "list", "--home", home, "--json").document["items"]
    assert made["id"] not in [item["id"] for item in left]


def test_tokens_sign_with_a_key_of_the_home(home: Path) -> None:
    """A token is for a key by name or account, else the operator's; a stranger's is refused."""
    account = hansa("keys", "show", "buyer/marlow", "--home", home, "--json").document["account"]
    words = ("token", "new", "--scope", "read", "--home", home, "--json")
    assert "buyer/marlow" == hansa(*words, "--account", account).document["account"]
    assert "operator/lantern" == hansa(*words).document["account"]
    assert 2 == hansa(*words, "--account", "0f" * 20).status


# Messages.


def test_life_of_an_order(home: Path) -> None:
    """Registered, placed, accepted and funded from the command line, packets carried in between."""

    def send(*words: object) -> Any:
        answer = hansa(*words, "--home", home, "--json")
        assert 0 == answer.status, answer.stderr
        return answer.document["events"]

    described = ("--reference", "BAG-1", "--gtin", "", "--name", "Cotton bag", "--description", "")
    more = ("--hs-code", "420222", "--origin", "GB", "--unit", "C62")
    product = send("catalogue", "register", *described, *more, "--as", "seller/fenwold")
    lines = [{"product": pick(product, "product")["id"], "quantity": 3, "price_e6": 12_500_000}]
    terms = {
        "accept_by_ms": "+1d",
        "fund_by_ms": "+2d",
        "ship_by_ms": "+5d",
        "deliver_by_ms": "+20d",
        "inspection_ms": 259_200_000,
        "return_cost": "buyer",
    }
    placed = send(
        *("orders", "place", "--seller", "Fenwold Giftware", "--currency", "GBP"),
        *("--lines", json.dumps(lines), "--terms", json.dumps(terms), "--origin", "GB"),
        *("--destination", "GB", "--address", "01" + "00" * 32, "--reference", "PO-1"),
        *("--dated-ms", "+0s", "--as", "buyer/marlow"),
    )
    order = pick(placed, "order")["id"]
    send("orders", "accept", "--order", order, "--as", "seller/fenwold")
    funded = send("orders", "fund", "--order", order, "--as", "buyer/marlow")
    assert "funded" == pick(funded, "order")["status"]
    shown = hansa("show", "order", order, "--home", home, "--json").document
    assert ("funded", 3_750) == (shown["status"], shown["total_minor"])
    assert ["open"] == [row["status"] for row in shown["shipments"]]
    handed = send(
        *("shipments", "hand-over", "--shipment", shown["shipments"][0]["id"]),
        *("--to", "carrier/tidewater", "--place", "GBFXT", "--note", ""),
        *("--as", "seller/fenwold", "--as", "carrier/tidewater"),
    )
    assert shown["shipments"][0]["holder"] != pick(handed, "shipment")["holder"]


def pick(events: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the record of that name out of a transaction's events."""
    record: dict[str, Any] = next(event[name] for event in events if name in event)
    return record


def test_structure_from_a_file(home: Path, tmp_path: Path) -> None:
    """A structured field is read from the file after @."""
    (tmp_path / "action.json").write_text('{"type": "nothing"}')
    words = ("--action", f"@{tmp_path / 'action.json'}", "--as", "operator/lantern")
    answer = hansa("members", "propose", *words, "--home", home)
    assert 2 == answer.status
    assert "--action.type: expected" in answer.stderr


def test_times_ahead() -> None:
    """`+14d` is fourteen days from now; other values are left alone."""
    now = time.time_ns() // 1_000_000
    ahead = read_time("+14d")
    assert ahead is not None
    assert 0 <= ahead - now - 14 * 86_400_000 < 60_000
    assert (None, None, None) == (read_time("14d"), read_time(5), read_time("+1y"))
    given = {"a_ms": 5, "b": "+1d", "c": [{"d_ms": 6}], "e": None}
    assert given == read_times(given)


def test_spans_are_no_moments() -> None:
    """A field with a near bound is a length of time, and takes no date."""
    fields = {field.name: field for field in read_fields(get_messages("bank")[4])}
    assert "time" == fields["until_ms"].shape
    from msgspec import Meta

    assert not is_time("inspection_ms", Meta(ge=0, le=1000))


# A running node.


def test_commands_go_through_the_running_node(home: Path, running: str) -> None:
    """While a node runs on a home its commands go through it, and the lock is no trouble."""
    assert running == (home / "node.url").read_text().strip()
    words = ("--credit", "seller/fenwold", "--currency", "GBP", "--amount-minor", 100)
    sent = hansa(
        *("bank", "transfer", *words, "--reference", "bb" * 16),
        *("--as", "buyer/marlow", "--home", home, "--json"),
    )
    assert (0, True) == (sent.status, sent.document["verified"])
    rows = hansa("list", "transfers", "--home", home, "--json").document["items"]
    assert 100 == rows[0]["amount_minor"]


def test_any_node_is_believed_by_proof_alone(
    home: Path, running: str, trust: Path, tmp_path: Path
) -> None:
    """With --node trust comes from the home or a file; a node of another network isn't believed."""
    there = ("--node", running, "--home", tmp_path / "empty")
    assert 2 == hansa("list", "transfers", *there).status
    answer = hansa("list", "organisations", *there, "--trust", trust, "--json")
    assert (0, 16) == (answer.status, len(answer.document["items"]))
    assert 0 == hansa("init", "--home", tmp_path / "other").status
    stranger = hansa("list", "organisations", "--node", running, "--home", tmp_path / "other")
    assert 1 == stranger.status
    assert "not believed" in stranger.stderr


def test_fsck_beside_a_node(home: Path, running: str) -> None:
    """The files can be judged while a node works on them."""
    assert running
    answer = hansa("fsck", "--home", home, "--json")
    assert (0, True) == (answer.status, answer.document["sound"])


def test_second_start_is_refused(home: Path, running: str) -> None:
    """A second node on a home is refused by the name of the lock."""
    assert running
    answer = hansa_process("start", "--home", home, "--port", 0)
    assert 2 == answer.status
    assert "lock" in answer.stderr
    assert 1 == answer.stderr.count("\n")


def test_dead_node_is_said_so(home: Path) -> None:
    """An address where nobody answers can't tell anything."""
    answer = hansa("list", "orders", "--home", home, "--node", "http://127.0.0.1:9")
    assert 2 == answer.status
    assert "expected an answer" in answer.stderr


# Smaller parts.


def test_fsck_names_damage(tmp_path: Path) -> None:
    """A flipped byte in the block log is found, named, and ends in status 1."""
    folder = tmp_path / "h"
    assert 0 == hansa("init", "--home", folder).status
    assert 0 == hansa("list", "orders", "--home", folder).status
    log = max((folder / "ledger" / "blocks").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    answer = hansa("fsck", "--home", folder, "--json")
    assert (1, False) == (answer.status, answer.document["sound"])
    assert answer.document["findings"][0] in answer.stderr


ENDS: Final = [
    ("no sign", ["trade"], "CHAIN=URL"),
    ("no address", ["trade=here"], "CHAIN=URL"),
    ("twice", ["trade=http://a", "trade=http://b"], "each chain once"),
    ("alone", ["trade=http://a"], "two chains"),
]


@pytest.mark.parametrize(("name", "given", "said"), ENDS, ids=[end[0] for end in ENDS])
def test_relay_wants_two_ends(tmp_path: Path, name: str, given: list[str], said: str) -> None:
    """The relay names what is wrong with its ends."""
    words = [word for end in given for word in ("--end", end)]
    answer = hansa("relay", *words, "--home", tmp_path)
    assert (2, True) == (answer.status, said in answer.stderr), name


def test_relay_carries_once_between_nodes(home: Path, running: str, tmp_path: Path) -> None:
    """Anyone may run a relay, with a key of the moment; once, it ends when nothing is left."""
    assert (home / "node.url").exists()
    ends = ("--end", f"product={running}", "--end", f"trade={running}")
    answer = hansa("relay", *ends, "--once", "--home", tmp_path, "--json")
    assert (0, []) == (answer.status, answer.document["troubles"])


def test_relay_reads_its_configuration(tmp_path: Path) -> None:
    """Ends come from a file, options, or both."""
    path = tmp_path / "relay.json"
    path.write_text('{"ends": {"trade": "http://a"}}')
    assert {"trade": "http://a", "anchor": "http://b"} == read_ends(["anchor=http://b"], path)


@pytest.mark.parametrize(
    ("amount", "exponent", "text"),
    [(0, 2, "0.00"), (-5, 2, "-0.05"), (123_456_789, 2, "1,234,567.89"), (500, 0, "500")],
)
def test_amounts_for_people(amount: int, exponent: int, text: str) -> None:
    """Minor units are shown in the major unit, exactly."""
    assert text == show_minor(amount, exponent)


def test_examples_survive_markup() -> None:
    """What looks like markup in an example is shown as it is."""
    call = "hansa x --lines '[a]' [{1}] [/b]"
    assert call == read_example(example(call))


def test_bench_page_holds_every_figure() -> None:
    """The page of the bench has a row and the conditions of each figure."""
    figure = {"value": 1.5, "unit": "ms", "limit": 5, "limit_is": "most", "conditions": {"n": 3}}
    page = make_page({"P6": figure})
    assert "| P6 | 1.5 | ms | 5 | most |" in page
    assert "- n: 3" in page


def test_operator_errors_have_no_traceback(tmp_path: Path) -> None:
    """A damaged home is told in one line."""
    (tmp_path / "genesis.bin").write_bytes(b"\0")
    (tmp_path / "keys.json").write_text("{}")
    answer = hansa_process("list", "orders", "--home", tmp_path)
    assert answer.status != 0
    assert "Traceback" not in answer.stderr
    assert issubclass(OperatorError, Exception)
