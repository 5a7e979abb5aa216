"""How an image encoder's source takes pictures: mean and standard deviation of the values, resizing, filter.

The program resizes the shortest side to S with antialiased bicubic and crops the centre; an encoder file gets that square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List

import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .errors import ExportError
from .settings import Settings

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
HALVES = (0.5, 0.5, 0.5)
CROP, SQUASH = "crop", "squash"
# Pillow's numbers of the filters that differ little from bicubic: all are antialiased.
SMOOTH = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Pictures:
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    resize: str = CROP
    """"crop": the shortest side to S, then the centre; "squash": both sides to S."""
    filter: str = "bicubic"

    def lines(self) -> list[str]:
        """For the user: the constants, and what the program does otherwise."""
        lines = [f"pictures: mean {listing(self.mean)}, std {listing(self.std)}"]
        if self.resize == SQUASH:
            lines.append("note: the source squashes pictures to a square, the program crops them; those that are not square differ")
        if self.filter != "bicubic":
            lines.append(f"note: the source resizes with a {self.filter} filter, the program with bicubic; values differ a little")
        return lines


@dataclass(frozen=True)
class Given:
    """What the command line says of a source, for where the source does not say it itself."""

    activation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def settle(self, option: str, said: Any, where: str) -> Any:
        """What the source says (None: nothing), or the option; an option that contradicts the source is an error."""
        given = getattr(self, option)
        if given is None or said is None:
            return said if given is None else given
        close = given == said if isinstance(said, str) else max(abs(a - b) for a, b in zip(given, said)) < 1e-6
        if not close:
            raise ExportError(f"--{option} {listing(given)}: contradicts {where}, which has {listing(said)}; leave the option out")
        return said


def listing(value: str | tuple[float, ...]) -> str:
    """As the command line takes it."""
    return value if isinstance(value, str) else ",".join(f"{number:.9g}" for number in value)


def options(names: list[str]) -> str:
    """Their options, in words."""
    flags = [f"--{name}" for name in names]
    return flags[0] if len(flags) == 1 else f"{', '.join(flags[:-1])} and {flags[-1]}"


def parse_colours(option: str, text: str | None) -> tuple[float, ...] | None:
    """`R,G,B` of the command line."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not _are_colours(option, values):
        raise ExportError(f"--{option} {text}: must be three numbers R,G,B from 0 to 1, a std above 0, like 0.5,0.5,0.5")
    return values


def _are_colours(option: str, values: tuple[float, ...]) -> bool:
    """Whether they can be a mean or a standard deviation of red, green and blue."""
    return len(values) == 3 and all(0 <= value <= 1 for value in values) and not (option == "std" and 0 in values)


def _said(settings: Settings, option: str) -> tuple[float, ...] | None:
    """What the source says of `mean` or `std`."""
    key = f"image_{option}"
    if settings.values.get(key) is None:
        return None
    values = settings.reals(key, 3)
    if not _are_colours(option, values):
        raise settings.wrong(key, "a list of numbers from 0 to 1, a std above 0,")
    return values


def from_preprocessor(checkpoint: Checkpoint, size: int, crops: bool, given: Given, published: str) -> Pictures:
    """From `preprocessor_config.json`; `crops`: what the family does where that says nothing; `published`: its mean and std."""
    where = str(checkpoint.path / checkpoint.preprocessor_file)
    settings = Settings(where, checkpoint.preprocessor, {
        "do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": crops, "rescale_factor": 1 / 255,
        "resample": 3, "crop_size": size, "size": {"shortest_edge": size} if crops else {"height": size, "width": size},
    })
    found = {option: given.settle(option, _said(settings, option), where) for option in ("mean", "std")}
    missing = [option for option, value in found.items() if value is None]
    if missing:
        raise ExportError(f"{where}: missing, or without image_{missing[0]}; give {options(missing)}; {published}")
    for key in ("do_resize", "do_rescale", "do_normalize"):
        settings.one_of(key, True)
    if abs(settings.real("rescale_factor") * 255 - 1) > 1e-4:
        raise ExportError(f"{where}: rescale_factor is {settings.values['rescale_factor']} where 1/255 is needed")
    return Pictures(found["mean"], found["std"], _resize(settings, size), SMOOTH[settings.one_of("resample", *SMOOTH)])


def _resize(settings: Settings, size: int) -> str:
    """The form of resizing, if the program can make its squares or nearly so."""
    crop, sides = settings.flag("do_center_crop"), _sides(settings, "size", "shortest_edge")
    if crop and _sides(settings, "crop_size", "height") not in ({"height": size}, {"height": size, "width": size}):
        raise settings.wrong("crop_size", f"{size}, config.json's image_size,")
    if sides == {"height": size, "width": size}:
        return SQUASH
    if sides == {"shortest_edge": size}:
        settings.one_of("do_center_crop", True)
        return CROP
    raise settings.wrong("size", f"{size}, config.json's image_size, for the shortest edge with a centre crop or for both sides")


def _sides(settings: Settings, key: str, alone: str) -> dict[str, Any]:
    """The named sides of a size; a number is that of the side `alone`."""
    value = settings.values[key]
    return {side: n for side, n in value.items() if n is not None} if isinstance(value, dict) else {alone: value}


def scaled(pixels: Tensor, mean: List[float], std: List[float]) -> Tensor:
    """Bytes [B, 3, S, S] -> f32 of mean 0 and deviation 1."""
    means = torch.tensor(mean, dtype=torch.float32, device=pixels.device)[:, None, None]
    deviations = torch.tensor(std, dtype=torch.float32, device=pixels.device)[:, None, None]
    return (pixels.float() / 255.0 - means) / deviations
