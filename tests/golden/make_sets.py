#!/usr/bin/env python3
"""Records torch-uncertainty's and scikit-learn's values of prediction sets and of detection into sets.safetensors.

    python tests/golden/make_sets.py            # needs torch, numpy, safetensors, scikit-learn, torch-uncertainty, torchvision

The format is make_golden.py's. Per case, metadata n others classes, and the tensors `<case>.<name>`:

    logits [n,classes]  others [others,classes]: of images of another kind
    lac, aps, raps [n,classes]        the score of every class of every image: 1 - p; torch_uncertainty's ConformalClsAPS and
                                      ConformalClsRAPS without their random part, penalty 0.1 from the second rank on
    auroc_*, fpr95_* []               max_probability, max_logit, energy: sklearn.metrics.roc_auc_score, and
                                      torch_uncertainty.metrics.classification.FPRx at 0.95, the own images being positive
"""

import warnings

warnings.filterwarnings("ignore")

import torch
from make_golden import Golden, Random
from make_metrics import scalar
from sklearn.metrics import roc_auc_score
from torch_uncertainty.metrics.classification import FPRx
from torch_uncertainty.post_processing.conformal import ConformalClsAPS, ConformalClsRAPS


def main():
    golden = Golden("sets")
    for name, n, others, classes, scale in [
        ("usual", 60, 50, 10, 3.0),
        ("two_classes", 40, 60, 2, 2.0),
        ("unsure", 40, 30, 5, 0.3),
        ("sure", 30, 20, 17, 9.0),
    ]:
        random = Random(golden.name, name)
        logits, outside = random.normal(n, classes) * scale, random.normal(others, classes) * scale * 0.8
        # Some values are equal: an image of each kind.
        outside[0] = logits[0]
        p = logits.softmax(1)
        aps = ConformalClsAPS(alpha=0.1, randomized=False, enable_ts=False)
        raps = ConformalClsRAPS(alpha=0.1, randomized=False, enable_ts=False, penalty=0.1, regularization_rank=1)
        tensors = {"lac": 1 - p, "aps": aps._calculate_all_labels(p), "raps": raps._calculate_all_labels(p)}
        target = torch.cat([torch.ones(n), torch.zeros(others)]).int()
        scores = {
            "max_probability": lambda z: z.softmax(1).amax(1),
            "max_logit": lambda z: z.amax(1),
            "energy": lambda z: z.logsumexp(1),
        }
        for score, of in scores.items():
            values = torch.cat([of(logits), of(outside)])
            fpr = FPRx(recall_level=0.95, pos_label=1)
            fpr.set_dtype(torch.float64)
            fpr.update(values, target)
            tensors[f"auroc_{score}"] = scalar(roc_auc_score(target.numpy(), values.numpy()))
            tensors[f"fpr95_{score}"] = scalar(fpr.compute())
        golden.case(name, {"n": n, "others": others, "classes": classes}, logits=logits, others=outside, **tensors)
        print(name, {key: round(value.item(), 6) for key, value in tensors.items() if value.dim() == 0})
    golden.write()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
