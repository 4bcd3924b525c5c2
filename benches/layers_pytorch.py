#!/usr/bin/env python3
"""Times layers in PyTorch and with smoothcnn, in turn, and prints images a second and their ratio.

    python benches/layers_pytorch.py target/release/smoothcnn [ROUNDS]

needs torch. Small networks at 3x32x32, batches of 64, on 2 threads of the CPU, each with one kind of layer in all
places: silu and gelu after group norms, convolutions in four groups, dilated ones, depthwise ones with 1x1 between
them. PyTorch is eager, in the faster of its two memory formats, with memory kept (glibc's MALLOC_ variables are set
here).
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "67108864"}
if os.environ.get("MALLOC_MMAP_MAX_") != "0":
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEPT})

import torch
import torch.nn.functional as F
from torch import nn

BATCH, SECONDS = 64, 0.5
STAGES = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1))


def layer(kind, **settings):
    return dict(type=kind, **settings)


def conv(out, stride=1, kernel=3, dilation=1, groups=1, bias=True):
    padding = kernel // 2 * dilation
    return layer("conv2d", out=out, kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups,
                 bias=bias)


def normed(activation):
    blocks = [[conv(out, stride), layer("group_norm", num_groups=8), layer(activation)] for out, stride in STAGES]
    return sum(blocks, [])


def grouped():
    blocks = [[conv(out, stride, groups=4 if i else 1), layer("relu")] for i, (out, stride) in enumerate(STAGES)]
    return sum(blocks, [])


def dilated():
    return sum(([conv(out, dilation=d), layer("relu")] for out, d in ((32, 1), (32, 2), (64, 4), (64, 2))), [])


def depthwise():
    after = lambda convolution: [convolution, layer("batch_norm2d"), layer("relu")]
    layers, channels = after(conv(32, bias=False)), 32
    for out, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        layers += after(conv(channels, stride, groups=channels, bias=False)) + after(conv(out, kernel=1, bias=False))
        channels = out
    return layers


NETWORKS = {"silu": normed("silu"), "gelu": normed("gelu"), "groups": grouped(), "dilation": dilated(),
            "depthwise": depthwise()}


def toml(layers):
    # Numbers, words and true or false are written as in JSON.
    lines = lambda one: "".join(f"{key} = {json.dumps(value)}\n" for key, value in one.items())
    return "".join("[[layers]]\n" + lines(one) for one in layers)


def module(layers):
    modules, channels = [], 3
    plain = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "flatten": nn.Flatten}
    for one in layers:
        settings = {k: v for k, v in one.items() if k not in ("type", "out")}
        if one["type"] == "conv2d":
            modules.append(nn.Conv2d(channels, one["out"], settings.pop("kernel"), **settings))
            channels = one["out"]
        elif one["type"] == "group_norm":
            modules.append(nn.GroupNorm(num_channels=channels, **settings))
        elif one["type"] == "batch_norm2d":
            modules.append(nn.BatchNorm2d(channels))
        elif one["type"] == "global_avg_pool2d":
            modules.append(nn.AdaptiveAvgPool2d(1))
        elif one["type"] == "linear":
            modules.append(nn.Linear(channels, 10))
        else:
            modules.append(plain[one["type"]]())
    return nn.Sequential(*modules)


def rate(step):
    for _ in range(3):
        step()
    steps, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        step()
        steps += 1
    return steps * BATCH / (time.perf_counter() - begun)


def pytorch(layers):
    best = [0, 0]
    for order in (torch.channels_last, torch.contiguous_format):
        net = module(layers).to(memory_format=order)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        x, y = torch.randn(BATCH, 3, 32, 32).to(memory_format=order), torch.randint(0, 10, (BATCH,))

        def step():
            optimizer.zero_grad()
            F.cross_entropy(net(x), y, label_smoothing=0.1).backward()
            optimizer.step()

        trained = rate(step)
        net.eval()
        with torch.no_grad():
            best = [max(pair) for pair in zip(best, (trained, rate(lambda: net(x))))]
    return best


def smoothcnn(program, path):
    command = [program, "bench", "--device", "cpu", "--network", path, "--input", "3x32x32", "-b", str(BATCH),
               "--seconds", str(SECONDS), "--json"]
    found = subprocess.run(command, env={**os.environ, "RAYON_NUM_THREADS": "2"}, capture_output=True, check=True)
    by_task = {one["task"]: one["images_per_second"][0] for one in json.loads(found.stdout)["results"]}
    return [by_task["train"], by_task["infer"]]


def main():
    program, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    torch.set_num_threads(2)
    torch.manual_seed(0)
    end = [layer("global_avg_pool2d"), layer("flatten"), layer("linear")]
    with tempfile.TemporaryDirectory() as folder:
        found = {name: [] for name in NETWORKS}
        for _ in range(rounds):
            for name, layers in NETWORKS.items():
                path = os.path.join(folder, f"{name}.toml")
                with open(path, "w") as file:
                    file.write(toml(layers + end))
                found[name].append((pytorch(layers + end), smoothcnn(program, path)))
    print("network    task   PyTorch  smoothcnn  ratios, in ascending order")
    for name, pairs in found.items():
        for i, task in enumerate(("train", "infer")):
            theirs, ours = ([pair[side][i] for pair in pairs] for side in (0, 1))
            ratios = " ".join(f"{b / a:.2f}" for a, b in sorted(zip(theirs, ours), key=lambda pair: pair[1] / pair[0]))
            print(f"{name:10} {task} {statistics.median(theirs):9.0f} {statistics.median(ours):10.0f}  {ratios}")


if __name__ == "__main__":
    main()
