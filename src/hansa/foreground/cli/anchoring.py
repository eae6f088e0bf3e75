"""`hansa anchoring`: checkpoints of all chains, kept on the anchor chain."""

from typing import Final

from hansa.foreground.cli.messages import message_commands

app: Final = message_commands("anchoring", chain="anchor")
