"""Data sets by name and from files; each kind of damage is refused by name."""

import gzip
import io
import os
import shutil
import struct
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vmix import data, downloading

SHARED = os.environ.get("VMIX_DATA")
needs_files = pytest.mark.skipif(not SHARED, reason="VMIX_DATA names no folder with the data files")


def idx(values, code=8):
    return bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def small_mnist(folder, train=7, test=3):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"y_{part}"] = rng.integers(0, 10, count, dtype=np.uint8)
    np.savez(folder / "mnist.npz", **arrays)
    return arrays


# ---- by name ----


def test_digits_are_images_in_the_unit_interval():
    digits = data.load("digits")
    assert digits.images.shape == (1797, 64) and digits.images.dtype == np.float32
    assert (digits.images.min(), digits.images.max()) == (0, 1)
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.x is digits.images and digits.meta["image_shape"] == (8, 8)
    assert len(data.load("digits", limit=5).labels) == 5


def test_mnist_is_read_train_then_test(tmp_path, monkeypatch):
    arrays = small_mnist(tmp_path)
    monkeypatch.setenv("VMIX_DATA", str(tmp_path))
    whole, test = data.load("mnist"), data.load("mnist", split="test")
    expected = np.concatenate([arrays["x_train"], arrays["x_test"]]).reshape(10, 784).astype(np.float32) / 255
    np.testing.assert_allclose(whole.images, expected, rtol=1e-7)
    np.testing.assert_array_equal(test.images, whole.images[7:])
    np.testing.assert_array_equal(data.load("mnist", split="train", limit=4).labels, arrays["y_train"][:4])
    assert whole.meta["verified"] is False


def test_mnist_refuses_wrong_shapes_and_a_cache_that_is_not_mnist(tmp_path, monkeypatch):
    monkeypatch.delenv("VMIX_DATA", raising=False)
    monkeypatch.setenv("VMIX_CACHE", str(tmp_path))
    arrays = small_mnist(tmp_path)
    with pytest.raises(ValueError, match=r"mnist.npz: its checksum is not MNIST's.*delete it"):
        data.load("mnist")
    np.savez(tmp_path / "mnist.npz", **(arrays | {"x_test": arrays["x_test"].astype(float)}))
    with pytest.raises(ValueError, match=r"x_test is float64 \(3, 28, 28\); expected uint8"):
        data.load("mnist")


def test_mnist_offline_says_where_to_put_the_file(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.delenv("VMIX_DATA", raising=False)
    monkeypatch.setenv("VMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloading, "urlopen", offline)
    with pytest.raises(ValueError, match=r"could not be fetched .*no route.*\(60000.*VMIX_DATA.*cache/mnist.npz"):
        data.load("mnist")
    assert not (tmp_path / "cache").exists()


@needs_files
def test_mnist_is_the_original_and_is_read_from_the_cache_as_fetched(tmp_path, monkeypatch):
    mnist = data.load("mnist")
    assert mnist.images.shape == (70000, 784) and mnist.images.max() == 1 and mnist.meta["verified"]
    assert np.bincount(mnist.labels).tolist() == [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958]
    monkeypatch.setattr(data, "download", lambda url, file, **_: shutil.copy(Path(SHARED) / "mnist.npz", file))
    monkeypatch.delenv("VMIX_DATA")
    monkeypatch.setenv("VMIX_CACHE", str(tmp_path))
    fetched = data.load("mnist", limit=1000)
    np.testing.assert_array_equal(fetched.images, mnist.images[:1000])


@needs_files
def test_serket_pairs_images_with_speech_counts():
    serket = data.load("serket", limit=50)
    assert serket.images.shape == (50, 784) and serket.images.max() == 1
    assert serket.modalities["speech"].dtype == np.int32 and serket.modalities["speech"].shape == (50, 2400)
    assert serket.modalities["image"] is serket.images and set(serket.labels) <= set(range(10))


def test_unknown_names_splits_and_limits_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("VMIX_DATA", raising=False)
    with pytest.raises(ValueError, match="'digit' is neither a data set .* did you mean 'digits'"):
        data.load("digit")
    with pytest.raises(ValueError, match="digits: asked for split 'test'; expected split='all'"):
        data.load("digits", split="test")
    with pytest.raises(ValueError, match="split is 'dev'"):
        data.load("digits", split="dev")
    with pytest.raises(ValueError, match="limit is 0"):
        data.load("digits", limit=0)
    with pytest.raises(ValueError, match="serket_mnist.*VMIX_DATA"):
        data.load("serket")
    (tmp_path / "a.txt").write_text("1")
    with pytest.raises(ValueError, match=r"a.txt: the name tells no known kind; expected .npy"):
        data.load(tmp_path / "a.txt")


# ---- .npy ----


def test_npy_round_trips_and_a_large_one_is_mapped(tmp_path):
    values = np.arange(12.0).reshape(4, 3)
    for order in ("C", "F"):
        np.save(tmp_path / "a.npy", np.asarray(values, order=order))
        found = data.load(tmp_path / "a.npy")
        mapped = data.load(tmp_path / "a.npy", mmap_above=10, limit=2)
        np.testing.assert_array_equal(found.images, values)
        assert found.images.dtype == np.float32 and found.labels is None
        assert isinstance(mapped.images, np.memmap)
        np.testing.assert_array_equal(mapped.images, values[:2])


def test_bytes_of_three_dimensions_are_images(tmp_path):
    np.save(tmp_path / "a.npy", np.full((4, 2, 3), 51, np.uint8))
    found = data.load(tmp_path / "a.npy")
    np.testing.assert_allclose(found.images, np.full((4, 6), 0.2), rtol=1e-6)
    assert found.meta["image_shape"] == (2, 3)
    np.save(tmp_path / "a.npy", np.full((4, 6), 51, np.uint8))
    assert data.load(tmp_path / "a.npy").images.max() == 51


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("opened",)


@pytest.mark.faults
def test_objects_are_refused_and_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.array([Bomb()], dtype=object)
    np.save("a.npy", objects, allow_pickle=True)
    np.savez("a.npz", x=objects)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match="holds object; expected plain numbers: objects are pickles"):
            data.load(name)
    assert not Path("opened").exists()


@pytest.mark.faults
def test_damaged_npy_is_refused_with_found_and_expected_sizes(tmp_path):
    file = tmp_path / "a.npy"
    np.save(file, np.ones((4, 3)))
    whole = file.read_bytes()
    for broken, match in (
        (whole[:-1], "has 223 bytes; expected 224 for shape"),
        (whole + b"0", "has 225 bytes; expected 224"),
        (whole.replace(b"(4, 3), }", b"(4000000000000, 3), }")[: len(whole)], "no readable .npy header|expected"),
        (b"PNG" + whole[3:], "no readable .npy header"),
        (b"", "no readable .npy header"),
    ):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=match):
            data.load(file)


@pytest.mark.faults
def test_npy_header_that_claims_more_than_the_file_has_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 1)})
    (tmp_path / "a.npy").write_bytes(header.getvalue() + b"12345678")
    for mmap_above in (1, 1 << 30):
        with pytest.raises(ValueError, match="has 136 bytes; expected 8000000000128 for shape"):
            data.load(tmp_path / "a.npy", mmap_above=mmap_above)


@pytest.mark.parametrize(
    ("values", "match"),
    [(["a"], "holds <U1"), ([1j], "holds complex128"), ([[np.inf]], "infinite value"), (np.ones((0, 3)), "empty")],
)
def test_npy_with_unusable_values_is_refused(tmp_path, values, match):
    np.save(tmp_path / "a.npy", np.array(values))
    with pytest.raises(ValueError, match=rf"a\.npy.*{match}"):
        data.load(tmp_path / "a.npy")


# ---- .npz ----


def test_npz_finds_data_and_labels(tmp_path):
    values, labels = np.ones((3, 2)), np.array([2, 0, 1])
    for keys in ({"x": values, "y": labels, "z": values}, {"table": values, "labels": labels}):
        np.savez(tmp_path / "a.npz", **keys)
        found = data.load(tmp_path / "a.npz")
        np.testing.assert_array_equal(found.images, values)
        np.testing.assert_array_equal(found.labels, labels)
    np.savez(tmp_path / "a.npz", a=values, b=2 * values, kind=np.array(["cat", "dog", "cat"]))
    assert data.load(f"{tmp_path}/a.npz::b").images.max() == 2
    with pytest.raises(ValueError, match=r"a.npz::kind.npy: holds <U3"):
        data.load(f"{tmp_path}/a.npz::b", label="kind")


def test_npz_with_splits_is_read_like_mnist(tmp_path):
    arrays = small_mnist(tmp_path)
    found = data.load(tmp_path / "mnist.npz", split="train")
    assert found.images.shape == (7, 784) and found.images.max() <= 1
    np.testing.assert_array_equal(found.labels, arrays["y_train"])


def test_npz_that_leaves_a_choice_or_differs_in_length_is_refused(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, a=np.ones((3, 2)), b=np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"cannot tell which of \['a', 'b'\] is the data; .*a.npz::KEY"):
        data.load(file)
    with pytest.raises(ValueError, match=r"has the keys \['a', 'b'\]; expected \['c'\]"):
        data.load(f"{file}::c")
    with pytest.raises(ValueError, match="asked for split 'test'"):
        data.load(file, split="test")
    np.savez(file, x=np.ones((3, 2)), y=np.ones(4))
    with pytest.raises(ValueError, match="data has 3, labels has 4"):
        data.load(file)


@pytest.mark.faults
def test_npz_bomb_is_refused_by_its_declared_size(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 1000), np.uint8))
    with pytest.raises(ValueError, match="x.npy: has 1000128 bytes.*max_bytes=1000: raise it"):
        data.load(tmp_path / "a.npz", max_bytes=1000)


@pytest.mark.faults
def test_damaged_npz_is_refused(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, x=np.arange(1000.0))
    whole = bytearray(file.read_bytes())
    whole[3000] ^= 1
    for broken in (whole, whole[:2000], b"nonsense", b""):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"a\.npz: damaged .npz"):
            data.load(file)


@pytest.mark.faults
def test_npz_whose_directory_lies_about_the_size_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(100_000))
        archive.writestr("x.npy", buffer.getvalue())
    raw = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(raw.replace(struct.pack("<I", 800_128), struct.pack("<I", 928)))
    with pytest.raises(ValueError, match="x.npy: no readable .npy header .Bad CRC"):
        data.load(tmp_path / "a.npz", max_bytes=1000)


# ---- IDX ----


def test_idx_is_read_plain_and_compressed(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    (tmp_path / "a.idx").write_bytes(idx(images))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    for name in ("a.idx", "t10k-images-idx3-ubyte.gz"):
        np.testing.assert_allclose(data.load(tmp_path / name).images, images.reshape(4, 6) / 255, rtol=1e-6)
    floats = np.arange(6, dtype=">f4").reshape(3, 2)
    (tmp_path / "f.idx").write_bytes(idx(floats, code=13))
    np.testing.assert_array_equal(data.load(tmp_path / "f.idx").images, floats)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "starts with b''; expected an IDX magic"),
        (b"\x00\x00\x07\x01\x00\x00\x00\x01x", "expected an IDX magic"),
        (b"\x00\x00\x08\x03\x00\x00", "has 6 bytes; expected"),
        (idx(np.ones((3, 4), np.uint8))[:-1], r"has 23 bytes; expected 24 for shape \(3, 4\)"),
        (idx(np.ones((3, 4), np.uint8)) + b"1", "has 25 bytes; expected 24"),
        (b"\x00\x00\x08\x02" + b"\xff" * 8, "has 12 bytes; expected 18446744065119617037"),
    ],
)
def test_damaged_idx_is_refused_with_found_and_expected(tmp_path, raw, match):
    (tmp_path / "a.idx").write_bytes(raw)
    with pytest.raises(ValueError, match=rf"a\.idx: .*{match}"):
        data.load(tmp_path / "a.idx")


@pytest.mark.faults
def test_damaged_or_oversized_gzip_is_refused(tmp_path):
    file = tmp_path / "a.idx.gz"
    whole = gzip.compress(idx(np.zeros((100, 100), np.uint8)))
    wrong_crc = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    for broken in (wrong_crc, whole[:-9], b"no gzip at all"):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match="damaged gzip data"):
            data.load(file)
    file.write_bytes(whole)
    with pytest.raises(ValueError, match="has 5001 bytes or more; expected at most max_bytes=5000"):
        data.load(file, max_bytes=5000)


# ---- .csv ----


def csv_file(tmp_path, text):
    (tmp_path / "a.csv").write_bytes(text.encode("utf-8"))
    return tmp_path / "a.csv"


def test_csv_reads_with_and_without_header_and_labels(tmp_path):
    bare = data.load(csv_file(tmp_path, "1,2\n\n3,\n"))
    np.testing.assert_array_equal(bare.images, [[1, 2], [3, np.nan]])
    headed = data.load(csv_file(tmp_path, "\ufeffwidth,kind,height\r\n1,cat,2\r\n3,ant,4\r\n"), label="kind")
    np.testing.assert_array_equal(headed.images, [[1, 2], [3, 4]])
    assert headed.labels.tolist() == [1, 0] and headed.meta["classes"] == ["ant", "cat"]
    assert headed.meta["columns"] == ["width", "height"]
    last = data.load(csv_file(tmp_path, "1,2,7\n3,4,9\n"), label=-1)
    assert last.labels.tolist() == [7, 9] and last.images.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "label", "match"),
    [
        ("1,2\n3\n", None, "line 2: has 1 cells; expected 2"),
        ("a,b\n\n1,2\n3,x4\n", None, r"line 4: found 'x4' in column 'b'; expected a number: .*columns=.*label="),
        ("1,2\n3,x4\n", None, "line 2: found 'x4' in column 1; expected a number"),
        ("1\n1_000\n", None, "line 2: found '1_000'"),
        ("a,b\n", None, "has no rows of numbers"),
        ("", None, "has no rows of numbers"),
        ("a,b\n1,2\n", "c", "asked for label column 'c'; expected one of"),
        ("1,2\n", 2, "asked for label column 2"),
        ('1,"2\n', None, "expected comma-separated text"),
        ("1,inf\n", None, "infinite value at row 0, column 1"),
    ],
)
def test_damaged_csv_is_refused_with_its_line(tmp_path, text, label, match):
    with pytest.raises(ValueError, match=rf"a\.csv.*{match}"):
        data.load(csv_file(tmp_path, text), label=label)


def test_columns_of_csv_are_read_by_name_or_number_in_the_order_asked(tmp_path):
    path = csv_file(tmp_path, "id,day,age,income,kind\nC1,2024-01-02,30,NA,a\nC2,2024-01-03,n/a,5,b\n")
    for columns in (["income", "age"], [3, 2], (-2, "age")):
        found = data.load(path, columns=columns, label="kind")
        np.testing.assert_array_equal(found.images, [[np.nan, 30], [5, np.nan]])
        assert found.meta["columns"] == ["income", "age"] and found.labels.tolist() == [0, 1]
    assert data.load(csv_file(tmp_path, "7,x,2\n8,y,4\n"), columns=[0, 2]).images.tolist() == [[7, 2], [8, 4]]


@pytest.mark.parametrize(
    ("columns", "label", "match"),
    [
        (["a", "q"], None, r"asked for column 'q'; expected one of \['a', 'b'\], or an index"),
        ([5], None, "asked for column 5"),
        (["a", "a"], None, "expected columns, each once"),
        (["a", "b"], "b", "beside the label's"),
        ([], None, "expected columns, each once"),
    ],
)
def test_columns_that_cannot_be_read_are_refused(tmp_path, columns, label, match):
    with pytest.raises(ValueError, match=rf"a\.csv: .*{match}"):
        data.load(csv_file(tmp_path, "a,b\n1,2\n"), columns=columns, label=label)


def test_only_csv_has_columns(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(2))
    with pytest.raises(ValueError, match=r"asked for columns \[0\]; expected a \.csv file"):
        data.load(tmp_path / "a.npy", columns=[0])


def test_labels_with_nan_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.csv: labels have NaN; expected a class"):
        data.load(csv_file(tmp_path, "1,2\n3,nan\n"), label=1)


def test_csv_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"1,2\n\xff\xfe,3\n")
    with pytest.raises(ValueError, match="expected comma-separated text in UTF-8"):
        data.load(tmp_path / "a.csv")


def test_only_npz_has_keys(tmp_path):
    with pytest.raises(ValueError, match="only an .npz file has keys"):
        data.load(f"{csv_file(tmp_path, '1,2')}::x")


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("VMIX_CACHE", "/a/b")
    assert data.cache_folder() == Path("/a/b")
    monkeypatch.delenv("VMIX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert data.cache_folder() == Path("/c/vmix")
