"""What the event files hold, read back by the format's own definition."""

import struct
import sys

import numpy as np
import pytest

import vmix
from vmix.inference import EM
from vmix.models import GaussianMixture
from vmix.tracking import TensorBoard

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="the extra 'tracking' is not installed")
X = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)


def events(folder):
    """Every event of the folder's one file: records of length, checksum, bytes, checksum."""
    (path,) = folder.iterdir()
    data, found, place = path.read_bytes(), [], 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        found.append(event_pb2.Event.FromString(data[place + 12 : place + 12 + length]))
        place += length + 16
    return found


def scalars(folder):
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                trace = found.setdefault(value.tag, {})
                assert event.step not in trace
                trace[event.step] = value.simple_value
    return found


@pytest.mark.parametrize("every", [3, 100])
def test_every_sweep_is_written_once_whatever_the_interval(tmp_path, every):
    engine = EM(num_sweeps=8, tolerance=None, restarts=2)
    with TensorBoard(tmp_path, every=every) as log:
        fit = vmix.fit(GaussianMixture(num_components=2), X, engine=engine, seed=0, callback=log)
    written = scalars(tmp_path)["objective"]
    assert list(written) == list(range(1, 9))
    assert written[8] == pytest.approx(fit.history["objective"][0, -1])
    np.testing.assert_array_less(-1e-4, np.diff(list(written.values())))


def test_finish_writes_what_was_fitted_and_how(tmp_path):
    log = TensorBoard(tmp_path)
    fit = vmix.fit(GaussianMixture(num_components=2), X, engine=EM(num_sweeps=3, tolerance=None), seed=5, callback=log)
    log.finish(fit)
    assert scalars(tmp_path)["objective"] == pytest.approx(dict(enumerate(fit.history["objective"].tolist(), 1)))
    text = "".join(
        v.tensor.string_val[0].decode() for e in events(tmp_path) for v in e.summary.value if v.tag[:3] == "fit"
    )
    assert "GaussianMixture" in text and "seed: 5" in text and "'num_sweeps': 3" in text


def test_missing_library_is_named_with_the_way_to_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install \"vmix\[tracking\]\""):
        TensorBoard(tmp_path)


def test_interval_must_be_a_whole_number(tmp_path):
    with pytest.raises(ValueError, match="every"):
        TensorBoard(tmp_path, every=0)
