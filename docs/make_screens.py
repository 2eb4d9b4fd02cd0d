"""Write docs/pictures/terminal/NAME.svg: commands as a terminal shows them, with what they really print.

    python docs/make_screens.py                  all of them (a minute)
    python docs/make_screens.py mistakes         those named

The commands run in an empty folder, one session after another, so a later one may use what an earlier one wrote. Where
keys matter (Ctrl-C, tab), they are pressed in a shell on a pseudo-terminal. A command that ends in another status than
it should is an error.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

SCREENS = Path(__file__).resolve().parent / "pictures" / "terminal"
WIDTH = 118
# Name of a screen to its commands. A "!" in front, which is not shown, says that a command ends in status 2; the status
# is then shown behind it.
SESSIONS = {
    "models": ["vmix models"],
    "explain": ["vmix explain GaussianMixture --data digits --engine gibbs --num-components 10"],
    "fit": [
        "vmix fit GaussianMixture --data digits --num-components 10 --restarts 4 --seed 0 --out runs/a",
        "ls runs/a",
        "vmix predict runs/a digits | head -n 3",
    ],
    "compare": [
        "vmix fit BernoulliMixture --data digits --num-components 10 --restarts 4 --seed 0 --out runs/b",
        "vmix compare runs/a runs/b --out comparison.html",
    ],
    "report": ["vmix report runs/a --data digits --out digits.html", "ls digits.html"],
    "benchmark": ["vmix benchmark"],
    "config": [
        """printf '%s\\n' 'model = "GaussianMixture"' 'data = "digits"' 'seed = 0' 'out = "runs/d"' > run.toml""",
        "echo 'num-sweeps = 50' >> run.toml",
        "vmix fit --config run.toml",
        "vmix fit --config run.toml --num-components 5 --out runs/e",
        "sed -i s/num-sweeps/num-sweps/ run.toml",
        "!vmix fit --config run.toml",
    ],
    "new": ["vmix new my_model", "find my_model -type f | sort"],
    "mistakes": [
        "!vmix fit GausianMixture --seed 0 --out runs/c",
        "!vmix fit GaussianMixture --seed 0 --out runs/c --num-sweps 50",
        "!vmix fit GaussianMixture --data nowhere.csv --seed 0 --out runs/c",
    ],
}


LONG = "vmix fit BernoulliMixture --data digits --engine gibbs --num-warmup 20000 --seed 0 --out runs/g --resume"
PROMPT = r"(?:^|\n)\$ $"
# Name of a screen to keys and what must be on the terminal before the next ones are pressed.
TYPED = {
    "resume": [
        (f"{LONG}\n", r" [1-9]\d*/\d+ "),  # it is under way
        ("\x03", PROMPT),
        ("ls -d runs/g*\n", PROMPT),
        (f"{LONG}\n", PROMPT),
        ("ls -d runs/g*\n", PROMPT),
    ],
    "completion": [
        ("vmix --install-completion --shell bash | head -n 1\n", PROMPT),
        ("source ~/.local/share/bash-completion/completions/vmix\n", PROMPT),
        ("vmix \t\t", r"report\s+\$ vmix $"),
        ("fit GaussianMixture --num-\t\t", r"warmup\s+\$ vmix fit GaussianMixture --num-$"),
        ("c\t", r"components $"),
    ],
}
# What moves the cursor or asks the terminal for something: all but colours.
MOVES = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]|\x1b\][^\x07]*\x07|\x07")


def surroundings(folder: Path) -> dict[str, str]:
    """The environment of commands: this Python's `vmix`, colours, and a home of their own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    look = {"PATH": path, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color", "HOME": str(folder)}
    return os.environ | look


def run(command: str, folder: Path) -> tuple[str, str]:
    """A command as it is shown, and what it prints to both streams, colours included.

    Raises:
        SystemExit: if it ends in another status than expected.
    """
    expected, command = 2 * command.startswith("!"), command.removeprefix("!")
    words = ["bash", "-c", f"set -o pipefail; {command} 2>&1"]
    done = subprocess.run(words, cwd=folder, env=surroundings(folder), capture_output=True, text=True)
    if done.returncode != expected:
        raise SystemExit(f"{command}: ended in {done.returncode}, expected {expected}\n{done.stdout}")
    return command, done.stdout + (f"[exit {done.returncode}]\n" if done.returncode else "")


def typed(keys: list[tuple[str, str]], folder: Path, *, seconds: float = 600.0) -> str:
    """What a terminal shows in which bash is given these keys.

    Args:
        keys: what is pressed, and a pattern that must be at the end of the terminal's text before the next is.
        folder: where, and the home.
        seconds: how long each may take.

    Raises:
        SystemExit: if a pattern did not come.
    """
    child, terminal = pty.fork()
    if not child:
        (folder / ".inputrc").write_text("set enable-bracketed-paste off\nset bell-style none\n")
        os.chdir(folder)
        os.execvpe("bash", ["bash", "--noprofile", "--norc", "-i"], surroundings(folder) | {"PS1": "$ "})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 60, WIDTH, 0, 0))
    received = b""
    try:
        for pressed, pattern in [("", PROMPT), *keys]:
            os.write(terminal, pressed.encode())
            began, before = time.monotonic(), len(received)
            while not re.search(pattern, without_colours(on_screen(received[before:]))):
                if time.monotonic() - began > seconds:
                    raise SystemExit(f"{pressed!r}: {pattern!r} did not come:\n{received[before:].decode()}")
                if select.select([terminal], [], [], 0.1)[0]:
                    received += os.read(terminal, 1 << 16)
    finally:
        os.close(terminal)  # bash hangs up
        os.waitpid(child, 0)
    return on_screen(received).replace(str(folder), "~").removesuffix("\n$ ")


def on_screen(received: bytes) -> str:
    """What is left on a terminal, colours included: of a line that was drawn anew, its last state."""
    lines = received.decode(errors="ignore").replace("\r\n", "\n").split("\n")
    return "\n".join(MOVES.sub("", re.split(r"\r(?=.)|\x1b\[2K", line)[-1]).rstrip("\r") for line in lines)


def without_colours(text: str) -> str:
    """The text alone."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def screen(title: str, text: str) -> str:
    """What a terminal shows, as an SVG that loads no font."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in text.rstrip("\n").split("\n"):
        prompt = Text("$ ", style="bold green") + Text(line[2:], style="bold") if line.startswith("$ ") else None
        console.print(prompt or Text.from_ansi(line))
    made = console.export_svg(title=title, unique_id=f"vmix-{title.replace(' ', '-')}")
    made = _with_room_below(made)
    made = re.sub(r"@font-face \{.*?\}\s*", "", made, flags=re.S).replace("Fira Code, monospace", "monospace")
    return re.sub(r"[ \t]+$", "", made, flags=re.M)


def _with_room_below(made: str, *, pixels: float = 8.0) -> str:
    """A screen that does not cut the tails off the letters of its last line."""
    heights = (r'(viewBox="0 0 \S+ )([\d.]+)', r'(clip-terminal">\s*<rect [^>]*height=")([\d.]+)',
               r'(<rect fill="#292929"[^>]* height=")([\d.]+)')  # fmt: skip
    for height in heights:
        made, count = re.subn(height, lambda m: f"{m[1]}{float(m[2]) + pixels:.1f}", made, count=1)
        if count != 1:
            raise SystemExit(f"no {height} in the screen that Rich made")
    return made


def main() -> None:
    """Run the sessions and write those that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*SESSIONS, *TYPED]
    parser.add_argument("names", nargs="*", choices=[*every, []], metavar="name")
    asked = parser.parse_args().names or every
    needed = ["fit", *asked] if {"compare", "report"} & set(asked) and "fit" not in asked else asked
    SCREENS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in (name for name in every if name in needed):
            if name in TYPED:
                text = typed(TYPED[name], Path(folder))
            else:
                done = [run(command, Path(folder)) for command in SESSIONS[name]]
                text = "".join(f"$ {command}\n{output}" for command, output in done)
            if name in asked:
                made = screen(f"vmix {name}", text)
                (SCREENS / f"{name}.svg").write_text(made)
                print(f"{name}.svg: {len(made):,} bytes")


if __name__ == "__main__":
    main()
