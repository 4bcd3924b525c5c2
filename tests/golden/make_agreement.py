#!/usr/bin/env python3
"""Records PyTorch's and scipy's measures of agreement with people's shares into agreement.safetensors.

    python tests/golden/make_agreement.py       # needs torch, numpy, safetensors, scipy

The format is make_golden.py's. Per case, metadata n and classes, and the tensors `<case>.<name>`, all of them [] but the
first two:

    logits, shares [n,classes]   shares are counts divided by their sum; some images are unanimous
    cross_entropy, kl            torch cross_entropy with soft targets, kl_div
    total_variation              mean of sum |q - p| / 2
    entropy_of_labels, entropy_of_model    torch.special.entr, of sorted shares: equal ones have equal entropies
    rank_correlation             scipy.stats.spearmanr of both entropies
"""

import torch
import torch.nn.functional as F
from make_golden import Golden, Random
from scipy.stats import spearmanr


def main():
    golden = Golden("agreement")
    for name, n, classes, scale, people in [
        ("usual", 80, 10, 3.0, 50),
        ("two_classes", 40, 2, 2.0, 5),
        ("unsure", 30, 5, 0.2, 3),
        ("one_person", 30, 7, 6.0, 1),
    ]:
        random = Random(golden.name, name)
        logits = random.normal(n, classes) * scale
        near = (logits + random.normal(n, classes)).softmax(1).numpy()
        counts = torch.tensor([random.rng.multinomial(people, p / p.sum()) for p in near], dtype=torch.float64)
        # No image of one person is in doubt: here two are.
        counts[:2] = torch.arange(1.0, classes + 1)
        counts[2] = 0
        counts[2, 1] = 4
        q, p = counts / counts.sum(1, keepdim=True), logits.softmax(1)
        of_labels, of_model = (torch.special.entr(each.sort(1).values).sum(1) for each in (q, p))
        tensors = {
            "cross_entropy": F.cross_entropy(logits, q),
            "kl": F.kl_div(logits.log_softmax(1), q, reduction="batchmean"),
            "total_variation": (p - q).abs().sum(1).mean() / 2,
            "entropy_of_labels": of_labels.mean(),
            "entropy_of_model": of_model.mean(),
            "rank_correlation": torch.tensor(spearmanr(of_model.numpy(), of_labels.numpy()).statistic),
        }
        golden.case(name, {"n": n, "classes": classes}, logits=logits, shares=q, **tensors)
        print(name, {key: value.item() for key, value in tensors.items()})
    golden.write()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
