"""`hansa link`: what chains tell each other, and whom they believe; every chain has it."""

from typing import Final

from hansa.foreground.cli.messages import message_commands

app: Final = message_commands("link", chain=None)
