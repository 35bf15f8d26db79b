#!/usr/bin/env bash
# What: what scikit-learn's LogisticRegression finds as a linear probe of unit-length features of 200 classes, with its
# tol of 0.0001 and a smaller one, over the usual sweep of C.
# Versions: scikit-learn 1.9.1, numpy 2.4.6, scipy 1.17.1. Date: 2026-11-30.
# A good guess: the problem has one best answer and lbfgs warns where it has not come there (ConvergenceWarning), so no
# warning means it was found; features times 16 with C / 256 are the very same problem and give the same probe.
# Seen: lbfgs stops where no entry of the mean loss's gradient is above tol, in the units of the features. Those of unit
# length are small (0.06 for 256 numbers) and 200 classes share the loss, so 0.0001 is reached after some 20 steps and
# counts as converged. At C=10,000 the probe is right in 0.55 of the test pictures; with tol=1e-6 in 0.78, with features
# times 16 in 0.72. A sweep of C says "0.74, at C=100" where it is 0.78 at C=10,000, so features are ranked by their
# scale. At C=1 and 10 all agree, so a test with these shows nothing. No warning comes, n_iter_ is far below max_iter;
# the page says "tolerance for stopping criteria". Issue 18074 of scikit-learn, on lbfgs stopping early, was about the
# other criterion. Give tol=1e-6, and compare two values of it.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
cat > "$work/try.py" <<'PY'
import warnings

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression

warnings.simplefilter("error")  # a ConvergenceWarning would end this
width = 256
spread = (1 + np.arange(width)) ** -0.5  # few directions are strong and many weak, as in learned features


def pictures(generator, centres, each):
    labels = np.repeat(np.arange(len(centres)), each)
    features = (0.35 * centres[labels] + generator.standard_normal((len(labels), width))) * spread
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels


def objective(probe, features, labels, c):
    """What LogisticRegression is to make small, for features of unit length and this C."""
    scores = features @ probe.coef_.T + probe.intercept_
    loss = np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(labels)), labels]
    return loss.sum() + (probe.coef_ ** 2).sum() / (2 * c)


print("scikit-learn", sklearn.__version__, "numpy", np.__version__)
ways = (("as it comes", 1, 1e-4), ("features times 16", 16, 1e-4), ("tol=1e-6", 1, 1e-6))
for classes, sweep in ((200, (1, 100, 10_000)), (10, (1, 100))):
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((classes, width))
    (train, its), (test, whose) = pictures(generator, centres, 20), pictures(generator, centres, 10)
    right, reached = {}, {}
    for c in sweep:
        for name, times, tol in ways:
            probe = LogisticRegression(C=c / times ** 2, tol=tol, max_iter=3000).fit(times * train, its)
            right[c, name] = probe.score(times * test, whose)
            probe.coef_ = probe.coef_ * times
            reached[c, name] = objective(probe, train, its, c)
            print(f"  {classes} classes, C={c}, {name}: {probe.n_iter_[0]} steps, objective {reached[c, name]:.4g}, "
                  f"right in {right[c, name]:.3f} of the test pictures")
    if classes == 200:
        usual, exact = ([right[c, name] for c in sweep] for name in ("as it comes", "tol=1e-6"))
        print(f"  best of the sweep: {max(usual):.3f} as it comes, {max(exact):.3f} with tol=1e-6")
        assert abs(usual[0] - exact[0]) < 0.01 and exact[2] - usual[2] > 0.15, "the behaviour has changed"
        assert exact[2] - right[10_000, "features times 16"] > 0.03, "the behaviour has changed"
        assert max(exact) - max(usual) > 0.02 and usual[1] > usual[2], "the behaviour has changed"
        assert reached[10_000, "as it comes"] > 1.02 * reached[10_000, "tol=1e-6"], "the behaviour has changed"
    else:
        assert all(abs(right[c, ways[0][0]] - right[c, ways[2][0]]) <= 0.05 for c in sweep), "the behaviour has changed"
PY
OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "$work/venv/bin/python" "$work/try.py"
