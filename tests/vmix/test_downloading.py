"""Downloads from a server of our own that is slow, breaks off, lies, or says nothing."""

import hashlib
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest

from vmix.downloading import DownloadError, download

pytestmark = pytest.mark.faults
WHOLE = np.random.default_rng(0).bytes(200_000)
SHA256 = hashlib.sha256(WHOLE).hexdigest()


class Answers(BaseHTTPRequestHandler):
    """Answers each request in the way that comes next in the server's `ways`."""

    def do_GET(self):
        begins = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.begins.append(begins)
        way = self.server.ways.pop(0) if len(self.server.ways) > 1 else self.server.ways[0]
        content = b"another file" if way == "another" else WHOLE
        if way == "missing":
            return self.send_error(404)
        if way == "silent":
            return time.sleep(1.5)
        if begins >= len(content) > 0 and begins:
            return self.send_error(416)
        if way == "no ranges":
            begins = 0
        self.send_response(206 if begins else 200)
        if begins:
            self.send_header("Content-Range", f"bytes {begins}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begins))
        self.end_headers()
        part = content[begins:]
        if way == "breaks":
            part = part[:50_000]
        try:
            for at in range(0, len(part), 1_000 if way == "slow" else 1 << 20):
                self.wfile.write(part[at : at + (1_000 if way == "slow" else 1 << 20)])
                time.sleep(0.05 * (way == "slow"))
        except OSError:
            pass  # the reader has given up

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Start a server with these ways; its address, and the bytes from which it was asked."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(*ways):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        server.ways, server.begins, server.daemon_threads = list(ways), [], True
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/file", server.begins

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def get(url, file, **options):
    download(url, file, **({"sha256": SHA256, "max_bytes": 1 << 20} | options))


def test_a_file_comes_whole_under_its_name_alone(serve, tmp_path):
    url, begins = serve("whole")
    get(url, tmp_path / "new" / "file")
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["file"]
    assert (tmp_path / "new" / "file").read_bytes() == WHOLE and begins == [0]


def test_a_broken_connection_is_taken_up_where_it_broke(serve, tmp_path):
    url, begins = serve("breaks", "breaks", "whole")
    get(url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == WHOLE and begins == [0, 50_000, 100_000]


def test_the_next_call_goes_on_where_this_one_gave_up(serve, tmp_path):
    url, begins = serve("breaks", "breaks", "breaks", "whole")
    with pytest.raises(DownloadError, match="broke after 150000 of 200000.*150000 bytes are kept"):
        get(url, tmp_path / "file")
    assert not (tmp_path / "file").exists()
    get(url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == WHOLE and begins[-1] == 150_000


def test_a_server_without_ranges_sends_all_again(serve, tmp_path):
    url, begins = serve("breaks", "no ranges")
    get(url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == WHOLE and begins == [0, 50_000]


def test_another_file_is_refused_and_not_kept(serve, tmp_path):
    url, _ = serve("another")
    with pytest.raises(ValueError, match=f"has SHA-256 .*; expected {SHA256}"):
        get(url, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", [b"of another file", WHOLE[:9] + b"x", WHOLE + b"x", WHOLE], ids=len)
def test_what_an_earlier_call_left_never_spoils_the_file(serve, tmp_path, part):
    (tmp_path / "file.part").write_bytes(part)
    url, begins = serve("whole")
    get(url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == WHOLE and begins == ([] if part == WHOLE else [len(part), 0])


def test_a_file_larger_than_allowed_is_cut_off(serve, tmp_path):
    url, _ = serve("whole")
    with pytest.raises(ValueError, match="more than 100000 bytes"):
        get(url, tmp_path / "file", max_bytes=100_000)
    assert not (tmp_path / "file").exists() and (tmp_path / "file.part").stat().st_size == 0


@pytest.mark.parametrize(("way", "options"), [("slow", {"within": 0.5}), ("silent", {"stall": 0.2, "within": 0.5})])
def test_a_server_that_is_slow_or_silent_is_left_in_time(serve, tmp_path, way, options):
    url, _ = serve(way)
    began = time.monotonic()
    with pytest.raises(DownloadError, match="time"):
        get(url, tmp_path / "file", **options)
    assert time.monotonic() - began < 5 and not (tmp_path / "file").exists()


def test_no_file_and_no_server_are_told_at_once(serve, tmp_path):
    url, begins = serve("missing")
    with pytest.raises(DownloadError, match="404"):
        get(url, tmp_path / "file")
    with pytest.raises(DownloadError, match="refused"):
        get("http://127.0.0.1:9/file", tmp_path / "file")
    assert begins == [0] and list(tmp_path.iterdir()) == []
