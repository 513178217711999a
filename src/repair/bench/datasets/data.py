"""Data sets as records: from the Hub, from local files, from the user, from the embedded patient.

Knows how bytes become rows and where they come from; what a row means stands in ``schemas``.
Loads neither torch nor, before the first Parquet file, pyarrow.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from repair import __version__
from repair.bench.datasets.records import Choice, Pair, Provenance, Record, Text
from repair.bench.datasets.schemas import DATASETS, Config, Dataset, Row, pair
from repair.errors import EnvironmentProblem, UsageError
from repair.types import Fact

EMBEDDED = "embedded"
EMBEDDED_TASKS = ("personal", "harmful", "misinformation", "world")
STORIES = "stories"
HELD_OUT_STORIES = 200
WRONG_ANSWERS = 5
_PARQUET = b"PAR1"
_SHAPE = "Use JSON Lines, one list of JSON objects, or Parquet."
Numbered = tuple[int, dict[str, Any]]


def names() -> tuple[str, ...]:
    """Every name that ``load`` knows."""
    return (EMBEDDED, *DATASETS)


def load(
    name: str,
    config: str | None = None,
    split: str | None = None,
    *,
    path: str | Path | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> tuple[Record, ...]:
    """The records of one split of a data set, in its own order.

    Args:
        name: one of ``names()``.
        config: a configuration of the data set; None takes it from the file's name where that
            tells, else the first.
        split: likewise.
        path: a local file in the data set's schema (JSON, JSON Lines or Parquet), or a folder
            laid out like its repository; None fetches it from the Hub, or from its cache.
        revision: a commit, branch or tag of the Hub; None takes the pinned commit.
        limit: only so many of the first records.

    Raises:
        UsageError: an unknown name, configuration or split; no such file; a file that is empty
            or not in the schema, with file and line.
        EnvironmentProblem: the Hub cannot be reached, or pyarrow is not installed.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"A limit of {limit} records leaves nothing.", "Give 1 or more.")
    if name == EMBEDDED:
        if path is not None or revision is not None:
            raise UsageError("The embedded patient's data is neither a file nor on the Hub.")
        return tuple(islice(_embedded(config or "personal", split), limit))
    if name not in DATASETS:
        raise _unknown("data set", name, names())
    dataset = DATASETS[name]
    local = None if path is None else Path(path).expanduser()
    config = config or _told(local, dataset.configs) or next(iter(dataset.configs))
    if config not in dataset.configs:
        raise _unknown(f"configuration of {name}", config, dataset.configs)
    part = dataset.configs[config]
    split = split or _told(local, part.splits) or part.splits[0]
    if split not in part.splits:
        raise _unknown(f"split of {name}/{config}", split, part.splits)
    pattern = part.pattern.format(config=config, split=split)
    files = _on_hub(dataset, pattern, revision) if local is None else _local(local, pattern)
    asked = None if local is not None else revision or dataset.revision
    blank = Provenance(dataset=name, config=config, split=split, file="", sha256="", revision=asked)
    records = tuple(islice(_records(files, part, blank), limit))
    if not records:
        raise UsageError(f"{name}/{config} has no records in the split {split}.")
    return records


def load_pairs(path: str | Path, *, limit: int | None = None) -> tuple[Pair, ...]:
    """A user's own pairs: JSON Lines, a JSON list or Parquet.

    Every record needs ``question`` and ``answer``; ``paraphrases``, ``answer_paraphrases``,
    ``wrong_answers`` (lists of texts), ``subject`` and ``truth`` may be there, as
    ``repair facts --json`` writes them. Other fields are ignored.

    Raises:
        UsageError: no such file; no records; a line that is not JSON, lacks a field, or has one
            of the wrong type, with file and line.
    """
    file = Path(path).expanduser()
    blank = Provenance(dataset=file.stem, config="", split="", file="", sha256="")
    files = [File(file, str(path))]
    found = tuple(islice(_records(files, Config(pair), blank), limit))
    return tuple(record for record in found if isinstance(record, Pair))


def check_disjoint(forget: Iterable[Record], retain: Iterable[Record]) -> None:
    """Refuse what is to be forgotten and to be kept at once.

    Two records are the same if their questions (or a paraphrase of one), a choice's question
    and options, or their passages agree but for case, space and punctuation.

    Raises:
        UsageError: one side is empty, or some stand in both, with the files and lines.
    """
    lists = {"forget": list(forget), "retain": list(retain)}
    for side, records in lists.items():
        if not records:
            raise UsageError(f"The {side} set has no records.")
    kept = {key: record for record in lists["retain"] for key in _keys(record)}
    clashes = {
        record.place: kept[key].place
        for record in lists["forget"]
        for key in _keys(record)
        if key in kept
    }
    if clashes:
        shown = [f"{left} and {right}" for left, right in islice(clashes.items(), 5)]
        more = f", and {len(clashes) - 5} more" if len(clashes) > 5 else ""
        raise UsageError(
            f"{len(clashes)} of the forget set stand in the retain set too: "
            f"{'; '.join(shown)}{more}.",
            "Remove them from one of the two.",
        )


def provenances(records: Iterable[Record]) -> tuple[Provenance, ...]:
    """The distinct origins of some records, in order, for a result's header."""
    return tuple(dict.fromkeys(record.provenance for record in records))


@dataclass(frozen=True)
class File:
    """A file to read: where it lies, what to call it, and the commit it belongs to."""

    path: Path
    name: str
    commit: str | None = None


def _unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    return UsageError(f"There is no {what} named {name}.", f"Known: {', '.join(known)}.")


def _told(path: Path | None, known: Iterable[str]) -> str | None:
    """The configuration or split that a file's name tells, or else its folder's."""
    if path is None or path.is_dir():
        return None
    hints = (path.stem, re.sub(r"-\d+-of-\d+.*", "", path.stem), path.parent.name)
    return next((hint for hint in hints if hint in set(known)), None)


def _local(path: Path, pattern: str) -> list[File]:
    if not path.is_dir():
        return [File(path, str(path))]
    files = [File(file, str(file)) for file in sorted(path.glob(pattern))]
    if not files:
        raise UsageError(f"There is no file {pattern} in the folder {path}.")
    return files


def _on_hub(dataset: Dataset, pattern: str, revision: str | None) -> list[File]:
    """The files of a pattern; the snapshot's folder is named by the resolved commit."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                dataset.repository,
                repo_type="dataset",
                revision=revision or dataset.revision,
                allow_patterns=[pattern],
            )
        )
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(
            f"The data set {dataset.repository} is not in the Hub's cache and could not be "
            "fetched.",
            "Check the connection, or give a local file in its schema.",
        ) from error
    files = [
        File(file, file.relative_to(folder).as_posix(), folder.name)
        for file in sorted(folder.glob(pattern))
    ]
    if not files:
        raise EnvironmentProblem(
            f"The data set {dataset.repository} at {folder.name[:12]} has no file {pattern}.",
            "Check the connection, or give a local file in its schema.",
        )
    return files


def _records(files: Iterable[File], part: Config, blank: Provenance) -> Iterator[Record]:
    for file in files:
        digest = _sha256(file)
        origin = replace(blank, file=file.name, sha256=digest, commit=file.commit)
        for number, values in _rows(file):
            record = part.parse(Row(values, number, origin))
            if record is not None:
                yield record


def _sha256(file: File) -> str:
    if not file.path.is_file():
        raise UsageError(f"There is no file {file.name}.")
    digest = hashlib.sha256()
    try:
        with file.path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UsageError(f"The file {file.name} cannot be read ({error.strerror}).") from error
    return digest.hexdigest()


def _rows(file: File) -> Iterator[Numbered]:
    """Every record with its line, or with its row in a Parquet file; by content, not suffix."""
    with file.path.open("rb") as stream:
        is_table = stream.read(len(_PARQUET)) == _PARQUET
    count = 0
    for row in _table(file) if is_table else _objects(file):
        count += 1
        yield row
    if not count:
        raise UsageError(f"The file {file.name} has no records.", _SHAPE)


def _table(file: File) -> Iterator[Numbered]:
    try:
        # By name, because pyarrow is optional and comes without types.
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise EnvironmentProblem(
            f"Reading {file.name} needs pyarrow.", "Install it: pip install pyarrow."
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(file.path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield number, values
    except (OSError, ValueError, NotImplementedError) as error:
        raise UsageError(
            f"{file.name}:{number + 1}: not a readable Parquet file.", "Fetch it again."
        ) from error


def _objects(file: File) -> Iterator[Numbered]:
    raw = file.path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{file.name}:{line}: not UTF-8 text.", _SHAPE) from error
    lines = _elements if text.lstrip().startswith("[") else _lines
    for number, value in lines(text, file.name):
        if not isinstance(value, dict):
            raise UsageError(f"{file.name}:{number}: not a JSON object.", _SHAPE)
        yield number, value


def _lines(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """JSON Lines. Only \\n ends a line: a text may hold the other separators."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{name}:{number}: not JSON.", _SHAPE) from error


def _elements(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """The elements of one JSON list, each with the line that it begins on."""
    decoder, space = json.JSONDecoder(), re.compile(r"[ \t\r\n]*")

    def after_space(place: int) -> int:
        match = space.match(text, place)
        return match.end() if match else place

    place = after_space(after_space(0) + 1)
    line, counted = 1, 0
    while not text.startswith("]", place):
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            at = error.lineno if isinstance(error, json.JSONDecodeError) else line
            raise UsageError(f"{name}:{at}: not JSON.", _SHAPE) from error
        yield line, value
        place = after_space(end)
        comma = text.startswith(",", place)
        if not comma and not text.startswith("]", place):
            at = 1 + text.count("\n", 0, place)
            raise UsageError(f"{name}:{at}: not JSON.", _SHAPE)
        place = after_space(place + 1) if comma else place


def _keys(record: Record) -> Iterator[str]:
    if isinstance(record, Text):
        texts: tuple[str, ...] = (record.passage,)
    elif isinstance(record, Choice):
        texts = ("\n".join([record.question, *record.options]),)
    else:
        texts = (record.question, *record.paraphrases)
    for text in texts:
        yield " ".join(re.findall(r"\w+", text.casefold())) or text


def _embedded(config: str, split: str | None) -> Iterator[Record]:
    """What the embedded patient was taught, or held-out stories for its perplexity."""
    if config == STORIES:
        yield from _stories(split)
        return
    if config not in EMBEDDED_TASKS:
        raise _unknown(f"configuration of {EMBEDDED}", config, (*EMBEDDED_TASKS, STORIES))
    from repair.world import facts

    known = facts(config)
    splits = tuple(dict.fromkeys(fact.split for fact in known))
    if split is not None and split not in splits:
        raise _unknown(f"split of {EMBEDDED}/{config}", split, splits)
    others = _answers_by_attribute(known)
    rows = [
        {**fact.to_json(), "wrong_answers": _wrong_answers(fact, others[fact.attribute])}
        for fact in known
    ]
    # Numbered over the whole task, so that a record's id does not depend on what was asked for.
    origins = {part: _own(config, part, rows) for part in splits}
    for number, (fact, values) in enumerate(zip(known, rows, strict=True), start=1):
        if split in (None, fact.split):
            yield pair(Row(values, number, origins[fact.split]))


def _stories(split: str | None) -> Iterator[Text]:
    if split not in (None, "heldout"):
        raise _unknown(f"split of {EMBEDDED}/{STORIES}", split or "", ("heldout",))
    from repair.world.stories import held_out_stories

    told = [story for _, story in held_out_stories(HELD_OUT_STORIES)]
    origin = _own(STORIES, "heldout", told)
    for number, story in enumerate(told, start=1):
        yield Text(**Row({}, number, origin).identity, passage=story)


def _own(config: str, split: str, content: Any) -> Provenance:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Provenance(
        dataset=EMBEDDED,
        config=config,
        split=split,
        file=f"{EMBEDDED}/{config}/{split}",
        sha256=digest,
        revision=__version__,
    )


def _answers_by_attribute(known: Iterable[Fact]) -> dict[str, set[str]]:
    answers: dict[str, set[str]] = defaultdict(set)
    for fact in known:
        answers[fact.attribute].add(fact.answer)
    return answers


def _wrong_answers(fact: Fact, others: set[str]) -> list[str]:
    """The truth of a false claim, then answers to the same question about others."""
    first = [] if fact.truth is None else [fact.truth]
    rest = sorted(others - {fact.answer, *first})
    count = min(WRONG_ANSWERS - len(first), len(rest))
    return first + random.Random(fact.question).sample(rest, count)
