"""Scikit-learn's linear models in a swarm: coefficients that are averaged, or moments that add up.

`Coefficients` is for estimators that go on from where they are: `SGDClassifier`, `SGDRegressor`, `Perceptron`
(`partial_fit`) and `LogisticRegression` (`warm_start`). A round gives the estimator the swarm's coefficients, trains it
on the site's rows, and the swarm averages what came of it: federated averaging (McMahan et al. 2017) of a convex model.

`Moments` is for least squares, `LinearRegression` and `Ridge`, and exact after one round: the solution depends on the
rows only through the means of z z' and z y with z = (x, 1), and a weighted mean of the sites' means is the pooled one.

Both keep the estimator: when all is done it is an ordinary fitted one, with `predict` and everything else. Nothing is
pickled. Rows should be of about unit size (`StandardScaler` with means and spreads agreed in advance): a charter bounds
an update's norm. Averaged coefficients then learn more slowly; moments would be wrong, so a site whose moments are over
the bound says so and sends nothing (`node.tables.whole`). `Moments(units=...)` scales columns by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.tables.whole import Whole, check_share
from swarm.errors import UsageError

Array = NDArray[np.float64]


class Coefficients:
    """A linear estimator whose coefficients the swarm averages.

    Args:
        estimator: Unfitted, with `partial_fit` or `warm_start`.
        features: F.
        classes: All labels there are, for a classifier: a site may not have seen each of them.

    Attributes:
        state: `coef` (1 or the number of classes, F) and `intercept`: what `swarm.join` takes.
    """

    def __init__(self, estimator: Any, features: int, classes: Any = None) -> None:
        name = type(estimator).__name__
        self._partial = hasattr(estimator, "partial_fit")
        if not self._partial and not getattr(estimator, "warm_start", False):
            raise UsageError(
                f"couldn't use {name}: it has no partial_fit, and would begin anew in each round",
                hint=f"make it {name}(warm_start=True) if it has that, or use Moments for least squares",
            )
        if classes is None and getattr(estimator, "_estimator_type", "") == "classifier":
            raise UsageError(f"couldn't use {name}: it needs all the classes there are", hint="pass classes=[0, 1]")
        self.estimator, self._classes = estimator, None if classes is None else np.unique(classes)
        rows = 1 if self._classes is None or len(self._classes) == 2 else len(self._classes)
        self.state: dict[str, Array] = {"coef": np.zeros((rows, features)), "intercept": np.zeros(rows)}
        self.load()

    def work(self, x: NDArray[np.floating], y: NDArray[Any]) -> None:
        """Train from the state, and leave what came of it there.

        Raises:
            UsageError: `LogisticRegression` at a site with one class only, which it cannot fit.
        """
        self.load()
        if self._partial:
            self.estimator.partial_fit(
                np.asarray(x, np.float64), y, **({} if self._classes is None else {"classes": self._classes})
            )
        else:
            if self._classes is not None and len(np.unique(y)) < len(self._classes):
                raise UsageError(
                    f"couldn't fit {type(self.estimator).__name__}: this site has {len(np.unique(y))} of"
                    f" {len(self._classes)} classes",
                    hint='SGDClassifier(loss="log_loss") is the same model and takes such a site',
                )
            with warnings.catch_warnings():
                # A few iterations a round are meant not to converge.
                warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
                self.estimator.fit(np.asarray(x, np.float64), y)
        self.state["coef"][...] = np.atleast_2d(self.estimator.coef_)
        self.state["intercept"][...] = np.atleast_1d(self.estimator.intercept_)

    def load(self) -> Any:
        """Give the estimator the state's coefficients and return it, as if it had been fitted."""
        flat = self._classes is None
        self.estimator.coef_ = (self.state["coef"][0] if flat else self.state["coef"]).copy()
        self.estimator.intercept_ = self.state["intercept"].copy()
        self.estimator.n_features_in_ = self.state["coef"].shape[1]
        if self._classes is not None:
            self.estimator.classes_ = self._classes
        return self.estimator


class Moments:
    """Least squares from what adds up.

    Args:
        estimator: `LinearRegression` or `Ridge`, unfitted, with an intercept.
        features: F.
        units: Per column about how large its values are, F positive numbers that all sites agree on; 1 each if left
            out. Moments are of values in these units, which keeps them below a charter's bound and float32 exact
            enough. The result is in the columns' own units whatever they are.
        target_unit: The same for y.

    Attributes:
        state: `moments` (F + 1, F + 2): the mean of (x, 1) (x, 1, y)'. What `swarm.join` takes.
    """

    def __init__(
        self, estimator: Any, features: int, *, units: Sequence[float] | None = None, target_unit: float = 1.0
    ) -> None:
        self._shrinkage = float(getattr(estimator, "alpha", 0.0))
        least_squares = type(estimator).__name__ in ("LinearRegression", "Ridge")
        if not least_squares or not estimator.fit_intercept:
            raise UsageError(
                f"couldn't use {estimator!r}: moments are for LinearRegression and Ridge with an intercept",
                hint="Coefficients takes what has partial_fit or warm_start",
            )
        self._units = np.ones(features) if units is None else np.asarray(units, np.float64)
        self._target_unit = float(target_unit)
        sizes = np.append(self._units, self._target_unit)
        if self._units.shape != (features,) or not (np.isfinite(sizes) & (sizes > 0)).all():
            raise UsageError(
                f"couldn't use the units: {features} features need {features} finite numbers above 0, and y one",
                hint="write about how large each column's values are, the same at all sites",
            )
        self.estimator = estimator
        self.state: dict[str, Array] = Whole(moments=np.zeros((features + 1, features + 2))).with_remedy(
            "give Moments units=[...], about how large each column's values are, and target_unit, the same at all sites"
        )

    def work(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> None:
        """Write the means over a site's rows.

        Raises:
            UsageError: the rows, shape (n, F), or y, shape (n,), do not fit or are not finite.
        """
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.ndim != 2 or x.shape[1] != len(self._units) or not len(x) or y.shape != (len(x),):
            raise UsageError(
                f"couldn't use rows of shape {x.shape} with targets of shape {y.shape}: {len(self._units)} features"
                " and a target a row are needed",
                hint="every site needs the same columns in the same order",
            )
        if not np.isfinite(x).all() or not np.isfinite(y).all():
            raise UsageError(
                "couldn't use the rows: there are values that are not finite", hint="fill or leave out missing values"
            )
        z = np.column_stack([x / self._units, np.ones(len(x)), y / self._target_unit])
        self.state["moments"][...] = z[:, :-1].T @ z / len(z)

    def load(self, samples: int) -> Any:
        """Solve for the swarm's coefficients and return the estimator, fitted; `samples` are the swarm's rows in all.

        Ridge weighs its penalty against a sum over rows, and the moments are means, so it has to know how many.

        Raises:
            UsageError: the state is no mean of what sites have written: nothing came yet, or it was shortened.
        """
        moments = self.state["moments"].astype(np.float64)
        check_share(float(moments[-1, -2]), "the moments")
        gram, cross, middle, level = moments[:-1, :-2], moments[:-1, -1], moments[-1, :-2], moments[-1, -1]
        # Centred, so that the intercept is not shrunk. The penalty is of coefficients in the columns' own units.
        penalty = np.diag(self._shrinkage / samples / self._units**2)
        covariance = gram - np.outer(middle, middle) + penalty
        found = np.linalg.lstsq(covariance, cross - middle * level, rcond=None)[0]
        self.estimator.coef_ = found * self._target_unit / self._units
        self.estimator.intercept_ = (level - middle @ found) * self._target_unit
        self.estimator.n_features_in_ = len(middle)
        return self.estimator
