#!/usr/bin/env python3
"""Records temperatures and vector scalings fitted by scipy and by PyTorch into temperature.safetensors beside this script.

    python tests/golden/make_temperature.py     # needs torch, numpy, safetensors, scipy

The format is make_golden.py's. Per case, metadata n and classes, and the tensors `<case>.<name>`, all of them [] but the
first two and the vectors:

    logits [n,classes]  labels I64 [n]
    temperature             the zero of the derivative of the mean nll in 1/T             scipy.optimize.brentq
    temperature_lbfgs       the minimum of the mean nll over ln T                         torch.optim.LBFGS
    weights, biases [classes]  the minimum of the mean nll of softmax(weights z + biases), plus pull / 2n times the sum of
                            (s (weights - 1/temperature))^2 + biases^2, s^2 the mean square of the logits less their
                            row's mean; pull is 1                                         torch.optim.LBFGS
    weights_50, biases_50   the same with a pull of 50
    nll_before, nll_after   mean nll at T = 1 and at `temperature`                        torch cross_entropy
"""

import numpy as np
import torch
import torch.nn.functional as F
from make_golden import Golden, Random
from scipy.optimize import brentq
from scipy.special import softmax


def slope(beta, z, y):
    """d nll / d beta = mean of E[z] - z_y, the expectation over softmax(beta z)."""
    return ((softmax(beta * z, axis=1) * z).sum(1) - z[np.arange(len(y)), y]).mean()


def lbfgs(logits, labels):
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    options = {"max_iter": 500, "tolerance_grad": 1e-13, "tolerance_change": 1e-15, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([log_t], **options)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log_t.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_t.detach().exp()


def vector(logits, labels, temperature, pull):
    n, classes = logits.shape
    s = (logits - logits.mean(1, keepdim=True)).square().mean().sqrt()
    moved = torch.zeros(2, classes, dtype=torch.float64, requires_grad=True)
    options = {"max_iter": 1000, "tolerance_grad": 1e-14, "tolerance_change": 0.0, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([moved], history_size=50, **options)

    def value(moved):
        scaled = (1 / temperature + moved[0] / s) * logits + moved[1]
        return F.cross_entropy(scaled, labels) + pull / (2 * n) * moved.square().sum()

    def closure():
        optimizer.zero_grad()
        loss = value(moved)
        loss.backward()
        return loss

    optimizer.step(closure)
    # Its line search ends where the digits of the loss do; Newton's method goes on.
    moved = moved.detach()
    for _ in range(3):
        gradient = torch.func.grad(value)(moved).flatten()
        hessian = torch.func.hessian(value)(moved).reshape(2 * classes, 2 * classes)
        moved = moved - torch.linalg.solve(hessian, gradient).reshape(2, classes)
    gradient = torch.func.grad(value)(moved)
    assert gradient.norm() < 1e-14, gradient.norm()
    weights, biases = moved
    return 1 / temperature + weights / s, biases


def main():
    golden = Golden("temperature")
    # (case, n, classes, scale of the logits, the temperature the labels are drawn at)
    cases = [
        ("calibrated", 200, 10, 2.0, 1.0),
        ("overconfident", 200, 10, 6.0, 3.0),
        ("underconfident", 200, 10, 1.0, 0.4),
        ("two_classes", 60, 2, 3.0, 2.0),
        ("many_classes", 40, 37, 4.0, 1.5),
        ("large", 100, 10, 500.0, 200.0),
    ]
    for name, n, classes, scale, t in cases:
        random = Random(golden.name, name)
        logits = random.normal(n, classes) * scale
        cumulative = (logits / t).softmax(1).cumsum(1).numpy()
        labels = torch.from_numpy((random.rng.random((n, 1)) > cumulative).sum(1).clip(0, classes - 1))
        z, y = logits.numpy(), labels.numpy()
        beta = brentq(slope, 1e-3, 1e3, args=(z, y), xtol=1e-16, rtol=1e-14)
        temperature = torch.tensor(1.0 / beta, dtype=torch.float64)
        by_lbfgs = lbfgs(logits, labels)
        assert abs(by_lbfgs / temperature - 1) < 1e-7, (name, temperature, by_lbfgs)
        tensors = {
            "temperature": temperature,
            "temperature_lbfgs": by_lbfgs,
            "nll_before": F.cross_entropy(logits, labels),
            "nll_after": F.cross_entropy(logits / temperature, labels),
        }
        for key, pull in ("", 1.0), ("_50", 50.0):
            tensors["weights" + key], tensors["biases" + key] = vector(logits, labels, temperature, pull)
        golden.case(name, {"n": n, "classes": classes}, logits=logits, labels=labels, **tensors)
        print(name, {key: value.tolist() for key, value in tensors.items() if value.dim() == 0})
    golden.write()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
