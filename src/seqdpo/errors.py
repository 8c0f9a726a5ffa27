"""The error family. Every message says where, what was found, what was expected, and what to do next."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class SeqdpoError(Exception):
    """Base of all errors whose message is for the user; the CLI prints these without a traceback."""


class ConfigError(SeqdpoError, ValueError):
    """The study file, a flag or a folder named in it is wrong (exit code 2)."""


class ArgumentError(ConfigError):
    """An argument of a function is wrong; where it was given by another name, as a flag, the message can say so."""

    def __init__(self, names: Sequence[str], problem: str) -> None:
        """`names` are those of the arguments, `problem` is what follows them in the message."""
        self.names, self.problem = tuple(names), problem
        super().__init__(" and ".join(names) + problem)

    def named(self, spelling: Callable[[str], str]) -> str:
        """The message, with each argument spelled as the user gave it."""
        return " and ".join(map(spelling, self.names)) + self.problem


class DataError(SeqdpoError, ValueError):
    """A data file, its rows, or the way they render as tokens is wrong (exit code 2)."""


class RunError(SeqdpoError, RuntimeError):
    """A run that began well could not go on (exit code 3)."""


class Problems:
    """Collects the errors of several checks, so that the user hears of all of them at once."""

    def __init__(self) -> None:
        self._errors: list[SeqdpoError] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keeps what the block raises for the user, and goes on."""
        try:
            yield
        except SeqdpoError as error:
            self._errors.append(error)

    def raise_all(self) -> None:
        """Raises one error with every message; of the first one's class."""
        if self._errors:
            # two checks may meet the same problem, and say it once
            lines = dict.fromkeys(line for error in self._errors for line in str(error).splitlines())
            raise type(self._errors[0])("\n".join(lines))
