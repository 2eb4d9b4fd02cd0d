"""The door: every refusal says what was found, what was expected and the way out."""

import ml_dtypes
import numpy as np
import pytest
from scipy import sparse

from vmix import checks


class Frame:
    """What `as_data` uses of a pandas DataFrame with nullable columns."""

    def __init__(self, values, text=()):
        self.values, self.text = values, text

    def select_dtypes(self, exclude):
        return type("Part", (), {"columns": self.text})()

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=object)

    def to_numpy(self, dtype, na_value):
        return np.array([[na_value if v is None else v for v in row] for row in self.values], dtype=dtype)


Frame.__module__ = "pandas.core.frame"


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (np.ones((3, 2)), np.float32),
        (np.ones((3, 2), np.float16), np.float32),
        (np.ones((3, 2), ml_dtypes.bfloat16), np.float32),
        (np.ones((3, 2), ">f8"), np.float32),
        (np.ones((3, 2), bool), np.bool_),
        (np.ones((3, 2), np.uint8), np.int32),
        (np.ones((3, 2), np.uint64), np.int32),
        ([[1, 2], [3, 4], [5, 6]], np.int32),
        (np.ones((4, 3)).T[:3, :2], np.float32),
    ],
)
def test_numbers_of_any_kind_become_float32_or_int32(given, dtype):
    found = checks.as_data(given, name="x")
    assert found.dtype == dtype and found.shape == (3, 2) and found.flags.c_contiguous


def test_jax_array_is_taken():
    import jax.numpy as jnp

    assert checks.as_data(jnp.arange(6).reshape(3, 2), name="x").dtype == np.int32


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (None, "x is None; expected an array"),
        ("text", "x holds text"),
        ("rows.csv", r"read a file with vmix.data.load\('rows.csv'\)"),
        ([["a", "b"]], "x holds text.*encode"),
        (np.array([[1, None]]), "x holds Python objects"),
        (np.ones((2, 2), complex), "x holds complex numbers"),
        (np.array(["2020-01-01"], "M8[D]"), "x holds dates"),
        (np.zeros(2, "i4,f4"), "x holds records"),
        (sparse.csr_matrix(np.eye(2)), r"x is sparse.*call x\.toarray\(\)"),
        (np.ma.masked_equal([1, 2], 1), "x is a masked array.*missing="),
        (Frame([[1.0]], text=["city"]), r"x has columns without numbers \('city'\)"),
    ],
)
def test_wrong_kinds_are_refused_by_name(given, match):
    with pytest.raises(TypeError, match=match):
        checks.as_data(given, name="x")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (3.0, "x is a single number"),
        ([], "x is empty"),
        (np.ones((0, 4)), r"x is empty \(shape \(0, 4\)\)"),
        (np.ones((4, 0)), "x is empty"),
        ([[1, 2], [3]], "x is not a rectangular array"),
        (np.array([[1.0, 2.0], [3.0, np.inf]]), "x has an infinite value at row 1, column 1"),
        (np.array([[1.0, np.nan], [np.nan, 0.0]]), r'x has NaN at row 0, column 1 \(2 values.*missing="nan"'),
        (np.array([1.0, np.nan]), r"x has NaN at row 1 \(1 value in all\)"),
        (np.array([[[0.0, np.nan]]]), r"row 0, column \(0, 1\)"),
        (np.array([[1.0], [1e39]]), "x is finite but beyond float32 at row 1, column 0"),
        (np.array([[1], [-(2**40)]]), "x is beyond int32 at row 1, column 0"),
        (np.array([[2**63]], np.uint64), "x is beyond int32 at row 0, column 0"),
    ],
)
def test_wrong_values_are_refused_with_their_place(given, match):
    with pytest.raises(ValueError, match=match):
        checks.as_data(given, name="x")


def test_one_row_is_refused_where_two_are_needed():
    assert checks.as_data([[1.0]], name="x").shape == (1, 1)
    with pytest.raises(ValueError, match=r"x has 1 row \(shape \(1, 1\)\); expected at least 2"):
        checks.as_data([[1.0]], name="x", min_rows=2)


def test_missing_values_pass_when_allowed_but_infinity_never():
    assert np.isnan(checks.as_data([[np.nan, 1e39 * 0]], name="x", allow_missing=True)[0, 0])
    with pytest.raises(ValueError, match="infinite"):
        checks.as_data([[np.nan, -np.inf]], name="x", allow_missing=True)


def test_pandas_is_taken_where_numeric():
    found = checks.as_data(Frame([[1, None], [2, 3]]), name="x", allow_missing=True)
    np.testing.assert_array_equal(found, np.array([[1, np.nan], [2, 3]], np.float32))
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": [True, False]})
    assert checks.as_data(frame, name="x").dtype == np.float32
    assert checks.as_data(frame["a"], name="x").tolist() == [1, 2]
    with pytest.raises(TypeError, match="city"):
        checks.as_data(frame.assign(city=["Rome", "Oslo"]), name="x")


def test_memmap_is_checked_block_by_block_and_stays_a_memmap(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "_BLOCK_BYTES", 64)
    values = np.memmap(tmp_path / "a", np.float32, "w+", shape=(100, 4))
    assert isinstance(checks.as_data(values, name="x"), np.memmap)
    values[77, 3] = np.nan
    with pytest.raises(ValueError, match="row 77, column 3"):
        checks.as_data(values, name="x")


def test_lengths_must_agree():
    assert checks.check_same_length([[1, 2], np.ones((2, 3))], ["x", "y"]) == 2
    with pytest.raises(ValueError, match="x has 2, labels has 3; expected one row per datum"):
        checks.check_same_length([[1, 2], [1, 2, 3]], ["x", "labels"])


def test_seed_is_a_whole_number_of_32_bits():
    assert checks.check_seed(np.int64(7)) == 7 and type(checks.check_seed(np.int64(7))) is int
    for wrong in (None, 1.0, True, "1", np.ones(2)):
        with pytest.raises(TypeError, match="seed is .*; expected a whole number"):
            checks.check_seed(wrong)
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match=f"seed is {wrong}; expected a whole number from 0"):
            checks.check_seed(wrong)


def test_positive_int_refuses_zero_halves_and_text():
    assert checks.check_positive_int(3, "num_components") == 3
    with pytest.raises(ValueError, match="num_components is 0; expected a whole number of at least 1"):
        checks.check_positive_int(0, "num_components")
    for wrong in (2.5, "3", False):
        with pytest.raises(TypeError, match="num_components is .* such as num_components=3"):
            checks.check_positive_int(wrong, "num_components")


def test_unit_interval_names_the_range_and_hints_at_bytes():
    checks.check_unit_interval(np.array([[0.0, np.nan, 1.0]]), "x")
    with pytest.raises(ValueError, match=r"x has values from 0 to 255; .*divide by 255 \(x / 255\)"):
        checks.check_unit_interval(np.array([[0, 255]]), "x")
    with pytest.raises(ValueError, match="x has values from -0.5 to 1; .*Gaussian"):
        checks.check_unit_interval(np.array([[-0.5, 1]]), "x")


def test_counts_must_be_whole_and_not_negative():
    checks.check_counts(np.array([[0, 3.0, np.nan]]), "x")
    checks.check_counts(np.array([[0, 3]]), "x")
    with pytest.raises(ValueError, match="x has -1 at row 0, column 1, which is negative"):
        checks.check_counts(np.array([[0, -1]]), "x")
    with pytest.raises(ValueError, match="x has 1.5 at row 1, column 0, which is not whole"):
        checks.check_counts(np.array([[1], [1.5]]), "x")


def test_width_says_both_sides():
    checks.check_width(np.ones((3, 4)), 4, "x")
    with pytest.raises(ValueError, match="x has 5 columns; this model was built for data_dim=4"):
        checks.check_width(np.ones((3, 5)), 4, "x")
    with pytest.raises(ValueError, match="x has 1 column; this"):
        checks.check_width(np.ones((3, 1)), 4, "x")
    with pytest.raises(ValueError, match=r"x has shape \(4,\); expected \(N, 4\): reshape"):
        checks.check_width(np.ones(4), 4, "x")


def test_constant_columns_are_found_across_blocks_and_named(monkeypatch):
    monkeypatch.setattr(checks, "_BLOCK_BYTES", 64)
    data = np.ones((50, 4))
    data[40, 1] = 2
    data[:, 2] = np.nan
    data[3, 3] = np.nan
    assert checks.constant_columns(data).tolist() == [0, 2, 3]
    assert checks.constant_columns(np.ones(5)).tolist() == [0]
    with pytest.raises(ValueError, match="x has no value in column 2: all 50 rows are missing there"):
        checks.warn_constant_columns(data, "x")
    data[0, 2] = 1
    with pytest.warns(UserWarning, match=r"x has 3 constant columns \(0, 2, 3\)"):
        assert checks.warn_constant_columns(data, "x").tolist() == [0, 2, 3]
    with pytest.raises(ValueError, match="x is constant: each column holds one value in all 5 rows"):
        checks.warn_constant_columns(np.ones(5), "x")
    assert checks.warn_constant_columns(np.ones((1, 2)), "x").size == 0
    assert checks.warn_constant_columns(np.arange(5.0), "x").size == 0
