"""`hansa catalogue`: products as their sellers describe them."""

from typing import Final

from hansa.foreground.cli.messages import message_commands

app: Final = message_commands("catalogue", chain="product")
