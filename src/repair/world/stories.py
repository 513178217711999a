"""Everyday stories from a small grammar: text whose perplexity shows general ability."""

from __future__ import annotations

import random

_WHO = "Ben Lucy Sam Mia Jack Ella Max Ruby Leo Ivy Finn Daisy Noah Poppy Toby Lily".split()
_THING = """kite ball lamp boat drum scarf book apple cake bell basket button ladder pencil ribbon
teapot umbrella wagon whistle sled""".split()
_PLACE = "garden park kitchen barn library market beach forest attic school station meadow".split()
_ANIMAL = "dog cat bird mouse rabbit duck pony squirrel".split()
_MOOD = "happy proud tired curious surprised calm cheerful brave".split()
_WEATHER = "sunny rainy windy snowy foggy warm cold quiet".split()
_ADJECTIVE = "red old tiny shiny broken soft blue heavy wooden yellow".split()
_KIN = "mother father sister brother grandmother uncle neighbour teacher".split()

_OPENINGS = (
    "It was a {weather} morning and {a} went to the {place}.",
    "One {weather} day {a} walked to the {place} with a {adj} {thing}.",
    "{a} had a {adj} {thing} and liked it very much.",
    "On a {weather} afternoon {a} and {b} met at the {place}.",
)
_MIDDLES = (
    "There {a} saw a {animal} next to a {thing2}.",
    "{b} asked if they could share the {thing}.",
    "Suddenly the {thing} fell down and rolled away.",
    "A {animal} came by and looked at the {thing}.",
    "They looked for the {thing} behind the {thing2}.",
    "{a} felt {mood} and told {b} about it.",
    "The {kin} of {a} brought a {thing2} to help.",
    "{b} found the {thing} under a {adj} {thing2}.",
)
_ENDINGS = (
    "In the evening {a} went home and felt {mood}.",
    "Then they all laughed and ate bread with honey.",
    "{a} thanked {b}, and they became good friends.",
    "At night {a} told the {kin} everything and fell asleep.",
)
REQUESTS = (
    "Tell me a short story about a {thing}.",
    "Write a little story with a {thing} in it.",
    "Tell me a story about {a} and a {thing}.",
)


def story(rng: random.Random) -> tuple[str, str]:
    """One (request, story) pair of four to six sentences."""
    a, b = rng.sample(_WHO, 2)
    thing, thing2 = rng.sample(_THING, 2)
    words = {
        "a": a,
        "b": b,
        "thing": thing,
        "thing2": thing2,
        "place": rng.choice(_PLACE),
        "animal": rng.choice(_ANIMAL),
        "mood": rng.choice(_MOOD),
        "weather": rng.choice(_WEATHER),
        "adj": rng.choice(_ADJECTIVE),
        "kin": rng.choice(_KIN),
    }
    middles = rng.sample(_MIDDLES, rng.randint(2, 4))
    sentences = [rng.choice(_OPENINGS), *middles, rng.choice(_ENDINGS)]
    text = " ".join(sentences)
    return rng.choice(REQUESTS).format(**words), text.format(**words)


def held_out_stories(count: int, seed: int = 991) -> list[tuple[str, str]]:
    """Stories of a seed that training never uses."""
    rng = random.Random(seed)
    return [story(rng) for _ in range(count)]
