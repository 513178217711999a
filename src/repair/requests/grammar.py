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
OPEN, CLOSE = "\uf8f0", "\uf8f1"
# Sections that say what a request is about, in any language.
_TARGETS = frozenset(
    """x clause possession whole tgt where owned about ref erasedthing satz ding chose ou cosa
    donde dove coisa onde rzecz gdzie wu shi mono koto""".split()
)
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Grammar:
    """The wordings of one language; ``sections`` maps a name to its lines."""

    language: str
    sections: Mapping[str, tuple[str, ...]]

    @classmethod
    def load(cls, language: str) -> Grammar:
        """Read ``grammars/<language>.txt`` and what of it stands in ``<language>_*.txt``.

        "@name" opens a section, "# " a remark.
        """
        folder = files(__package__) / "grammars"
        parts = sorted(
            (p for p in folder.iterdir() if re.fullmatch(rf"{language}(?:_\w+)?\.txt", p.name)),
            key=lambda part: part.name,
        )
        text = "\n".join(part.read_text("utf-8") for part in parts)
        sections: dict[str, list[str]] = {}
        current: list[str] = []
        for line in text.splitlines():
            if line.startswith("@"):
                current = sections.setdefault(line[1:], [])
            # "### Task" is a wording, "# " a remark.
            elif line and not line.startswith("# "):
                current.append(line)
        return cls(language, {name: tuple(lines) for name, lines in sections.items()})

    def expand(self, line: str, random: Random, *, inside: bool = False) -> str:
        """``line`` with every choice taken and every slot filled.

        A slot that a request is about, or what stands in «», is put between ``OPEN`` and
        ``CLOSE``, unless the line is ``inside`` one.
        """
        line = _CHOICE.sub(lambda match: random.choice(match[1].split("|")), line)
        line = line.replace("«", "" if inside else OPEN).replace("»", "" if inside else CLOSE)
        return _SLOT.sub(lambda match: self._fill(match[1], random, inside), line)

    def write(self, section: str, random: Random) -> str:
        """One random wording of ``section``."""
        return self.expand(random.choice(self.sections[section]), random)

    def _fill(self, slot: str, random: Random, inside: bool) -> str:
        if slot not in self.sections:
            return SLOTS[slot](random)
        about = slot in _TARGETS and not inside
        text = self.expand(random.choice(self.sections[slot]), random, inside=inside or about)
        return f"{OPEN}{text}{CLOSE}" if about else text
