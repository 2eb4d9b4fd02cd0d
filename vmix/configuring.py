"""A file of options for the command line: `vmix fit --config run.toml`.

The keys of the file are the options without their dashes (`model = "VaDE"`, `num-components = 10`, `seed = 0`);
`[set]` and `[engine-option]` are tables of hyperparameters and of options of the engine. What the command line says
comes first, and of the two tables each entry by itself.
"""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclopts import ArgumentCollection, Token
from cyclopts.config import Dict

from vmix.suggesting import unknown

TABLES = ("set", "engine-option")


def from_file(app: Any, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Add the options of the file that `--config` names to those of a command; cyclopts calls this after parsing.

    Raises:
        ValueError: for a file that is not TOML, an unknown key or an entry of the wrong kind.
        OSError: if it cannot be read.
    """
    known = {a.name.removeprefix("--"): a for a in arguments if a.name.startswith("--")}
    if "config" not in known or not known["config"].tokens:
        return
    path = known.pop("config").tokens[0].value
    options = read_options(Path(path), list(known))
    for name in TABLES:
        _add_pairs(known[name], options.pop(name, {}), path)
    Dict(options, source=path, use_commands_as_keys=False)(app, commands, arguments)


def read_options(path: Path, known: list[str]) -> dict[str, Any]:
    """The options of a file by their names on the command line, checked against those that there are.

    Args:
        path: a TOML file.
        known: the names of the options, such as "num-components".

    Returns:
        Texts, numbers and booleans by name; "set" and "engine-option" are dicts.

    Raises:
        ValueError: for a file that is not TOML, an unknown key or an entry of the wrong kind.
    """
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "is a folder" if path.is_dir() else "was not found"
        raise type(error)(f"{str(path)!r} {what}; expected a TOML file of options after --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not TOML: {error}") from error
    options = {}
    for key, value in found.items():
        name = key.replace("_", "-")
        if name not in known:
            raise ValueError(f"{path}: {unknown('option', key, known)}")
        if name == "columns" and isinstance(value, list):
            value = _row(value)
        if isinstance(value, Mapping) != (name in TABLES) or isinstance(value, list):
            expected = f"a table, [{name}]" if name in TABLES else "a text, a number, true or false"
            raise ValueError(f"{path}: {key} is {value!r}; expected {expected}")
        options[name] = value
    return options


def _row(values: list[Any]) -> str:
    """Names or numbers of columns as the command line takes them, a line of a CSV file."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def _add_pairs(argument: Any, table: Mapping[str, Any], path: str) -> None:
    """Add name=value for every entry of a table that the command line does not give."""
    given = {token.value.partition("=")[0].strip().replace("-", "_") for token in argument.tokens}
    for name, value in table.items():
        if name.replace("-", "_") not in given:
            argument.append(Token(keyword=argument.name, value=f"{name}={_literal(value)}", source=path))


def _literal(value: Any) -> str:
    """A value as the command line takes it, a Python literal."""
    return repr(tuple(value)) if isinstance(value, list) else repr(value)
