"""Draws assets/demo/sprites from the font Noto Color Emoji (Debian: fonts-noto-color-emoji). Users need not run this."""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from world import NOUNS

STRIKE = 109  # the font's only bitmap size
SIDE = 64
SPRITES = Path(__file__).resolve().parents[2] / "assets" / "demo" / "sprites"


def main(font_file: str = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf") -> None:
    font = ImageFont.truetype(font_file, STRIKE)
    SPRITES.mkdir(parents=True, exist_ok=True)
    for noun, emoji in NOUNS.items():
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((10, 10), emoji, font=font, embedded_color=True)
        sprite = canvas.crop(canvas.getbbox())
        side = max(sprite.size)
        square = Image.new("RGBA", (side, side))
        square.paste(sprite, ((side - sprite.width) // 2, (side - sprite.height) // 2))
        square.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(SPRITES / f"{noun}.png", optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
