"""`hansa shipments`: goods on their way, handed over under two signatures."""

from typing import Final

from hansa.foreground.cli.messages import message_commands

app: Final = message_commands("shipments", chain="logistics")
