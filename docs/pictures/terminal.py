#!/usr/bin/env python3
"""Draws what a command prints on a terminal of 80 columns, or a page of Markdown as such a terminal shows it, as SVG.

    pip install rich
    docs/pictures/terminal.py OUT.svg target/release/rudder demo
    docs/pictures/terminal.py OUT.svg README.md            # the first screen of a page

The picture names no font of its own and loads nothing: a browser takes its monospaced one. Each run of characters has
its length in it, so that columns stay columns with any font.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from xml.sax.saxutils import escape

from rich.console import Console
from rich.markdown import Markdown
from rich.style import Style
from rich.text import Text

COLUMNS = 80
LINES_OF_A_PAGE = 50
CHARACTER, LINE, MARGIN = 8.4, 19, 14
COLOURS = {1: "#f0706e", 2: "#7fc97a", 3: "#e5c07b", 4: "#7aa9f0", 5: "#c58fd6", 6: "#6fc3c9"}  # of ANSI, from red on
INK, FAINT, PAPER = "#d8dee6", "#8b95a1", "#1d2229"


def printed(command: list[str]) -> str:
    """What `command` prints on a terminal of 80 columns, after a prompt with the command itself."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    os.close(theirs)
    out = b""
    try:
        while chunk := os.read(ours, 65536):
            out += chunk
    except OSError:  # Linux says so when the last writer has gone.
        pass
    if process.wait() != 0:
        raise SystemExit(f"{shlex.join(command)} ended with status {process.returncode}")
    shown = [os.path.basename(command[0]), *command[1:]]
    return f"\x1b[2m$\x1b[0m \x1b[1m{shlex.join(shown)}\x1b[0m\n" + out.decode().replace("\r\n", "\n")


def lines_of(source: list[str]) -> list[Text]:
    """The lines to draw, with their styles."""
    console = Console(width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="standard", legacy_windows=False)
    if len(source) == 1 and source[0].endswith(".md"):
        with open(source[0], encoding="utf-8") as page:
            console.print(Markdown(page.read(), hyperlinks=False))
        return list(Text.from_ansi(console.file.getvalue()).split("\n"))[:LINES_OF_A_PAGE]
    return list(Text.from_ansi(printed(source)).split("\n"))


def span(text: str, column: int, style: Style) -> str:
    """Characters of one style as SVG; what stands two columns apart is placed on its own."""
    ink = COLOURS.get((style.color.number or 0) % 8, INK) if style.color else INK
    looks = f'fill="{FAINT if style.dim else ink}"' + (' font-weight="bold"' if style.bold else "")
    spans = []
    for part in re.finditer(r"\S+(?: \S+)*", text):
        place = f'x="{MARGIN + (column + part.start()) * CHARACTER:.1f}" textLength="{len(part[0]) * CHARACTER:.1f}"'
        spans.append(f"<tspan {place} {looks}>{escape(part[0])}</tspan>")
    return "".join(spans)


def drawn(lines: list[Text]) -> str:
    """The picture."""
    console = Console(width=COLUMNS)
    width, height = 2 * MARGIN + COLUMNS * CHARACTER, 2 * MARGIN + len(lines) * LINE
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}">',
             f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
             '<g font-family="monospace" font-size="14">']
    for number, line in enumerate(lines):
        if line.cell_len > COLUMNS:
            raise SystemExit(f"line {number + 1} has {line.cell_len} columns: {line.plain}")
        column, spans = 0, []
        for segment in line.render(console):
            spans.append(span(segment.text, column, segment.style or Style()))
            column += len(segment.text)
        if "".join(spans):
            parts.append(f'<text y="{MARGIN + (number + 0.75) * LINE:.1f}">{"".join(spans)}</text>')
    return "\n".join([*parts, "</g>", "</svg>", ""])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    lines = lines_of(sys.argv[2:])
    while lines and not lines[-1].plain.strip():
        lines.pop()
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write(drawn(lines))
