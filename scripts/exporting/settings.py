"""Values of a source's configuration, checked."""

from __future__ import annotations

from typing import Any

from .errors import ExportError


class Settings:
    """A configuration with the defaults of the program that wrote it."""

    def __init__(self, where: str, values: dict[str, Any], defaults: dict[str, Any]) -> None:
        self.where = where
        self.values = {**defaults, **{key: value for key, value in values.items() if value is not None}}

    def wrong(self, key: str, needed: str) -> ExportError:
        """The error of a value that is not `needed`."""
        return ExportError(f"{self.where}: {key} is {self.values.get(key)!r} where {needed} is needed")

    def whole(self, key: str) -> int:
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 24:
            raise self.wrong(key, "a positive whole number")
        return value

    def wholes(self, key: str) -> tuple[int, ...]:
        value = self.values.get(key)
        if not isinstance(value, (list, tuple)) or not value or not all(type(n) is int and 0 < n < 1 << 24 for n in value):
            raise self.wrong(key, "a list of positive whole numbers")
        return tuple(value)

    def real(self, key: str) -> float:
        value = self.values.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e6:
            raise self.wrong(key, "a positive number")
        return float(value)

    def reals(self, key: str, count: int) -> tuple[float, ...]:
        value = self.values.get(key)
        if not isinstance(value, (list, tuple)) or len(value) != count or not all(type(n) in (int, float) for n in value):
            raise self.wrong(key, f"a list of {count} numbers")
        return tuple(float(n) for n in value)

    def flag(self, key: str) -> bool:
        value = self.values.get(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def one_of(self, key: str, *choices: Any) -> Any:
        value = self.values.get(key)
        if value not in choices:
            raise self.wrong(key, " or ".join(repr(choice) for choice in choices))
        return value
