"""One file from the network: on request alone, checksummed, limited in time and size, resumed where it broke off."""

from __future__ import annotations

import hashlib
import os
import re
import time
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TRIES = 3
_BLOCK = 1 << 16


class DownloadError(OSError):
    """The file could not be had; the message says why, and what was kept."""


def download(url: str, file: Path, *, sha256: str, max_bytes: int, stall: float = 30.0, within: float = 600.0) -> None:
    """Fetch a file; it appears under its name only as a whole, and only if its checksum is the one expected.

    What has come is kept in `file` with ".part" added. A connection that breaks is taken up again there, at once up to
    three times, and by the next call.

    Args:
        url: where it is.
        file: where it goes; its folder is made once something comes.
        sha256: of the whole file, in hexadecimal digits.
        max_bytes: stop where more than this comes.
        stall: seconds without a byte after which the connection counts as broken.
        within: seconds for everything.

    Raises:
        DownloadError: no connection, a connection that broke each time, or time is up.
        ValueError: the file is too large, or is not the one expected; nothing of it is kept.
    """
    part, ends, reasons = file.with_name(f"{file.name}.part"), time.monotonic() + within, []
    for _ in range(TRIES):
        resumed = _size(part)
        try:
            if not (resumed and _sha256(part) == sha256):  # whole, but a kill came before it had its name
                _receive(url, part, max_bytes=max_bytes, stall=stall, ends=ends)
        except (OSError, HTTPException) as error:
            reasons.append(str(error) or type(error).__name__)
            if isinstance(error, HTTPError) and error.code == 416:  # the part is longer than the file
                part.unlink()
            elif time.monotonic() >= ends or isinstance(error, HTTPError):
                break
            continue
        found = _sha256(part)
        if found == sha256:
            os.replace(part, file)
            return
        part.unlink()
        if not resumed:
            raise ValueError(f"{url}: has SHA-256 {found}; expected {sha256}: it is another file, and was not kept")
        reasons.append("what was there before was of another file")
    kept = f"; {_size(part)} bytes are kept, and the next call goes on from there" if _size(part) else ""
    raise DownloadError(f"{url}: {'; '.join(dict.fromkeys(reasons))}{kept}")


def _receive(url: str, part: Path, *, max_bytes: int, stall: float, ends: float) -> None:
    """Add to the part what is missing of it."""
    have = _size(part)
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urlopen(request, timeout=min(stall, max(ends - time.monotonic(), 0.01))) as answer:
        begins, total = _extent(answer.status, answer.headers, have)
        part.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "r+b" if begins else "wb") as out:
            out.seek(begins)
            out.truncate()
            while block := answer.read1(_BLOCK):
                out.write(block)
                if out.tell() > max_bytes:
                    out.truncate(0)
                    raise ValueError(f"{url}: has more than {max_bytes} bytes; expected at most as many")
                if time.monotonic() > ends:
                    raise TimeoutError("time is up")
            out.flush()
            os.fsync(out.fileno())
    if total is not None and _size(part) != total:
        raise DownloadError(f"the connection broke after {_size(part)} of {total} bytes")


def _extent(status: int, headers: HTTPMessage, have: int) -> tuple[int, int | None]:
    """The byte at which an answer begins, and the size of the whole file where it is told."""
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", str(headers.get("Content-Range", "")))
    if status == 206 and told and int(told[1]) == have:
        return have, int(told[2])
    if status == 206:
        raise DownloadError(f"another part was sent than that from byte {have}")
    size = str(headers.get("Content-Length", ""))
    return 0, int(size) if size.isdigit() else None


def _sha256(part: Path) -> str:
    return hashlib.sha256(part.read_bytes()).hexdigest()


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
