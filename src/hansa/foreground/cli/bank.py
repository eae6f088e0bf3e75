"""`hansa bank`: money: issue, transfer, hold."""

from typing import Final

from hansa.foreground.cli.messages import message_commands

app: Final = message_commands("bank", chain="trade")
