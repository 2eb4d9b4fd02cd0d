"""Fuzz the readers of files guided by coverage, with atheris (in the extra `dev`, where it has wheels):

    python -m tests.fuzz_readers READER [-max_total_time=SECONDS]

READER is a key of `tests.hostile_files.READERS`, such as `npy` or `csv`. It ends at the first error that is not one of
those that readers may raise, and writes the bytes that led to it. `tests/vmix/test_fuzz.py` runs it for some seconds.
"""

import contextlib
import importlib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

INSTRUMENTED = ["vmix.data", "vmix.checkpoint", "vmix.configuring", "vmix.comparing", "vmix.runs"]


def main(name: str, options: list[str]) -> None:
    """Fuzz one reader until the time is up."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        files = importlib.import_module("tests.hostile_files")
    if name not in files.READERS:
        sys.exit(f"expected one of: {', '.join(files.READERS)}")
    reader = files.READERS[name]
    with TemporaryDirectory() as place:
        folder = Path(place)
        files.write_all(folder)
        file = files.the_file(folder, reader)
        corpus = folder / "corpus"
        corpus.mkdir()
        (corpus / "valid").write_bytes(file.read_bytes())

        def read(raw: bytes) -> None:
            file.write_bytes(raw)
            with contextlib.suppress(ValueError, OSError):
                reader.read(folder)

        atheris.Setup([sys.argv[0], str(corpus), "-max_len=4096", *options], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main("".join(sys.argv[1:2]), sys.argv[2:])
