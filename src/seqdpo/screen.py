"""What seqdpo prints on. Text is shown as it stands, whatever it holds; a terminal is given nothing it would obey."""

import io
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from seqdpo.wording import visible

SIGPIPE = 13  # Windows has no signal of that name


class Screen(Console):
    """A console without rich's markup: square brackets and `:names:` in a path, an id or a text are what they are."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))

    def on_broken_pipe(self) -> None:
        """Ends quietly when what reads the output (`| head`) has gone; 1 would mean that a gate failed."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            sys.exit(128 + SIGPIPE)


def print_account(console: Console, account: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Headings, each with its lines below it; a line that is too long goes on further in."""
    for heading, lines in account:
        console.print(heading)
        for line in lines:
            told = textwrap.wrap(line, max(console.width, 40), initial_indent="  ", subsequent_indent="    ")
            console.print("\n".join(told), soft_wrap=True)


def write_out(console: Console, texts: Iterable[str]) -> None:
    """Text for other programs, as it stands, which rich would change: UTF-8 whatever the encoding of the output is.

    A terminal gets it in its own encoding, with a sign for every character that would steer it.
    """
    try:
        for text in texts:
            binary = None if console.is_terminal else getattr(console.file, "buffer", None)
            if binary is None:
                console.file.write(visible(text))
            else:
                console.file.flush()
                binary.write(text.encode("utf-8", "backslashreplace"))
        console.file.flush()
    except BrokenPipeError:
        console.on_broken_pipe()


def accept_any_text() -> None:
    """Standard output and error show a sign for what their encoding does not have; a table is no reason to end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
