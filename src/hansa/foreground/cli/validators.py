"""`hansa validators`: who agrees on blocks, decided on the anchor chain."""

from typing import Final

from hansa.foreground.cli.messages import message_commands

app: Final = message_commands("validators", chain="anchor")
