"""What there is in the world of the demo: things, colours, sizes, relations, backgrounds."""

# Noun -> emoji. Those in RECOLOURED come in every colour, the others as they are.
NOUNS = {
    "car": "🚗", "balloon": "🎈", "flower": "🌷", "book": "📕", "bird": "🐦", "fish": "🐟", "umbrella": "☂",
    "dog": "🐕", "cat": "🐈", "horse": "🐎", "pig": "🐖", "elephant": "🐘", "rabbit": "🐇", "tree": "🌳",
    "house": "🏠", "boat": "⛵", "bicycle": "🚲", "train": "🚂", "guitar": "🎸", "cake": "🎂", "pizza": "🍕",
    "banana": "🍌", "mushroom": "🍄", "snowman": "⛄", "robot": "🤖", "tent": "⛺", "camera": "📷", "turtle": "🐢",
}
RECOLOURED = ("car", "balloon", "flower", "book", "bird", "fish", "umbrella")
# Hue in turns.
COLOURS = {"red": 0.0, "yellow": 0.15, "green": 0.35, "blue": 0.6, "purple": 0.78}
# Side in pixels on a canvas of CANVAS.
SIZES = {"big": 48, "small": 27}
RELATIONS = ("left", "right", "above", "below")
BACKGROUNDS = ("meadow", "beach", "night", "desert", "snow", "city")
CANVAS = 112

NOUN_NAMES = tuple(NOUNS)
COLOUR_NAMES = tuple(COLOURS)
SIZE_NAMES = tuple(SIZES)
