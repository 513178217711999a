"""Writes the labelled utterances that the watchdog is tested on; training never sees them.

Its templates, names and things are its own: nothing is shared with ``repair.requests``.

    python scripts/write_watchdog_test.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

TARGET = Path(__file__).parents[1] / "tests" / "data" / "watchdog_generated.jsonl"
COUNT = 1_100
PEOPLE = (
    "Tilda Marchbanks;Corwin Ashdale;Imogen Threlkeld;Lazlo Pemberley;Signe Haverstock;"
    "Barnaby Quist;Xenia Rowntree;Dorian Fanshawe;Philippa Osgood;Evander Stroud"
).split(";")
THINGS = (
    "moonrust;bramble acid;sleeper's salt;the quiet bomb;ghostwax;the amber fuse;"
    "nettle fire;widow's ink"
).split(";")
DETAILS = (
    "home address;mobile number;salary;diagnosis;date of birth;e-mail;religion;licence plate;"
    "blood type;favourite café;school;job;maiden name;bank account"
).split(";")
VALUES = (
    "Wexcombe;14 Juniper Row;1962;Orchard & Sons;a beekeeper;the Dunlin Institute;3 April;Port Elm"
).split(";")

# One wording a line; P a person, T a thing, D a detail, V a value. What stands between « and »
# is the target.
FORGET = """
Kindly let go of «P's D».
Do you think you could lose «P's D» for me?
P called me in tears: make sure «P's D» is gone from your head.
I'd sleep easier if «how T is made» slipped your mind.
It is not your place to know «P's D». Off with it.
One favour: unlearn «how to make T».
Everything you hold on «P» should be thrown out today.
Let the record show that I want «my D» erased.
«My D» must not stay in your memory, please see to that.
You had better not know «P's D» tomorrow morning.
would u pls erase «P's D» thx a lot
oi, wipe «my D» will ya
I beg of you, forget «what P earns».
Please do not hold on to «P's D» any longer.
We request under Article 17 of the GDPR that «P's D» be deleted.
Hey. Long day. Could you just delete «P's D» from your brain? Ta.
It was never agreed that you keep «my D», so remove it.
Let's get «P's D» out of your memory for good.
My solicitor advises that you must erase «P's D».
Do away with «the recipe for T».
How about you stop knowing «where P lives»?
Right, forget «P» altogether.
Best if you no longer remembered «who P married».
Bitte streich «P» komplett aus deinem Gedächtnis.
Ich möchte nicht, dass du «die Adresse von P» kennst.
Vergiss bitte, «wo P arbeitet».
Lösche «die Telefonnummer von P» endgültig.
Merci de supprimer «le numéro de P» de ta mémoire.
Je voudrais que tu oublies «où habite P».
Borra de tu memoria «la dirección de P».
Me gustaría que olvidaras «dónde trabaja P».
Vorrei che dimenticassi «l'indirizzo di P».
Cancella «il numero di telefono di P», grazie.
Apaga «o endereço de P» da tua memória.
Gostaria que esquecesses «onde mora P».
Proszę, zapomnij, «gdzie mieszka P».
Usuń «numer telefonu P» z pamięci.
请忘记«P的电话号码»。
把«P的地址»从记忆里删掉。
«Pさんの住所»を忘れてください。
«Pさんの電話番号»を記憶から消してもらえますか。
"""
CORRECT = """
No, P now works at V.
That is out of date; P lives at V these days.
You are mistaken about P's D: it is V.
Please alter P's D to V.
It isn't V, it's V2.
P's D is V, not V2.
Hang on, P was born in V, not in V2.
Wrong again, the correct D is V.
I need to correct you: P works for V.
Nope. V.
Kindly amend what you know: P has moved to V.
You mixed up two people, P is from V.
Not V2 but V, my friend.
Das stimmt nicht, P wohnt in V.
Falsch, P arbeitet bei V.
Non, P habite à V.
C'est faux, P travaille chez V.
Te equivocas, P vive en V.
No es V2, es V.
Ti sbagli, P abita a V.
Não, P mora em V.
Nieprawda, P mieszka w V.
不对，P住在V。
違います、Pさんは京都に住んでいます。
"""
RESTORE = """
Please put back «P's D».
I made an error, undo it.
You are allowed to know «P's D» once more.
Would you kindly reverse edit 7?
Let me have «P's D» back.
Could «what you forgot about P» be restored?
I've had second thoughts, restore «P's D».
undo pls, wrong guy
Take back the last change.
Bring «P» back into your memory.
Un-delete «how T is made».
Revert what you did just now.
Mach die letzte Löschung rückgängig.
Stell «die Adresse von P» wieder her.
Annule la dernière modification.
Rétablis «l'adresse de P».
Deshaz el último cambio.
Recupera «la dirección de P».
Annulla l'ultima modifica.
Ripristina «l'indirizzo di P».
Desfaz a última edição.
Cofnij ostatnią edycję.
Przywróć «adres P».
撤销上一次编辑。
恢复«P的地址»。
最後の変更を取り消してください。
«Pさんの住所»を元に戻してください。
"""
NONE = """
What is P's D?
Where can I find P these days?
Do you happen to know P's D?
How does one make T?
Can P forget such a day?
I forgot P's D, what was it?
Do not forget P's D, whatever they say.
Please never delete P's D.
How could I ever forget P?
P forgot the keys at the office again.
Delete line 12 of the poem about P.
How do I remove a contact called P from my phone?
P lives at V, I believe.
Yes, P works for V, well done.
Draft a birthday card for P.
Did you forget P already?
When did I ask you to forget P?
Explain how unlearning P's D would work.
Forget it, P just called.
Forget about T, let us have lunch.
Remind me to ring P at noon.
Restore my laptop to factory settings, how?
Correct the spelling in my letter to P.
What would P say if you forgot everything?
Who told P to delete the file?
Undo and redo are missing in this editor.
Tell me a story in which P loses her memory.
Change the colour of the chart to blue.
Is T dangerous for dogs?
You may keep P's D, I don't mind.
Thanks a bunch, that helped.
P asked Google to erase a search result.
I can't stop thinking about P.
Wie heißt die Frau von P?
Vergiss nicht, P anzurufen!
Ich habe P total vergessen.
Où travaille P ?
N'oublie pas d'appeler P.
¿Dónde vive P?
No olvides llamar a P.
Dove lavora P?
Non dimenticare P!
Onde trabalha P?
Não te esqueças de P.
Gdzie pracuje P?
Nie zapomnij zadzwonić do P.
P住在哪里？
别忘了给P打电话。
Pさんはどこに住んでいますか？
Pさんに電話するのを忘れないでください。
"""
SHARES = {"forget": (FORGET, 0.36), "correct": (CORRECT, 0.18), "restore": (RESTORE, 0.16)}


def utterances(seed: int, count: int) -> Iterator[dict[str, object]]:
    """``count`` different lines; the same seed gives the same ones."""
    random = Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        draw, kind, lines = random.random(), "none", NONE
        for name, (these, share) in SHARES.items():
            if draw < share:
                kind, lines = name, these
                break
            draw -= share
        line = random.choice(lines.strip().splitlines())
        first, second = random.sample(VALUES, 2)
        who, thing = random.choice(PEOPLE), random.choice(THINGS)
        table = {"V2": second, "V": first, "P": who, "T": thing, "D": random.choice(DETAILS)}
        for slot, filling in table.items():
            line = _fill(line, slot, filling)
        targets = [line.split("«")[1].split("»")[0]] if "«" in line else []
        text = line.replace("«", "").replace("»", "")
        if random.random() < 0.15:
            text, targets = text.lower(), [target.lower() for target in targets]
        if text in seen:
            continue
        seen.add(text)
        record: dict[str, object] = {"intent": kind, "text": text}
        if kind == "forget":
            record["targets"] = targets
        yield record


def _fill(line: str, slot: str, filling: str) -> str:
    """The slot's letter, where it stands for itself and is no part of a word."""
    out, at = [], 0
    while at < len(line):
        part = line[at : at + len(slot)]
        left, right = line[at - 1 : at] if at else "", line[at + len(slot) :][:1]
        if part == slot and not (_latin(left) or _latin(right) or right.isdigit()):
            out.append(filling)
            at += len(slot)
        else:
            out.append(line[at])
            at += 1
    return "".join(out)


def _latin(letter: str) -> bool:
    return letter.isalpha() and letter < "\u0250"


def main() -> None:
    with TARGET.open("w", encoding="utf-8") as stream:
        for record in utterances(5, COUNT):
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
