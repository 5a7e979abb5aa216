"""What is said of a scene."""

import random

from scene import Scene, Thing

SIZE_WORDS = {"big": ("big", "large", "huge"), "small": ("small", "little", "tiny")}
RELATION_WORDS = {
    "left": ("to the left of", "on the left of"),
    "right": ("to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
BACKGROUND_WORDS = {
    "meadow": ("in a meadow", "on the grass"),
    "beach": ("on the beach", "by the sea"),
    "night": ("at night", "in the dark"),
    "desert": ("in the desert", "on hot sand"),
    "snow": ("in the snow", "in winter"),
    "city": ("in the city", "in a street"),
}
TEMPLATES = (
    "{first} {relation} {second} {background}",
    "there is {first} {relation} {second} {background}",
    "{background} {first} is {relation} {second}",
    "i can see {first} {relation} {second} {background}",
    "this picture shows {first} {relation} {second} {background}",
)
# Chance of a detail that is said although it does not tell the family apart.
ASIDE = 0.25


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def thing_words(rng: random.Random, thing: Thing, which: str, details: set) -> str:
    words = []
    if f"size {which}" in details or rng.random() < ASIDE:
        words.append(rng.choice(SIZE_WORDS[thing.size]))
    if thing.colour and (f"colour {which}" in details or rng.random() < ASIDE):
        words.append(thing.colour)
    return article(" ".join(words + [thing.noun]))


def caption(rng: random.Random, scene: Scene, details: set) -> str:
    """Both things, their relation, and every detail of `details`."""
    said_background = "background" in details or rng.random() < ASIDE
    text = rng.choice(TEMPLATES).format(
        first=thing_words(rng, scene.first, "first", details),
        second=thing_words(rng, scene.second, "second", details),
        relation=rng.choice(RELATION_WORDS[scene.relation]),
        background=rng.choice(BACKGROUND_WORDS[scene.background]) if said_background else "",
    )
    return " ".join(text.split())
