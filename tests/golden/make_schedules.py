#!/usr/bin/env python3
"""Records the rates of PyTorch's schedulers, and what its optimizers do under them, into schedules.safetensors.

    python tests/golden/make_schedules.py       # needs torch, numpy, safetensors

The format is make_golden.py's. Per case, metadata

    curve (constant | cosine | one-cycle | step | exponential)  lr  total  warm_up  first (of the warm-up)  end
    every factor (of step and exponential)  rise (of one-cycle; pct_start)  optimizer (adam | sgd)

and the tensors `<case>.<name>`: lr [total] and momentum [total], those of each update (momentum is Adam's first beta);
p0 [len]  grads [total,len]  p [len]: the parameters after the last update.

Cosine is CosineAnnealingLR over what the warm-up leaves, and a warm-up LinearLR before it, in SequentialLR; step is
StepLR, exponential ExponentialLR with the gamma that makes `factor` in `every` updates. A least value, which StepLR and
ExponentialLR have not, is in no case of theirs. timm's cosine and step are beside them where timm is installed.
"""

import warnings

import torch
from make_golden import Golden, Random, leaf

SGD = {"optimizer": "sgd", "lr": 0.4}
ADAM = {"optimizer": "adam", "lr": 0.002}
NONE = {"warm_up": 0, "first": 0.0, "end": 0.0, "every": 0, "factor": 0.0, "rise": 0.0}
CASES = {
    "constant": NONE | ADAM | {"curve": "constant", "total": 7},
    "constant_warm_up": NONE | SGD | {"curve": "constant", "total": 9, "warm_up": 5, "first": 0.04},
    "cosine": NONE | ADAM | {"curve": "cosine", "total": 23},
    "cosine_warm_up": NONE | SGD | {"curve": "cosine", "total": 31, "warm_up": 6, "first": 1e-5, "end": 0.003},
    "step": NONE | SGD | {"curve": "step", "total": 17, "every": 4, "factor": 0.3},
    "step_warm_up": NONE
    | ADAM
    | {"curve": "step", "total": 17, "warm_up": 3, "first": 1e-6, "every": 5, "factor": 0.1},
    "exponential": NONE | SGD | {"curve": "exponential", "total": 19, "every": 6, "factor": 0.25},
    "one_cycle": NONE | ADAM | {"curve": "one-cycle", "total": 37, "rise": 0.3},
    "one_cycle_sgd": NONE | SGD | {"curve": "one-cycle", "total": 40, "rise": 0.3},
    "one_cycle_early": NONE | SGD | {"curve": "one-cycle", "total": 25, "rise": 0.08},
    "one_cycle_short": NONE | ADAM | {"curve": "one-cycle", "total": 4, "rise": 0.3},
}


def scheduler(optimizer, c):
    schedulers = torch.optim.lr_scheduler
    total, warm_up = c["total"], c["warm_up"]
    if c["curve"] == "one-cycle":
        return schedulers.OneCycleLR(optimizer, c["lr"], total, pct_start=c["rise"])
    rest = {
        "constant": lambda: schedulers.ConstantLR(optimizer, 1.0),
        "cosine": lambda: schedulers.CosineAnnealingLR(optimizer, total - warm_up, c["end"]),
        "step": lambda: schedulers.StepLR(optimizer, c["every"], c["factor"]),
        "exponential": lambda: schedulers.ExponentialLR(optimizer, c["factor"] ** (1 / c["every"])),
    }[c["curve"]]
    if warm_up == 0:
        return rest()
    rising = schedulers.LinearLR(optimizer, c["first"] / c["lr"], total_iters=warm_up)
    return schedulers.SequentialLR(optimizer, [rising, rest()], [warm_up])


def timm_rates(c):
    """timm's rates where it has such a schedule, else None."""
    try:
        from timm.scheduler import CosineLRScheduler, StepLRScheduler
    except ImportError:
        return None
    optimizer = torch.optim.SGD([leaf(torch.zeros(1))], c["lr"])
    warm = {"warmup_t": c["warm_up"], "warmup_lr_init": c["first"], "warmup_prefix": True, "t_in_epochs": False}
    match c["curve"]:
        case "cosine":
            of = CosineLRScheduler(optimizer, c["total"] - c["warm_up"], c["end"], **warm)
        case "step":
            of = StepLRScheduler(optimizer, c["every"], c["factor"], **warm)
        case _:
            return None
    rates = []
    for step in range(c["total"]):
        of.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def main():
    golden = Golden("schedules")
    length = 5
    for name, c in CASES.items():
        random = Random(golden.name, name)
        p0, grads = random.normal(length), random.normal(c["total"], length)
        parameter = leaf(p0)
        if c["optimizer"] == "adam":
            optimizer = torch.optim.Adam([parameter], c["lr"], eps=1e-4)
        else:
            optimizer = torch.optim.SGD([parameter], c["lr"], 0.9, nesterov=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR calls its parts as it should not
            of = scheduler(optimizer, c)
        rates, momenta = [], []
        for step, grad in enumerate(grads):
            group = optimizer.param_groups[0]
            rates.append(float(group["lr"]))
            momenta.append(group["betas"][0] if "betas" in group else group["momentum"])
            parameter.grad = grad.clone()
            optimizer.step()
            if step + 1 < len(grads):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    of.step()
        if timm := timm_rates(c):
            error = max(abs(a - b) for a, b in zip(rates, timm, strict=True))
            print(f"{name}: timm differs by {error:.1e}")
            assert error < 1e-15
        tensors = {"lr": rates, "momentum": momenta}
        tensors = {key: torch.tensor(values, dtype=torch.float64) for key, values in tensors.items()}
        golden.case(name, c | {"len": length}, p0=p0, grads=grads, p=parameter.detach().clone(), **tensors)
    golden.write()


if __name__ == "__main__":
    main()
