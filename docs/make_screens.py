"""Write docs/pictures/terminal/NAME.svg: commands as a terminal shows them, with what they really print.

    python docs/make_screens.py                  all of them (a minute)
    python docs/make_screens.py mistakes         those named

The commands run in an empty folder, one session after another, so a later one may use what an earlier one wrote.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SCREENS = Path(__file__).resolve().parent / "pictures" / "terminal"
WIDTH = 118
# Name of a screen to its commands; a command that ends in another status than 0 has it shown behind it.
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
        """printf 'model = "GaussianMixture"\\ndata = "digits"\\nseed = 0\\nnum-sweps = 50\\n' > run.toml""",
        "vmix fit --config run.toml",
    ],
    "new": ["vmix new my_model", "find my_model -type f | sort"],
    "mistakes": [
        "vmix fit GausianMixture --seed 0 --out runs/c",
        "vmix fit GaussianMixture --seed 0 --out runs/c --num-sweps 50",
        "vmix fit GaussianMixture --data nowhere.csv --seed 0 --out runs/c",
    ],
}


def run(command: str, folder: Path) -> str:
    """What a command prints to both streams, colours included, and its status where that is not 0."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    look = {"PATH": path, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color", "HOME": str(folder)}
    words = ["bash", "-c", f"set -o pipefail; {command} 2>&1"]
    done = subprocess.run(words, cwd=folder, env=os.environ | look, capture_output=True, text=True)
    return done.stdout + (f"[exit {done.returncode}]\n" if done.returncode else "")


def screen(title: str, lines: list[tuple[str, str]]) -> str:
    """Commands and what they printed, as an SVG that loads no font."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for command, output in lines:
        console.print(Text("$ ", style="bold green") + Text(command, style="bold"))
        console.print(Text.from_ansi(output.rstrip("\n")))
    made = console.export_svg(title=title, unique_id=f"vmix-{title.replace(' ', '-')}")
    made = re.sub(r"@font-face \{.*?\}\s*", "", made, flags=re.S).replace("Fira Code, monospace", "monospace")
    return re.sub(r"[ \t]+$", "", made, flags=re.M)


def main() -> None:
    """Run the sessions and write those that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*SESSIONS, []], metavar="name")
    asked = parser.parse_args().names or list(SESSIONS)
    needed = ["fit", *asked] if {"compare", "report"} & set(asked) and "fit" not in asked else asked
    SCREENS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in (name for name in SESSIONS if name in needed):
            text = screen(f"vmix {name}", [(command, run(command, Path(folder))) for command in SESSIONS[name]])
            if name in asked:
                (SCREENS / f"{name}.svg").write_text(text)
                print(f"{name}.svg: {len(text):,} bytes")


if __name__ == "__main__":
    main()
