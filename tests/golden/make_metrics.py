#!/usr/bin/env python3
"""Records scikit-learn's, torchmetrics' and PyTorch's values of the metrics into metrics.safetensors beside this script.

    python tests/golden/make_metrics.py         # needs torch, numpy, safetensors, torchmetrics, scikit-learn

The format is make_golden.py's. Per case, metadata n classes epsilon variant (uniform | off-target), and the tensors
`<case>.<name>`, all of them [] but the first two:

    logits [n,classes]  labels I64 [n]
    loss             smoothed, mean                               torch.nn.functional.cross_entropy
    nll              mean                                         sklearn.metrics.log_loss, torch for the large logits
    accuracy         fraction                                     sklearn.metrics.accuracy_score
    ece              15 equal bins, l1                            torchmetrics MulticlassCalibrationError (in float32)
    brier            mean over images of the sum over classes     sklearn.metrics.brier_score_loss
    mean_confidence  mean of the largest probability              torch

torchmetrics' bins are [lo, hi) where Guo et al. 2017 have (lo, hi]; no confidence here lies on an edge (checked), but
1.0, which is a bin of its own there: the cases keep clear of it.
"""

import torch
from make_golden import Golden, Random, smoothed_losses
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torchmetrics.classification import MulticlassCalibrationError

BINS = 15


def scalar(value):
    return torch.tensor(float(value), dtype=torch.float64)


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
    ]
    for name, n, classes, scale, known, e, variant in cases:
        random = Random(golden.name, name)
        logits = random.normal(n, classes) * scale
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
            ece = MulticlassCalibrationError(classes, n_bins=BINS, norm="l1")(p, labels)
            tensors |= {"nll": scalar(log_loss(labels, p, labels=every)), "ece": ece.double()}
            assert abs(tensors["nll"] - nll) < 1e-12
        brier = brier_score_loss(labels, p.numpy(), labels=every, pos_label=1 if classes == 2 else None, scale_by_half=False)
        one_hot = torch.nn.functional.one_hot(labels, classes)
        assert abs(brier - (p - one_hot).square().sum(1).mean()) < 1e-12
        tensors |= {
            "accuracy": scalar(accuracy_score(labels, logits.argmax(1))),
            "brier": scalar(brier),
            "mean_confidence": confidence.mean(),
        }
        params = {"n": n, "classes": classes, "epsilon": e, "variant": variant}
        golden.case(name, params, logits=logits, labels=labels, **tensors)
        print(name, {key: round(value.item(), 6) for key, value in tensors.items()})
    golden.write()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
