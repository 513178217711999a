"""Plans of fuzzed requests are valid; ``scripts/fuzz_plans.py`` makes 10,000 of them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from repair import surgeon

SCRIPT = Path(__file__).parents[1] / "scripts" / "fuzz_plans.py"


def test_plans_of_fuzzed_requests_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(surgeon), "MAX_ANSWER_TOKENS", 4)
    found = runpy.run_path(str(SCRIPT))["check"](40, 2)
    assert found["requests"] == 40
    assert found["plans"] == found["valid"] > 0
