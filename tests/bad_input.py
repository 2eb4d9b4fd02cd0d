"""What people hand over by mistake, and what they are told: the cases of `docs/bad-input.md` and of its test.

`given` is the line as somebody would write it, evaluated with the names of `names`, or a command line that begins with
`vmix `. `says` are the parts that the message must have: the argument, what was found, what was expected, the way out.
"""
# Length: one table, a line a case.

import contextlib
import io
import json
import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import sparse

import vmix
from tests import bad_programs
from vmix import (
    checkpoint,
    compose,
    data,
    distortion,
    distributions,
    fitting,
    inference,
    metrics,
    models,
    plots,
    sequences,
    topics,
)
from vmix.engine import Start
from vmix.history import History
from vmix.plan import bare_plan
from vmix.program import analyse, as_program
from vmix.recipe import Recipe
from vmix.results import Fit
from vmix.resuming import Keeper

X = np.concatenate([np.random.default_rng(0).normal(m, 1.0, (20, 2)) for m in (-4.0, 4.0)]).astype(np.float32)
COUNTS = np.random.default_rng(1).poisson(4.0, (40, 3))


class Case(NamedTuple):
    """One mistake.

    Attributes:
        group: heading it stands under.
        what: the mistake in words.
        given: the line.
        error: name of the error or the warning.
        says: parts of the message.
        compiles: whether something must be compiled to find out.
    """

    group: str
    what: str
    given: str
    error: str
    says: tuple[str, ...]
    compiles: bool = False


def changed(array: np.ndarray, value: Any) -> np.ndarray:
    """The array with one value in row 3, column 1."""
    array = array.astype(np.float64) if isinstance(value, float) else array.copy()
    array[3, 1] = value
    return array


def names(folder: Path, saved: Path) -> dict[str, Any]:
    """What the lines may use; `folder` is empty and theirs, `saved` holds what `save_fit` wrote."""
    (folder / "notes.txt").write_text("")
    (folder / "empty").mkdir()

    def damaged(name: str, damage: Callable[[Path, Path], object]) -> Path:
        shutil.copytree(saved, folder / name)
        damage(folder / name / checkpoint.MANIFEST, next((folder / name).glob("arrays-*")))
        return folder / name

    return {
        **vars(bad_programs),
        **{name: getattr(models, name) for name in models.__all__},
        **{name: getattr(inference, name) for name in ("EM", "SVI", "Gibbs")},
        **{"np": np, "vmix": vmix, "compose": compose, "metrics": metrics, "data": data, "checkpoint": checkpoint},
        **{"distortion": distortion, "distributions": distributions, "plots": plots, "sequences": sequences},
        **{"topics": topics, "images": np.ones((5, 16, 16), np.float32)},
        **{"jax": jax, "jit": jax.jit, "sparse": sparse, **tables()},
        **{"x": X, "counts": COUNTS, "model": models.GaussianMixture(num_components=2), "changed": changed},
        "Recipe": Recipe,
        "fit": partial(vmix.fit, engine=inference.EM(num_sweeps=1, tolerance=None), seed=0),
        "folder": folder,
        "saved": saved,
        "fitted": _Fitted(saved),
        "shortened": lambda: damaged("shortened", lambda _, arrays: arrays.write_bytes(arrays.read_bytes()[:-9])),
        "state_of": lambda program, seed: _state_of(program, seed, folder / "state"),
        "flipped": lambda: damaged("flipped", _flip),
        "without_arrays": lambda: damaged("bare", lambda _, arrays: arrays.unlink()),
        "rewritten": lambda **new: damaged("rewritten", lambda manifest, _: _rewrite(manifest, new)),
    }


def tables() -> dict[str, Any]:
    """Tables of the libraries that are installed; they are no dependencies."""
    found: dict[str, Any] = {}
    columns = {"size": [1.0, 2.0], "city": ["Rome", "Oslo"]}
    with contextlib.suppress(ImportError):
        import pandas

        found["frame"] = pandas.DataFrame(columns).astype({"city": object})
    with contextlib.suppress(ImportError):
        import pyarrow

        found["table"] = pyarrow.table(columns)
    return found


class _Fitted:
    """A fit of the mixture, read from its folder when it is first asked for something."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getattr__(self, name: str) -> Any:
        return getattr(vmix.load(self._folder), name)


def save_fit(folder: Path) -> None:
    """Save a fit of the mixture, put together by hand: nothing is compiled."""
    plan = bare_plan(models.GaussianMixture(num_components=2).with_data(X), (X,), frames={}, updates={}, missing=False)
    values = {"w": np.full(2, 0.5), "loc": np.array([[-4.0, -4.0], [4.0, 4.0]]), "precision": np.ones((2, 2))}
    start = Start({name: value.astype(np.float32) for name, value in values.items()}, {})
    history = History(None, converged=True, interrupted=False)
    Fit.build(plan, inference.EM(), start, history, [], seed=0, seconds=0.0).save(folder)


def _state_of(program: Any, seed: int, folder: Path) -> Path:
    """What a fit of `x` would have left there before its first step; nothing is computed."""
    keeper, read, engine = Keeper(folder, 60.0), as_program(program), inference.EM(num_sweeps=1, tolerance=None)
    sites = analyse(read, (X,))
    keeper.belongs_to(fitting._identity(read, (X,), sites, engine, None, seed, (None, None, None)))
    keeper.keep([], None, 0, converged=False, stream=None)
    return folder


def _flip(_: Path, arrays: Path) -> None:
    raw = bytearray(arrays.read_bytes())
    raw[len(raw) // 2] ^= 1
    arrays.write_bytes(raw)


def _rewrite(manifest: Path, new: dict[str, Any]) -> None:
    """Change the manifest and sign it again, as only somebody with intent would."""
    found = json.loads(manifest.read_bytes())
    del found["manifest_sha256"]
    manifest.write_bytes(checkpoint._signed(json.dumps({**found, **new})))


def tell(case: Case, folder: Path, given: dict[str, Any]) -> tuple[str, str]:
    """Do what the case does; the error's name, and its message with the folder left out."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        name, text = _command(case.given, folder) if case.given.startswith("vmix ") else _line(case.given, given)
    if name == "nothing" and seen:
        name, text = seen[0].category.__name__, str(seen[0].message)
    for place in (folder, given["saved"].parent):
        text = text.replace(f"{place}/", "").replace(str(place), "folder")
    text = " ".join(text.split())
    return name, re.sub(r"(arrays|manifest)-[0-9a-f]{16}", r"\1-*", text)


def row(case: Case, kind: str, text: str) -> str:
    """The case as a line of a table in Markdown."""
    cells = (case.what, f"`{case.given}`", f"{kind}: {text}" if kind != "exit status 2" else text)
    return " ".join(["|", " | ".join(_cell(cell) for cell in cells), "|"])


def _cell(text: str) -> str:
    """Text that a table of Markdown shows as it is."""
    shown = text.replace("|", r"\|")
    return shown if text.startswith("`") else re.sub(r"([*_<])", r"\\\1", shown)


def rows_of(page: str) -> dict[tuple[str, str], str]:
    """The lines of the page's tables, by heading and first cell."""
    found, group = {}, ""
    for line in page.splitlines():
        group = line.removeprefix("## ") if line.startswith("## ") else group
        if line.startswith("| ") and not line.startswith("| what "):
            found[group, line[2:].partition(" | ")[0]] = line
    return found


def _line(line: str, given: dict[str, Any]) -> tuple[str, str]:
    try:
        eval(line, given)
    except Exception as error:  # the test looks at whatever comes
        return type(error).__name__, str(error)
    return "nothing", ""


def _command(line: str, folder: Path) -> tuple[str, str]:
    from vmix.cli import main

    words = [str(folder / word[1:]) if word.startswith("@") else word for word in shlex.split(line)[1:]]
    with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.redirect_stdout(io.StringIO()):
        status = main(words)
    return f"exit status {status}", told.getvalue()


def _cases(group: str, *rows: tuple) -> list[Case]:
    return [Case(group, *row[:3], tuple(row[3].split(" | ")), *row[4:]) for row in rows]


# fmt: off
CASES = [
    *_cases(
        "Data",
        ("text", "fit(model, x.astype(str))", "TypeError", "x holds text | real numbers | encode"),
        ("a file's name", "fit(model, 'x.csv')", "TypeError", "x holds text | vmix.data.load('x.csv').x"),
        ("nothing", "fit(model, None)", "TypeError", "x is None | expected an array of numbers of shape (N, D)"),
        ("a table of anything", "fit(model, np.array([[1, 'a']], object))", "TypeError", "x holds | str at row 0, column 1"),
        ("numbers as objects", "fit(model, x.astype(object))", "TypeError", "x holds | objects | x.astype(float)"),
        ("a masked array", "fit(model, np.ma.masked_less(x, 0))", "TypeError", 'x is a masked array | missing="nan"'),
        ("a dict of arrays", "fit(model, {'images': x})", "TypeError", "x is a dict with keys ['images'] | give x[key]"),
        ("a data set", "fit(model, data.load('digits', limit=9))", "TypeError", "x is a data set | one array | x.images"),
        ("a generator", "fit(model, (row for row in x))", "TypeError", "x is a generator | shape (N, D) | list(x)"),
        ("a frame with text", "fit(model, frame)", "TypeError", "x has columns without numbers ('city') | drop or encode"),
        ("a series of categories", "fit(model, frame['city'])", "TypeError", "x has columns without numbers ('city')"),
        ("an Arrow table with text", "fit(model, table)", "TypeError", "x holds | encode"),
        ("a sparse matrix", "fit(model, sparse.csr_matrix(x))", "TypeError", "x is sparse (csr_matrix) | x.toarray()"),
        ("complex numbers", "fit(model, x + 1j)", "TypeError", "x holds complex numbers | real numbers | np.abs(x)"),
        ("dates", "fit(model, np.array(['2020-01-01'], 'M8[D]'))", "TypeError", "x holds dates | real numbers"),
        ("a missing value", "fit(model, changed(x, np.nan))", "ValueError", 'x has NaN at row 3, column 1 | missing="nan"'),
        ("a column of nothing", "fit(model, x * [1, np.nan], missing='nan')", "ValueError", "x has no value in column 1 | all 40 rows are missing | drop it"),
        ("infinity", "fit(model, changed(x, np.inf))", "ValueError", "x has an infinite value at row 3, column 1 | repair"),
        ("beyond float32", "fit(model, changed(x, 1e39))", "ValueError", "beyond float32 at row 3, column 1 | rescale"),
        ("squares beyond float32", "fit(model, changed(x, 1e20))", "ValueError", "x spreads by | column 1 | x / x.std(0)"),
        ("squares below float32", "fit(model, x * 1e-30)", "ValueError", "x spreads by | expected standard dev | x / x.std(0)"),
        ("whole numbers over 2^31", "fit(model, [[1, 2**40]] * 4)", "ValueError", "x is beyond int32 at row 0, column 1 | floats"),
        ("over 2^63", "fit(model, [[1, 2**70]] * 4)", "ValueError", "x is beyond int32 at row 0, column 1 | use floats"),
        ("no rows", "fit(model, x[:0])", "ValueError", "x is empty (shape (0, 2)) | expected at least 1 row"),
        ("no columns", "fit(model, x[:, :0])", "ValueError", "x is empty (shape (40, 0)) | one column"),
        ("one dimension", "fit(model, x[:, 0])", "ValueError", "x must have shape (N, D), found (40,) | reshape"),
        ("three dimensions", "fit(model, x[:, :, None])", "ValueError", "x must have shape (N, D), found (40, 2, 1) | reshape"),
        ("rows of different lengths", "fit(model, [[1.0, 2.0], [3.0]])", "ValueError", "x is not a rectangular | pad"),
        ("one row", "fit(model, x[:1])", "ValueError", "1 row | two rows or more | shape (N, D)"),
        ("all rows equal", "fit(model, np.ones((9, 2)))", "ValueError", "x is constant | 9 rows | columns that vary"),
        ("a constant column", "model.with_data(np.c_[x, np.ones(40)])", "UserWarning", "x has 1 constant column (2) | Drop them"),
        ("bytes as pixels", "fit(VaDE(), counts * 20)", "ValueError", "x has values from 20 to 180 | [0, 1] | x / 255"),
        ("negative counts", "fit(LDA(), changed(counts, -1))", "ValueError", "x has -1 at row 3, column 1 | counts 0, 1, 2"),
        ("fractions as counts", "fit(LDA(), counts + 0.5)", "ValueError", "x has | not whole | real-valued likelihood"),
        ("a corpus without words", "fit(LDA(), counts * 0)", "ValueError", "x has no tokens | drop | give its counts"),
        ("one-hot rows as categories", "fit(HMM(emission='categorical'), np.eye(2, dtype=int)[np.zeros((5, 4), int)])", "ValueError", "x must have shape (N, T) | found (5, 4, 2)"),
        ("one row as a sequence", "fit(HMM(), x)", "ValueError", "x must have shape (N, T, D) | found (40, 2) | x[None]"),
        ("counts a Poisson cannot have", "fit(poisson, -x)", "ValueError", "site 'x' has | Poisson | counts 0, 1", True),
        ("no array", "fit(model)", "ValueError", "at least one data array | vmix.fit(program, x, engine=EM(), seed=0)"),
        ("an array too few", "fit(two_arrays, x)", "ValueError", "two_arrays takes the data arrays (x, y); 1 given"),
        ("an array too many", "fit(model, x, x)", "ValueError", "GaussianMixture takes the data arrays (x); 2 given"),
        ("other rows", "fit(two_arrays, x, x[:30])", "ValueError", "data[0] has 40, data[1] has 30 | one row per datum"),
        ("an array that JAX traces", "jit(lambda x: fit(model, x))(x)", "TypeError", "x is traced | outside"),
        ("another word for missing", "fit(model, x, missing=True)", "ValueError", 'missing must be None or "nan", found True'),
        ("a key as a seed", "fit(model, x, seed=jax.random.key(0))", "TypeError", "seed is a | whole number | seed=3"),
        ("an unknown data set", "data.load('digit')", "ValueError", "'digit' is neither | did you mean 'digits'?"),
        ("an option that reading does not have", "data.load('digits', missing='nan')", "TypeError", "load: there is no option 'missing' | label, limit"),
        ("a number for a file", "data.load(3)", "TypeError", "name_or_path is 3 | a file, or the name of a data set"),
        ("a folder for a file", "data.load(folder / 'empty')", "ValueError", "empty' is neither | it is a folder | a file in it"),
        ("an address", "data.load('https://example.org/x.csv')", "ValueError", "neither a data set | not fetched: download it"),
        ("one column for several", "data.load('x.csv', columns='age')", "TypeError", "columns is 'age' | a list of names or indices"),
        ("labels of a set that has its own", "data.load('digits', label='y')", "ValueError", "digits: asked for label 'y' | .csv or .npz"),
        ("a limit in words", "data.load('digits', max_bytes='2 GB')", "TypeError", "max_bytes is '2 GB' | whole number"),
        ("an unknown kind of file", "data.load(folder / 'notes.txt')", "ValueError", "notes.txt | no known kind | .csv"),
    ),
    *_cases(
        "Programs",
        ("a class", "fit(GaussianMixture, x)", "TypeError", "program is the class GaussianMixture | GaussianMixture(...)"),
        ("a name", "fit('VaDE', x)", "TypeError", "program must be a NumPyro function | found str"),
        ("nothing observed", "fit(no_data, x)", "ProgramError", "no_data has no observed site | obs=x"),
        ("columns that are no event", "fit(rows_as_several_values, x)", "ProgramError", "rows_as_several_values | shapes [(40, 2)] | .to_event(1)"),
        ("data outside of a plate", "fit(no_plate, x)", "ProgramError", "site 'x' | outside of any plate | numpyro.plate"),
        ("a plate of another size", "fit(small_plate, x)", "ProgramError", "plate 'data' | size 10 | 40 rows | x.shape[0]"),
        ("two plates for the data", "fit(two_plates, x)", "ProgramError", "site 'c' | plate 'rows' | 'data' | one plate"),
        ("two sites of one name", "fit(same_name, x)", "ProgramError", "same_name | `m` duplicated | a name of its own"),
        ("no end of values", "fit(endless, x)", "ProgramError", "site 'c' | infinite support (Poisson) | truncate it"),
        ("a class of all the data", "fit(discrete_global, x)", "ProgramError", "site 'c' is a discrete global | move it under"),
        ("several values a datum", "fit(several_values, x)", "ProgramError", "site 'c' | event dimension | one site for each"),
        ("too many values", "fit(many_values, x)", "ProgramError", "160000 joint values | at most 4096 | fewer values"),
        ("rows tied by a mean", "fit(mean_of_classes, x)", "ProgramError", "'x' depends on 'c' of other rows | loc[c]", True),
        ("rows tied by a sum", "fit(running_sum, x)", "ProgramError", "every value of 'c' | no reshape, cumsum", True),
        ("if on a latent", "fit(python_if, x)", "ProgramError", "python_if takes a Python decision | use jnp.where"),
        ("a mask by a latent", "fit(python_mask, x)", "ProgramError", "Python decision (if, while, int, float, x[mask])"),
        ("NumPy, in float64", "fit(numpy_float64, x)", "ProgramError", "hands a latent or data value to NumPy | jax.numpy"),
        ("a list that grows", "fit(keeps_values, x)", "ProgramError", "not the same when it runs twice | keeps something"),
        ("numbers of its own", "fit(own_random_numbers, x)", "ProgramError", "np.random | draw with numpyro.sample"),
        ("frames in a program", "fit(asks_a_frame, x)", "ProgramError", "'to_frame' | given 1 array(s) | write it for arrays"),
        ("a scale below 0", "fit(negative_scale, x)", "ProgramError", "Normal distribution got invalid scale parameter"),
        ("a concentration below 0", "fit(negative_concentration, x)", "ProgramError", "site 'w' is Dirichlet with concentration out of its range | above 0", True),
        ("probabilities over 1", "fit(probs_over_one, x)", "ProgramError", "'c' is Categorical with probs | sum to 1", True),
        ("other shapes", "fit(wrong_shapes, x)", "ProgramError", "'x' has shape (40, 7) | (40, 2) | as large as the data"),
        ("a plate that subsamples", "fit(subsampled, x)", "ProgramError", "site 'x' is scaled | batch_size on the engine"),
        ("fractions as categories", "fit(categories, x)", "ProgramError", "'x' is Categorical | float32 | x.astype(int)"),
        ("a network with a memory", "fit(batch_norm, x)", "ProgramError", "network 'net' | mean, var | BatchNorm | LayerNorm"),
        ("a guide of something else", "fit(StrangeGuide(), x)", "ProgramError", "guide samples site 'latent' | ['z']"),
    ),
    *_cases(
        "Options of models",
        ("no components", "VaDE(num_components=0)", "ValueError", "VaDE(num_components=) | positive whole number | found 0"),
        ("half a component", "HMM(num_components=2.5)", "ValueError", "HMM(num_components=) | whole number | found 2.5"),
        ("a number in quotes", "GMVAE(latent_dim='3')", "ValueError", "GMVAE(latent_dim=) | whole number | found '3'"),
        ("a concentration below 0", "LDA(doc_concentration=-1)", "ValueError", "LDA(doc_concentration=) | above 0 | found -1"),
        ("a layer without units", "VAE(hidden=(64, 0))", "ValueError", "VAE(hidden=) | whole numbers of at least 1"),
        ("noise over 1", "VaDE(noise=1.5)", "ValueError", "VaDE(noise=) | at least 0 and below 1 | found 1.5"),
        ("an unknown word", "VAE(pixels='real')", "ValueError", 'VAE(pixels=) must be "bernoulli" or "gaussian" | \'real\''),
        ("an unknown option", "VaDE(num_component=3)", "TypeError", "no option 'num_component' | did you mean 'num_components'"),
        ("means for other columns", "fit(GaussianMixture(loc=(0.0, 0.0, 0.0)), x)", "ValueError", "GaussianMixture(loc=) has 3 values, but x has 2 columns | one for each"),
        ("no name", "VaDE(10)", "TypeError", "VaDE takes its options by name | VaDE(num_components=...)"),
        ("more components than data", "fit(GaussianMixture(num_components=50), x)", "ValueError", "'c' has 50 components | 40 data"),
    ),
    *_cases(
        "Engines and options of a fit",
        ("a name", "vmix.fit(model, x, engine='em', seed=0)", "TypeError", "engine must be SVI(...) | found 'em' | engine=EM()"),
        ("a class", "vmix.fit(model, x, engine=EM, seed=0)", "TypeError", "engine is the class EM | engine=EM()"),
        ("a name, to explain", "vmix.explain(model, x, engine='svi')", "TypeError", "engine must be | found 'svi' | engine=SVI()"),
        ("no sweeps", "EM(num_sweeps=0)", "ValueError", "EM(num_sweeps=) | positive whole number | found 0"),
        ("no restarts", "SVI(restarts=0)", "ValueError", "SVI(restarts=) | positive whole number | found 0"),
        ("an option of another engine", "EM(num_steps=100)", "TypeError", "EM: there is no option 'num_steps' | 'num_sweeps'?"),
        ("minibatches of Gibbs", "Gibbs(batch_size=64)", "TypeError", "Gibbs: there is no option 'batch_size' | expected one of"),
        ("a rate of 0", "SVI(learning_rate=0.0)", "ValueError", "SVI(learning_rate=) | above 0 | found 0.0"),
        ("a number as an optimiser", "EM(optimizer=0.01)", "ValueError", "EM(optimizer=) | Optax | optax.adam | found 0.01"),
        ("an unknown guide", "SVI(guide='full')", "ValueError", 'SVI(guide=) must be "point" or "normal" | found \'full\''),
        ("an acceptance over 1", "Gibbs(target_acceptance=1.2)", "ValueError", "Gibbs(target_acceptance=) | below 1 | 1.2"),
        ("chains and restarts", "Gibbs(num_chains=2, restarts=2)", "ValueError", "num_chains | or restarts | not both"),
        ("anneal without an end", "EM(anneal=0.2)", "ValueError", "anneal must be (first_beta, num_steps) | (0.2, 80) | found 0.2"),
        ("anneal from above 1", "EM(anneal=(2.0, 10))", "ValueError", "anneal must be a first beta in (0, 1] | found (2.0, 10)"),
        ("anneal beyond the end", "EM(num_sweeps=10, anneal=(0.2, 20))", "ValueError", "EM(anneal=) ends after 20 steps | num_sweeps=10 | raise num_sweeps"),
        ("a KL warm-up beyond the end", "SVI(num_steps=10, kl_warmup=20)", "ValueError", "SVI(kl_warmup=) ends after 20 steps | num_steps=10 | raise num_steps"),
        ("anneal beyond the warm-up", "Gibbs(num_warmup=10, anneal=(0.2, 20))", "ValueError", "Gibbs(anneal=) ends after 20 sweeps | num_warmup=10 | raise num_warmup"),
        ("more rows than there are", "fit(model, x, engine=EM(batch_size=64))", "ValueError", "EM(batch_size=) is 64 | 40 rows | None"),
        ("more starts than memory holds", "fit(model, x, engine=EM(restarts=10**9))", "ValueError", "EM(restarts=) is 1,000,000,000 | bytes of globals and weights | GiB of memory | a handful is usual", True),
        ("a seed below 0", "fit(model, x, seed=-1)", "ValueError", "seed is -1 | from 0 to 4294967295"),
        ("seeds as a number", "vmix.fit_many(model, x, engine=EM(), seeds=3)", "TypeError", "seeds must be | found 3 | range(3)"),
        ("a seed twice", "vmix.fit_many(model, x, engine=EM(), seeds=[0, 0])", "ValueError", "seeds must be | all different | [0, 0]"),
        ("an unknown start", "fit(model, x, init='kmeans')", "ValueError", 'Recipe(clusters=) must be "k-means" | found \'kmeans\''),
        ("a start of no site", "fit(model, x, init={'mean': 0})", "ValueError", "init names ['mean'] | ['w', 'loc', 'precision']"),
        ("a start of another shape", "fit(model, x, init={'loc': [0, 1]})", "ValueError", "init['loc'] has shape (2,) | (2, 2)"),
        ("a start outside of the support", "fit(poisson, counts, init={'rate': -1.0})", "ValueError", "init['rate'] lies outside the site's support | give one inside", True),
        ("views without an encoder", "fit(one_mean, x, init=Recipe(views=2))", "ProgramError", "Recipe(views=2) | leave it out", True),
        ("labels without a site", "fit(model, x, observed=np.zeros(40, int))", "TypeError", 'observed must be a dict | {"c": labels}'),
        ("labels of no site", "fit(model, x, observed={'d': [0] * 40})", "ValueError", "observed names 'd' | ['c']"),
        ("labels out of range", "fit(model, x, observed={'c': [7] * 40})", "ValueError", "observed['c'] | 0..1, or -1 | found 7..7"),
        ("one-hot rows as labels", "fit(model, x, observed={'c': np.eye(2, dtype=int)[[0] * 40]})", "ValueError", "observed['c'] | shape (40,), found int64 (40, 2) | argmax"),
        ("a message of text", "fit(model, x, messages={'c': 'high'})", "ValueError", "messages['c'] | log potentials, (40, 2)"),
        ("a message of another shape", "fit(model, x, messages={'c': x[:, :1]})", "ValueError", "messages['c'] | (40, 2) | (40, 1)"),
        ("a number of devices", "fit(model, x, mesh=8)", "TypeError", "mesh must be a jax.sharding.Mesh, found int | jax.make_mesh"),
        ("words for progress", "fit(model, x, progress='no')", "TypeError", "progress must be True, False or None | found 'no'"),
        ("a callback that cannot be called", "fit(model, x, callback=3)", "TypeError", "callback must be a function | found int"),
        ("a file for a checkpoint", "fit(model, x, checkpoint=folder / 'notes.txt')", "NotADirectoryError", "checkpoint is | a file"),
        ("a device for a checkpoint", "fit(model, x, checkpoint='/dev/null')", "NotADirectoryError", "checkpoint is '/dev/null' | expected a folder"),
        ("a fit for a checkpoint", "fit(one_mean, x, checkpoint=saved)", "ValueError", "holds something else | folder of its own"),
        ("another fit's checkpoint", "fit(one_mean, x, checkpoint=state_of(one_mean, seed=1))", "ValueError", "checkpoint= | state of another fit (seed: 1, now 0) | another folder"),
        ("seconds below 0", "fit(model, x, checkpoint=folder, checkpoint_every=-1)", "ValueError", "checkpoint_every | at least 0"),
        ("seconds without a folder", "fit(model, x, checkpoint_every=10)", "ValueError", "checkpoint_every | no folder | give checkpoint="),
    ),
    *_cases(
        "Results",
        ("other columns", "fitted.predict(x[:, :1])", "ValueError", "x has 1 column | data_dim=2 | columns it was fitted to"),
        ("a single row", "fitted.score(x[0])", "ValueError", "x has 1 dimension(s) | fitted to 2 | x[None]"),
        ("no data", "fitted.predict()", "ValueError", "0 data array(s) given | fitted to 1"),
        ("a missing value", "fitted.predict(changed(x, np.nan))", "ValueError", "x has NaN at row 3, column 1"),
        ("a component that is not there", "fitted.sample(3, component=2)", "ValueError", "component is 2 | components 0..1"),
        ("half a component", "fitted.sample(3, component=0.5)", "TypeError", "component is 0.5 (float) | whole number"),
        ("no samples", "fitted.sample(0)", "ValueError", "num_samples is 0 | whole number of at least 1"),
        ("latents without an encoder", "fitted.transform(x)", "ProgramError", "no latent with an encoder | use predict_proba(x)"),
        ("a share over 1", "fitted.components_used(x, least=2)", "ValueError", "least must be a share of the data in [0, 1), found 2"),
        ("components that must stay", "fitted.prune(x)", "TypeError", "GaussianMixture cannot be pruned | truncation", True),
        ("an array for a fit", "sequences.most_probable_path(x, x)", "TypeError", "fit is of type ndarray | expected what vmix.fit(...)"),
        ("no counts to score", "topics.perplexity(fitted, x, seed=0)", "ValueError", "data[0] has | negative | expected counts 0, 1, 2"),
        ("a report without a name", "fitted.report(3, x)", "TypeError", "path is 3 | the path of an HTML file"),
        ("a report of nothing", "fitted.report(folder / 'r.html')", "TypeError", "report needs the data | fit.report(path, x)"),
        ("a number of words", "fitted.report(folder / 'r.html', x, words=3)", "TypeError", "words is 3 | names of the words"),
        ("names of other columns", "fitted.to_arviz(columns=['size'])", "ValueError", "columns has 1 names | 2 columns | one for each"),
        ("a number for names", "fitted.to_arviz(columns=3)", "TypeError", "columns is 3 | the names of the columns"),
        ("no data to diagnose", "vmix.diagnose(fitted)", "TypeError", "diagnose needs the data | vmix.diagnose(fit, x)"),
    ),
    *_cases(
        "Files",
        ("a folder that is not there", "vmix.load(folder / 'none')", "FileNotFoundError", "none is not there | folder written by"),
        ("a file in place of a folder", "vmix.load(folder / 'notes.txt')", "FileNotFoundError", "notes.txt is a file | folder written"),
        ("no path", "vmix.load(None)", "TypeError", "folder is None | expected the path of a folder"),
        ("an empty path", "vmix.load('')", "ValueError", "folder is empty | the path of a folder"),
        ("no path of a network", "compose.load(3)", "TypeError", "folder is 3 | expected the path of a folder"),
        ("an empty folder", "vmix.load(folder / 'empty')", "CheckpointCorrupt", "manifest.json: is missing | from a copy"),
        ("a file cut short", "vmix.load(shortened())", "CheckpointCorrupt", "safetensors: has | bytes; expected | from a copy"),
        ("a flipped bit", "vmix.load(flipped())", "CheckpointCorrupt", "SHA-256 differs | bytes that were saved | from a copy"),
        ("a file that is gone", "vmix.load(without_arrays())", "CheckpointCorrupt", "safetensors: is missing | from a copy"),
        ("a later format", "vmix.load(rewritten(format=99, versions={}))", "CheckpointCorrupt", "format 99 | expected format 1 | load it with"),
        ("no arrays told of", "vmix.load(rewritten(tree={}))", "CheckpointCorrupt", "does not describe its arrays | from a copy"),
        ("a file elsewhere", "vmix.load(rewritten(file={'name': '../../etc/passwd'}))", "CheckpointCorrupt", "names the file '../../etc/passwd' | in the same folder"),
        ("a name that climbs", "checkpoint.save(folder, {'a/../../b': 1}, {})", "ValueError", "'a/../../b', which climbs | plain name"),
        ("saved over a file", "fitted.save(folder / 'notes.txt')", "NotADirectoryError", "folder is | notes.txt' is a file"),
        ("a name too long for a disk", "fitted.save(folder / ('long' * 99))", "ValueError", "folder is | longlong | cannot be looked up (File name too long) | give another name"),
        ("a class to load with", "vmix.load(saved, program=GaussianMixture)", "TypeError", "GaussianMixture; give an instance"),
        ("a program of another size", "vmix.load(saved, program=GaussianMixture(num_components=3).with_data(x))", "ProgramError", "saved/manifest.json: site 'loc' has shape (2, 2); the program's has (3, 2) | the one that was fitted"),
        ("another program", "vmix.load(saved, program=BernoulliMixture(num_components=2))", "ProgramError", "site 'loc' is in it with shape (2, 2), but not in the program | site 'theta' is not in it"),
        ("a fit as a network", "compose.load(saved)", "ValueError", "holds no network of modules | vmix.load(folder)"),
    ),
    *_cases(
        "Composition",
        ("no components", "compose.GMM(0)", "ValueError", "num_components is 0 | at least 1"),
        ("unknown pixels", "compose.VAE(2, pixels='poisson')", "ValueError", 'pixels must be "bernoulli" or "gaussian", found'),
        ("arrays as modules", "compose.GMM(2).connect(x)", "TypeError", "gmm.connect takes modules | ndarray | Observation(x)"),
        ("one dimension", "compose.Observation(x[:, 0])", "ValueError", "x has shape (40,) | (N, D) | reshape"),
        ("a number as a name", "compose.Observation(x, name=3)", "TypeError", "name is 3 (int) | expected text"),
        ("a path as a name", "compose.GMM(2, name='images/left')", "ValueError", "name is 'images/left' | without slashes"),
        ("classes wanted", "compose.MM().connect(compose.Observation(x))", "GraphError", "mm takes classes | obs sends values | a GMM"),
        ("not connected", "compose.Network(compose.GMM(2))", "GraphError", "gmm is not connected | gmm.connect(...)"),
        ("rows that differ", "compose.MLDA(2, [1, 1]).connect(compose.Observation(counts), compose.Observation(counts[:3]))", "GraphError", "mlda joins | obs has 40, obs has 3 | the same rows"),
        ("unknown messages", "compose.Network(compose.Observation(x), messages='sum')", "ValueError", 'messages must be "cavity" or "serket"'),
    ),
    *_cases(
        "Images, pictures and distributions",
        ("images in two dimensions", "distortion.straightened(images)", "ValueError", "x has shape (5, 16, 16) | (..., 256) | x.reshape(-1, 256)"),
        ("ink below 0", "distortion.straightened(images[0] - 2)", "ValueError", "x has pixels down to -1 | none below 0 | x - x.min()"),
        ("images with holes", "distortion.straightened(images[0] * np.nan)", "ValueError", "x has NaN | finite pixels | drop those images"),
        ("bytes to distort", "distortion.distorted(images[0].astype(int), strength=1.0, key=jax.random.key(0))", "TypeError", "x holds int32 | real numbers | x.astype(float)"),
        ("a strength below 0", "distortion.distorted(images[0], strength=-1.0, key=jax.random.key(0))", "ValueError", "strength is -1.0 | at least 0"),
        ("a seed as a key", "distortion.distorted(images[0], strength=1.0, key=0)", "TypeError", "key is 0 | jax.random.key(0)"),
        ("rows that are no square", "distortion.straightened(counts * 1.0)", "ValueError", "x has rows of 3 pixels | square images"),
        ("pictures of other sizes", "plots.mosaic(x, (3, 3), columns=2)", "ValueError", "images has shape (40, 2) | (n, 9), pixels of (3, 3)"),
        ("no columns of pictures", "plots.mosaic(x, (1, 2), columns=0)", "ValueError", "columns is 0 | at least 1"),
        ("a row to project", "plots.pca_2d(x[0])", "ValueError", "z has shape (2,) | rows, (N, L)"),
        ("no fit to draw", "plots.summarise(x, x)", "TypeError", "fit is of type ndarray | vmix.fit(...)"),
        ("labels of other rows", "plots.confusion_table([0, 1], [0])", "ValueError", "labels has 2, predicted has 1 | one row per datum"),
        ("half a step", "distributions.MarkovChain(np.ones(2) / 2, np.ones((2, 2)) / 2, 2.5)", "TypeError", "num_steps is 2.5 | whole number | x.shape[1]"),
    ),
    *_cases(
        "Metrics",
        ("other rows", "metrics.accuracy([0, 1], [0])", "ValueError", "labels has 2 rows, predicted has 1 | one each per datum"),
        ("probabilities", "metrics.nmi([0, 1], np.eye(2))", "ValueError", "predicted has shape (2, 2) | take argmax"),
        ("nothing", "metrics.ari([], [])", "ValueError", "labels has shape (0,) | one class per row"),
        ("a missing label", "metrics.accuracy([0, np.nan], [0, 1])", "ValueError", "labels has NaN or infinity at row 1 | drop it"),
        ("labels of two kinds", "metrics.accuracy([0, None], [0, 1])", "ValueError", "labels mixes NoneType, int | one kind"),
    ),
    *_cases(
        "Command line",
        ("an unknown model", "vmix explain GausianMixture", "exit status 2", "no model 'GausianMixture' | did you mean 'GaussianMixture'?"),
        ("an unknown engine", "vmix explain VAE --engine vb", "exit status 2", 'engine | "svi", "em", "gibbs"'),
        ("an unknown data set", "vmix fit VAE --data digit --seed 0 --out @run", "exit status 2", "'digit' | did you mean 'digits'?"),
        ("an unknown hyperparameter", "vmix explain VAE --set latent=2", "exit status 2", "VAE: | no hyperparameter 'latent' | latent_dim"),
        ("a value out of range", "vmix explain VAE --latent-dim 0", "exit status 2", "VAE(latent_dim=) | positive whole number"),
        ("an option of another engine", "vmix explain VAE --engine svi --num-sweeps 3", "exit status 2", "SVI: there is no option 'num_sweeps'"),
        ("no seed", "vmix fit VAE --out @run", "exit status 2", "--seed"),
        ("a folder of other things", "vmix fit VAE --seed 0 --out @", "exit status 2", "no vmix run | new or empty folder"),
        ("no run", "vmix predict @empty digits", "exit status 2", "is no vmix run | --out of a `vmix fit`"),
        ("an unknown benchmark", "vmix benchmark mixture", "exit status 2", "no benchmark 'mixture' | did you mean 'mixtures'?"),
    ),
]
# fmt: on
