"""CometBFT with a clock that can be wrong: its source, built with an overlay on two files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from hansa.network.comet.process import MODULE, TESTED_VERSION, explain_installation, find_go

OFFSET: Final = "HANSA_TEST_CLOCK_OFFSET"
"""In the environment of the engine: how far its clock is ahead, as Go writes durations."""

_OVERLAID: Final = ("types/time/time.go", "state/validation.go")
"""Where the engine reads the time that it signs, and by which it judges that of others."""

_CLOCK: Final = f"""package time

import (
	"os"
	"time"
)

var offset = func() time.Duration {{
	read, err := time.ParseDuration(os.Getenv("{OFFSET}"))
	if err != nil {{
		return 0
	}}
	return read
}}()

// WallClock is wrong by what the environment says.
func WallClock() time.Time {{
	return time.Now().Add(offset)
}}
"""


def find_clock_build() -> Path:
    """Return the engine whose clock can be wrong, built if no run before has done it."""
    version = f"{TESTED_VERSION}-{sha256(_CLOCK.encode()).hexdigest()[:8]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hansa-tests"
    binary = cache / f"cometbft-clock-{version}"
    if not binary.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _build(binary)
    return binary


def _build(binary: Path) -> None:
    go = find_go()
    if go is None:
        pytest.fail(f"the clock test builds CometBFT: {explain_installation()}", pytrace=False)
    module = MODULE.partition("/cmd/")[0]
    with tempfile.TemporaryDirectory(prefix="hansa-clock-") as folder:
        # Go overlays nothing in its cache of modules, so the source has to lie elsewhere.
        source = Path(folder) / "source"
        shutil.copytree(_locate(go, module), source)
        for path in (source, *source.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
        overlay = _write_overlay(Path(folder), source)
        built = Path(folder) / "cometbft"
        _run(go, "build", "-overlay", str(overlay), "-o", str(built), "./cmd/cometbft", cwd=source)
        draft = binary.with_name(f"{binary.name}.{os.getpid()}")
        shutil.move(built, draft)
        draft.replace(binary)


def _locate(go: Path, module: str) -> Path:
    answer = _run(go, "mod", "download", "-json", f"{module}@v{TESTED_VERSION}", cwd=Path("/"))
    return Path(json.loads(answer)["Dir"])


def _write_overlay(folder: Path, source: Path) -> Path:
    clock = folder / "clock.go"
    clock.write_text(_CLOCK)
    replaced = {str(source / "types/time/clock.go"): str(clock)}
    for number, name in enumerate(_OVERLAID):
        text = (source / name).read_text()
        assert "time.Now()" in text, f"{name}: expected it to read the clock"
        own = "types/time/" in name
        text = text.replace("time.Now()", "WallClock()" if own else "cmttime.WallClock()")
        if not own:
            imported = '\tcmttime "github.com/cometbft/cometbft/types/time"\n'
            text = text.replace("import (\n", f"import (\n{imported}", 1)
        draft = folder / f"{number}.go"
        draft.write_text(text)
        replaced[str(source / name)] = str(draft)
    overlay = folder / "overlay.json"
    overlay.write_text(json.dumps({"Replace": replaced}))
    return overlay


def _run(go: Path, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        ["nice", str(go), *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"go {' '.join(arguments)}: {done.stderr[-2000:]}"
    return done.stdout
