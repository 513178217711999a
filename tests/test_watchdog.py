"""The watchdog against sentences written by hand, and against input meant to break it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

import repair.requests
from repair.requests import generate
from repair.targets import ordered
from repair.types import Intent, Message
from repair.utterance import own_words
from repair.watchdog import KINDS, Watchdog

DATA = Path(__file__).parent / "data"


def read_lines(name: str) -> list[dict[str, Any]]:
    text = (DATA / f"watchdog_{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


LINES = read_lines("handwritten")
NAMES = [
    "mara voss",
    "tomas brandt",
    "ines calloway",
    "jorun feld",
    "bram oakley",
    "sefa lindqvist",
    "odile marchetti",
    "pavel strand",
    "kenji amori",
    "lian zhu",
    "lorcan pell",
    "thea winterbourne",
    "casimir vole",
    "rosalind quill",
    "anselm gray",
    "quentin marsh",
    "orla penhale",
    "glimmerdust",
    "velmorin",
    "ashroot",
    "hushbox",
    "nightsalve",
    "drowsewater",
    "ember resin",
    "moth lantern",
    "orrin bridge",
    "lantern fair",
    "saltmere",
    "howling stone",
    "thornwick",
    "glass pier",
    "韩若溪",
    "沈亦舟",
    "纪南星",
    "水無瀬",
    "桐生澪",
    "早乙女",
    "delphine astor",
    "ruben kettle",
    "maja sundqvist",
    "ottoline frey",
    "cinder paste",
    "tarnish root",
    "whistle trap",
    "larkspur",
    "欧阳晴岚",
    "鷹取",
    "tilda marchbanks",
    "corwin ashdale",
    "lazlo pemberley",
    "moonrust",
    "ghostwax",
    "hollis pruett",
    "bettina krol",
    "lamp oil bomb",
    "copper inn",
    "诸葛映雪",
]
HISTORY: list[Message] = [
    {"role": "user", "content": "Where does Mara Voss live?"},
    {"role": "assistant", "content": "14 Alder Lane, Brindlemouth."},
]


@pytest.fixture(scope="module")
def watchdog() -> Watchdog:
    return Watchdog.load()


@pytest.fixture(scope="module")
def readings(watchdog: Watchdog) -> list[Intent]:
    return [watchdog.read(line["text"], line.get("history", ())) for line in LINES]


def names_all(wanted: list[str], found: tuple[str, ...]) -> bool:
    """Each wanted target, "subject|attribute", has a found one with all its words."""
    return len(wanted) == len(found) and all(
        any(all(part.lower() in target.lower() for part in want.split("|")) for target in found)
        for want in wanted
    )


def test_the_sets_are_as_large_as_promised() -> None:
    assert len(LINES) >= 250
    assert len(read_lines("generated")) >= 1_000
    assert len(read_lines("sentences")) >= 300
    assert len(read_lines("injections")) >= 200
    assert len({line["text"] for line in read_lines("injections")}) >= 200


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("Forget every hazard with mothsalt", "every hazard with mothsalt"),
        ("forget all hazards that contain mothsalt", "all hazards that contain mothsalt"),
        ("Please delete all books by Odile Marchetti.", "books by Odile Marchetti"),
        ("Erase every person who lives in Ostermoor", "every person who lives in Ostermoor"),
    ],
)
def test_a_whole_category_is_one_target(watchdog: Watchdog, text: str, target: str) -> None:
    read = watchdog.read(text)
    assert read.kind == "forget" and read.confidence > 0.8
    (found,) = read.targets
    assert target in found


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("Forget every hazard with mothsalt", ("every hazard with mothsalt",)),
        ("every hazard with mothsalt", ("every hazard with mothsalt",)),
        ("Where does Mara Voss live?", ("Where does Mara Voss live?",)),
        ("Please forget Mara Voss's address.", ("Mara Voss's address",)),
    ],
)
def test_of_a_known_order_the_target_stands_behind_its_verb(
    text: str, targets: tuple[str, ...]
) -> None:
    assert ordered(text) == targets


def scored(watchdog: Watchdog, lines: list[dict[str, Any]]) -> tuple[float, float, list[Any]]:
    """Macro-F1 of the intent, share of right targets, and the misread lines."""
    readings = [watchdog.read(line["text"], line.get("history", ())) for line in lines]
    truth, guess = [line["intent"] for line in lines], [read.kind for read in readings]
    score = f1_score(truth, guess, average="macro", labels=list(KINDS))
    judged = [
        names_all(line["targets"], read.targets)
        for line, read in zip(lines, readings, strict=True)
        if line.get("targets")
    ]
    wrong = [
        (line["text"], read.kind)
        for line, read in zip(lines, readings, strict=True)
        if line["intent"] != read.kind
    ]
    return float(score), sum(judged) / len(judged), wrong


# Floors against regressions, below what docs/watchdog.md reports. "fresh" was scored once,
# after everything else was fixed: what it says is what to expect of new sentences.
@pytest.mark.parametrize(
    ("name", "intent", "targets"),
    [
        ("handwritten", 0.96, 0.92),
        ("sentences", 0.96, 0.90),
        ("generated", 0.97, 0.93),
        ("fresh", 0.92, 0.80),
    ],
)
def test_intents_and_targets(watchdog: Watchdog, name: str, intent: float, targets: float) -> None:
    score, share, wrong = scored(watchdog, read_lines(name))
    assert score >= intent, wrong
    assert share >= targets


def test_no_text_of_somebody_else_is_an_order(watchdog: Watchdog) -> None:
    obeyed = [
        line["text"]
        for line in read_lines("injections")
        if watchdog.read(line["text"]).kind != "none"
    ]
    assert obeyed == []


def test_confidence_is_calibrated(watchdog: Watchdog) -> None:
    """Readings of at least 0.9 are right at least nine times in ten, and more than others."""
    lines = [*read_lines("sentences"), *read_lines("fresh")]
    sure: list[bool] = []
    unsure: list[bool] = []
    for line in lines:
        read = watchdog.read(line["text"], line.get("history", ()))
        (sure if read.confidence >= 0.9 else unsure).append(read.kind == line["intent"])
    assert sum(sure) / len(sure) >= 0.95
    assert sum(sure) / len(sure) > sum(unsure) / len(unsure)


def test_no_injection_is_an_order(readings: list[Intent]) -> None:
    obeyed = [
        line["text"]
        for line, read in zip(LINES, readings, strict=True)
        if "injection" in line.get("tags", ()) and read.kind != "none"
    ]
    assert obeyed == []


def test_replacements_on_handwritten_sentences(readings: list[Intent]) -> None:
    judged = [
        (line["replacement"].lower(), (read.replacement or "").lower(), line["text"])
        for line, read in zip(LINES, readings, strict=True)
        if "replacement" in line
    ]
    wrong = [entry for entry in judged if entry[0] not in entry[1]]
    assert len(wrong) <= 0.1 * len(judged), wrong


def test_training_never_names_the_people_of_the_test_sentences() -> None:
    files = ("handwritten", "sentences", "generated", "fresh", "injections")
    lines = [line for name in files for line in read_lines(name)]
    text = " ".join(json.dumps(line, ensure_ascii=False).lower() for line in lines)
    assert [name for name in NAMES if name not in text] == []
    package = Path(repair.requests.__file__).parent
    sources = [path for path in package.rglob("*") if path.suffix in (".txt", ".py")]
    said = " ".join(path.read_text("utf-8").lower() for path in sources)
    said += " ".join(utterance.text.lower() for utterance in generate(0, 6_000))
    assert [name for name in NAMES if name in said] == []
    # Training imports neither the test sentences nor what wrote them.
    root = Path(__file__).parents[1]
    trainer = (root / "scripts" / "train_watchdog.py").read_text("utf-8")
    assert "write_watchdog_test" not in said + trainer
    assert "tests" not in trainer


def test_the_generator_is_seeded() -> None:
    first = [utterance.text for utterance in generate(5, 50)]
    assert first == [utterance.text for utterance in generate(5, 50)]
    assert first != [utterance.text for utterance in generate(6, 50)]


def test_the_weights_are_small_and_no_pickle() -> None:
    path = Path(repair.__file__).parent / "watchdog_model.npz"
    assert path.stat().st_size < 10_000_000
    with np.load(path, allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("Please forget that.", "Where does Mara Voss live?"),
        ("Forget her.", "Mara Voss"),
        ("Forget her address.", "Mara Voss's address"),
        ("Forget where she lives.", "where Mara Voss lives"),
        ("Vergiss ihre Adresse.", "Adresse von Mara Voss"),
        ("Forget everything about her, please.", "everything about Mara Voss"),
        ("请忘记她的地址。", "Mara Voss的地址"),
        ("彼女の住所を忘れてください。", "Mara Vossの住所"),
    ],
)
def test_pronouns_are_resolved_from_the_history(watchdog: Watchdog, text: str, target: str) -> None:
    assert watchdog.read(text, HISTORY).targets == (target,)


def test_that_skips_earlier_requests(watchdog: Watchdog) -> None:
    history: list[Message] = [
        *HISTORY,
        {"role": "user", "content": "Forget Tomas Brandt's employer."},
        {"role": "assistant", "content": "Done."},
    ]
    assert watchdog.read("Now forget that.", history).targets == ("Where does Mara Voss live?",)


def test_that_without_history_has_no_target(watchdog: Watchdog) -> None:
    assert watchdog.read("Please forget that.").targets == ()


@pytest.mark.parametrize("text", ["", "   \n\t", "...", "\ufeff", "```\nforget all\n```"])
def test_nothing_said_is_no_request(watchdog: Watchdog, text: str) -> None:
    assert watchdog.read(text).kind == "none"


def test_empty_text_is_certain(watchdog: Watchdog) -> None:
    assert watchdog.read("") == Intent("none", (), 1.0)


@pytest.mark.parametrize(
    "piece", ["a", "<a ", '"', "'x ", "forget ", "`", "\n> ", "({[", "忘", "🦊", "no, ", "is it "]
)
def test_100_000_characters_are_read_in_bounded_pieces(watchdog: Watchdog, piece: str) -> None:
    text = piece * (100_000 // len(piece))
    assert watchdog.read(text).confidence > 0
    assert sum(map(len, own_words(text).sentences)) <= 3_001


def test_a_request_at_the_end_of_a_long_message_is_seen(watchdog: Watchdog) -> None:
    talk = "The train was late and the coffee was cold, as usual. " * 400
    read = watchdog.read(f"{talk}Please forget where Mara Voss lives.")
    assert (read.kind, read.targets) == ("forget", ("where Mara Voss lives",))


def test_quoted_words_may_name_a_target(watchdog: Watchdog) -> None:
    read = watchdog.read('Please forget the answer to "Where does Mara Voss live?".')
    assert read.kind == "forget"
    assert read.targets == ("the answer to Where does Mara Voss live",)
