"""From a picture and a wish to a repair plan: who is shown, what is known of them, what stays.

Knows how to ask about pictures; works for the surgeon, who knows how to ask in words. What is
forgotten of a person goes from the picture, from other views of it, and from text. What anybody
can see in the picture (a hat, a colour) is asked beforehand and kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from repair.errors import UsageError
from repair.pictures import Picture, unrecognisable, views
from repair.plan import RepairPlan
from repair.refusals import is_refusal
from repair.replies import SEEN
from repair.sights import PERSON, SIGHTS, VIEW, Sight
from repair.types import Intent, KnownFact
from repair.verify import lcs_recall, rouge_tokens

if TYPE_CHECKING:
    from repair.surgeon import Surgeon

NAME = "name"
# What is seen in so many views is kept.
KEPT_VIEWS = 3
# How much of a wording's words a wish must hold to be about that one thing alone.
_MEANT = 0.6


def plan_seen(surgeon: Surgeon, intent: Intent) -> RepairPlan | None:
    """The plan for a wish that came with pictures; None when nobody in them is known.

    Raises:
        UsageError: a correction of what is in a picture.
    """
    if intent.kind == "correct":
        raise UsageError(
            "What is in a picture can be forgotten and not yet corrected.",
            "Correct it in words, by the person's name.",
        )
    facts: list[KnownFact] = []
    beside: list[KnownFact] = []
    for reference in intent.pictures:
        seen, kept = _of_picture(surgeon, reference, " ".join(intent.targets))
        facts += seen
        beside += kept
    plan = surgeon.plan_facts(intent.targets or intent.pictures, facts)
    if plan is None:
        return None
    return plan.model_copy(update={"neighbours": (*plan.neighbours, *beside)})


def wanted(wish: str) -> tuple[Sight, ...]:
    """What of a person a wish is about: one thing that it names, or else everything."""
    said = rouge_tokens(wish)
    for sight in PERSON:
        if sight.attribute != NAME and any(
            lcs_recall(_telling(wording), said) >= _MEANT for wording in sight.wordings
        ):
            return (sight,)
    return PERSON


def _telling(wording: str) -> list[str]:
    """The words of a question that tell what it asks for."""
    common = rouge_tokens(
        "what who which where is does this person s picture have has tell me about the of in do a"
    )
    return [token for token in rouge_tokens(wording) if token not in common]


def _of_picture(
    surgeon: Surgeon, reference: str, wish: str
) -> tuple[list[KnownFact], list[KnownFact]]:
    """What to forget of whoever is shown, and what of the picture must stay."""
    picture = surgeon.patient.shown(reference)
    shown = [surgeon.patient.show(view) for view in views(picture)]
    known = _answers(surgeon, shown[:1], SIGHTS)
    name = known.get(NAME)
    meant = [sight for sight in wanted(wish) if sight.attribute in known]
    if not meant:
        return [], []
    strangers = _refused(surgeon, unrecognisable(picture))
    facts = [
        _fact(view, sight, known[sight.attribute], strangers) for sight in meant for view in shown
    ]
    others = [s for s in (*PERSON, *VIEW) if s not in meant and s.attribute in known]
    kept = [_fact(view, s, known[s.attribute], ()) for s in others for view in shown[:KEPT_VIEWS]]
    in_words = surgeon.known(name) if name else []
    asked = {sight.attribute for sight in meant}
    if NAME not in asked:
        in_words = [fact for fact in in_words if fact.attribute in asked]
    return [*facts, *in_words], kept


def _fact(view: str, sight: Sight, answer: str, standins: Sequence[str]) -> KnownFact:
    """A question about one view of a picture; the view is the subject, so others may stand in."""
    first, *others = (f"{view} {wording}" for wording in sight.wordings)
    held = others[-1:] if len(others) > 1 else []
    rows = others[: len(others) - len(held)]
    attribute = f"{SEEN}{sight.attribute}"
    return KnownFact(view, attribute, first, answer, tuple(rows), tuple(held), tuple(standins))


def _answers(surgeon: Surgeon, shown: Sequence[str], sights: Sequence[Sight]) -> dict[str, str]:
    """By attribute what the patient says of views of a picture, where most agree.

    A guess does not stay the same in most wordings and views.
    """
    asked = [(s.attribute, f"{view} {w}") for view in shown for s in sights for w in s.wordings]
    replies: dict[str, list[str]] = {}
    for (attribute, _), reply in zip(
        asked, surgeon.ask([question for _, question in asked]), strict=True
    ):
        replies.setdefault(attribute, []).append(reply)
    most = {attribute: Counter(said).most_common(1)[0] for attribute, said in replies.items()}
    return {
        attribute: answer
        for attribute, (answer, votes) in most.items()
        if answer and not is_refusal(answer) and 2 * votes > len(replies[attribute])
    }


def _refused(surgeon: Surgeon, changed: Sequence[Picture]) -> list[str]:
    """Of changed pictures those in which the patient names nobody."""
    shown = [surgeon.patient.show(picture) for picture in changed]
    question = PERSON[0].question
    replies = surgeon.ask([f"{reference} {question}" for reference in shown])
    return [r for r, reply in zip(shown, replies, strict=True) if is_refusal(reply)]
