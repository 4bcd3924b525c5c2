#!/usr/bin/env python3
"""Trains the seed network in PyTorch and with smoothcnn, from the same weights over the same images in the same order, and
compares every step's loss and plain nll, and the final test logits. Run by hand; needs torch, numpy, safetensors, and MNIST's IDX files.

    cargo build --release
    python3 tests/golden/compare_training.py --data-dir DIR [--gpu] [--steps 32] [--batch-size 64]

Prints a line for each loss and each way to compute: the largest relative difference from PyTorch's float64 losses and
nlls against its bound, and the accuracies. Exit code 1 if a bound is exceeded or an accuracy differs.
"""
import argparse
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

EPSILON = 0.1
TEST_IMAGES = 1000
# Largest relative difference of a step's loss or nll from PyTorch's in float64.
BOUNDS = {"cpu f64": 1e-9, "cpu f32": 5e-4, "gpu f32": 2e-3, "torch f32": 5e-4}


def idx(path, header):
    path = path if path.exists() else path.with_name(path.name + ".gz")
    raw = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    return np.frombuffer(raw, np.uint8, offset=header)


class Seed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def loss_of(variant, logits, labels):
    if variant == "uniform":
        return F.cross_entropy(logits, labels, label_smoothing=EPSILON)
    target = torch.full_like(logits, EPSILON / 9)
    target.scatter_(1, labels[:, None], 1 - EPSILON)
    return F.cross_entropy(logits, target)


def torch_run(variant, dtype, weights, train, test, batch_size):
    net = Seed().to(dtype)
    net.load_state_dict({k: v.to(dtype) for k, v in weights.items()})
    normalise = lambda images: ((torch.from_numpy(images.copy()).to(dtype) / 255 - 0.1307) / 0.3081).reshape(-1, 1, 28, 28)
    x, y = normalise(train[0]), torch.from_numpy(train[1].astype(np.int64))
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    for at in range(0, len(x), batch_size):
        adam.zero_grad()
        logits, labels = net(x[at:at + batch_size]), y[at:at + batch_size]
        loss = loss_of(variant, logits, labels)
        loss.backward()
        adam.step()
        losses.append([loss.item(), F.cross_entropy(logits.detach(), labels).item()])
    with torch.no_grad():
        logits = net(normalise(test[0]))
    return np.array(losses), logits.double().numpy()


def our_run(args, variant, device, dtype, init, folder):
    common = ["--data", "mnist", "--data-dir", args.data_dir, "--limit-train", str(args.steps * args.batch_size),
              "--limit-test", str(TEST_IMAGES), "--device", device, "--dtype", dtype]
    run = lambda *words: subprocess.run([args.binary, *words, *common], check=True, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
    run("train", "--epochs", "1", "-b", str(args.batch_size), "--no-shuffle", "--init", init, "--log-every", "1",
        "--label-smoothing", str(EPSILON), "--smoothing-variant", variant, "--out", folder)
    run("eval", "--model", f"{folder}/model.safetensors", "--logits", f"{folder}/logits.safetensors")
    lines = map(json.loads, open(f"{folder}/metrics.jsonl"))
    losses = [[line["loss"], line["nll"]] for line in lines if line["kind"] == "step"]
    return np.array(losses), load_file(f"{folder}/logits.safetensors")["logits"].double().numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--binary", default="target/release/smoothcnn")
    parser.add_argument("--gpu", action="store_true", help="run the GPU path too, on the best adapter")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()

    data = pathlib.Path(args.data_dir)
    n = args.steps * args.batch_size
    train = (idx(data / "train-images-idx3-ubyte", 16)[:n * 784], idx(data / "train-labels-idx1-ubyte", 8)[:n])
    test = (idx(data / "t10k-images-idx3-ubyte", 16)[:TEST_IMAGES * 784], idx(data / "t10k-labels-idx1-ubyte", 8)[:TEST_IMAGES])
    torch.manual_seed(0)
    weights = Seed().state_dict()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        init = f"{folder}/init.safetensors"
        save_file(weights, init)
        for variant in ["uniform", "off-target"]:
            want, want_logits = torch_run(variant, torch.float64, weights, train, test, args.batch_size)
            right = lambda logits: int((logits.argmax(1) == test[1]).sum())
            ways = {"torch f32": lambda: torch_run(variant, torch.float32, weights, train, test, args.batch_size)}
            for device, dtype in [("cpu", "f64"), ("cpu", "f32")] + ([("gpu", "f32")] if args.gpu else []):
                out = f"{folder}/{variant}-{device}-{dtype}"
                ways[f"{device} {dtype}"] = lambda d=device, t=dtype, o=out: our_run(args, variant, d, t, init, o)
            for name, way in ways.items():
                losses, logits = way()
                assert len(losses) == args.steps, f"{len(losses)} losses"
                worst = (np.abs(losses - want) / np.abs(want)).max(0)
                bad = not (worst <= BOUNDS[name]).all() or right(logits) != right(want_logits)
                failed |= bad and name != "torch f32"
                print(f"{variant:<11} {name:<10} loss {worst[0]:.1e} nll {worst[1]:.1e} (bound {BOUNDS[name]:.0e})   "
                      f"logits {np.abs(logits - want_logits).max():.1e}   "
                      f"right {right(logits)} against {right(want_logits)} of {TEST_IMAGES}{'   FAIL' if bad else ''}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
