#!/usr/bin/env python3
"""Records scikit-learn's, torchmetrics' and PyTorch's values of the metrics into metrics.safetensors beside this script.

    python tests/golden/make_metrics.py         # needs torch, numpy, safetensors, torchmetrics, scikit-learn, scipy

The format is make_golden.py's. Per case, metadata n classes epsilon variant (uniform | off-target), and the tensors
`<case>.<name>`, all of them [] but the first two:

    logits [n,classes]  labels I64 [n]
    loss             smoothed, mean                               torch.nn.functional.cross_entropy
    nll              mean                                         sklearn.metrics.log_loss, torch for the large logits
    accuracy         fraction                                     sklearn.metrics.accuracy_score
    ece              15 equal bins, l1                            torchmetrics MulticlassCalibrationError (in float32)
    brier            mean over images of the sum over classes     sklearn.metrics.brier_score_loss
    mean_confidence  mean of the largest probability              torch
    mce              15 equal bins, max                           torchmetrics MulticlassCalibrationError (in float32)
    ece_classwise    mean over the classes                        torchmetrics binary_calibration_error (in float64)
    ece_equal_mass   15 bins of equal mass                        numpy, equal_mass() below
    aurc             equal confidences in random order            numpy, aurc() below
    confidence_right, confidence_wrong   left out where there are none    numpy
    above_99         share of confidences above 0.99              numpy
    excess_loss      KL(target, prediction), mean; not for large  scipy.stats.entropy

torchmetrics' bins are [lo, hi) where Guo et al. 2017 have (lo, hi]; no probability here lies on an edge (checked), but
1.0, which is a bin of its own there: the cases keep clear of it.
"""

import numpy as np
import torch
from make_golden import Golden, Random, smoothed_losses
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torchmetrics.classification import MulticlassCalibrationError
from torchmetrics.functional.classification import binary_calibration_error

BINS = 15


def scalar(value):
    return torch.tensor(float(value), dtype=torch.float64)


def binary_ece(p, target):
    return binary_calibration_error(p.contiguous(), target.long(), n_bins=BINS, norm="l1")


def equal_mass(confidence, right):
    """Bins (lo, hi] between the quantiles b/15, each the least value with at least that share up to it."""
    n = len(confidence)
    ranks = [min(r for r in range(1, n + 1) if r * BINS >= b * n) for b in range(1, BINS)]
    bins = np.searchsorted(np.sort(confidence)[np.array(ranks) - 1], confidence, side="left")
    if n % BINS == 0 and len(set(confidence)) == n:  # then it is plainly one fifteenth each, in order
        parts = np.split(np.argsort(confidence), BINS)
        assert all((bins[part] == b).all() for b, part in enumerate(parts))
    return sum(abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins))


def aurc(confidence, right):
    """Mean over the coverages of the risk, where an image's error is the mean over those as sure as it is."""
    errors = np.array([1.0 - right[confidence == c].mean() for c in confidence])[np.argsort(-confidence)]
    return np.mean([errors[:i].mean() for i in range(1, len(errors) + 1)])


def smoothed_target(labels, classes, variant, e):
    off = e / classes if variant == "uniform" else e / (classes - 1)
    target = np.full((len(labels), classes), off)
    target[np.arange(len(labels)), labels] = 1.0 - off * (classes - 1)
    return target


def main():
    golden = Golden("metrics")
    # (case, n, classes, scale of the logits, share of labels set to the argmax, epsilon, variant)
    cases = [
        ("chance", 200, 10, 1.0, 0.0, 0.1, "uniform"),
        ("learned", 150, 10, 3.0, 0.7, 0.1, "off-target"),
        ("sharp", 64, 3, 3.0, 0.8, 0.0, "uniform"),
        ("two_classes", 50, 2, 1.0, 0.5, 0.3, "off-target"),
        ("many_classes", 20, 37, 2.0, 0.5, 0.2, "uniform"),
        ("one_image", 1, 5, 1.0, 0.0, 0.1, "uniform"),
        ("large", 12, 10, 1e4, 0.5, 0.1, "uniform"),
        ("ties", 90, 4, 2.5, 0.6, 0.1, "uniform"),
        ("all_right", 40, 5, 2.0, 1.0, 0.1, "off-target"),
    ]
    for name, n, classes, scale, known, e, variant in cases:
        random = Random(golden.name, name)
        logits = random.normal(n, classes) * scale
        if name == "ties":  # every row many times, as it is, with other labels
            logits = logits[random.integers(0, 9, n)]
        told = torch.from_numpy(random.rng.random(n) < known)
        labels = torch.where(told, logits.argmax(1), random.integers(0, classes, n))
        p = logits.softmax(1)
        confidence = p.max(1).values
        nll = smoothed_losses(logits, labels, "uniform", 0.0, "mean")
        every = list(range(classes))
        tensors = {"loss": smoothed_losses(logits, labels, variant, e, "mean")}
        if name == "large":  # log_loss clips the probabilities, and every confidence is 1: ECE is the error rate
            assert (confidence == 1.0).all()
            tensors |= {"nll": nll, "ece": scalar((logits.argmax(1) != labels).double().mean())}
        else:
            edges = torch.arange(1, BINS + 1) / BINS
            assert (confidence[:, None] - edges).abs().min() > 1e-6
            edges = torch.arange(BINS + 1) / BINS
            assert (p.reshape(-1, 1) - edges.double()).abs().min() > 1e-9
            ece = MulticlassCalibrationError(classes, n_bins=BINS, norm="l1")(p, labels)
            tensors |= {"nll": scalar(log_loss(labels, p, labels=every)), "ece": ece.double()}
            assert abs(tensors["nll"] - nll) < 1e-12
            target = smoothed_target(labels, classes, variant, e)
            tensors |= {"excess_loss": scalar(entropy(target, p.numpy(), axis=1).mean())}
        brier = brier_score_loss(labels, p.numpy(), labels=every, pos_label=1 if classes == 2 else None, scale_by_half=False)
        one_hot = torch.nn.functional.one_hot(labels, classes)
        assert abs(brier - (p - one_hot).square().sum(1).mean()) < 1e-12
        right = (logits.argmax(1) == labels).numpy()
        tensors |= {
            "accuracy": scalar(accuracy_score(labels, logits.argmax(1))),
            "brier": scalar(brier),
            "mean_confidence": confidence.mean(),
            "mce": MulticlassCalibrationError(classes, n_bins=BINS, norm="max")(p, labels).double(),
            "ece_classwise": scalar(np.mean([binary_ece(p[:, k], labels == k) for k in every])),
            "ece_equal_mass": scalar(equal_mass(confidence.numpy(), right)),
            "aurc": scalar(aurc(confidence.numpy(), right)),
            "above_99": scalar((confidence.numpy() > 0.99).mean()),
        }
        for key, chosen in [("confidence_right", right), ("confidence_wrong", ~right)]:
            if chosen.any():
                tensors[key] = scalar(confidence.numpy()[chosen].mean())
        params = {"n": n, "classes": classes, "epsilon": e, "variant": variant}
        golden.case(name, params, logits=logits, labels=labels, **tensors)
        print(name, {key: round(value.item(), 6) for key, value in tensors.items()})
    golden.write()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
