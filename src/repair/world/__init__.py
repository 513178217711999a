"""The world that the embedded patient was taught: facts, wordings, stories, training text.

Knows nothing about models. Everything follows from one seed.
"""

from __future__ import annotations

from repair.world.facts import all_facts, facts, kind_of

__all__ = ["all_facts", "facts", "kind_of"]
