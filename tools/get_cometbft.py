"""Sees to it that there is a CometBFT whose version fits; `make test` asks for it.

One that is there already is used. Otherwise Go builds the tested version from its module into the
folder of the Python that runs this, where Hansa looks for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hansa.core.errors import OperatorError
from hansa.network.comet.process import (
    MODULE,
    TESTED_VERSION,
    explain_installation,
    find_binary,
    find_go,
)


def build() -> Path:
    """Build the tested version beside our Python.

    Raises: OperatorError if there is no Go, or one that can't build it.
    """
    go = find_go()
    if go is None:
        raise OperatorError(f"the tests need CometBFT: {explain_installation()}")
    print(f"Building CometBFT {TESTED_VERSION} with {go}: three minutes from cold.", flush=True)
    environment = {**os.environ, "GOBIN": str(Path(sys.executable).parent)}
    command = [str(go), "install", f"{MODULE}@v{TESTED_VERSION}"]
    if subprocess.run(command, env=environment, check=False).returncode != 0:
        raise OperatorError(f"the tests need CometBFT: {explain_installation()}")
    return find_binary()


def main() -> int:
    """Print nothing where all is well; 1 with what to install where it isn't."""
    try:
        find_binary()
    except OperatorError:
        try:
            build()
        except OperatorError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
