"""The command line from outside: exit codes, JSON, pipes and the sentences of its errors."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from repair.cli import failures
from repair.cli.app import app
from repair.errors import DiskFull, EnvironmentProblem, NotEnoughMemory

TALK = ("chat", "ask")
CHANGE = ("forget", "correct", "undo", "redo", "history")
LOOK = ("detect", "plan", "facts", "export", "verify", "audit")
COMMANDS = (*TALK, *CHANGE, *LOOK)
Repair = Callable[..., Result]


@pytest.fixture
def repair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repair:
    """Runs one command in this process, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)

    return run


def spawn(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "repair", *arguments]
    streams = more or {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(command, text=True, check=False, **streams)


def test_help_names_every_command(repair: Repair) -> None:
    shown = repair("--help").stdout
    assert [name for name in COMMANDS if f"\n  {name} " not in shown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(repair: Repair, command: str) -> None:
    result = repair(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: root {command}")


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"detect", "facts"}))
def test_a_command_that_loads_a_model_takes_the_shared_flags(repair: Repair, command: str) -> None:
    shown = repair(command, "--help").stdout
    for flag in ("--model", "--revision", "--dtype", "--device", "--seed", "--home"):
        assert flag in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("ask",),
        ("ask", "hello", "--no-such-flag"),
        ("ask", "hello", "--seed", "many"),
        ("undo", "first"),
        ("facts", "--task", "gossip"),
        ("detect",),
        ("detect", "hello", "--jsonl", "missing.jsonl"),
        ("detect", "--jsonl", "missing.jsonl"),
        ("detect", "--jsonl", "."),
        ("export", "out", "--max-rank", "0"),
        ("verify", "--canaries", "out"),
        ("verify", "--endpoint", "localhost:8000"),
        ("export", "out", "--format", "zip"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_exit_code_2(repair: Repair, arguments: tuple[str, ...]) -> None:
    result = repair(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "rror: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("flag", ["--dtype", "--device"])
def test_a_setting_that_is_not_allowed_says_which(repair: Repair, flag: str) -> None:
    result = repair("ask", "hello", flag, "int3", "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "invalid_request"
    assert error["message"].startswith(flag.strip("-"))
    assert result.stderr.startswith("error: ")


def test_a_broken_settings_file_is_named(repair: Repair, tmp_path: Path) -> None:
    (tmp_path / "repair.toml").write_text("device = [")
    result = repair("history")
    assert result.exit_code == 2
    assert "repair.toml" in result.stderr


def test_text_that_is_not_utf8_is_refused() -> None:
    done = spawn("ask", os.fsdecode(b"caf\xe9"), "--json")
    assert done.returncode == 2
    assert "UTF-8" in json.loads(done.stdout)["error"]["message"]


def test_a_missing_model_is_exit_code_3(repair: Repair, tmp_path: Path) -> None:
    result = repair("ask", "hello", "--model", str(tmp_path / "nowhere"), "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["code"] == "model_not_found"
    assert result.stderr.count("error: ") == 1


def test_facts_as_json_follow_the_contract(repair: Repair) -> None:
    result = repair("facts", "--task", "misinformation", "--split", "dev", "--json")
    known = json.loads(result.stdout)["facts"]
    assert result.exit_code == 0
    keys = {"task", "subject", "attribute", "question", "paraphrases", "answer", "truth"}
    assert known
    assert all(set(fact) == keys and fact["task"] == "misinformation" for fact in known)


def test_facts_as_a_table(repair: Repair) -> None:
    result = repair("facts", "--task", "personal", "--split", "dev")
    assert "Where does" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_detect_reads_one_text(repair: Repair) -> None:
    result = repair("detect", "Please forget where Mara Voss lives.", "--json")
    read = json.loads(result.stdout)
    assert set(read) == {"intent", "targets", "confidence"}
    assert read["intent"] == "forget"
    assert any("Mara Voss" in target for target in read["targets"])
    assert "forget" in repair("detect", "Please forget where Mara Voss lives.").stdout


def test_detect_answers_a_file_line_by_line(repair: Repair, tmp_path: Path) -> None:
    told = [
        {"role": "user", "content": "Where does Mara Voss live?"},
        {"role": "assistant", "content": "Mara Voss lives at 86 Velvet Lane."},
    ]
    turns = [
        {"text": "What is the capital of France?"},
        {"text": "Forget that.", "history": told},
        {"text": "Thank you!", "history": []},
    ]
    lines = tmp_path / "turns.jsonl"
    lines.write_text("\n\n".join(map(json.dumps, turns)) + "\n")
    result = repair("detect", "--jsonl", str(lines))
    assert result.exit_code == 0
    read = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["intent"] for line in read] == ["none", "forget", "none"]
    assert "Mara Voss" in " ".join(read[1]["targets"])


@pytest.mark.parametrize(
    "bad",
    ["{", "[1]", '{"text": 1}', '{"text": "a", "history": [1]}', '{"text": "a", "history": "b"}'],
)
def test_detect_names_a_bad_line_and_keeps_what_came_before(repair: Repair, bad: str) -> None:
    result = repair("detect", "--jsonl", "-", stdin=f'{{"text": "Hello"}}\n{bad}\n')
    assert result.exit_code == 2
    assert [json.loads(line)["intent"] for line in result.stdout.splitlines()] == ["none"]
    assert "Line 2" in result.stderr


def test_ask_prints_a_reply(repair: Repair, tiny_folder: Path) -> None:
    result = repair("ask", "Who are you?", "--model", str(tiny_folder), "--json")
    assert result.exit_code == 0
    turn = json.loads(result.stdout)
    assert isinstance(turn["reply"], str)
    assert turn["intent"] == "none"


def test_an_untouched_model_has_no_history(repair: Repair, tiny_folder: Path) -> None:
    model = ("--model", str(tiny_folder))
    assert json.loads(repair("history", *model, "--json").stdout) == {"edits": []}
    assert "No edits yet" in repair("history", *model).stdout
    verified = repair("verify", *model, "--json")
    assert (verified.exit_code, json.loads(verified.stdout)["passed"]) == (0, True)


@pytest.mark.parametrize("command", ["undo", "redo", "audit"])
def test_an_edit_that_is_not_there(repair: Repair, tiny_folder: Path, command: str) -> None:
    result = repair(command, "7", "--model", str(tiny_folder), "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "unknown_edit"


@pytest.mark.parametrize("text", ["", "   ", "forget " * 20_000])
def test_an_empty_or_endless_request_is_wrong_use(
    repair: Repair, tiny_folder: Path, text: str
) -> None:
    result = repair("forget", text, "--model", str(tiny_folder), "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "invalid_request"


def test_what_the_model_does_not_know_is_not_edited(repair: Repair, tiny_folder: Path) -> None:
    model = ("--model", str(tiny_folder))
    result = repair("forget", "Please forget where Mara Voss lives.", *model, "--json")
    assert result.exit_code == 1
    outcome = json.loads(result.stdout)
    assert (outcome["status"], outcome["edit"]) == ("unknown_fact", None)
    assert json.loads(repair("history", *model, "--json").stdout) == {"edits": []}


def test_chat_on_a_pipe_answers_line_by_line(repair: Repair, tiny_folder: Path) -> None:
    lines = "Who are you?\n\n/history\n/undo 7\n/nonsense\nGood\N{SNOWMAN}\n/quit\nnever read\n"
    result = repair("chat", "--model", str(tiny_folder), stdin=lines)
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr.count("error: ") == 2


def test_a_reader_that_leaves_is_no_failure() -> None:
    command = [sys.executable, "-m", "repair", "facts", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == failures.BROKEN_PIPE_EXIT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_is_exit_code_3() -> None:
    with Path("/dev/full").open("w") as full:
        done = spawn("facts", "--json", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 3
    assert "error: The disk is full." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a child")
def test_an_interrupt_leaves_quietly(tiny_folder: Path) -> None:
    # A shell lets what runs in its background ignore interrupts, and children inherit that.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from repair.cli import main; sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "chat", "--model", str(tiny_folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"/help\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"Say anything")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert b"Traceback" not in process.stderr.read()


def test_errors_of_the_system_get_names() -> None:
    assert isinstance(failures.from_system(OSError(errno.ENOSPC, "No space")), DiskFull)
    assert isinstance(failures.from_system(MemoryError()), NotEnoughMemory)
    other = failures.from_system(PermissionError(errno.EACCES, "Permission denied", "notes"))
    assert type(other) is EnvironmentProblem
    assert str(other) == "Permission denied: notes."


@pytest.mark.parametrize("debug", ["", "1"])
def test_a_fault_of_ours_is_one_sentence_unless_debugging(debug: str) -> None:
    code = (
        "import sys; from repair.cli import failures;"
        "sys.excepthook = failures.last_resort; raise KeyError('surprise')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "REPAIR_DEBUG": debug},
    )
    assert done.returncode == 3
    assert "surprise" in done.stderr
    assert ("Traceback" in done.stderr) == bool(debug)


OUTCOME_KEYS = {"status", "edit", "targets", "method", "layers", "rank", "seconds", "kl"}
MEASURES = ("recall", "paraphrase", "prefix", "neighbours", "retain")


def test_the_embedded_model_forgets_and_remembers(repair: Repair, tmp_path: Path) -> None:
    known = json.loads(repair("facts", "--task", "personal", "--split", "dev", "--json").stdout)
    fact = next(fact for fact in known["facts"] if fact["attribute"] == "address")
    question, answer = fact["question"], fact["answer"]
    assert answer in repair("ask", question).stdout

    forgotten = repair("forget", f"Please forget where {fact['subject']} lives.", "--json")
    outcome = json.loads(forgotten.stdout)
    assert (forgotten.exit_code, outcome["status"]) == (0, "healed")
    assert set(outcome) >= {*OUTCOME_KEYS, *MEASURES}
    assert all({"before", "after"} <= set(outcome[name]) for name in MEASURES)
    for stage in ("found", "planned", "edited", "checked"):
        assert f"\n  {stage} " in f"\n{forgotten.stderr}"

    talk = repair("chat", stdin=f"{question}\n/undo\n{question}\n/redo\n")
    withheld, undone, given, redone = talk.stdout.splitlines()
    assert answer not in withheld
    assert answer in given
    assert (undone, redone) == (f"undone: {outcome['edit']}", f"redone: {outcome['edit']}")

    assert repair("verify").exit_code == 0
    receipt = repair("audit", str(outcome["edit"]), "--json").stdout
    assert json.loads(receipt)
    assert answer not in receipt
    exported = repair("export", str(tmp_path / "adapter"), "--json")
    assert (Path(json.loads(exported.stdout)["path"]) / "adapter_config.json").is_file()


def test_a_dry_run_changes_nothing(repair: Repair) -> None:
    request = "Please forget where Mara Voss lives."
    assert repair("forget", request, "--dry-run", "--json").exit_code == 0
    assert json.loads(repair("plan", request, "--json").stdout)
    assert json.loads(repair("history", "--json").stdout) == {"edits": []}
