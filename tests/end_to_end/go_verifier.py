"""Runs the Go program that checks a log and has never heard of Hansa."""

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "go_tlog"
USUAL_PLACE = "/usr/local/go/bin"


def find_go() -> str | None:
    """Where Go is, on the PATH or in its usual place."""
    return shutil.which("go") or shutil.which("go", path=USUAL_PLACE)


def run_go_verifier(
    base_url: str, vkey: str, old: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Build and run the program on a log; status 0 and a line that starts with OK if it is sound.

    Raises: FileNotFoundError if there is no Go.
    """
    go = find_go()
    if go is None:
        raise FileNotFoundError(f"expected go on the PATH or in {USUAL_PLACE}, got none")
    # Apart, for it says on stderr what it downloads.
    subprocess.run([go, "mod", "download"], cwd=SOURCE, capture_output=True, check=True)
    options = [] if old is None else ["-old", str(old)]
    return subprocess.run(
        [go, "run", ".", *options, base_url, vkey],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
