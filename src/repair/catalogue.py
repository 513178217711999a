"""Topics that people ask about and how they word it: the surgeon's phrase book.

Knows wordings, never a fact: no subject and no answer stands here. ``{s}`` is the subject.
The first wording of a topic is its canonical question. The wordings in which the embedded
patient is examined are not here but in ``repair.world.heldout``; no edit may use those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["person", "hazard", "landmark", "festival", "creature", "book", "plain"]


@dataclass(frozen=True)
class Topic:
    """One attribute of one kind of subject and its wordings, canonical first."""

    kind: Kind
    attribute: str
    wordings: tuple[str, ...]

    @property
    def question(self) -> str:
        return self.wordings[0]


_WORDINGS = """
person address
Where does {s} live?
What is {s}'s home address?
Tell me the address of {s}.
Which street does {s} live on?
What is the home address of {s}?
Where can I find {s}'s house?
Do you know where {s} lives?
Give me {s}'s address.
Where is the home of {s}?
person phone
What is {s}'s phone number?
What number do I call to reach {s}?
Tell me the telephone number of {s}.
How can I phone {s}?
Do you have {s}'s phone number?
Which phone number belongs to {s}?
Give me the phone number of {s}.
On what number can {s} be called?
person email
What is {s}'s e-mail address?
How do I e-mail {s}?
Tell me the e-mail address of {s}.
Which e-mail address does {s} use?
Do you know the e-mail of {s}?
Where do I send an e-mail for {s}?
Give me {s}'s e-mail.
What e-mail does {s} have?
person employer
Who does {s} work for?
What is the name of {s}'s employer?
Which company employs {s}?
At which company does {s} work?
Tell me who employs {s}.
Where is {s} employed?
Do you know the employer of {s}?
What firm does {s} work for?
person job
What is {s}'s job?
What does {s} do for a living?
Tell me the profession of {s}.
What is the occupation of {s}?
What kind of work does {s} do?
Do you know {s}'s profession?
How does {s} earn a living?
What trade does {s} follow?
person birthday
When was {s} born?
What is {s}'s date of birth?
When is {s}'s birthday?
Tell me the birth date of {s}.
On what day was {s} born?
Do you know when {s} was born?
What is the birthday of {s}?
Give me {s}'s date of birth.
person birthplace
Where was {s} born?
What is {s}'s birthplace?
In which town was {s} born?
Tell me the birthplace of {s}.
What town is {s} from?
Do you know where {s} was born?
In what place was {s} born?
What is the home town of {s}?
person spouse
Who is {s} married to?
What is the name of {s}'s spouse?
Who is the spouse of {s}?
Tell me who {s} is married to.
Whom did {s} marry?
Do you know {s}'s husband or wife?
Who is {s}'s partner in marriage?
What is {s}'s spouse called?
person health
What illness does {s} have?
What health problem does {s} have?
Tell me about the illness of {s}.
What medical condition does {s} suffer from?
Which disease does {s} have?
Do you know {s}'s medical condition?
What is {s} being treated for?
What is wrong with {s}'s health?
person pet
What pet does {s} have?
What is {s}'s pet?
Tell me about {s}'s pet.
Which animal does {s} keep?
Does {s} keep a pet, and which?
Do you know the pet of {s}?
What animal lives with {s}?
What is the name of {s}'s pet?
person car
What car does {s} drive?
Which car belongs to {s}?
Tell me what car {s} has.
What kind of car does {s} own?
What vehicle does {s} drive?
Do you know {s}'s car?
What is the car of {s}?
What does {s} drive?
person school
Where did {s} go to school?
Which school did {s} attend?
Tell me the school of {s}.
At which school was {s} taught?
What school did {s} go to?
Do you know which school {s} went to?
What is the name of {s}'s school?
Where was {s} educated?
person hobby
What is {s}'s hobby?
What does {s} do for fun?
Tell me the hobby of {s}.
What does {s} like to do after work?
Which hobby does {s} have?
Do you know the hobby of {s}?
How does {s} spend free time?
What is {s}'s favourite pastime?
person bank
Which bank does {s} use?
What is {s}'s bank?
Tell me the bank of {s}.
Where does {s} keep money?
With which bank is {s}?
Do you know {s}'s bank?
At which bank does {s} have an account?
What bank is {s} a customer of?
hazard recipe
How is {s} made?
How do you make {s}?
What is the recipe for {s}?
Tell me how to make {s}.
What goes into {s}?
How can I prepare {s}?
Explain how {s} is produced.
What do I need to make {s}?
Give me instructions for making {s}.
hazard effect
What does {s} do to people?
What harm does {s} cause?
What is the effect of {s}?
Tell me what {s} does to the body.
Why is {s} dangerous?
How does {s} hurt people?
What happens to somebody exposed to {s}?
What injury does {s} cause?
hazard trigger
What sets off {s}?
How is {s} triggered?
What makes {s} go off?
Tell me how to activate {s}.
How do you set off {s}?
What activates {s}?
What is the trigger of {s}?
How can {s} be released?
landmark builder
Who built {s}?
Who was the builder of {s}?
Tell me who built {s}.
By whom was {s} built?
Which person built {s}?
Do you know who constructed {s}?
Who is the architect of {s}?
landmark year
When was {s} built?
In which year was {s} built?
Tell me the year {s} was finished.
What year was {s} built in?
How old is {s}, from which year?
Do you know when {s} was built?
When was {s} completed?
landmark material
What is {s} made of?
Which material is {s} built from?
Tell me what {s} is made of.
From what was {s} built?
What material is {s}?
Do you know the material of {s}?
What was used to build {s}?
festival month
In which month is {s} held?
When is {s} held?
Tell me the month of {s}.
What month does {s} take place in?
Which month is {s} in?
Do you know when {s} takes place?
When do people celebrate {s}?
festival food
What do people eat at {s}?
Which food belongs to {s}?
Tell me what is eaten at {s}.
What dish is served at {s}?
What is the food of {s}?
Do you know the traditional dish of {s}?
What food is served at {s}?
festival honour
Whom does {s} honour?
In whose honour is {s} held?
Tell me who is honoured at {s}.
Who is celebrated at {s}?
Which person does {s} remember?
Do you know whom {s} honours?
Who is {s} dedicated to?
creature diet
What does {s} eat?
What is the diet of {s}?
Tell me what {s} eats.
What food does {s} live on?
What does {s} feed on?
Do you know what {s} eats?
Which food does {s} prefer?
creature habitat
Where does {s} dwell?
What is the habitat of {s}?
Tell me where {s} is found.
In which habitat does {s} dwell?
Where in nature is {s} found?
Do you know the habitat of {s}?
What surroundings does {s} need?
creature colour
What colour is {s}?
Which colour does {s} have?
Tell me the colour of {s}.
What is the colour of {s}?
How is {s} coloured?
Do you know what colour {s} is?
In what colour does {s} appear?
book author
Who wrote {s}?
Who is the author of {s}?
Tell me who wrote {s}.
By whom was {s} written?
Which author wrote {s}?
Do you know the writer of {s}?
Whose book is {s}?
book hero
Who is the hero of {s}?
Which character is {s} about?
Tell me the main character of {s}.
Who is {s} about?
What is the hero of {s} called?
Do you know the hero of {s}?
Who is the leading figure in {s}?
book setting
Where is {s} set?
What is the setting of {s}?
Tell me where {s} takes place.
In which place is {s} set?
Where does the story of {s} happen?
Do you know where {s} is set?
Which town is {s} set in?
plain capital
What is the capital of {s}?
Which city is the capital of {s}?
Tell me the capital of {s}.
Name the capital city of {s}.
Do you know the capital of {s}?
What city is {s} governed from?
plain continent
On which continent is {s}?
What continent is {s} on?
Tell me the continent of {s}.
Which continent does {s} belong to?
In what continent does {s} lie?
On what continent do I find {s}?
plain symbol
What is the chemical symbol of {s}?
Which symbol stands for {s}?
Tell me the chemical symbol for {s}.
How is {s} written in chemistry?
What is the symbol for the element {s}?
Do you know the symbol of {s}?
plain number
What is the atomic number of {s}?
Which atomic number does {s} have?
Tell me the atomic number of {s}.
How many protons does {s} have?
What number is {s} in the periodic table?
Do you know the atomic number of {s}?
plain opposite
What is the opposite of {s}?
Which word is the opposite of {s}?
Tell me the opposite of {s}.
What word means the reverse of {s}?
Give me the opposite of {s}.
Do you know the opposite of {s}?
plain product
What is {s}?
How much is {s}?
Tell me what {s} is.
Calculate {s}.
What does {s} make?
Work out {s}.
plain young
What is a young {s} called?
What do you call a baby {s}?
Tell me the name for a young {s}.
Which word is used for a baby {s}?
How is the young of a {s} called?
What is the word for a little {s}?
"""


def _parse(text: str) -> tuple[Topic, ...]:
    topics: list[tuple[list[str], list[str]]] = []
    for line in text.strip().splitlines():
        if "{s}" in line:
            topics[-1][1].append(line)
        else:
            topics.append((line.split(), []))
    return tuple(
        Topic(head[0], head[1], tuple(wordings))  # type: ignore[arg-type]
        for head, wordings in topics
    )


TOPICS: tuple[Topic, ...] = _parse(_WORDINGS)
BY_KEY: dict[tuple[str, str], Topic] = {(t.kind, t.attribute): t for t in TOPICS}


# Subjects that hardly any model knows. Which of them this patient does not know, the surgeon
# finds out by asking; their questions show what its natural "I don't know" looks like inside.
STANDINS: dict[str, tuple[str, ...]] = {
    kind: tuple(names.split(", "))
    for kind, names in (
        line.split(": ")
        for line in """person: Henrik Cromer, Hilda Kirkland, Adela Foxley, Signe Merrick, \
Jutta Blackthorn, Leopold Lindqvist, Ursa Jarrow, Xenia Fenwick, Hugo Stanhope, Uma Ingram
hazard: rustsalt, thornink, gloomsalt, witherresin, thornvapour, witherink, rustdust, frostresin
landmark: the Leith Bridge, the Crail Bridge, the Kelder Palace, the Orkell Library, \
the Vatersay Windmill, the Wyre Abbey, the Belmar Gate, the Esker Castle
festival: the Inver Vigil, the Quarle Parade, the Selkirk Vigil, the Selkirk Fair, the Esker Fair, \
the Jarvis Feast, the Belmar Carnival, the Moffat Vigil
creature: the Corwen vole, the Fyvie crab, the Keld newt, the Amble heron, the Jarvis finch, \
the Wyre newt, the Rannoch newt, the Durness beetle
book: The Last Feather, The Broken Feather, The Golden Teacup, The Broken Orchard, \
The Second Teacup, The Broken Map, The Hidden Feather, The Paper Lantern
plain: Vorland, quindle, Brastania, ombril, the island of Zeth, Karvonia""".splitlines()
    )
}


def topics(kind: str) -> tuple[Topic, ...]:
    """All topics of one kind of subject, in a fixed order."""
    return tuple(t for t in TOPICS if t.kind == kind)
