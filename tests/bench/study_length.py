"""Study: which rule pools what is said of a film's stretches, so that length accuses nobody and hides little.

python -m tests.bench.study_length prints, for each rule, the share called `manipulated` of films of 180 stretches, at
the threshold that calls 5 % of the single real stretches so. Made evidence: a stretch says N(0, 1) when real and
N(d, 1) when forged, of which `rho` of the variance belongs to its source; `laplace` has exponential tails instead.

    joined    real stretches of 180 sources            one source   a real film of one source
    + 1, + 3  as many adjacent stretches forged, in joined sources; `own` in the film of one source
    all       a wholly forged film of one source       alone        the forged stretch by itself
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

FILMS, LENGTH, RATE = 4000, 180, 0.05
Rule = Callable[[np.ndarray], np.ndarray]
"""[films, n] log-odds of stretches → [films] log-odds of the film."""


def noise(rng: np.random.Generator, films: int, n: int, rho: float, one_source: bool, tail: str) -> np.ndarray:
    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) if tail == "normal" else rng.laplace(0, np.sqrt(0.5), shape)

    if not one_source:
        return draw(films, n)
    return np.sqrt(rho) * draw(films, 1) + np.sqrt(1 - rho) * draw(films, n)


def power_mean(exponent: float) -> Rule:
    def rule(x: np.ndarray) -> np.ndarray:
        top = x.max(axis=1, keepdims=True)
        return top[:, 0] + np.log(np.exp(exponent * (x - top)).mean(axis=1)) / exponent

    return rule


def sidak(real: np.ndarray, effective: bool) -> Rule:
    """The equal-tailed single stretch of the maximum of n (or of as many as the film's own correlation leaves)."""
    level, spread = real.mean(), real.std()

    def rule(x: np.ndarray) -> np.ndarray:
        n = x.shape[1]
        within = np.minimum(1.0, x.var(axis=1) / spread**2)
        draws = np.maximum(1.0, n * within) if effective else n
        log_tail = stats.norm.logsf((x.max(axis=1) - level) / spread)
        return level + spread * stats.norm.isf(-np.expm1(draws * np.log1p(-np.exp(np.minimum(log_tail, -1e-12)))))

    return rule


def scan(real: np.ndarray) -> Rule:
    """Best window of 1, 2, 4, … stretches, each corrected for how many windows there are."""
    level, spread = real.mean(), real.std()

    def rule(x: np.ndarray) -> np.ndarray:
        n, width, best = x.shape[1], 1, np.full(len(x), np.inf)
        sums = np.concatenate([np.zeros((len(x), 1)), np.cumsum(x - level, axis=1)], axis=1)
        lengths = int(np.log2(n)) + 1
        while width <= n:
            means = (sums[:, width:] - sums[:, :-width]) / width
            tail = stats.norm.logsf(means.max(axis=1) / spread) + np.log(lengths * n / width)
            best, width = np.minimum(best, tail), width * 2
        return level + spread * stats.norm.isf(np.exp(np.minimum(best, -1e-9)))

    return rule


def contrast(real: np.ndarray) -> Rule:
    """The film's own level, or its greatest excess over that in units of the film's own spread, corrected for n."""
    level, spread = real.mean(), real.std()

    def rule(x: np.ndarray) -> np.ndarray:
        n = x.shape[1]
        middle = np.median(x, axis=1)
        if n < 8:
            return x.max(axis=1) if n == 1 else middle
        own = 1.4826 * np.median(np.abs(x - middle[:, None]), axis=1)
        tail = stats.norm.logsf((x.max(axis=1) - middle) / own) + np.log(n)
        return np.maximum(middle, level + spread * stats.norm.isf(np.exp(np.minimum(tail, -1e-9))))

    return rule


def study(separation: float, rho: float, tail: str, detectors: int = 1, fuse_first: bool = True) -> None:
    rng = np.random.default_rng(0)

    def films(n: int, count: int = FILMS, one_source: bool = False, forged: slice = slice(0)) -> np.ndarray:
        """[detectors, count, n] log likelihood ratios under the normal model."""
        z = np.stack([noise(rng, count, n, rho, one_source, tail) for _ in range(detectors)])
        z[:, :, forged] += separation
        return separation * z - separation**2 / 2

    clips = films(1, 200_000)
    real = clips.sum(axis=0)[:, 0] if fuse_first else clips[0, :, 0]
    high = np.quantile(real, 0.9)
    rate = 1 / (real[real > high] - high).mean()
    rules: dict[str, Rule] = {
        "mean odds": power_mean(1.0),
        f"power mean, tail rate {rate:.2f}": power_mean(rate),
        f"power mean, 1.4 x {rate:.2f}": power_mean(1.4 * rate),
        "maximum, n draws": sidak(real, False),
        "maximum, effective draws": sidak(real, True),
        "scan": scan(real),
        "contrast": contrast(real),
    }
    how = (
        ""
        if detectors == 1
        else f", {detectors} detectors, {'fused, then pooled' if fuse_first else 'pooled, then fused'}"
    )
    print(f"\nd = {separation}, rho = {rho}, {tail}{how}")
    names = ("alone", "joined", "one source", "+ 1", "+ 3", "own + 1", "own + 3", "all")
    print(f"{'':32s}" + "".join(f"{name:>11s}" for name in names))
    sets = [
        films(1, forged=slice(0, 1)),
        films(LENGTH),
        films(LENGTH, one_source=True),
        films(LENGTH, forged=slice(90, 91)),
        films(LENGTH, forged=slice(90, 93)),
        films(LENGTH, one_source=True, forged=slice(90, 91)),
        films(LENGTH, one_source=True, forged=slice(90, 93)),
        films(LENGTH, one_source=True, forged=slice(None)),
    ]
    for name, rule in rules.items():

        def answer(x: np.ndarray, rule: Rule = rule) -> np.ndarray:
            return rule(x.sum(axis=0)) if fuse_first else np.sum([rule(one) for one in x], axis=0)

        threshold = np.quantile(answer(clips), 1 - RATE)
        print(f"{name:32s}" + "".join(f"{(answer(x) > threshold).mean():11.3f}" for x in sets))


if __name__ == "__main__":
    for separation in (1.2, 2.3, 3.5):
        study(separation, 0.7, "normal")
    study(2.3, 0.7, "laplace")
    study(1.5, 0.7, "normal", 3, fuse_first=False)
    study(1.5, 0.7, "normal", 3, fuse_first=True)
