"""Command lines run in this process, and what they come to."""

import json
from typing import Any

from typer.testing import CliRunner

from hansa.foreground.cli.application import app


class Answer:
    """What a command line came to."""

    def __init__(self, status: int, stdout: str, stderr: str) -> None:
        self.status = status
        self.stdout = stdout
        self.stderr = stderr

    @property
    def document(self) -> Any:
        """The one JSON document."""
        return json.loads(self.stdout)


def hansa(*words: object) -> Answer:
    """Run a command line in this process."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)
