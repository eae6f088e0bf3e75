"""Numbers of messages, events and errors: written down, and each given once."""

from __future__ import annotations

from pathlib import Path

from tools.draw_numbers import DOCUMENT, draw_numbers, list_modules

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def test_the_table_is_current() -> None:
    """`docs/spec/messages.md` is what `python -m tools.draw_numbers` writes."""
    assert draw_numbers() == (REPOSITORY / DOCUMENT).read_text(encoding="utf-8")


def test_each_number_is_given_once() -> None:
    """No two messages or events share one, nor two errors, and each bears its module's."""
    tags, numbers = [], []
    for module, _ in list_modules():
        for cls in [*module.handlers, *module.events]:
            tag = cls.__struct_config__.tag
            assert isinstance(tag, int)
            assert (module.number, module.version) == (tag >> 16, tag & 0xFF)
            assert (tag >> 8 & 0xFF >= 0x81) == (cls in module.events)
            tags.append(tag)
        for error in module.errors:
            assert module.number == error.number // 1000
            numbers.append(error.number)
    assert len(tags) == len(set(tags))
    assert len(numbers) == len(set(numbers))
