#!/usr/bin/env python3
"""Trains resnet20 in PyTorch as `smoothcnn train --recipe cifar --network resnet20` does, and prints its test accuracy.

    python benches/resnet20_pytorch.py DIR SEED EPOCHS [BLOCKS]

needs torch and numpy; DIR has CIFAR-10's batches, as .bin or .bin.gz. BLOCKS are the blocks of a stage: 3, or 1 for
resnet8.

The first 20,000 training images, in batches of 128; SGD with Nesterov momentum, one-cycle, weight decay 5e-4 but for norms
and biases, label smoothing 0.1; images shifted by up to 4 pixels (zeros come in) and mirrored, anew in each epoch.
"""

import gzip
import os
import sys
import time

START = time.time()
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def read(folder, name):
    path = os.path.join(folder, name)
    raw = gzip.open(path + ".gz").read() if os.path.exists(path + ".gz") else open(path, "rb").read()
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3073)
    pixels = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).copy()).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (pixels - mean) / std, torch.from_numpy(rows[:, 0].astype(np.int64))


class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.c2, self.b2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.skip = nn.Sequential()
        if i != o or stride != 1:
            self.skip = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        return F.relu(self.b2(self.c2(F.relu(self.b1(self.c1(x))))) + self.skip(x))


def resnet(blocks):
    layers, i = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for stage, o in enumerate((16, 32, 64)):
        for block in range(blocks):
            layers.append(Block(i, o, 2 if stage and block == 0 else 1))
            i = o
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def changed(x):
    """Each image shifted by up to 4 pixels, and every other one mirrored, by chance."""
    n = len(x)
    padded = F.pad(x, (4, 4, 4, 4), value=float("nan"))
    top, left = torch.randint(0, 9, (n, 1)), torch.randint(0, 9, (n, 1))
    rows, columns = top + torch.arange(32), left + torch.arange(32)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    out = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    # What comes in is black: a pixel of 0.
    black = torch.tensor([-m / s for m, s in zip(MEAN, STD)]).view(1, 3, 1, 1)
    return torch.where(out.isnan(), black, out).contiguous(memory_format=torch.channels_last)


def main():
    folder, seed, epochs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    blocks = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    torch.set_num_threads(2)
    torch.manual_seed(seed)
    parts = [read(folder, f"data_batch_{i}.bin") for i in (1, 2)]
    x, y = (torch.cat(each)[:20000] for each in zip(*parts))
    test_x, test_y = read(folder, "test_batch.bin")
    net = resnet(blocks).to(memory_format=torch.channels_last)
    spared = [p for p in net.parameters() if p.dim() == 1]
    others = [p for p in net.parameters() if p.dim() > 1]
    groups = [{"params": others, "weight_decay": 5e-4}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.2, momentum=0.9, nesterov=True)
    steps = epochs * -(-len(x) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)
    for _ in range(epochs):
        net.train()
        for batch in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(net(changed(x[batch])), y[batch], label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        logits = torch.cat([net(b.contiguous(memory_format=torch.channels_last)) for b in test_x.split(500)])
    accuracy = (logits.argmax(1) == test_y).double().mean().item()
    nll = F.cross_entropy(logits, test_y).item()
    print(f"seed {seed}: accuracy {accuracy:.4f}, nll {nll:.4f}, {time.time() - START:.0f} s")


main()
