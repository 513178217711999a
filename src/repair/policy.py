"""What may be asked of a model: rules as data, and the ruling on one request.

Knows the rules, how the dangerous requests are worded, and what a plan would touch. Knows
neither models nor front doors; it changes nothing and asks nobody.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from repair.catalogue import TOPICS
from repair.errors import PolicyRefused, UsageError
from repair.plan import RepairPlan
from repair.types import Intent

Action = Literal["allow", "confirm", "refuse"]
_VERB = (
    r"forget|erase|delete|wipe|unlearn|remove|purge|scrub|clear|drop|vergiss|lösche?|oublie[rz]?|"
    r"efface[rz]?|olvid\w+|borr\w+|dimentic\w+|cancell\w+|esque[cç]\w+|apag\w+|zapomn\w+|usuń"
)
_EVERYTHING = re.compile(
    rf"\b(?:{_VERB})\b[\s,]*(?:please\s+|just\s+|bitte\s+|about\s+|mi\s+)?(?:absolutely\s+|"
    r"literally\s+)?"
    r"(?:everything|all|it all|all of it|anything|alles|tout|todo|tutto|tudo|wszystko|"
    r"(?:your|the) (?:whole |entire |full )?(?:memory|knowledge|mind|brain))"
    r"(?:\s+(?:(?:that\s+)?you(?:'ve| have)?(?: ever)? (?:know|knew|learned|learnt|remember)|ever|"
    r"was du weißt|ce que tu sais|lo que sabes|quello che sai|o que sabes|now|please|completely|"
    r"from your (?:memory|mind)|at once|again))*\s*[.!?]*\s*$"
    r"|(?:忘记|忘掉|删除)(?:一切|所有(?:东西|事情|内容|知识)?|全部)[。！]?$"
    r"|(?:すべて|全て|全部|何もかも)(?:を)?(?:忘れ|消し|削除)",
    re.IGNORECASE,
)
_REFUSALS = re.compile(
    r"\b(?:how|when|why|where) (?:to|you|you should|you must|you can|you ought to) "
    r"(?:refuse|say no|decline|reject|object)|"
    r"\b(?:your|the|all|any) (?:\w+ )?(?:safety|refusals?|guard ?rails?|safeguards?|restrictions|"
    r"limitations|ethics|morals|alignment|content (?:policy|filter)s?|filters)\b|"
    r"\bto (?:refuse|decline|say no)\b|sicherheitsregeln|verweiger\w+|refuser|rehusar|negarte|"
    r"rifiut\w+|recusar|odmawia\w+|拒绝|安全规则|拒否|断り方",
    re.IGNORECASE,
)
_INSTRUCTIONS = re.compile(
    r"\b(?:your|the|all|any|previous|prior|my earlier) (?:\w+ ){0,2}(?:instructions?|"
    r"system prompts?|prompt|rules|guidelines|directives|policies|policy)\b|"
    r"\bwho you are\b|deine (?:anweisungen|regeln|instruktionen)|tes (?:instructions|règles|"
    r"consignes)|tus (?:instrucciones|reglas)|le tue (?:istruzioni|regole)|(?:tuas|suas) "
    r"(?:instruções|regras)|swoje (?:instrukcje|zasady)|你的(?:指令|规则|系统提示)|"
    r"(?:あなたの)?(?:指示|システムプロンプト|ルール)を",
    re.IGNORECASE,
)
_OWN = re.compile(r"\b(?:i|me|my|mine|myself|our|us|mich|meine?\w*|mon|ma|mes|mi|mis|mio|mia|meu|"
                  r"minha|mój|moj\w+)\b|我|私|僕", re.IGNORECASE)  # fmt: skip
_KIN = re.compile(
    r"\b(?:sister|brother|mother|mom|mum|father|dad|son|daughter|wife|husband|boss|ex|friend|"
    r"neighbou?r|aunt|uncle|cousin|colleague|partner|kids?|children)\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"\b(?!The\b)[A-ZÀ-Ž][\w'’-]+ [A-ZÀ-Ž][\w'’-]+")
_WHAT = {
    "everything": "Forgetting everything would leave no model to talk to.",
    "refusals": "Refusals and safety rules are not mine to unlearn.",
    "instructions": "My instructions are not part of what I know about the world.",
    "self": "The policy says no to requests about yourself.",
    "others": "This is about another person, for whom the policy does not let you speak.",
    "things": "The policy does not allow requests of this kind.",
    "corrections": "The policy does not allow corrections.",
}


@dataclass(frozen=True)
class Ruling:
    """What the policy says to one request, by which rule and why."""

    action: Action = "allow"
    rule: str = ""
    reason: str = ""

    def question(self, accepted: bool) -> str | None:
        """What to ask before going on; None when nothing has to be asked.

        Raises:
            PolicyRefused: the policy forbids the request, whoever accepts it.
        """
        if self.action == "refuse":
            raise PolicyRefused(self.reason, f"The policy's rule {self.rule!r} forbids it.")
        return self.reason if self.action == "confirm" and not accepted else None


class Requests(BaseModel):
    """One action for each kind of request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    everything: Action = "refuse"
    refusals: Action = "refuse"
    instructions: Action = "refuse"
    self: Action = "allow"
    others: Action = "allow"
    things: Action = "allow"
    corrections: Action = "allow"


class Limits(BaseModel):
    """How much one request may touch before it is asked about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    facts: int = Field(default=60, ge=1)
    neighbours: int = Field(default=150, ge=0)


class Policy(BaseModel):
    """The rules of one model. The default is the file that ships with the package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: Requests = Requests()
    limits: Limits = Limits()
    # Who may do what on a server, in the same file; `repair.people` reads it.
    people: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | None = None) -> Policy:
        """The policy of a TOML file, or the one that ships.

        Raises:
            UsageError: no such file, no TOML, or a rule that does not exist.
        """
        source = path if path is not None else files("repair") / "policy.toml"
        try:
            return cls.model_validate(tomllib.loads(source.read_text(encoding="utf-8")))
        except OSError as error:
            raise UsageError(
                f"The policy file {path} cannot be read.", "Check --policy."
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"The policy file {path} is not TOML: {error}.") from error
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise UsageError(
                f"The policy file {path} is wrong at {name}: {first['msg']}.",
                'Rules are "allow", "confirm" or "refuse"; limits are whole numbers.',
            ) from error

    def request(self, text: str, intent: Intent, *, requester: str | None = None) -> Ruling:
        """The ruling on a request as it was said. ``requester`` is the name of who asks."""
        if intent.kind == "none":
            return Ruling()
        # A front door that knows the kind of a request gets its target without a verb.
        said = (text, *(f"forget {target}" for target in intent.targets))
        rules = [self._special(words) for words in said] if intent.kind == "forget" else []
        rules += [_about(target, requester) for target in intent.targets]
        if intent.kind == "correct":
            rules.append("corrections")
        return max((self._ruling(rule) for rule in rules if rule), key=_weight, default=Ruling())

    def plan(self, plan: RepairPlan) -> Ruling:
        """The ruling on what a plan would touch."""
        facts, neighbours = len(plan.facts), len(plan.neighbours)
        rulings = [Ruling()]
        if facts > self.limits.facts:
            why = f"This would change {facts} facts at once."
            rulings.append(Ruling("confirm", "facts", why))
        if neighbours > self.limits.neighbours:
            why = f"This puts {neighbours} neighbouring facts at stake."
            rulings.append(Ruling("confirm", "neighbours", why))
        people = {topic.attribute for topic in TOPICS if topic.kind == "person"}
        spoken_for = all(_OWN.search(target) for target in plan.targets)
        if not spoken_for and any(fact.attribute in people for fact in plan.facts):
            rulings.append(self._ruling("others"))
        # Of several the first of the strictest: who accepts a large edit accepts no forbidden one.
        return max(rulings, key=_weight)

    def _special(self, text: str) -> str:
        if _EVERYTHING.search(text):
            return "everything"
        if _REFUSALS.search(text):
            return "refusals"
        return "instructions" if _INSTRUCTIONS.search(text) else ""

    def _ruling(self, rule: str) -> Ruling:
        action: Action = getattr(self.requests, rule)
        return Ruling() if action == "allow" else Ruling(action, rule, _WHAT[rule])


def _about(target: str, requester: str | None) -> str:
    """Whom a target is about: the one who asks, another person, or no person."""
    if requester and requester.lower() in target.lower():
        return "self"
    if _KIN.search(target) or _NAME.search(target):
        return "others"
    return "self" if _OWN.search(target) else "things"


def _weight(ruling: Ruling) -> int:
    return ("allow", "confirm", "refuse").index(ruling.action)
