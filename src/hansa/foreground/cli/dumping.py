"""No memory of this process on disk: what it holds of private keys dies with it."""

import ctypes
import resource
import sys
from typing import Final

PR_SET_DUMPABLE: Final = 4
"""prctl(2): with 0 the kernel writes no core, and lets no process of the same user look inside."""


def forbid_dumps() -> None:
    """Forbid core dumps of this process, and on Linux the reading of its memory by its own user.

    Children inherit the limit of 0 bytes; to be undumpable they have to ask again after exec.
    Whoever is root reads the memory all the same.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        status = ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        if status != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE): expected 0, got an error")
