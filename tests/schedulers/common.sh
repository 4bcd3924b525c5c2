# What both scripts share: the program, a folder of their own, and the sweep that they hold their own against.

program=$(realpath "${1:?"usage: $0 PATH/TO/smoothcnn"}")
work=$(mktemp -d)
grid=(--limit-train 400 --limit-test 200 --epochs 2 --label-smoothing 0,0.1 --label-noise 0,0.2 --seeds 2 --out sweep)
runs=8

# The plan, ready to be trained from $work/scheduled.
plan() {
    mkdir "$work/scheduled"
    cd "$work/scheduled"
    "$program" sweep plan "${grid[@]}"
}

# results.csv without the column of seconds.
timeless() {
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "seconds") clock = i } { $clock = ""; print }' "$1"
}

# Gathers the scheduler's runs and holds them against those of `sweep` on this machine.
compare() {
    cd "$work/scheduled"
    [ "$(ls sweep/runs/*/result.json | wc -l)" = $runs ] || { echo "some of the $runs runs are not done" >&2; exit 1; }
    "$program" sweep collect sweep >/dev/null
    mkdir "$work/local"
    cd "$work/local"
    "$program" sweep "${grid[@]}" --device cpu >/dev/null
    diff <(timeless "$work/scheduled/sweep/results.csv") <(timeless "$work/local/sweep/results.csv")
    echo "the scheduler's $runs runs are those of a local sweep"
}
