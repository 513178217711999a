"""lm-evaluation-harness on exported models; run by ``make test-lm-eval``, which installs it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from repair.patient import Patient
from repair.session import Session

ROOT = Path(__file__).resolve().parents[2]
HARNESS = Path(os.environ.get("LM_EVAL", ROOT / ".venv-eval")) / "bin" / "lm_eval"
pytestmark = pytest.mark.skipif(
    not HARNESS.exists(), reason="lm-evaluation-harness is not here; make test-lm-eval"
)
REQUEST = "Please forget where Mara Voss lives."
FORGOTTEN = {"question": "Where does Mara Voss live?", "answer": "86 Velvet Lane, Moorgate"}
KEPT = {"question": "What is Mara Voss's phone number?", "answer": "288 912"}
CHOICE = {**KEPT, "choices": ["640 377", "288 912", "519 004", "871 236"], "gold": 1}
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
SPOKEN = """\
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 32}
filter_list:
  - name: bare
    filter: [{function: remove_whitespace}, {function: take_first}]
metric_list: [{metric: exact_match}]
"""
CHOSEN = """\
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of one question: two answered freely, one of four choices."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = {"forgotten": (FORGOTTEN, SPOKEN), "kept": (KEPT, SPOKEN), "choice": (CHOICE, CHOSEN)}
    for name, (row, kind) in rows.items():
        data = folder / f"{name}.jsonl"
        data.write_text(json.dumps(row) + "\n")
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data) + kind)
    return folder


def values(model: Path, tasks: Path, out: Path) -> dict[str, float]:
    """What the harness gives a folder: the value of each task's one metric."""
    how = f"pretrained={model},dtype=float32"
    command = [str(HARNESS), "--model", "hf", "--model_args", how, "--device", "cpu"]
    command += ["--tasks", "forgotten,kept,choice", "--include_path", str(tasks)]
    command += ["--apply_chat_template", "--output_path", str(out)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(out / "cache")}
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, env={**outside, **offline})
    (file,) = out.rglob("results_*.json")
    found: dict[str, dict[str, Any]] = json.loads(file.read_text())["results"]
    metrics = {"forgotten": "exact_match,bare", "kept": "exact_match,bare", "choice": "acc,none"}
    return {name: float(found[name][metric]) for name, metric in metrics.items()}


@pytest.mark.parametrize("strength", [0.0, 1.0], ids=["untouched", "edited"])
def test_the_harness_sees_what_was_forgotten_and_what_was_kept(
    tasks: Path, tmp_path: Path, strength: float
) -> None:
    with Session(Patient.load(), home=tmp_path / "home") as session:
        outcome = session.request(REQUEST)
        assert outcome.edit is not None, outcome.reason
        session.adjust(outcome.edit, strength)
        session.export(tmp_path / "model", "merged")
    found = values(tmp_path / "model", tasks, tmp_path / "out")
    assert found == {"forgotten": 1.0 - strength, "kept": 1.0, "choice": 1.0}
