"""The pages for users, carried out: every command is run, every answer compared with the page.

A ``console`` block is a shell's: ``$ `` begins a command, ``> `` goes on with it, the rest is what
it answers. A ``python`` block is run by one interpreter for each page; a ``text`` block right after
it is what it prints. In an answer

- ids, digests, signatures and tokens stand for others of their form, and always for the same one:
  a later command that repeats an id from an answer above is run with the id that came of it;
- times stand for other times;
- on a line with a word that ``<!-- varies: word, word -->`` names, numbers stand for other numbers;
- ``...`` alone stands for any lines, at the end of a line for any rest of it.

A command ends with status 0, unless ``$ echo $?`` asks for it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from tests.conftest import REPOSITORY

from hansa.network.comet.process import pick_ports

PAGES: Final = (
    "README.md",
    "docs/tutorials/first-order.md",
    "docs/tutorials/four-organisations.md",
    "docs/http.md",
    "docs/sdk.md",
    "docs/operating.md",
    "docs/keys.md",
)
READ_BY_USERS: Final = (*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "docs/ARCHITECTURE.md")
PORTS: Final = (
    "8080", "8081", "8082", "8083",
    "26611", "26612", "26621", "26622", "26631", "26632", "26641", "26642",
)  # fmt: skip
"""As the pages have them; others that are free take their places."""

ASK_STATUS: Final = "echo $?"

FENCE: Final = re.compile(r"^```(\w*)$")
VARIES: Final = re.compile(r"<!-- varies: (.*) -->")
LINK: Final = re.compile(r"\]\(([^)#]+)[^)]*\)")

VOLATILE: Final = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z)"
    r"|(?P<secret>hansa_[\w-]{40,})"
    r"|(?P<hex>\b(?:[0-9a-f]{32,}|(?=[0-9]*[a-f])[0-9a-f]{8,})\b)"
    r"|(?P<base64>(?<![\w+/.:-])[A-Za-z0-9+/]{40,}={0,2})"
    r"|(?P<millis>\b1[0-9]{12}\b)"
)

CURL: Final = """\
import sys, urllib.request, urllib.error
words, headers, data, output, url = sys.argv[1:], {}, None, None, ""
while words:
    word = words.pop(0)
    if word == "--header":
        name, _, value = words.pop(0).partition(":")
        headers[name] = value.strip()
    elif word == "--data":
        data = words.pop(0).encode()
    elif word == "--output":
        output = words.pop(0)
    elif not word.startswith("--"):
        url = word
try:
    body = urllib.request.urlopen(urllib.request.Request(url, data, headers)).read()
except urllib.error.HTTPError as error:
    if "--fail" in sys.argv:
        sys.exit(22)
    body = error.read()
except OSError:
    sys.exit(7)
stream = open(output, "wb") if output else sys.stdout.buffer
stream.write(body)
stream.flush()
"""
"""What of curl the pages use, for machines that have none."""


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    line: int
    text: str
    varies: tuple[str, ...]


class Step(NamedTuple):
    """Something to run and what it is to answer."""

    language: str
    line: int
    code: str
    answer: str | None
    varies: tuple[str, ...]


def read_blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page in order."""
    varies: tuple[str, ...] = ()
    language: str | None = None
    start, held = 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if language is None and fence:
            language, start, held = fence[1], number, []
        elif language is not None and line == "```":
            yield Block(language, start, "\n".join(held), varies)
            language = None
        elif language is not None:
            held.append(line)
        elif mark := VARIES.search(line):
            varies = (*varies, *mark[1].split(", "))


def read_steps(page: Path) -> Iterator[Step]:
    """Yield what a page asks its reader to run, in order."""
    blocks = list(read_blocks(page))
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language == "console":
            yield from _split(block)
        elif block.language == "python":
            answer = after.text if after is not None and after.language == "text" else None
            yield Step("python", block.line, block.text, answer, block.varies)


def _split(block: Block) -> Iterator[Step]:
    code, answer, start = list[str](), list[str](), block.line
    for number, line in enumerate([*block.text.split("\n"), "$ "], block.line + 1):
        if line.startswith("$ "):
            if code:
                text = "\n".join(answer)
                yield Step("console", start, "\n".join(code), text, block.varies)
            code, answer, start = [line[2:]], [], number
        elif line.startswith("> ") and not answer:
            code.append(line[2:])
        else:
            answer.append(line)


class Reader:
    """Somebody who does what a page says, in an empty folder, with nothing but the program."""

    def __init__(self, folder: Path) -> None:
        self.ports = dict(zip(PORTS, map(str, pick_ports(len(PORTS))), strict=True))
        self.known: dict[str, str] = {}
        """What of the page stands for what here."""
        self._folder = folder
        self._environment = {
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "PATH": f"{_make_tools(folder)}:{Path(sys.executable).parent}:/usr/bin:/bin",
        }
        self._shell = self._open(["bash", "--noprofile", "--norc"])
        self._python: subprocess.Popen[str] | None = None

    def _open(self, command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=self._folder, env=self._environment, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, step: Step) -> tuple[str, int]:
        """Run one step; returns what it said and the status it ended with."""
        code = self.translate(step.code)
        if step.language == "python":
            self._python = self._python or self._open([sys.executable, "-u", "-c", _INTERPRETER])
            return _ask(self._python, json.dumps(code) + "\n")
        # The group's own input: a command that read the shell's would eat the commands after it.
        end = f"status=$?; echo; echo {_END} $status; (exit $status)"
        return _ask(self._shell, f"{{ {code}\n}} < /dev/null; {end}\n")

    def translate(self, text: str) -> str:
        """Put what came of this run in the place of what the page shows."""
        text = self.place_ports(text)
        return VOLATILE.sub(lambda found: self.known.get(found[0], found[0]), text)

    def place_ports(self, text: str) -> str:
        """Put the ports of this run in the places of those the page shows."""
        return re.sub("|".join(PORTS), lambda found: self.ports[found[0]], text)

    def compare(self, step: Step, said: str) -> str | None:
        """Return what differs from the page, or None; learns what stands for what."""
        assert step.answer is not None
        text = self.place_ports(step.answer)
        pattern, names = make_pattern(text, step.varies)
        found = re.fullmatch(pattern, trim(said))
        if found is None:
            return f"line {step.line}: {step.code}\nexpected\n{text}\ngot\n{said}"
        for shown, name in names:
            if self.known.setdefault(shown, found[name]) != found[name]:
                return f"line {step.line}: {shown} stands for two things"
        return None

    def close(self) -> None:
        """End what the page has started."""
        for process in (self._shell, self._python):
            if process is not None:
                os.killpg(process.pid, signal.SIGTERM)
                process.communicate(timeout=60)


_END: Final = "-- end of answer --"
_INTERPRETER: Final = f"""\
import json, sys, traceback
names = {{"__name__": "__main__"}}
for line in sys.stdin:
    status = 0
    try:
        exec(compile(json.loads(line), "<page>", "exec"), names)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        status = 1
    print("\\n{_END}", status)
"""


def _ask(process: subprocess.Popen[str], request: str) -> tuple[str, int]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(request)
    process.stdin.flush()
    lines: list[str] = []
    for line in process.stdout:
        if line.startswith(_END):
            return trim("".join(lines)), int(line.split()[-1])
        lines.append(line)
    raise AssertionError("expected the end of an answer, got the end of all: " + "".join(lines))


def _make_tools(folder: Path) -> Path:
    tools = folder / ".tools"
    tools.mkdir()
    if shutil.which("curl") is None:
        (tools / "curl").write_text(f"#!{sys.executable}\n{CURL}")
        (tools / "curl").chmod(0o755)
    return tools


def trim(text: str) -> str:
    """Return a text without the white space that nobody sees."""
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def make_pattern(answer: str, varies: tuple[str, ...]) -> tuple[str, list[tuple[str, str]]]:
    """Return the expression an answer must match, and which groups hold what stands for what."""
    names: list[tuple[str, str]] = []
    lines: list[str] = []
    for line in trim(answer).split("\n"):
        if line == "...":
            lines.append(r"(?:.*\n)*?")
            continue
        is_open = line.endswith("...")
        may_vary = any(word in line for word in varies)
        lines.append(_make_line(line.removesuffix("...").rstrip(), may_vary, names))
        lines[-1] += ".*\n" if is_open else "\n"
    return _last_line_ends_the_text("".join(lines)), names


def _last_line_ends_the_text(pattern: str) -> str:
    return pattern[:-1] if pattern.endswith("\n") else pattern + ".*"


def _make_line(line: str, may_vary: bool, names: list[tuple[str, str]]) -> str:
    parts, end = [], 0
    for found in VOLATILE.finditer(line):
        parts.append(_make_fixed(line[end : found.start()], may_vary))
        parts.append(_make_volatile(found, names))
        end = found.end()
    return "".join([*parts, _make_fixed(line[end:], may_vary)])


def _make_fixed(text: str, may_vary: bool) -> str:
    if not may_vary:
        return re.escape(text)
    # Columns shift with the width of a number, so any run of blanks may stand for another.
    return re.sub(r"[0-9][0-9.,]*", r"[0-9][0-9.,]*", re.sub(r"(\\ )+", " +", re.escape(text)))


def _make_volatile(found: re.Match[str], names: list[tuple[str, str]]) -> str:
    kind, text = found.lastgroup, found[0]
    if kind == "time":
        return r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"
    if kind == "millis":
        return "1[0-9]{12}"
    if kind == "base64":
        return "[A-Za-z0-9+/]{40,}={0,2}"
    names.append((text, f"g{len(names)}"))
    form = f"[0-9a-f]{{{len(text)}}}" if kind == "hex" else r"hansa_[\w-]{40,}"
    return f"(?P<{names[-1][1]}>{form})"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Somebody with an empty folder, but for the examples that come with the pages."""
    shutil.copytree(REPOSITORY / "docs" / "examples", tmp_path / "docs" / "examples")
    one = Reader(tmp_path)
    yield one
    one.close()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_page_does_what_it_says(page: str, reader: Reader) -> None:
    """Each command of a page runs as it stands, and answers as the page shows."""
    steps = list(read_steps(REPOSITORY / page))
    assert steps
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        said, status = reader.run(step)
        if after is None or after.code != ASK_STATUS:
            assert 0 == status, f"{page}, line {step.line}: {step.code}\n{said}"
        if step.answer is not None:
            assert None is reader.compare(step, said), page


ANSWERS: Final = [
    ("the same", "status placed", "status placed", True),
    ("another word", "status placed", "status funded", False),
    ("another id of that length", "id aa040e500a94ab5f", "id bb140e500a94ab5f", True),
    ("an id cut short", "id aa040e500a94ab5f", "id aa040e500a94", False),
    ("another amount", "total_minor 100027394", "total_minor 100027395", False),
    ("another time", "at 2026-11-21T04:39:09.879Z", "at 2027-01-01T00:00:00Z", True),
    ("a number on a line that varies", "seconds  0.482", "seconds  12.5", True),
    ("a number on another line", "orders  3", "orders  4", False),
    ("lines left out", "a\n...\nz", "a\nb\nc\nz", True),
    ("no lines left out", "a\n...\nz", "a\nz", True),
    ("the rest of a line left out", 'placed {"order": ...', 'placed {"order": {}}', True),
    ("a line more at the end", "a", "a\nb", False),
]


@pytest.mark.parametrize(
    ("name", "shown", "said", "expected"), ANSWERS, ids=[a[0] for a in ANSWERS]
)
def test_answers_are_compared(name: str, shown: str, said: str, expected: bool) -> None:
    """An answer may differ from the page in what is of its day, and in nothing else."""
    pattern, _ = make_pattern(shown, ("seconds",))
    assert expected == bool(re.fullmatch(pattern, said)), name


@pytest.mark.parametrize("page", READ_BY_USERS)
def test_links_lead_somewhere(page: str) -> None:
    """What a page points to within the repository is there."""
    path = REPOSITORY / page
    links = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if ":" not in link]
    assert [] == [link for link in links if not (path.parent / link).exists()]


@pytest.mark.parametrize("page", READ_BY_USERS)
def test_make_targets_exist(page: str) -> None:
    """Every `make` command a page names is one of the Makefile's."""
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(
        r"^\s*make ([a-z-]+)|`make ([a-z-]+)`", (REPOSITORY / page).read_text(), re.M
    )
    assert set() == {first or second for first, second in named} - set(targets)
