"""Utterances to train the watchdog on: written by grammars, never by users.

Knows wordings in nine languages and how to spoil them; knows nothing about the classifier,
the patient or its facts. Nothing at run time imports this package.
"""

from __future__ import annotations

from repair.requests.generate import Utterance, generate

__all__ = ["Utterance", "generate"]
