#!/usr/bin/env python3
"""Ends trainings and sweeps in every way, and holds what comes of them to runs that nobody disturbed.

    tests/faults/faults.py target/release/smoothcnn            every part, short: about two minutes
    tests/faults/faults.py target/release/smoothcnn --full     the numbers of the page on reliability
    tests/faults/faults.py target/release/smoothcnn --only kill,errors,disks,sweep,together

Needs Linux and strace; `disks` needs to be root. After every fault: the program ended with a documented exit code and with one
line of its own, or was killed; the same command, or --resume, goes on; and the weights, of the last epoch and of the best one,
and the record are, to the bit, those of an undisturbed run (but for what a clock measured).
"""

import argparse
import csv
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TRAIN = (
    "train --device cpu --limit-train 96 --limit-test 20 --batch-size 32 --epochs 3 --val-split 0.2 --best-by ece "
    "--label-noise 0.1 --log-every 1"
).split()
SWEEP = (
    "sweep --device cpu --limit-train 96 --limit-test 40 --batch-size 32 --epochs 4 --label-smoothing 0,0.1 --seeds 2 --out s"
).split()
# What a run does to its folder goes through these.
CALLS = ["openat", "write", "fsync", "renameat", "mkdir", "ftruncate", "unlink", "flock"]


class Fault(Exception):
    pass


def expect(holds, message):
    if not holds:
        raise Fault(message)


class Program:
    def __init__(self, path):
        self.path = os.path.realpath(path)

    def run(self, folder, args, before=(), **options):
        """Exit code and what it said."""
        done = subprocess.run(
            [*before, self.path, *args], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=120, **options
        )
        return done.returncode, done.stderr.decode(errors="replace")

    def start(self, folder, args, **options):
        return subprocess.Popen(
            [self.path, *args], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
        )


def fresh(name="smoothcnn-faults-"):
    return pathlib.Path(tempfile.mkdtemp(prefix=name))


def timeless(folder):
    """The record, without what a clock measured."""
    lines = []
    for line in (folder / "run/metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        for clock in ["seconds", "images_per_second"]:
            line.pop(clock, None)
        lines.append(line)
    return lines


def same_run(folder, reference):
    for name in ["model.safetensors", "best.safetensors"]:
        weights = lambda where: (where / "run" / name).read_bytes()
        expect(weights(folder) == weights(reference), f"{name} is another one")
    expect(timeless(folder) == timeless(reference), "the record is another one")
    left = [name for name in os.listdir(folder / "run") if name.endswith(".tmp")]
    expect(not left, f"left behind: {left}")


def go_on(program, folder):
    """The command that a user would give after whatever happened."""
    if (folder / "run/config.toml").exists():
        return program.run(folder, "train --device cpu --log-every 1 --resume run".split())
    return program.run(folder, [*TRAIN, "--out", "run"])


def finish(program, folder, reference):
    code, said = go_on(program, folder)
    expect(code == 0, f"it does not go on: {code}: {said}")
    same_run(folder, reference)


def one_line(code, said):
    own = [line for line in said.splitlines() if line.startswith("smoothcnn: ")]
    expect("panicked" not in said, said)
    expect(code in (1, 2, 3, 4), f"exit code {code}: {said}")
    expect(len(own) == 1 and len(own[0]) <= 320, f"{len(own)} lines of its own: {said}")


def calls_to_folder(program):
    """Each call of an undisturbed run that touches its folder: its name, and its number among those of its name."""
    folder = fresh()
    log = folder / "log"
    trace = ["strace", "-f", "-y", "-o", str(log), "-e", "trace=" + ",".join(CALLS)]
    code, said = program.run(folder, [*TRAIN, "--out", "run"], trace)
    expect(code == 0, said)
    counts, found = {}, []
    for line in log.read_text(errors="replace").splitlines():
        # A short number of a thread has blanks behind it.
        match = re.match(r"(\d+) +(\w+)\(", line)
        if not match:
            continue
        thread, call = match.groups()
        counts[thread, call] = counts.get((thread, call), 0) + 1
        if '"run' in line or "/run" in line.split('"')[0]:
            found.append((call, counts[thread, call]))
    shutil.rmtree(folder)
    expect(found, f"no call touches the folder, by {log}")
    return found


def each_call(program, reference, how, check, calls):
    for call, number in calls:
        folder = fresh()
        before = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{how}:when={number}"]
        try:
            code, said = program.run(folder, [*TRAIN, "--out", "run"], before)
            check(folder, code, said)
            finish(program, folder, reference)
        except Fault as fault:
            raise Fault(f"{call} number {number}, {how}: {fault} ({folder})") from fault
        shutil.rmtree(folder)
    return len(calls)


def kill(program, reference, times, rng):
    """Killed at every call that touches the folder, and at random moments, again and again."""
    exact = each_call(program, reference, "signal=SIGKILL", lambda *_: None, calls_to_folder(program))
    random_kills = 0
    while random_kills < times:
        folder = fresh()
        command = [*TRAIN, "--out", "run"]
        for _ in range(rng.randint(1, 3)):
            child = program.start(folder, command)
            time.sleep(rng.uniform(0.0, 0.15))
            child.kill()
            random_kills += child.wait() == -signal.SIGKILL
            if (folder / "run/config.toml").exists():
                command = "train --device cpu --log-every 1 --resume run".split()
        try:
            finish(program, folder, reference)
        except Fault as fault:
            raise Fault(f"after kill {random_kills}: {fault} ({folder})") from fault
        shutil.rmtree(folder)
    return f"{exact} kills at a certain call, {random_kills} at random moments"


def errors(program, reference, full):
    """Every call that touches the folder fails, with every error that disks and networks have."""
    calls = calls_to_folder(program)
    ways = ["EIO", "ENOSPC", "EROFS", "EDQUOT", "EACCES"] if full else ["EIO", "ENOSPC"]

    def check(folder, code, said):
        if code == 0:
            # What is of no account, such as a file that was to be removed and is not there.
            same_run(folder, reference)
        else:
            one_line(code, said)

    count = sum(each_call(program, reference, f"error={way}", check, calls) for way in ways)
    return f"{count} calls failed"


def disks(program, reference, full):
    """A file system of every size that is too small."""
    if os.geteuid() != 0:
        return "skipped: not root"
    count = 0
    for kib in range(64, 15000, 150 if full else 1000):
        folder = fresh()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], check=True)
        try:
            code, said = program.run(folder, [*TRAIN, "--out", "run"])
            if code == 0:
                break
            one_line(code, said)
            subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
            finish(program, folder, reference)
            count += 1
        except Fault as fault:
            raise Fault(f"{kib} KiB: {fault}") from fault
        finally:
            subprocess.run(["umount", folder], check=True)
            os.rmdir(folder)
    return f"{count} full disks"


def results(folder):
    with open(folder / "s/results.csv") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def sweep(program, times, rng):
    """A sweep that is killed alone, or with its runs, at random moments."""
    whole = fresh()
    began = time.time()
    code, said = program.run(whole, SWEEP)
    expect(code == 0, said)
    took, expected = time.time() - began, results(whole)
    kills = 0
    while kills < times:
        folder = fresh()
        for _ in range(rng.randint(1, 3)):
            child = program.start(folder, SWEEP, start_new_session=True)
            time.sleep(rng.uniform(0.0, took))
            if rng.random() < 0.5:
                os.killpg(child.pid, signal.SIGKILL)
            else:
                child.kill()
            kills += child.wait() == -signal.SIGKILL
        code, said = program.run(folder, SWEEP)
        expect(code == 0, f"after kill {kills}: {said} ({folder})")
        expect(results(folder) == expected, f"after kill {kills}: other results ({folder})")
        shutil.rmtree(folder)
    shutil.rmtree(whole)
    return f"{kills} kills of a sweep"


def together(program, reference, times):
    """Several processes that want the same run: begun, and resumed, at once."""
    longer = fresh()
    shutil.copytree(reference / "run", longer / "run")
    resume = "train --device cpu --log-every 1 --resume run --epochs 9".split()
    code, said = program.run(longer, resume)
    expect(code == 0, said)
    refused = 0
    for _ in range(times):
        folder = fresh()
        first = [program.start(folder, [*TRAIN, "--out", "run"]) for _ in range(3)]
        codes = sorted(child.wait() for child in first)
        # The second comes too early (in use) or too late (a run is there).
        expect(codes[0] == 0 and all(code in (1, 2) for code in codes[1:]), f"begun at once: {codes} ({folder})")
        same_run(folder, reference)
        again = [program.start(folder, resume) for _ in range(3)]
        more = sorted(child.wait() for child in again)
        expect(more[0] == 0 and set(more) <= {0, 1}, f"resumed at once: {more} ({folder})")
        same_run(folder, longer)
        refused += sum(code != 0 for code in codes + more)
        shutil.rmtree(folder)
    shutil.rmtree(longer)
    return f"{times} folders wanted by three processes, twice: {refused} refused, none shared"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default="kill,errors,disks,sweep,together")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not shutil.which("strace"):
        sys.exit("strace: found none, expected it (Debian, Ubuntu: apt install strace)")
    program, rng, full = Program(args.program), random.Random(args.seed), args.full
    reference = fresh()
    code, said = program.run(reference, [*TRAIN, "--out", "run"])
    expect(code == 0, said)
    parts = {
        "kill": lambda: kill(program, reference, 200 if full else 20, rng),
        "errors": lambda: errors(program, reference, full),
        "disks": lambda: disks(program, reference, full),
        "sweep": lambda: sweep(program, 100 if full else 5, rng),
        "together": lambda: together(program, reference, 50 if full else 5),
    }
    for name in args.only.split(","):
        began = time.time()
        print(f"{name}: {parts[name]()} ({time.time() - began:.0f} s)", flush=True)
    shutil.rmtree(reference)


if __name__ == "__main__":
    try:
        main()
    except Fault as fault:
        sys.exit(f"FAILED: {fault}")
