"""Where TRL's format was read before there was `preferences.datasets`; scripts import it from here."""

from seqdpo.preferences.datasets.preference import candidates

__all__ = ["candidates"]
