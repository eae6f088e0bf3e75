"""Renders the Helm chart into deploy/helm/rendered.yaml, by the helm on the PATH or in $HELM.

Helm takes minutes to build, so the tests judge the rendered file: that it is valid for Kubernetes,
and that it is of the chart as it stands, whose digest is its first line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent.parent / "deploy" / "helm"
CHART: Final = FOLDER / "hansa"
RENDERED: Final = FOLDER / "rendered.yaml"
INSTALL: Final = "go install helm.sh/helm/v3/cmd/helm@latest"


def compute_digest(chart: Path = CHART) -> str:
    """Return the digest of all files of a chart, with their names."""
    hasher = sha256()
    for path in sorted(chart.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            hasher.update(f"{path.relative_to(chart)} {len(content)}\n".encode() + content)
    return hasher.hexdigest()


def render(helm: str) -> str:
    """Return the manifests of a release named `ash`."""
    done = subprocess.run(
        [helm, "template", "ash", str(CHART)], capture_output=True, text=True, check=True
    )
    return f"# Rendered by tools/render_chart.py from the chart {compute_digest()}\n{done.stdout}"


def main() -> int:
    """Write the file; 1 with what to install where there is no helm."""
    helm = os.environ.get("HELM") or shutil.which("helm")
    if helm is None:
        print(f"rendering the chart takes helm: {INSTALL}", file=sys.stderr)
        return 1
    RENDERED.write_text(render(helm), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
