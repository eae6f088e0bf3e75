"""What a page loads besides itself: style, script and sign, all served by this node.

htmx comes out of a package that pip installed and checked against its hash; it is read from there
and not copied into the source tree (docs/decisions/). Everything is named with a digest of its
content, so that browsers keep it for good and still never show an old one.
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

STATIC: Final = Path(__file__).parent / "static"
HTMX_PACKAGE: Final = "django-js-lib-htmx"
HTMX_FILE: Final = "js_lib_htmx/static/htmx/htmx.min.js"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that pages load."""

    content: bytes
    media_type: str
    version: str
    """First digits of the content's digest."""


@lru_cache(maxsize=1)
def load_assets() -> dict[str, Asset]:
    """Read all files once."""
    htmx = Path(str(distribution(HTMX_PACKAGE).locate_file(HTMX_FILE)))
    return {
        "hansa.css": _make_asset(STATIC / "hansa.css", "text/css; charset=utf-8"),
        "live.js": _make_asset(STATIC / "live.js", "text/javascript; charset=utf-8"),
        "htmx.js": _make_asset(htmx, "text/javascript; charset=utf-8"),
        "sign.svg": _make_asset(STATIC / "sign.svg", "image/svg+xml"),
    }


def _make_asset(path: Path, media_type: str) -> Asset:
    content = path.read_bytes()
    return Asset(content, media_type, sha256(content).hexdigest()[:12])


def find_asset(name: str) -> str:
    """Return the address of a file."""
    return f"/static/{load_assets()[name].version}/{name}"
