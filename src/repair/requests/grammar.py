"""One language's wordings: sections of lines with choices and slots, expanded at random.

Knows the notation of the files in ``grammars``; knows no language and no label.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from random import Random

from repair.requests.names import SLOTS

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "pl", "zh", "ja")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Grammar:
    """The wordings of one language; ``sections`` maps a name to its lines."""

    language: str
    sections: Mapping[str, tuple[str, ...]]

    @classmethod
    def load(cls, language: str) -> Grammar:
        """Read ``grammars/<language>.txt`` and what of it stands in ``<language>_none.txt``.

        "@name" opens a section, "# " a remark.
        """
        folder = files(__package__) / "grammars"
        parts = (folder / f"{language}.txt", folder / f"{language}_none.txt")
        text = "\n".join(part.read_text("utf-8") for part in parts if part.is_file())
        sections: dict[str, list[str]] = {}
        current: list[str] = []
        for line in text.splitlines():
            if line.startswith("@"):
                current = sections.setdefault(line[1:], [])
            # "### Task" is a wording, "# " a remark.
            elif line and not line.startswith("# "):
                current.append(line)
        return cls(language, {name: tuple(lines) for name, lines in sections.items()})

    def expand(self, line: str, random: Random) -> str:
        """``line`` with every choice taken and every slot filled."""
        line = _CHOICE.sub(lambda match: random.choice(match[1].split("|")), line)
        return _SLOT.sub(lambda match: self._fill(match[1], random), line)

    def write(self, section: str, random: Random) -> str:
        """One random wording of ``section``."""
        return self.expand(random.choice(self.sections[section]), random)

    def _fill(self, slot: str, random: Random) -> str:
        if slot in self.sections:
            return self.write(slot, random)
        return SLOTS[slot](random)
