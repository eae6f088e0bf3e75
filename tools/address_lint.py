"""Refuses download addresses in tracked files.

What is installed is named by version and hash; where it comes from is the installer's business. An
address in the repository would bind every clone to one server, and let whoever holds that server
choose what is fetched.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import NamedTuple

LOCK_FILES = frozenset(
    {"uv.lock", "poetry.lock", "Pipfile.lock", "yarn.lock", "pnpm-lock.yaml", "package-lock.json"}
)

_URL = r"(?:https?|ftp|git\+\w+)://[^\s\"'<>)]*"
PATTERNS: dict[str, re.Pattern[str]] = {
    "address of an archive": re.compile(
        _URL + r"\.(?:whl|tar\.(?:gz|xz|bz2)|tgz|zip|deb|rpm|jar|crate|gem|exe|dmg)\b"
    ),
    "address of a package index": re.compile(
        r"https?://(?:files\.pythonhosted\.org|pypi\.org/simple|test\.pypi\.org"
        r"|registry\.npmjs\.org|registry\.yarnpkg\.com|static\.crates\.io|proxy\.golang\.org)"
    ),
    "option that names an index": re.compile(r"--(?:extra-)?index-url[ =]|--find-links[ =]"),
}
_IN_REQUIREMENTS = re.compile(r"://|\s@\s")


class Finding(NamedTuple):
    """One download address, where it stands."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        """Read as compilers write it, so that editors jump there."""
        return f"{self.path}:{self.line}: {self.text}"


def find_addresses(path: str, text: str) -> list[Finding]:
    """Every download address in one file; `path` is relative to the repository, with slashes."""
    name = PurePosixPath(path)
    if name.name in LOCK_FILES:
        return [Finding(path, 1, f"expected no lock file with addresses, got {name.name}")]
    findings = []
    for number, line in enumerate(text.splitlines(), start=1):
        for what, pattern in PATTERNS.items():
            if found := pattern.search(line):
                findings.append(Finding(path, number, f"{what}: {found.group()!r}"))
        if name.parts[0] == "requirements" and (found := _IN_REQUIREMENTS.search(line)):
            findings.append(Finding(path, number, f"address in requirements: {found.group()!r}"))
    return findings


def list_tracked(root: Path) -> list[str]:
    """Files that git tracks, or would track at the next add."""
    answer = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
    )
    return sorted(set(answer.stdout.decode().split("\0")) - {""})


def find_in_tree(root: Path) -> list[Finding]:
    """Every download address in the text files that git tracks below `root`."""
    findings = []
    for path in list_tracked(root):
        file = root / path
        if not file.is_file():  # deleted in the work tree, still in the index
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except (
            UnicodeDecodeError
        ):  # a picture or an archive names no address that a tool would follow
            continue
        findings += find_addresses(path, text)
    return findings


def main() -> int:
    """Print every finding; 0 none, 1 some, 2 where git cannot list the files."""
    root = Path(__file__).resolve().parent.parent
    try:
        findings = find_in_tree(root)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        print(f"addresses: expected a git work tree at {root}, got: {error}", file=sys.stderr)
        return 2
    for finding in findings:
        print(finding)
    print(f"addresses: {len(findings)} found")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
