#!/usr/bin/env python3
"""Records others' values of the measures of calibration, ranking and prediction sets into calibration.safetensors.

    python tests/golden/make_calibration.py     # needs torch, numpy, safetensors, scipy, relplot, uncertainty-calibration

The format is make_golden.py's. Per case, metadata n classes, and the tensors `<case>.<name>`, all [] but the first two:

    logits [n,classes]  labels I64 [n]
    smece            smooth calibration error                     relplot.smECE (ml-calibration), its defaults
    ece_debiased     15 equal bins; the mean itself               scipy.stats.foldnorm, and calibration.utils
                                                                  normal_debiased_ce (which draws) where it takes the bins
    aurc_max_logit   confidence: the largest logit                numpy, make_metrics.aurc
    aurc_normalised  confidence: the largest of (z - mean)/|z - mean|     numpy, make_metrics.aurc; not for two classes
    lac_threshold    the score that 90 % asks for, of all images  numpy.quantile, inverted_cdf
    lac_size         classes in the sets of that threshold, mean  numpy
"""

import warnings

warnings.filterwarnings("ignore")

import calibration.utils
import numpy as np
import relplot
import torch
from make_golden import Golden, Random
from make_metrics import BINS, aurc, scalar
from scipy.stats import foldnorm


def debiased(confidence, right):
    bins = np.ceil(confidence * BINS).astype(int)
    parts = [(confidence[bins == b], right[bins == b]) for b in np.unique(bins)]
    total = 0.0
    for c, r in parts:
        gap, deviation = r.mean() - c.mean(), np.sqrt(r.mean() * (1 - r.mean()) / len(c))
        mean = foldnorm.mean(abs(gap) / deviation, scale=deviation) if deviation > 0 else abs(gap)
        total += len(c) / len(confidence) * (2 * abs(gap) - mean)
    if min(len(c) for c, _ in parts) > 1:
        np.random.seed(0)
        binned = [list(zip(c, r.astype(float))) for c, r in parts]
        drawn = calibration.utils.normal_debiased_ce(binned, power=1, resamples=200_000)
        assert abs(drawn - total) < 3e-4, (drawn, total)
        print("   normal_debiased_ce", drawn)
    return total


def main():
    golden = Golden("calibration")
    cases = [
        ("calibrated", 500, 10, 2.0, 1.0),
        ("overconfident", 400, 10, 4.0, 2.5),
        ("underconfident", 300, 3, 1.0, 0.4),
        ("two_classes", 200, 2, 2.0, 1.0),
        ("sharp", 1500, 5, 6.0, 1.1),
        ("few", 12, 4, 2.0, 1.0),
    ]
    for name, n, classes, scale, temperature in cases:
        random = Random(golden.name, name)
        logits = random.normal(n, classes) * scale
        share = (logits / temperature).softmax(1).cumsum(1)
        labels = (torch.from_numpy(random.rng.random(n))[:, None] > share).sum(1).clamp(max=classes - 1)
        p = logits.softmax(1).numpy()
        z, y = logits.numpy(), labels.numpy()
        confidence, right = p.max(1), z.argmax(1) == y
        centred = z - z.mean(1, keepdims=True)
        scores = 1 - p[np.arange(n), y]
        level = np.ceil((n + 1) * 0.9 - 1e-9) / n
        threshold = np.quantile(scores, level, method="inverted_cdf") if level <= 1 else np.inf
        sets = (1 - p <= threshold) | (np.arange(classes) == p.argmax(1)[:, None])
        tensors = {
            "smece": scalar(relplot.smECE(confidence, right.astype(float))),
            "ece_debiased": scalar(debiased(confidence, right)),
            "aurc_max_logit": scalar(aurc(z.max(1), right)),
            "aurc_normalised": scalar(aurc(centred.max(1) / np.linalg.norm(centred, axis=1), right)),
            "lac_threshold": scalar(threshold),
            "lac_size": scalar(sets.sum(1).mean()),
        }
        if classes == 2:  # every image has the same score, but for rounding
            del tensors["aurc_normalised"]
        golden.case(name, {"n": n, "classes": classes}, logits=logits, labels=labels, **tensors)
        print(name, {key: round(value.item(), 6) for key, value in tensors.items()})
    golden.write()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
