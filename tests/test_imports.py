"""Imports only ever point down, and what must start fast imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "repair"

# Lowest first. A module may import from lower rows and from its own set; sets in one row are
# stages that exchange records and never call each other.
LAYERS: tuple[tuple[frozenset[str], ...], ...] = tuple(
    tuple(frozenset(names.split()) for names in row)
    for row in (
        ("types", "settings", "errors"),
        (
            "catalogue",
            "refusals",
            "plan",
            "retain",
            "replies",
            "explain drawing",
            "sights",
            "pictures",
        ),
        (
            "patient architectures gates checkpoint decoding memory prompts weights quantised "
            "saving sight",
            "stamp streaming",
            "world",
        ),
        (
            "activations stream detectors",
            "verify",
            "ledger vault schema records migrations journal postgres people healings",
            "adapter",
            "language_model",
            "policy",
        ),
        (
            "watchdog network requests utterance targets corrections phrases phrases_more readers",
            "surgeon phrasebook discover restore writer portrait",
            "separation",
            "operation allotment guesses preparation rows writing earlier budget trials joint "
            "redaction",
            "export",
        ),
        ("healing inventory",),
        ("session", "bench", "cluster"),
        ("guard", "tending", "factcheck", "why", "why_page", "comply"),
        ("server", "federated"),
        ("cli __main__ flower",),
    )
)
PLACE = {
    name: (height, group) for height, row in enumerate(LAYERS) for group in row for name in group
}
# ``patient.save_adapter`` is part of the public contract; it reaches up lazily, at the call.
EXCEPTIONS = {("patient", "adapter")}
# The embedded patient's own knowledge is for showing and training it, never for editing it.
MAY_SEE_THE_WORLD = {"bench", "cli", "world"}


def _imports(path: Path) -> Iterator[str]:
    """The first name below ``repair`` of everything that a file imports, lazily or not."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "repair":
            names = [f"repair.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            if head == "repair" and rest and not rest.startswith("__version"):
                yield rest.split(".")[0]


def _walk() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name != "__init__":
            yield name, path


MODULES = list(_walk())
IDS = [str(path.relative_to(PACKAGE)) for _, path in MODULES]


@pytest.mark.parametrize(("module", "path"), MODULES, ids=IDS)
def test_imports_point_down(module: str, path: Path) -> None:
    assert module in PLACE, f"repair.{module} has no place in LAYERS yet: which stage is it?"
    height, group = PLACE[module]
    for imported in _imports(path):
        assert imported in PLACE, f"repair.{imported} has no place in LAYERS yet"
        if imported in group or (module, imported) in EXCEPTIONS:
            continue
        assert PLACE[imported][0] < height, f"{path.name} imports repair.{imported}, not below it"


@pytest.mark.parametrize(("module", "path"), MODULES, ids=IDS)
def test_only_front_doors_look_up_what_the_patient_was_taught(module: str, path: Path) -> None:
    if module not in MAY_SEE_THE_WORLD:
        assert "world" not in set(_imports(path)), f"{path.name} would edit by knowing the answers"


@pytest.mark.parametrize("statement", ["import repair", "import repair.cli.app"])
def test_starting_up_loads_nothing_heavy(statement: str) -> None:
    heavy = {"torch", "transformers", "sqlalchemy", "sklearn", "pydantic", "numpy", "scipy"}
    code = f"{statement}\nimport sys\nprint(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "repair", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "Usage: repair" in done.stdout
    assert "typer" in loaded
    assert not loaded & {"torch", "transformers", "sqlalchemy", "sklearn", "pydantic"}
