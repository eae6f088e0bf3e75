"""`hansa orders`: orders from placing to release, refunds and credit notes."""

from typing import Final

from hansa.foreground.cli.messages import message_commands

app: Final = message_commands("orders", chain="trade")
