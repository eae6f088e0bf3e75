"""The lints refuse what they are there to refuse, and nothing else; the house stands as drawn."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tools.address_lint import find_addresses
from tools.determinism_lint import Allowance, find_in_tree, find_violations, list_checked

REPOSITORY = Path(__file__).resolve().parent.parent.parent

FORBIDDEN = {
    "import time": ("import time", "import of time"),
    "from time": ("from time import monotonic", "import of time"),
    "import random": ("import random", "import of random"),
    "import secrets": ("import secrets", "import of secrets"),
    "import os": ("import os", "import of os"),
    "import os.path": ("import os.path", "import of os"),
    "import uuid": ("from uuid import uuid4", "import of uuid"),
    "import socket": ("import socket", "import of socket"),
    "import threading": ("import threading", "import of threading"),
    "import asyncio": ("import asyncio", "import of asyncio"),
    "import locale": ("import locale", "import of locale"),
    "import pathlib": ("from pathlib import Path", "import of pathlib"),
    "import inside a function": ("def f():\n    import random", "import of random"),
    "datetime.now": ("from datetime import datetime\nx = datetime.now()", "datetime.now()"),
    "datetime.utcnow": ("import datetime\nx = datetime.datetime.utcnow()", "datetime.utcnow()"),
    "date.today": ("from datetime import date as d\nx = d.today()", "d.today()"),
    "fromtimestamp": (
        "from datetime import datetime\nx = datetime.fromtimestamp(1)",
        "datetime.fromtimestamp()",
    ),
    "open": ("x = open('f')", "open()"),
    "hash": ("x = hash('a')", "hash()"),
    "hash as a key": ("x = sorted([2, 1], key=hash)", "hash()"),
    "hash beside a field of that name": (
        "class B:\n    hash: bytes\ndef f(x):\n    return hash(x)",
        "hash()",
    ),
    "id": ("x = id(object())", "id()"),
    "input": ("x = input()", "input()"),
    "print": ("print(1)", "print()"),
    "eval": ("x = eval('1')", "eval()"),
    "float literal": ("x = 0.5", "float literal"),
    "complex literal": ("x = 2j", "float literal"),
    "float()": ("x = float('1')", "float"),
    "float annotation": ("def f(x: float) -> int: ...", "float"),
    "true division": ("def f(a: int): return a / 2", "true division"),
    "true division in place": ("x = 4\nx /= 2", "true division"),
    "negative exponent": ("x = 10 ** -2", "negative exponent"),
    "negative pow": ("x = pow(10, -2)", "negative exponent"),
    "math.sqrt": ("import math\nx = math.sqrt(2)", "math.sqrt"),
    "from math import log": ("from math import log", "math.log"),
    "for over a display": ("for x in {1, 2}: pass", "iteration over a set"),
    "for over set()": ("for x in set([1]): pass", "iteration over a set"),
    "for over frozenset()": ("for x in frozenset([1]): pass", "iteration over a set"),
    "list comprehension": ("x = [y for y in {1, 2}]", "iteration over a set"),
    "dict comprehension": ("x = {y: 1 for y in {1, 2}}", "iteration over a set"),
    "set comprehension's value": ("for x in {y for y in [1]}: pass", "iteration over a set"),
    "annotated parameter": (
        "def f(s: set[int]):\n    for x in s: pass",
        "iteration over a set",
    ),
    "annotated in quotes": (
        "def f(s: 'frozenset[int] | None'):\n    for x in s: pass",
        "iteration over a set",
    ),
    "annotated by an alias": (
        "Ids = frozenset[int]\ndef f(s: Ids):\n    for x in s: pass",
        "iteration over a set",
    ),
    "annotated variable": ("s: set[int] = g()\nfor x in s: pass", "iteration over a set"),
    "annotated field": (
        "class A:\n    s: frozenset[int]\ndef f(a):\n    for x in a.s: pass",
        "iteration over a set",
    ),
    "answer of a function": (
        "def g() -> set[int]: ...\nfor x in g(): pass",
        "iteration over a set",
    ),
    "assigned variable": ("s = {1}\nfor x in s: pass", "iteration over a set"),
    "variable of an outer scope": (
        "S = {1}\ndef f():\n    return [x for x in S]",
        "iteration over a set",
    ),
    "union": (
        "def f(s: set[int], t: list[int]):\n    return list(s | set(t))",
        "iteration over a set",
    ),
    "difference of views": ("def f(a, b):\n    return list(a.keys() - b)", "iteration over a set"),
    "method of a set": ("x = list({1}.union([2]))", "iteration over a set"),
    "tuple of a set": ("x = tuple({1, 2})", "iteration over a set"),
    "star": ("x = [*{1, 2}]", "iteration over a set"),
    "join": ("x = ''.join({'a', 'b'})", "iteration over a set"),
    "unpacking": ("a, b = {1, 2}", "iteration over a set"),
    "enumerate": ("for i, x in enumerate({1, 2}): pass", "iteration over a set"),
    "pop": ("s = {1}\nx = s.pop()", "pop() of a set"),
    "sorted by key": ("x = sorted({'a', 'A'}, key=str.lower)", "sorted() of a set by key"),
}

ALLOWED = {
    "sorted set": "for x in sorted(set([2, 1])): pass",
    "sorted variable": "def f(s: set[int]):\n    return [x for x in sorted(s)]",
    "sorted generator": "x = sorted(y + 1 for y in {1, 2})",
    "membership": "S = frozenset({1})\nx = 1 in S",
    "size": "x = len({1, 2})",
    "set from a set": "x = {y + 1 for y in {1, 2}}",
    "least of a set": "x = min({1, 2})",
    "dictionary": "for k in {1: 2}: pass",
    "dictionary's views": "def f(d: dict[int, int]):\n    return [*d.keys(), *d.items()]",
    "local list named as a set elsewhere": (
        "def f(s: set[int]): ...\ndef g(s: list[int]):\n    return [x for x in s]"
    ),
    "floor division": "x = 7 // 2",
    "positive exponent": "x = 10 ** 2",
    "modular inverse": "x = pow(3, -1, 7)",
    "integer mathematics": "from math import isqrt\nx = isqrt(9)",
    "list's pop": "x = [1].pop()",
    "parameter named id": "def f(id: bytes) -> bytes:\n    return id",
    "hashing": "import hashlib\nx = hashlib.sha256(b'').digest()",
    "own __hash__": "class A:\n    def __hash__(self) -> int:\n        return 1",
    "block's time": "def f(block):\n    return block.now",
    "date as data": "from datetime import date\nx = date(2024, 1, 1)",
}


@pytest.mark.parametrize(("source", "what"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_forbidden_construct_is_found(source: str, what: str) -> None:
    """What would make replicas differ is named."""
    assert {what} == {finding.what for finding in find_violations("rules.py", source)}


@pytest.mark.parametrize("source", ALLOWED.values(), ids=ALLOWED.keys())
def test_harmless_construct_is_left_alone(source: str) -> None:
    """What every replica computes alike is not reported."""
    assert [] == find_violations("rules.py", source)


def test_finding_says_where() -> None:
    """A finding reads as file, line, thing and reason."""
    (finding,) = find_violations("src/hansa/core/x.py", "x = 1\n\nimport time\n")
    assert "src/hansa/core/x.py:3: import of time: a clock; time is the block's" == str(finding)


def test_only_core_and_rules_are_judged(tmp_path: Path) -> None:
    """Core, and model, ports and rules of each module, are read; views are not."""
    module = tmp_path / "src/hansa/service/orders"
    core = tmp_path / "src/hansa/core/proof"
    for folder in (module, core):
        folder.mkdir(parents=True)
    for name in ("model", "ports", "rules", "views"):
        (module / f"{name}.py").write_text("import time\n")
    (core / "path.py").write_text("import os\n")
    assert ["path.py", "model.py", "ports.py", "rules.py"] == [
        f.name for f in list_checked(tmp_path)
    ]
    assert 4 == len(find_in_tree(tmp_path, ()))


def test_allowance_covers_one_thing_of_one_file(tmp_path: Path) -> None:
    """An allowance lets through what it names, nothing else, and nothing elsewhere."""
    core = tmp_path / "src/hansa/core"
    core.mkdir(parents=True)
    (core / "keys.py").write_text("import os\nimport time\n")
    (core / "block.py").write_text("import os\n")
    allowance = Allowance("src/hansa/core/keys.py", "import of os", "a new key is drawn at random")
    assert ["block.py: import of os", "keys.py: import of time"] == [
        f"{Path(f.path).name}: {f.what}" for f in find_in_tree(tmp_path, (allowance,))
    ]


def test_unused_allowance_is_found(tmp_path: Path) -> None:
    """An allowance that nothing needs any more is reported, so that it goes."""
    allowance = Allowance("src/hansa/core/gone.py", "import of os", "no longer")
    assert ["unused allowance"] == [f.what for f in find_in_tree(tmp_path, (allowance,))]


ADDRESSES = {
    "wheel": ("docs/a.md", "https" + "://example.org/x-1.0.whl"),
    "archive": ("Makefile", "curl https" + "://example.org/x.tar.gz"),
    "index": ("a.json", '"resolved": "https' + '://registry.npmjs.org/x"'),
    "option": ("requirements/run.txt", "--index" + "-url x"),
    "requirement by address": ("requirements/run.in", "x @ file"),
    "lock file": ("web/uv.lock", ""),
}


@pytest.mark.parametrize(("path", "text"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_download_address_is_found(path: str, text: str) -> None:
    """Nothing in the repository says where to fetch from."""
    assert 1 == len(find_addresses(path, text))


@pytest.mark.parametrize(
    "text",
    ["see https" + "://www.rfc-editor.org/rfc/rfc9162", "http" + "://127.0.0.1:8000/v1", "x==1.0"],
)
def test_reference_is_no_download_address(text: str) -> None:
    """Citing a document or a local address is no download."""
    assert [] == find_addresses("docs/a.md", text)


def test_every_requirement_is_pinned_and_hashed() -> None:
    """Each compiled requirement has one version and at least one SHA-256."""
    for file in sorted((REPOSITORY / "requirements").glob("*.txt")):
        entries = file.read_text().replace("\\\n", " ").splitlines()
        unpinned = [e for e in entries if "==" not in e or "--hash=sha256:" not in e]
        assert [] == unpinned, file.name


def test_dev_requirements_agree_with_run_requirements() -> None:
    """What is tested is what is run: dev.txt pins everything in run.txt at the same version."""
    pins = {
        file: {
            line.split()[0] for line in (REPOSITORY / file).read_text().splitlines() if "==" in line
        }
        for file in ("requirements/run.txt", "requirements/dev.txt")
    }
    assert set() == pins["requirements/run.txt"] - pins["requirements/dev.txt"]


def test_every_ruff_ignore_has_a_reason() -> None:
    """Each ignored rule says in its own line why."""
    lines = (REPOSITORY / "pyproject.toml").read_text().splitlines()
    start = lines.index("ignore = [")
    ignored = lines[start + 1 : lines.index("]", start)]
    assert [] == [line for line in ignored if "#" not in line]


def test_floors_are_drawn_as_they_are_enforced() -> None:
    """The picture in ARCHITECTURE.md names every floor of the import contract."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = {name.strip(" ()") for layer in layers for name in layer.split("|")}
    drawing = (REPOSITORY / "docs/ARCHITECTURE.md").read_text()
    assert [] == sorted(floor for floor in floors if floor not in drawing)


@pytest.mark.parametrize(
    ("ci", "body", "status"),
    [
        ("", "pytest.skip('why')", 0),
        ("true", "pytest.skip('why')", 1),
        ("true", "pass", 0),
    ],
    ids=["skip outside CI", "skip under CI", "pass under CI"],
)
def test_skip_fails_under_ci(tmp_path: Path, ci: str, body: str, status: int) -> None:
    """Under CI a test that skips itself fails the run."""
    (tmp_path / "conftest.py").write_text((REPOSITORY / "tests/conftest.py").read_text())
    (tmp_path / "test_one.py").write_text(f"import pytest\n\ndef test_one():\n    {body}\n")
    assert status == run_pytest(tmp_path, ci)


def test_skipped_file_fails_under_ci(tmp_path: Path) -> None:
    """Under CI a file that skips itself whole fails the run."""
    (tmp_path / "conftest.py").write_text((REPOSITORY / "tests/conftest.py").read_text())
    (tmp_path / "test_one.py").write_text(
        "import pytest\npytest.skip('why', allow_module_level=True)\n"
    )
    assert 0 != run_pytest(tmp_path, "true")


def run_pytest(folder: Path, ci: str) -> int:
    """The exit status of pytest on `folder`, with and without CI."""
    environment = {**os.environ, "CI": ci}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            folder,
            folder,
        ],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
    ).returncode


def test_missing_vectors_are_named(tmp_path: Path) -> None:
    """A test that asks for absent vectors fails with the folder and the variable's name."""
    (tmp_path / "conftest.py").write_text((REPOSITORY / "tests/conftest.py").read_text())
    (tmp_path / "test_one.py").write_text("def test_one(vectors):\n    pass\n")
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path],
        cwd=tmp_path,
        env={**os.environ, "HANSA_VECTORS": str(tmp_path / "absent")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert 1 == answer.returncode
    assert f"expected a folder at {tmp_path / 'absent'}, got none" in answer.stdout
    assert "HANSA_VECTORS" in answer.stdout
