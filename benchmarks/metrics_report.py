"""What do all figures of a detector cost on a score file as large as ASVspoof 5's?

680,774 scores of 16 attacks. Live peer: the same figures from scikit-learn's ROC curve, the usual
recipe. The challenge's evaluation package is quoted, not run: 265 ms for its four figures, 88 ms
for an EER, 375 ms for the EERs of 16 attacks, hence 88 s for 1000 bootstrap EERs. Those are seconds
on the wall of another machine, so ratios to them are rough, and with --quick they mean nothing.

Before anything is timed the figures must equal scikit-learn's to 1e-9 on the whole file and
a loop over all thresholds on a small part of it, and the interval that of real resampling.
"""

import math

import numpy as np
from sklearn.metrics import roc_curve
from timing import arguments, interleaved, report, seconds

from speechcl.metrics import eer, eer_interval, eer_per_attack, error_rates

BONAFIDE, SPOOF, ATTACKS, DRAWS = 138_688, 542_086, 16, 1000
QUOTED_S = {"four figures": 0.265, "EER": 0.088, "EER by attack": 0.375, "bootstrap": 88.0}
TARGET, BOOTSTRAP_TARGET_S, TOLERANCE = 0.15, 5.0, 1e-9


def score_file(bonafide: int, spoof: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make shuffled scores, labels and attacks; the attacks differ in strength."""
    rng = np.random.default_rng(0)
    is_spoof = rng.permutation(np.arange(bonafide + spoof) < spoof)
    attack = rng.integers(0, ATTACKS, is_spoof.size)
    scores = rng.normal(np.where(is_spoof, attack / 8 - 3, 2.0), 1.5)
    names = np.array([f"A{17 + k}" for k in range(ATTACKS)])
    labels = np.where(is_spoof, "spoof", "bonafide")
    return scores, labels, np.where(is_spoof, names[attack], "-")


def by_sklearn(scores: np.ndarray, is_bonafide: np.ndarray) -> dict[str, float]:
    """Compute the four figures from scikit-learn's curve."""
    p_fa, hits, _ = roc_curve(is_bonafide, scores, drop_intermediate=False)
    return four_figures(p_fa, 1 - hits, scores, is_bonafide)


def by_loop(scores: np.ndarray, is_bonafide: np.ndarray) -> dict[str, float]:
    """Compute the four figures by trying every threshold, the highest first."""
    thresholds = [np.inf, *sorted(set(scores.tolist()), reverse=True)]
    p_fa = np.array([np.mean(scores[~is_bonafide] >= t) for t in thresholds])
    p_miss = np.array([np.mean(scores[is_bonafide] < t) for t in thresholds])
    return four_figures(p_fa, p_miss, scores, is_bonafide)


def four_figures(
    p_fa: np.ndarray, p_miss: np.ndarray, scores: np.ndarray, is_bonafide: np.ndarray
) -> dict[str, float]:
    bonafide, spoof = scores[is_bonafide], scores[~is_bonafide]
    after = int(np.argmax(p_fa >= p_miss))  # the curve runs from the highest threshold down
    gap = (p_miss - p_fa)[[after - 1, after]]
    share = gap[0] / (gap[0] - gap[1])
    threshold = -math.log(1.9)
    bits = np.logaddexp(0, -bonafide).mean() + np.logaddexp(0, spoof).mean()
    return {
        "eer_percent": 100 * (p_fa[after - 1] + share * (p_fa[after] - p_fa[after - 1])),
        "min_dcf": np.min(1.9 * p_miss + p_fa),
        "act_dcf": 1.9 * np.mean(bonafide < threshold) + np.mean(spoof >= threshold),
        "cllr_bits": bits / (2 * math.log(2)),
    }


def sklearn_by_attack(
    scores: np.ndarray, labels: np.ndarray, attacks: np.ndarray
) -> dict[str, dict[str, float]]:
    """Compute the four figures of every attack against all bona fide clips."""
    is_bonafide = labels == "bonafide"
    found = {}
    for name in np.unique(attacks[~is_bonafide]):
        chosen = is_bonafide | (attacks == name)
        found[str(name)] = by_sklearn(scores[chosen], is_bonafide[chosen])
    return found


def largest_difference(ours: dict, peer: dict[str, float]) -> float:
    """Relative to the peer's figures."""
    return max(abs(ours[name] - value) / max(value, 1e-3) for name, value in peer.items())


def check_figures(scores: np.ndarray, labels: np.ndarray, attacks: np.ndarray) -> float:
    """Assert that all figures agree; return the largest relative difference."""
    few = slice(600)
    is_bonafide = labels == "bonafide"
    ours = error_rates(scores, labels, attacks)
    peers = sklearn_by_attack(scores, labels, attacks)
    assert ours["attacks"].keys() == peers.keys(), "the attacks differ"
    assert ours["pooled"]["eer_percent"] == eer(scores[is_bonafide], scores[~is_bonafide])[0]
    assert eer_per_attack(scores, labels, attacks) == {
        name: rates["eer_percent"] for name, rates in ours["attacks"].items()
    }
    worst = max(
        largest_difference(ours["pooled"], by_sklearn(scores, is_bonafide)),
        largest_difference(
            error_rates(scores[few], labels[few])["pooled"], by_loop(scores[few], is_bonafide[few])
        ),
        *(largest_difference(ours["attacks"][name], peer) for name, peer in peers.items()),
    )
    assert worst <= TOLERANCE, f"the figures are {worst} apart"
    return worst


def check_interval(bonafide: np.ndarray, spoof: np.ndarray, draws: int) -> float:
    """Assert that the interval is that of real resampling; return the difference in points."""
    rng = np.random.default_rng(1)
    bonafide, spoof = bonafide[:1000], spoof[:1000]
    rates = [
        eer(rng.choice(bonafide, bonafide.size), rng.choice(spoof, spoof.size))[0]
        for _ in range(draws)
    ]
    real = np.percentile(rates, [2.5, 97.5])
    worst = float(np.abs(np.subtract(eer_interval(bonafide, spoof, draws=draws), real)).max())
    # A normal density is 0.058 / sigma at these quantiles, which gives their standard error; both
    # sides have one. Allow four.
    allowed = 4 * math.sqrt(2 * 0.025 * 0.975 / draws) / 0.058 * float(np.std(rates))
    assert worst <= allowed, f"the interval is {worst} points from that of real resampling"
    return worst


def main() -> None:
    quick = arguments(__doc__).quick
    shrink = 100 if quick else 1
    scores, labels, attacks = score_file(BONAFIDE // shrink, SPOOF // shrink)
    is_bonafide = labels == "bonafide"
    classes = scores[is_bonafide], scores[~is_bonafide]
    difference = check_figures(scores, labels, attacks)
    apart = check_interval(*classes, draws=200 if quick else 2000)
    works = {
        "four figures": lambda: error_rates(scores, labels),
        "four figures, peer": lambda: by_sklearn(scores, labels == "bonafide"),
        "four figures by attack": lambda: error_rates(scores, labels, attacks)["attacks"],
        "four figures by attack, peer": lambda: sklearn_by_attack(scores, labels, attacks),
        "EER": lambda: eer(*classes),
        "EER by attack": lambda: eer_per_attack(scores, labels, attacks),
        "bootstrap": lambda: eer_interval(*classes, draws=DRAWS),
        "sort": lambda: np.sort(scores),
    }
    found = interleaved(
        {name: lambda work=work: seconds(work) for name, work in works.items()},
        repeats=2 if quick else 9,
    )
    sizes = {"scores": scores.size, "attacks": ATTACKS}
    more = {
        "largest_relative_difference": float(f"{difference:.2g}"),
        "interval_apart_points": float(f"{apart:.2g}"),
        "one_sort_s": float(f"{min(found['sort']):.3g}"),
    }
    for name in ("four figures", "four figures by attack"):
        sides = found[name], found[f"{name}, peer"]
        report(
            "metrics_report", sizes | {"what": name, "peer": "scikit-learn"}, *sides, None, **more
        )
    targets = {"four figures": TARGET, "bootstrap": BOOTSTRAP_TARGET_S / QUOTED_S["bootstrap"]}
    for name, quoted_s in QUOTED_S.items():
        report(
            "metrics_report",
            sizes | {"what": name, "peer": "ASVspoof 5 package, quoted"},
            found[name],
            [quoted_s],
            targets.get(name),
            **more,
        )


if __name__ == "__main__":
    main()
