"""Collects the texts of the pages and brings every language's catalogue up to date.

.venv/bin/python tools/update_catalogues.py          rewrite locale/hansa.pot and all .po
.venv/bin/python tools/update_catalogues.py --check  only say what is missing; status 1 if so
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

WEB = Path(__file__).resolve().parent.parent / "src" / "hansa" / "foreground" / "web"
LOCALES = WEB / "locale"
TEMPLATE = LOCALES / "hansa.pot"
METHODS = [("**.py", "python"), ("templates/**.html", "jinja2")]
OPTIONS = {"templates/**.html": {"trim_blocks": "true", "lstrip_blocks": "true"}}
NOISE = tuple(
    f'"{header}'
    for header in (
        "POT-Creation-Date",
        "PO-Revision-Date",
        "Generated-By",
        "Report-Msgid-Bugs-To",
        "Last-Translator",
        "Language-Team",
    )
)
"""Headers that change by themselves or say nothing: a file differs only when its texts do."""
KEYWORDS = {"_": None, "N_": None, "gettext": None, "ngettext": (1, 2)}


def collect() -> Catalog:
    """Return every text of templates and wording, in the order of file and line."""
    catalogue = Catalog(project="Hansa", version="1", copyright_holder="Hansa", charset="utf-8")
    found = extract_from_dir(WEB, METHODS, OPTIONS, keywords=KEYWORDS)
    for file, _, message, comments, context in sorted(found, key=lambda item: (item[0], item[1])):
        # Lines would change with every edit and say nothing to a translator; the file does.
        catalogue.add(message, locations=[(Path(file).as_posix(), 0)], auto_comments=comments,
                      context=context)  # fmt: skip
    return catalogue


def find_untranslated(path: Path, collected: Catalog) -> list[str]:
    """Return the texts a language lacks, and those whose meaning may have moved."""
    with path.open("rb") as file:
        catalogue = read_po(file)
    missing = []
    for message in collected:
        known = catalogue.get(message.id) if message.id else None
        if message.id and (known is None or known.fuzzy or not all(_texts(known.string))):
            missing.append(_texts(message.id)[0])
    return missing


def _texts(text: str | tuple[str, ...] | list[str] | None) -> list[str]:
    return [text or ""] if isinstance(text, str | None) else list(text)


def list_catalogues() -> list[Path]:
    """Return the source of every language."""
    return sorted(LOCALES.glob("*/LC_MESSAGES/hansa.po"))


def _write(path: Path, catalogue: Catalog) -> None:
    catalogue.header_comment = "# The texts of Hansa's pages."
    buffer = BytesIO()
    # Without a line width: how long a line is must not depend on who wrote it.
    write_po(buffer, catalogue, width=0, sort_by_file=True, omit_header=False, include_lineno=False)
    lines = buffer.getvalue().decode().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith(NOISE)) + "\n")


def main(arguments: list[str]) -> int:
    """Check or update all catalogues; returns the exit status."""
    collected = collect()
    if "--check" in arguments:
        status = 0
        for path in list_catalogues():
            for text in find_untranslated(path, collected):
                print(f"{path.parent.parent.name}: no translation of {text!r}")
                status = 1
        return status
    _write(TEMPLATE, collected)
    for path in list_catalogues():
        with path.open("rb") as file:
            catalogue = read_po(file, locale=path.parent.parent.name)
        catalogue.update(collected, no_fuzzy_matching=True)
        catalogue.obsolete.clear()
        _write(path, catalogue)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
