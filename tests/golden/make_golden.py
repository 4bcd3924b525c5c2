#!/usr/bin/env python3
"""Records PyTorch's values, in float64 on the CPU, as the small safetensors files beside this script.

    python tests/golden/make_golden.py          # needs torch, numpy, safetensors
    python tests/golden/make_golden.py relu     # that file alone

The outputs are committed: the Rust tests read them and need no Python. The metadata says which torch made them. Run
the script again only to change or add a case. Every case draws from a generator seeded by its own name, so a new case
leaves the others as they were (another torch, or another CPU, may change last bits).

Format. Float tensors are F64, class indices and pool indices I64, all row-major. Every metadata value is a string:

    torch        the version of torch
    cases        the case names in order, joined by commas           (not in seed_network)
    <case>.<key> that case's dimensions and hyper-parameters; integers, floats (Python's repr), words, true/false

and the tensors of a case are `<case>.<name>`. `dy` is a random upstream gradient; dx, dw, db are what PyTorch's
autograd gives for it.

conv2d         metadata n c_in h w c_out kh kw stride_h stride_w pad_h pad_w dilation_h dilation_w groups oh ow
               x [n,c_in,h,w]  w [c_out,c_in/groups,kh,kw]  b [c_out]  y, dy [n,c_out,oh,ow]  dx dw db as x w b
               Cross-correlation, zero padding on both sides;
               oh = floor((h + 2 pad_h - dilation_h (kh - 1) - 1) / stride_h) + 1.
max_pool2d     metadata n c h w kh kw stride_h stride_w pad_h pad_w oh ow
               x, dx [n,c,h,w]  y, dy [n,c,oh,ow]  indices I64 [n,c,oh,ow]
               Floor rule. indices: flat position row * w + column in the h*w plane; the first of equals.
avg_pool2d     metadata n c h w kh kw stride_h stride_w oh ow
               x, dx [n,c,h,w]  y, dy [n,c,oh,ow]. No padding, floor rule.
batch_norm2d   metadata n c h w eps momentum
               x, dx, y, dy [n,c,h,w]  w, dw, b, db [c]  mean, var [c]: running statistics before  mean_after, var_after:
               after a batch in training  inferred [n,c,h,w]: the output in inference, by mean and var. x of far_from_zero
               is around 1e4.
group_norm     metadata n c h w num_groups eps
               x, dx, y, dy [n,c,h,w]  w, dw, b, db [c]. x of far_from_zero is around 1e4.
global_avg_pool2d
               metadata n c h w
               x, dx [n,c,h,w]  y, dy [n,c,1,1]: adaptive_avg_pool2d(x, 1)
relu           metadata len
               x y dy dx, all [len]. The gradient at 0.0 and at -0.0 is 0.
leaky_relu     metadata len negative_slope
               x y dy dx, all [len]. The gradient at 0.0 and at -0.0 is negative_slope.
silu           metadata len
               x y dy dx, all [len]
gelu           metadata len tanh (0, or 1 for approximate="tanh")
               x y dy dx, all [len]
linear         metadata n in out
               x, dx [n,in]  w, dw [out,in]  b, db [out]  y, dy [n,out];  y = x w^T + b
smoothed_loss  metadata n classes epsilon variant (uniform | off-target) scale (of the logits)
               logits [n,classes]  labels I64 [n]  losses [n]  mean []  sum []  dloss [n] (random upstream)
               dlogits_mean, dlogits_sum, dlogits_none [n,classes]: the gradient of the mean, of the sum, and of the
               unreduced losses for the upstream dloss
weighted_loss  metadata n classes epsilon scale target (index | soft) weighted (true | false) ignore_index (none, or a number)
               logits [n,classes]  labels I64 [n], or soft [n,classes]  weight [classes] if weighted; the rest as in
               smoothed_loss. torch.nn.CrossEntropyLoss(weight, ignore_index=.., label_smoothing=..). No case has all its
               labels ignored: the mean is NaN in PyTorch.
mixed_loss     metadata n classes epsilon variant share scale
               logits [n,classes]  labels I64 [n]  losses [n]  dloss [n]  dlogits [n,classes]: the cross-entropy with timm's
               dense target, share * smoothed(labels) + (1 - share) * smoothed(labels backwards), where smoothed is as in
               timm's mixup_target (uniform), or as in smoothed_loss (off-target)
comparator_loss
               metadata n classes gamma beta scale
               logits [n,classes]  labels I64 [n]  losses [n]  dloss [n]  dlogits [n,classes]: autograd of the definition,
               -(1 - p[y])^gamma ln p[y] - beta H(p). PyTorch has no such loss of its own.
logit_penalty
               metadata n classes alpha lambda margin scale
               logits [n,classes]  labels I64 [n]  losses [n]  dloss [n]  dlogits [n,classes]: autograd of
               F.cross_entropy + alpha (x.amax(1) - x.mean(1)) + lambda F.relu(x.amax(1) - x - margin).mean(1): what the
               authors of MaxSup and MbLS train with. Row 0 has two largest logits, of which amax gives each a half.
distillation_loss
               metadata n classes epsilon temperature alpha scale
               logits, teacher [n,classes]  labels I64 [n]  losses [n]  dloss [n]  dlogits [n,classes]:
               (1 - alpha) F.cross_entropy(label_smoothing=epsilon) + alpha T^2 F.kl_div of both networks' log_softmax at T
muon           metadata lr momentum weight_decay steps rows columns;
               p0 [rows, columns], grads [steps, rows, columns], p [steps, rows, columns] after each step.
adam           metadata optimizer (adam | adamw | sgd) lr beta1 beta2 eps weight_decay momentum nesterov steps len;
               all keys in every case: beta1 beta2 eps are 0 for sgd, momentum is 0 and nesterov false for the Adams.
               adam's and sgd's weight_decay is L2 (added to the gradient), adamw's is decoupled. SGD's dampening is 0.
               p0 [len]  grads [steps,len]  p [steps,len]: the parameters after each step
seed_network   one network, no cases; see seed_network() for its metadata and tensors.
resnet8        one training, no cases; see resnet8(). p.*: parameters after it, b.*: running statistics, logits: in inference
"""

import inspect
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torch.optim._muon as _muon
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent


def text(value):
    """A metadata value: words as they are, booleans as true/false, numbers as Python's repr (floats round-trip)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def safetensors_bytes(tensors, metadata):
    """The file's bytes. The safetensors package writes metadata in a random order; here equal values, equal bytes."""
    header, data = {"__metadata__": dict(sorted(metadata.items()))}, b""
    for name, array in tensors.items():
        dtype = {"float64": "F64", "int64": "I64"}[array.dtype.name]
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


class Golden:
    """The tensors and metadata of one output file."""

    def __init__(self, name):
        self.name, self.cases, self.tensors, self.metadata = name, [], {}, {"torch": torch.__version__}

    def case(self, name, params, **tensors):
        """Adds one case: its parameters to the metadata, its tensors under `<case>.<name>`."""
        assert name not in self.cases, name
        self.cases.append(name)
        for key, value in params.items():
            self.metadata[f"{name}.{key}"] = text(value)
        for key, value in tensors.items():
            self.add(f"{name}.{key}", value)

    def add(self, name, tensor):
        array = np.array(tensor.detach().numpy(), order="C")  # a copy, so a parameter that steps on is not aliased
        assert array.dtype in (np.float64, np.int64), (name, array.dtype)
        self.tensors[name] = array

    def write(self):
        if self.cases:
            self.metadata["cases"] = ",".join(self.cases)
        path = HERE / f"{self.name}.safetensors"
        path.write_bytes(safetensors_bytes(self.tensors, self.metadata))
        read = load_file(path)
        assert all(np.array_equal(read[name], array) for name, array in self.tensors.items())
        print(f"{path.name}: {len(self.cases)} cases, {len(self.tensors)} tensors, {path.stat().st_size} bytes")


class Random:
    """Draws for one case, seeded by the file's and the case's names."""

    def __init__(self, file, case):
        self.rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"{file}/{case}".encode())))

    def normal(self, *shape):
        return torch.from_numpy(self.rng.standard_normal(shape))

    def integers(self, low, high, *shape):
        return torch.from_numpy(self.rng.integers(low, high, shape, dtype=np.int64))


def leaf(tensor):
    """The tensor as an input whose gradient is wanted."""
    return tensor.clone().requires_grad_(True)


def conv2d():
    golden = Golden("conv2d")
    keys = "n c_in h w c_out kh kw stride_h stride_w pad_h pad_w dilation_h dilation_w groups".split()
    cases = {
        "one_pixel": (1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0),
        "seed_like": (3, 1, 5, 7, 4, 3, 3, 1, 1, 1, 1),
        "tall_kernel": (1, 2, 11, 9, 3, 5, 3, 2, 1, 2, 1),
        "one_row": (3, 2, 1, 17, 3, 1, 5, 1, 1, 0, 2),
        "one_row_padded": (1, 1, 1, 17, 2, 3, 3, 1, 2, 1, 1),
        "primes": (3, 5, 13, 11, 7, 3, 5, 2, 3, 1, 2),
        "whole_padded_input": (3, 3, 4, 6, 5, 6, 8, 1, 1, 1, 1),
        "stride_over_kernel": (1, 2, 11, 13, 3, 2, 2, 3, 4, 0, 0),
        "even_kernel": (3, 3, 5, 5, 2, 4, 2, 1, 1, 2, 1),
        "many_channels": (1, 17, 3, 3, 19, 3, 3, 1, 1, 1, 1),
        "depthwise": (2, 4, 5, 6, 4, 3, 3, 1, 1, 1, 1, 1, 1, 4),
        "depthwise_times_two": (1, 3, 5, 4, 6, 3, 2, 2, 1, 1, 0, 1, 1, 3),
        "groups": (2, 6, 4, 5, 4, 1, 3, 1, 2, 0, 1, 1, 1, 2),
        "dilated": (2, 2, 7, 9, 3, 3, 3, 1, 1, 2, 2, 2, 2, 1),
        "dilated_groups": (1, 4, 9, 8, 6, 3, 2, 2, 3, 1, 4, 3, 5, 2),
    }
    for name, values in cases.items():
        p = dict(zip(keys, values + (1, 1, 1) * (len(values) == 11), strict=True))
        random = Random(golden.name, name)
        x = leaf(random.normal(p["n"], p["c_in"], p["h"], p["w"]))
        w = leaf(random.normal(p["c_out"], p["c_in"] // p["groups"], p["kh"], p["kw"]))
        b = leaf(random.normal(p["c_out"]))
        stride, padding, dilation = ((p[f"{of}_h"], p[f"{of}_w"]) for of in ("stride", "pad", "dilation"))
        y = F.conv2d(x, w, b, stride, padding, dilation, p["groups"])
        dy = random.normal(*y.shape)
        dx, dw, db = torch.autograd.grad(y, (x, w, b), dy)
        p |= {"oh": y.shape[2], "ow": y.shape[3]}
        golden.case(name, p, x=x, w=w, b=b, y=y, dy=dy, dx=dx, dw=dw, db=db)
    golden.write()


def max_pool2d():
    golden = Golden("max_pool2d")
    keys = "n c h w kh kw stride_h stride_w pad_h pad_w".split()
    cases = {
        "k2s2": (2, 3, 8, 6, 2, 2, 2, 2),
        "k2s2_odd": (3, 2, 7, 9, 2, 2, 2, 2),
        "k3s2": (1, 3, 8, 11, 3, 3, 2, 2),
        "k3s1": (2, 2, 6, 5, 3, 3, 1, 1),
        "k2x3_s1x2": (3, 1, 5, 10, 2, 3, 1, 2),
        "stride_over_kernel": (1, 2, 7, 8, 1, 2, 3, 3),
        "whole_plane": (2, 3, 3, 5, 3, 5, 3, 5),
        "one_pixel": (1, 1, 1, 1, 1, 1, 1, 1),
        "ties_k2s2": (3, 2, 9, 8, 2, 2, 2, 2),
        "ties_k3s1": (2, 2, 7, 7, 3, 3, 1, 1),
        "all_equal": (1, 1, 5, 5, 3, 3, 2, 2),
        "k3s2p1": (2, 3, 8, 7, 3, 3, 2, 2, 1, 1),
        "k2s2p1_below_zero": (2, 2, 5, 6, 2, 2, 2, 2, 1, 1),
        "k5x2_p2x0": (1, 2, 9, 4, 5, 2, 1, 3, 2, 0),
        "ties_p1x2": (2, 2, 7, 6, 3, 4, 2, 1, 1, 2),
        "padded_pixel": (1, 1, 1, 1, 3, 5, 1, 1, 1, 2),
    }
    for name, values in cases.items():
        p = dict(zip(keys, values + (0, 0) * (len(values) == 8), strict=True))
        random = Random(golden.name, name)
        shape = (p["n"], p["c"], p["h"], p["w"])
        if name.startswith("ties"):
            x = random.integers(-2, 2, *shape).double()  # four values only: most windows hold their maximum twice
        elif name == "all_equal":
            x = torch.full(shape, -1.5, dtype=torch.float64)
        else:
            x = random.normal(*shape) - (9 if name.endswith("below_zero") else 0)
        x = leaf(x)
        kernel, stride, padding = (p["kh"], p["kw"]), (p["stride_h"], p["stride_w"]), (p["pad_h"], p["pad_w"])
        y, indices = F.max_pool2d(x, kernel, stride, padding, return_indices=True)
        dy = random.normal(*y.shape)
        (dx,) = torch.autograd.grad(y, x, dy)
        p |= {"oh": y.shape[2], "ow": y.shape[3]}
        golden.case(name, p, x=x, y=y, indices=indices, dy=dy, dx=dx)
    golden.write()


def avg_pool2d():
    golden = Golden("avg_pool2d")
    keys = "n c h w kh kw stride_h stride_w".split()
    cases = {
        "k2s2_odd": (3, 2, 7, 9, 2, 2, 2, 2),
        "k3s1": (2, 2, 6, 5, 3, 3, 1, 1),
        "k2x3_s1x2": (3, 1, 5, 10, 2, 3, 1, 2),
        "stride_over_kernel": (1, 2, 7, 8, 1, 2, 3, 3),
        "whole_plane": (2, 3, 3, 5, 3, 5, 3, 5),
    }
    for name, values in cases.items():
        p = dict(zip(keys, values, strict=True))
        random = Random(golden.name, name)
        x = leaf(random.normal(p["n"], p["c"], p["h"], p["w"]))
        y = F.avg_pool2d(x, (p["kh"], p["kw"]), (p["stride_h"], p["stride_w"]))
        dy = random.normal(*y.shape)
        (dx,) = torch.autograd.grad(y, x, dy)
        golden.case(name, p | {"oh": y.shape[2], "ow": y.shape[3]}, x=x, y=y, dy=dy, dx=dx)
    golden.write()


def batch_norm2d():
    golden = Golden("batch_norm2d")
    keys = "n c h w eps momentum".split()
    cases = {
        "pixels": (5, 3, 1, 1, 1e-5, 0.1),
        "planes": (3, 2, 5, 7, 1e-5, 0.1),
        "one_image": (1, 2, 3, 3, 1e-3, 0.5),
        "far_from_zero": (4, 2, 4, 4, 1e-5, 0.1),
    }
    for name, values in cases.items():
        p = dict(zip(keys, values, strict=True))
        random = Random(golden.name, name)
        x = leaf(random.normal(p["n"], p["c"], p["h"], p["w"]) + (1e4 if name == "far_from_zero" else 0))
        w, b = (leaf(random.normal(p["c"])) for _ in range(2))
        mean, var = random.normal(p["c"]), random.normal(p["c"]).exp()
        tensors = {"mean": mean, "var": var, "inferred": F.batch_norm(x, mean, var, w, b, eps=p["eps"])}
        running = [mean.clone(), var.clone()]
        y = F.batch_norm(x, *running, w, b, training=True, momentum=p["momentum"], eps=p["eps"])
        tensors |= {"mean_after": running[0], "var_after": running[1]}
        dy = random.normal(*y.shape)
        dx, dw, db = torch.autograd.grad(y, (x, w, b), dy)
        golden.case(name, p, x=x, w=w, b=b, y=y, dy=dy, dx=dx, dw=dw, db=db, **tensors)
    golden.write()


def group_norm():
    golden = Golden("group_norm")
    keys = "n c h w num_groups eps".split()
    cases = {
        "pixels": (5, 6, 1, 1, 2, 1e-5),
        "planes": (3, 4, 5, 7, 2, 1e-5),
        "each_channel": (2, 3, 4, 3, 3, 1e-3),
        "all_channels": (2, 5, 3, 3, 1, 0.1),
        "far_from_zero": (2, 4, 4, 4, 2, 1e-5),
    }
    for name, values in cases.items():
        p = dict(zip(keys, values, strict=True))
        random = Random(golden.name, name)
        x = leaf(random.normal(p["n"], p["c"], p["h"], p["w"]) + (1e4 if name == "far_from_zero" else 0))
        w, b = (leaf(random.normal(p["c"])) for _ in range(2))
        y = F.group_norm(x, p["num_groups"], w, b, p["eps"])
        dy = random.normal(*y.shape)
        dx, dw, db = torch.autograd.grad(y, (x, w, b), dy)
        golden.case(name, p, x=x, w=w, b=b, y=y, dy=dy, dx=dx, dw=dw, db=db)
    golden.write()


def global_avg_pool2d():
    golden = Golden("global_avg_pool2d")
    for n, c, h, w in [(1, 1, 1, 1), (3, 5, 7, 11), (2, 3, 1, 17)]:
        name = f"n{n}_{c}x{h}x{w}"
        random = Random(golden.name, name)
        x = leaf(random.normal(n, c, h, w))
        y = F.adaptive_avg_pool2d(x, 1)
        dy = random.normal(*y.shape)
        (dx,) = torch.autograd.grad(y, x, dy)
        golden.case(name, {"n": n, "c": c, "h": h, "w": w}, x=x, y=y, dy=dy, dx=dx)
    golden.write()


def relu():
    golden = Golden("relu")
    edges = torch.tensor([0.0, -0.0, 5e-324, -5e-324, 1e-300, -1e-300, 1e300, -1e300, 1.0, -1.0], dtype=torch.float64)
    for name in ("edges", "random", "one"):
        random = Random(golden.name, name)
        x = edges
        if name == "random":
            x = random.normal(257)
            x[::8] = 0.0
            x[4::16] = -0.0
        elif name == "one":
            x = torch.tensor([-0.25], dtype=torch.float64)
        x = leaf(x)
        y = F.relu(x)
        dy = random.normal(*y.shape)
        (dx,) = torch.autograd.grad(y, x, dy)
        golden.case(name, {"len": x.numel()}, x=x, y=y, dy=dy, dx=dx)
    golden.write()


def leaky_relu():
    golden = Golden("leaky_relu")
    for slope in (0.01, 0.3, -0.5, 1.5):
        name = f"slope{slope}"
        random = Random(golden.name, name)
        x = random.normal(65)
        x[::8] = 0.0
        x[4::16] = -0.0
        x = leaf(x)
        y = F.leaky_relu(x, slope)
        dy = random.normal(*y.shape)
        (dx,) = torch.autograd.grad(y, x, dy)
        golden.case(name, {"len": x.numel(), "negative_slope": slope}, x=x, y=y, dy=dy, dx=dx)
    golden.write()


def curve(name, cases):
    """A smooth function of each element: `cases` are its forms, by the case's name, with their parameters."""
    golden = Golden(name)
    for case, (of, params) in cases.items():
        random = Random(golden.name, case)
        x = random.normal(257) * 3
        x[:8] = torch.tensor([0.0, -0.0, 1e-300, -1e-300, 40.0, -40.0, 700.0, -700.0], dtype=torch.float64)
        x = leaf(x)
        y = of(x)
        dy = random.normal(*y.shape)
        (dx,) = torch.autograd.grad(y, x, dy)
        golden.case(case, {"len": x.numel()} | params, x=x, y=y, dy=dy, dx=dx)
    golden.write()


def silu():
    curve("silu", {"random": (F.silu, {})})


def gelu():
    curve("gelu", {"exact": (F.gelu, {"tanh": 0}), "tanh": (lambda x: F.gelu(x, approximate="tanh"), {"tanh": 1})})


def linear():
    golden = Golden("linear")
    for n, inputs, outputs in [(1, 1, 1), (3, 7, 5), (17, 13, 10), (2, 129, 3), (5, 1, 9), (1, 33, 1), (4, 2, 67)]:
        name = f"n{n}_in{inputs}_out{outputs}"
        random = Random(golden.name, name)
        x, w, b = (leaf(random.normal(*shape)) for shape in ((n, inputs), (outputs, inputs), (outputs,)))
        y = F.linear(x, w, b)
        dy = random.normal(*y.shape)
        dx, dw, db = torch.autograd.grad(y, (x, w, b), dy)
        golden.case(name, {"n": n, "in": inputs, "out": outputs}, x=x, w=w, b=b, y=y, dy=dy, dx=dx, dw=dw, db=db)
    golden.write()


def off_target(labels, classes, e):
    """The dense target 1 - e on the true class, e/(C-1) on each other one."""
    target = torch.full((len(labels), classes), e / (classes - 1), dtype=torch.float64)
    target[torch.arange(len(labels)), labels] = 1.0 - e
    return target


def smoothed_losses(logits, labels, variant, e, reduction):
    """PyTorch's cross-entropy against the smoothed target."""
    if variant == "uniform":
        return F.cross_entropy(logits, labels, label_smoothing=e, reduction=reduction)
    return F.cross_entropy(logits, off_target(labels, logits.shape[1], e), reduction=reduction)


def smoothed_loss():
    golden = Golden("smoothed_loss")
    epsilons = (0.0, 0.1, 0.3, 0.9)
    # (classes, n, epsilon, scale); the wide ones only once or twice, to keep the file small
    grid = [(classes, n, e, 1.0) for classes in (2, 3, 10) for n in (1, 5, 17) for e in epsilons]
    grid += [(37, 5, e, 1.0) for e in epsilons]
    grid += [(1000, 1, 0.1, 1.0), (1000, 5, 0.3, 1.0)]
    grid += [(10, 5, e, 1e4) for e in (0.0, 0.1)]
    for variant in ("uniform", "off-target"):
        for classes, n, e, scale in grid:
            if variant == "off-target" and e >= (classes - 1) / classes:
                continue  # the true class would no longer be the target's largest
            name = f"{variant}_c{classes}_n{n}_e{e}" + ("" if scale == 1.0 else "_large")
            # The variants share their draws: off-target and uniform can be compared on the same logits.
            random = Random(golden.name, f"c{classes}_n{n}_e{e}_{scale}")
            logits = leaf(random.normal(n, classes) * scale)
            labels = random.integers(0, classes, n)
            labels[0] = 0  # the first class and, below, the last are both met (one image: the last)
            labels[-1] = classes - 1
            dloss = random.normal(n)
            losses, mean, total = (smoothed_losses(logits, labels, variant, e, r) for r in ("none", "mean", "sum"))
            (dlogits_mean,) = torch.autograd.grad(mean, logits)
            (dlogits_sum,) = torch.autograd.grad(total, logits)
            (dlogits_none,) = torch.autograd.grad(losses, logits, dloss)
            params = {"n": n, "classes": classes, "epsilon": e, "variant": variant, "scale": scale}
            golden.case(
                name, params, logits=logits, labels=labels, losses=losses, mean=mean, sum=total, dloss=dloss,
                dlogits_mean=dlogits_mean, dlogits_sum=dlogits_sum, dlogits_none=dlogits_none,
            )
    golden.write()


def weighted_loss():
    golden = Golden("weighted_loss")
    # (classes, n, epsilon, scale)
    grid = [(10, 5, e, 1.0) for e in (0.0, 0.1, 0.9)] + [(3, 17, e, 1.0) for e in (0.0, 0.3)]
    grid += [(2, 1, 0.1, 1.0), (37, 3, 0.1, 1.0), (5, 3, 0.1, 1e4)]
    for classes, n, e, scale in grid:
        for target, weighted, ignore_index in [
            ("index", True, "none"), ("index", False, -100), ("index", True, -100), ("index", True, 1),
            ("soft", False, "none"), ("soft", True, "none"),
        ]:
            if n == 1 and ignore_index != "none":
                continue  # nothing would be left
            name = f"{target}_c{classes}_n{n}_e{e}" + ("_weighted" if weighted else "")
            name += "" if ignore_index == "none" else f"_ignore{ignore_index}"
            name += "" if scale == 1.0 else "_large"
            random = Random(golden.name, name)
            logits = leaf(random.normal(n, classes) * scale)
            tensors = {}
            if target == "index":
                aim = random.integers(0, classes, n)
                aim[0], aim[-1] = 0, classes - 1
                if ignore_index != "none":
                    aim[1::3] = ignore_index
                tensors["labels"] = aim
            else:
                aim = tensors["soft"] = torch.softmax(2.0 * random.normal(n, classes), 1)
            weight = None
            if weighted:
                weight = tensors["weight"] = random.normal(classes).exp()
                if classes > 3:
                    weight[2] = 0.0
            options = {"weight": weight, "label_smoothing": e}
            if ignore_index != "none":
                options["ignore_index"] = ignore_index
            losses, mean, total = (F.cross_entropy(logits, aim, reduction=r, **options) for r in ("none", "mean", "sum"))
            dloss = random.normal(n)
            (dlogits_mean,) = torch.autograd.grad(mean, logits)
            (dlogits_sum,) = torch.autograd.grad(total, logits)
            (dlogits_none,) = torch.autograd.grad(losses, logits, dloss)
            params = {"n": n, "classes": classes, "epsilon": e, "scale": scale, "target": target}
            params |= {"weighted": weighted, "ignore_index": ignore_index}
            golden.case(
                name, params, logits=logits, **tensors, losses=losses, mean=mean, sum=total, dloss=dloss,
                dlogits_mean=dlogits_mean, dlogits_sum=dlogits_sum, dlogits_none=dlogits_none,
            )
    golden.write()


def mixed_loss():
    golden = Golden("mixed_loss")
    for classes, n, scale in [(2, 3, 1.0), (10, 6, 3.0), (37, 3, 1.0), (5, 4, 1e3)]:
        for variant, e in [("uniform", 0.0), ("uniform", 0.1), ("off-target", 0.2)]:
            for share in (0.0, 0.3, 0.85, 1.0):
                name = f"{variant}_c{classes}_e{e}_share{share}" + ("" if scale < 100 else "_large")
                random = Random(golden.name, name)
                logits = leaf(random.normal(n, classes) * scale)
                labels = random.integers(0, classes, n)
                dloss = random.normal(n)
                if variant == "uniform":
                    off = e / classes
                    dense = torch.full((n, classes), off, dtype=torch.float64).scatter_(1, labels[:, None], 1.0 - e + off)
                else:
                    dense = off_target(labels, classes, e)
                target = share * dense + (1.0 - share) * dense.flip(0)
                losses = torch.sum(-target * F.log_softmax(logits, dim=-1), dim=-1)
                (dlogits,) = torch.autograd.grad(losses, logits, dloss)
                params = {"n": n, "classes": classes, "epsilon": e, "variant": variant, "share": share, "scale": scale}
                golden.case(name, params, logits=logits, labels=labels, losses=losses, dloss=dloss, dlogits=dlogits)
    golden.write()


def comparator_loss():
    golden = Golden("comparator_loss")
    strengths = [(g, 0.0) for g in (0.5, 1.0, 2.0, 5.0)] + [(0.0, b) for b in (0.1, 1.0)]
    for classes, n, scale in [(2, 3, 1.0), (10, 5, 3.0), (37, 3, 1.0)]:
        for gamma, beta in strengths:
            name = f"c{classes}_gamma{gamma}_beta{beta}"
            random = Random(golden.name, name)
            logits = leaf(random.normal(n, classes) * scale)
            labels = random.integers(0, classes, n)
            dloss = random.normal(n)
            log_p = F.log_softmax(logits, 1)
            of_target = log_p.gather(1, labels[:, None])[:, 0]
            entropy = torch.distributions.Categorical(logits=logits).entropy()
            losses = -((1.0 - of_target.exp()) ** gamma) * of_target - beta * entropy
            (dlogits,) = torch.autograd.grad(losses, logits, dloss)
            params = {"n": n, "classes": classes, "gamma": gamma, "beta": beta, "scale": scale}
            golden.case(name, params, logits=logits, labels=labels, losses=losses, dloss=dloss, dlogits=dlogits)
    golden.write()


def logit_penalty():
    golden = Golden("logit_penalty")
    strengths = [(a, 0.0, 0.0) for a in (0.1, 0.5)] + [(0.0, 0.1, 10.0), (0.0, 0.1, 1.0), (0.0, 2.0, 0.0)]
    for classes, n, scale in [(2, 3, 1.0), (10, 5, 6.0), (37, 3, 2.0)]:
        for alpha, lam, margin in strengths:
            name = f"c{classes}_alpha{alpha}_lambda{lam}_margin{margin}"
            random = Random(golden.name, name)
            values = random.normal(n, classes) * scale
            values[0, 0] = values[0, 1] = values[0].max() + 1.0
            logits = leaf(values)
            labels = random.integers(0, classes, n)
            dloss = random.normal(n)
            largest = logits.amax(1, keepdim=True)
            losses = F.cross_entropy(logits, labels, reduction="none")
            losses = losses + alpha * (largest[:, 0] - logits.mean(1)) + lam * F.relu(largest - logits - margin).mean(1)
            (dlogits,) = torch.autograd.grad(losses, logits, dloss)
            params = {"n": n, "classes": classes, "alpha": alpha, "lambda": lam, "margin": margin, "scale": scale}
            golden.case(name, params, logits=logits, labels=labels, losses=losses, dloss=dloss, dlogits=dlogits)
    golden.write()


def distillation_loss():
    golden = Golden("distillation_loss")
    for classes, n, scale in [(2, 3, 1.0), (10, 5, 3.0), (37, 3, 1.0), (5, 3, 1e3)]:
        for temperature, alpha, e in [(1.0, 0.5, 0.0), (4.0, 0.9, 0.0), (2.5, 0.3, 0.1), (10.0, 1.0, 0.1)]:
            name = f"c{classes}_t{temperature}_alpha{alpha}_e{e}" + ("" if scale < 100 else "_large")
            random = Random(golden.name, name)
            logits = leaf(random.normal(n, classes) * scale)
            teacher = random.normal(n, classes) * scale
            labels = random.integers(0, classes, n)
            dloss = random.normal(n)
            of_student, of_teacher = (F.log_softmax(v / temperature, 1) for v in (logits, teacher))
            divergence = F.kl_div(of_student, of_teacher, reduction="none", log_target=True).sum(1)
            hard = F.cross_entropy(logits, labels, label_smoothing=e, reduction="none")
            losses = (1.0 - alpha) * hard + alpha * temperature**2 * divergence
            (dlogits,) = torch.autograd.grad(losses, logits, dloss)
            params = {"n": n, "classes": classes, "epsilon": e, "temperature": temperature, "alpha": alpha, "scale": scale}
            golden.case(
                name, params, logits=logits, teacher=teacher, labels=labels, losses=losses, dloss=dloss, dlogits=dlogits
            )
    golden.write()


def adam():
    golden = Golden("adam")
    steps, length = 5, 33
    none = {"beta1": 0.0, "beta2": 0.0, "eps": 0.0, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    usual = none | {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    cases = {
        "adam": usual | {"optimizer": "adam", "lr": 1e-3},
        "adam_l2": usual | {"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.01},
        "adam_unusual": none | {"optimizer": "adam", "lr": 0.02, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3},
        "adamw": usual | {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01},
        "sgd": none | {"optimizer": "sgd", "lr": 0.1},
        "sgd_momentum": none | {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9},
        "sgd_nesterov_l2": none
        | {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    }
    for name, c in cases.items():
        random = Random(golden.name, name)
        p0 = random.normal(length)
        grads = random.normal(steps, length)
        grads[:, 0] = 0.0  # a parameter that never gets a gradient
        grads[:, 1] *= 1e-9  # one where eps rules
        grads[:, 2] *= 1e4
        parameter = leaf(p0)
        betas = (c["beta1"], c["beta2"])
        if c["optimizer"] == "sgd":
            optimizer = torch.optim.SGD(
                [parameter], c["lr"], c["momentum"], weight_decay=c["weight_decay"], nesterov=c["nesterov"]
            )
        else:
            kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[c["optimizer"]]
            optimizer = kind([parameter], c["lr"], betas, c["eps"], c["weight_decay"])
        after = []
        for grad in grads:
            parameter.grad = grad.clone()
            optimizer.step()
            after.append(parameter.detach().clone())
        golden.case(name, c | {"steps": steps, "len": length}, p0=p0, grads=grads, p=torch.stack(after))
    golden.write()


def muon():
    """torch.optim.Muon, but for its bfloat16: the same lines of PyTorch, in the precision of the gradient."""
    golden = Golden("muon")
    lines = inspect.getsource(_muon._zeropower_via_newtonschulz)
    wide = lines.replace("dtype=torch.bfloat16, ", "")
    assert wide != lines
    exec(wide, _muon.__dict__)
    steps = 4
    shapes = {"wide": (5, 13), "high": (12, 7), "square": (6, 6), "row": (1, 9)}
    for name, shape in shapes.items():
        random = Random(golden.name, name)
        p0 = random.normal(*shape)
        grads = random.normal(steps, *shape)
        c = {"lr": 0.02, "momentum": 0.95 if name == "wide" else 0.8, "weight_decay": 0.1}
        parameter = leaf(p0)
        optimizer = torch.optim.Muon([parameter], adjust_lr_fn="match_rms_adamw", **c)
        after = []
        for grad in grads:
            parameter.grad = grad.clone()
            optimizer.step()
            after.append(parameter.detach().clone())
        c |= {"steps": steps, "rows": shape[0], "columns": shape[1]}
        golden.case(name, c, p0=p0, grads=grads, p=torch.stack(after))
    golden.write()


# The seed network's parameters: name, shape, fan-in. A tensor's place in this list is its index in the hash.
SEED_NETWORK = [
    ("conv1.weight", (32, 1, 3, 3), 9),
    ("conv1.bias", (32,), 9),
    ("conv2.weight", (64, 32, 3, 3), 288),
    ("conv2.bias", (64,), 288),
    ("fc1.weight", (128, 3136), 3136),
    ("fc1.bias", (128,), 3136),
    ("fc2.weight", (10, 128), 128),
    ("fc2.bias", (10,), 128),
]
IMAGES_INDEX = 100
STRIDES = {"conv2.weight": 97, "fc1.weight": 1009}


def hash01(length, tensor_index):
    """Element i of tensor t is ((i * 2654435761 + t * 40503 + 12345) mod 2^32) / 2^32, exact in float64, in [0, 1)."""
    i = np.arange(length, dtype=np.uint64)
    constant = np.uint64(tensor_index * 40503 + 12345)
    return ((i * np.uint64(2654435761) + constant) % np.uint64(2**32)).astype(np.float64) / 2.0**32


def seed_network():
    """The seed network on 4 images of 1x28x28: too large to record whole, so both sides compute weights and images.

    Conv2d(1, 32, 3, padding=1), ReLU, MaxPool 2x2, Conv2d(32, 64, 3, padding=1), ReLU, MaxPool 2x2, flatten,
    Linear(3136, 128), ReLU, Linear(128, 10).

    weights   2 * (hash01(i, t) - 0.5) * bound, bound = 1/sqrt(fan_in), evaluated left to right; t is the tensor's
              place in SEED_NETWORK, i the flat index, and a bias uses its layer's fan-in
    images    hash01(i, 100), shape [4,1,28,28]
    labels    3 i mod 10

    metadata  epsilon, n, classes, images_index, <name>.index, <name>.fan_in for each parameter,
              <name>.stride for conv2.weight and fc1.weight
    tensors   labels I64 [4]  logits [4,10]  loss.uniform []  loss.off-target [] (means)
              head.<name>, head.images [4]: the first 4 values, a check of the hash
              grad.<name>: the gradient of loss.uniform, whole, for all but the two large ones; for those
              grad.<name>.sample (every stride-th element of the flat gradient, from element 0)
              grad.<name>.sum []  grad.<name>.sum_sq []: over the whole gradient, for every parameter
    """
    golden = Golden("seed_network")
    n, classes, e = 4, 10, 0.1
    golden.metadata |= {"n": text(n), "classes": text(classes), "epsilon": text(e), "images_index": text(IMAGES_INDEX)}

    p = {}
    for index, (name, shape, fan_in) in enumerate(SEED_NETWORK):
        values = 2.0 * (hash01(int(np.prod(shape)), index) - 0.5) * (1.0 / np.sqrt(np.float64(fan_in)))
        p[name] = leaf(torch.from_numpy(values).reshape(shape))
        golden.metadata |= {f"{name}.index": text(index), f"{name}.fan_in": text(fan_in)}
        golden.add(f"head.{name}", p[name].flatten()[:4])
    images = torch.from_numpy(hash01(n * 784, IMAGES_INDEX)).reshape(n, 1, 28, 28)
    golden.add("head.images", images.flatten()[:4])
    labels = torch.arange(n) * 3 % 10

    conv1 = F.conv2d(images, p["conv1.weight"], p["conv1.bias"], padding=1)
    pool1, at1 = F.max_pool2d(F.relu(conv1), 2, return_indices=True)
    conv2 = F.conv2d(pool1, p["conv2.weight"], p["conv2.bias"], padding=1)
    pool2, at2 = F.max_pool2d(F.relu(conv2), 2, return_indices=True)
    fc1 = F.linear(pool2.flatten(1), p["fc1.weight"], p["fc1.bias"])
    logits = F.linear(F.relu(fc1), p["fc2.weight"], p["fc2.bias"])
    loss = smoothed_losses(logits, labels, "uniform", e, "mean")

    # Another order of summation must not flip a ReLU or move a maximum, or the gradients would differ by more than
    # rounding: every pre-activation stays clear of 0, every window's maximum (if positive) clear of the runner-up.
    nearest_zero = min(t.abs().min().item() for t in (conv1, conv2, fc1))
    tops = [F.relu(t).unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).topk(2).values for t in (conv1, conv2)]
    nearest_tie = min((t[..., 0] - t[..., 1])[t[..., 0] > 0].min().item() for t in tops)
    active = [(t > 0).double().mean().item() for t in (conv1, conv2, fc1)]
    print(f"seed_network: nearest to zero {nearest_zero:.1e}, nearest tie {nearest_tie:.1e}, active {active}")
    assert nearest_zero > 1e-10 and nearest_tie > 1e-10

    golden.add("labels", labels)
    golden.add("logits", logits)
    golden.add("loss.uniform", loss)
    golden.add("loss.off-target", smoothed_losses(logits, labels, "off-target", e, "mean"))
    for name, grad in zip(p, torch.autograd.grad(loss, tuple(p.values())), strict=True):
        flat = grad.flatten()
        if name in STRIDES:
            golden.metadata[f"{name}.stride"] = text(STRIDES[name])
            golden.add(f"grad.{name}.sample", flat[:: STRIDES[name]])
        else:
            golden.add(f"grad.{name}", grad)
        golden.add(f"grad.{name}.sum", flat.sum())
        golden.add(f"grad.{name}.sum_sq", (flat * flat).sum())
        print(f"  {name}: rms {(flat * flat).mean().sqrt().item():.2e}, zero {(flat == 0).double().mean().item():.2f}")
    golden.write()


class Resnet8(torch.nn.Module):
    """He et al. 2015's network for CIFAR-10 with one block a stage; parameters in the order of the program's preset."""

    def __init__(self, classes):
        super().__init__()
        nn = torch.nn

        def conv_norm(into, c_in, c_out, kernel, stride):
            into.conv1 = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
            into.bn1 = nn.BatchNorm2d(c_out)

        conv_norm(self, 3, 16, 3, 1)
        for i, (c_in, c_out) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
            block = nn.Module()
            if c_in != c_out:
                block.shortcut = nn.Module()
                conv_norm(block.shortcut, c_in, c_out, 1, 2)
            conv_norm(block, c_in, c_out, 3, 1 if c_in == c_out else 2)
            block.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
            block.bn2 = nn.BatchNorm2d(c_out)
            setattr(self, f"res{i}", block)
        self.fc1 = nn.Linear(64, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for block in (self.res1, self.res2, self.res3):
            y = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
            shortcut = getattr(block, "shortcut", None)
            x = F.relu(y + (x if shortcut is None else shortcut.bn1(shortcut.conv1(x))))
        return self.fc1(x.mean((2, 3)))


def train_resnet8(side, images_index, recipe, noise=0, seed=0):
    """16 steps on 8 images each: the network, the images of its first batch, labels, losses, rates. `noise` changes every
    output of a convolution by so much of their spread, at random."""
    batch, steps, classes = 8, 16, 10
    net = Resnet8(classes).double()
    with torch.no_grad():
        for index, (name, p) in enumerate(net.named_parameters()):
            values = 2 * (hash01(p.numel(), index) - 0.5)
            # Weights of a norm around 1, its bias around 0, the others as PyTorch draws them; all are numbers of f32.
            inputs = p[0].numel() if p.dim() > 1 else 64
            norm = ".bn" in f".{name}"
            values = 1 + 0.25 * values if norm and name.endswith("weight") else values / np.sqrt(inputs)
            p.copy_(torch.from_numpy(values.astype(np.float32).astype(np.float64)).reshape(p.shape))
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if noise and isinstance(module, torch.nn.Conv2d):
            random = lambda y: torch.randn(y.shape, generator=generator, dtype=y.dtype)
            module.register_forward_hook(lambda _, x, y: y + noise * y.std() * random(y))
    count = batch * steps
    pixels = np.floor(256 * hash01(count * 3 * side * side, images_index))
    images = torch.from_numpy((pixels / 255 - 0.5) / 0.25).reshape(count, 3, side, side)
    labels = torch.arange(count) * 7 % classes
    optimizer = torch.optim.SGD(net.parameters(), **recipe)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses, rates = [], []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        part = slice(step * batch, (step + 1) * batch)
        loss = F.cross_entropy(net(images[part]), labels[part], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return net, images[:batch], labels, torch.stack(losses), torch.tensor(rates, dtype=torch.float64)


def resnet8():
    """16 steps of SGD at a rate that falls by a cosine, from weights of hash01, over images of 3x8x8 bytes of hash01.

    With most images a ReLU somewhere gets a number so close to 0 that rounding decides what it gives. That one unit then
    moves parameters by 1e-2, in PyTorch's own float32 too. These images are the first from 99 on with which no noise of
    2e-6 of six moves a parameter by more than 1e-4 of the largest in its tensor."""
    golden = Golden("resnet8")
    side, images_index = 8, 384
    recipe = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    settings = {"batch": 8, "steps": 16, "side": side, "images_index": images_index, "epsilon": 0.1}
    for key, value in (settings | recipe).items():
        golden.metadata[key] = text(value)
    net, images, labels, losses, rates = train_resnet8(side, images_index, recipe)
    for seed in range(6):
        other, *_ = train_resnet8(side, images_index, recipe, 2e-6, seed)
        for p, q in zip(net.parameters(), other.parameters()):
            assert (p - q).abs().max() <= 1e-4 * p.abs().max(), "a ReLU is undecided: choose other images"
    golden.add("labels", labels)
    golden.add("rates", rates)
    golden.add("losses", losses)
    for name, p in net.named_parameters():
        flat = p.detach().flatten()
        stride = max(1, flat.numel() // 16)
        golden.metadata[f"{name}.stride"] = text(stride)
        golden.add(f"p.{name}.sample", flat[::stride])
        golden.add(f"p.{name}.sum_sq", (flat * flat).sum())
    for name, buffer in net.named_buffers():
        if not name.endswith("num_batches_tracked"):
            golden.add(f"b.{name}", buffer)
    net.eval()
    golden.add("logits", net(images).detach())
    golden.write()


if __name__ == "__main__":
    torch.set_num_threads(1)  # one order of summation
    torch.use_deterministic_algorithms(True)
    files = (conv2d, max_pool2d, avg_pool2d, batch_norm2d, group_norm, global_avg_pool2d, relu, leaky_relu, silu, gelu, linear,
             smoothed_loss, weighted_loss, mixed_loss, comparator_loss, logit_penalty, distillation_loss, adam, muon,
             seed_network, resnet8)
    for file in files:
        if len(sys.argv) == 1 or file.__name__ in sys.argv[1:]:
            file()
