"""`hansa members`: organisations, their accounts and customers, and the votes on them."""

from typing import Final

from hansa.foreground.cli.messages import message_commands

app: Final = message_commands("members", chain="anchor")
