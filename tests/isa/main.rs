//! What a compiler for AMD's GPUs must not make of the kernels that hardware gets by default: registers in memory, more
//! code than the instruction cache holds; and what a step must not have: a large dispatch of a few workgroups.
//!
//! Where today's kernels break that, a table says so. A line that is no longer needed, or whose figure has changed,
//! fails: the tables only shrink. `cargo bench --bench isa` prints everything.

#[path = "../../benches/isa/lens/mod.rs"]
mod lens;
#[path = "../common/skip.rs"]
mod skip;

use std::collections::BTreeMap;

use lens::work::{self, Work};
use lens::{Code, Compiled, FAMILIES};
use smoothcnn::ops;

/// Of the step's operations, what makes a dispatch a large one.
const LARGE: f64 = 0.01;

/// Workgroups that a large dispatch has at least. A current GPU runs several hundred at once.
const LEAST_WORKGROUPS: u64 = 256;

/// The batches at which that holds.
const BATCHES: [usize; 3] = [64, 256, 1024];

/// Bytes of instructions that AMD's instruction cache holds.
const MOST_CODE: u64 = 32 * 1024;

/// What was found that should not be: where, and the figure.
type Found = BTreeMap<String, u64>;

/// Large dispatches with too few workgroups.
const FEW_WORKGROUPS: &[(&str, u64)] = &[];

/// The driver that the figures below are of. Another one makes other code.
const DRIVER: &str = "radv Mesa 22.3.6";

/// Of a large dispatch's hot loop, how many of a hundred instructions are multiply-adds at least.
const LEAST_SHARE: u64 = 75;

/// Passes that keep registers in memory, and passes of too much code; large dispatches with divisions in a loop, or with
/// fewer multiply-adds. Those of the first layer load in the same loop (benches/README.md).
const CODE: &[(&str, u64)] = &[
    ("GFX1100, conv2d_pool_tiled.backward_weight_bytes: multiply-adds", 52),
    ("GFX1100, conv2d_pool_tiled.forward_bytes: multiply-adds", 70),
    ("NAVI21, conv2d_pool_tiled.backward_weight_bytes: multiply-adds", 53),
    ("NAVI21, conv2d_pool_tiled.forward_bytes: multiply-adds", 70),
];

fn compare(what: &str, found: &Found, known: &[(&str, u64)]) {
    let known: BTreeMap<_, _> = known.iter().copied().collect();
    let mut wrong = vec![];
    for (place, figure) in found {
        match known.get(place.as_str()) {
            Some(known) if known == figure => {}
            Some(known) => {
                wrong.push(format!("{place}: {figure}, and not {known}: worse is a fault, better goes into the table"))
            }
            None => wrong.push(format!("{place}: {figure} is new")),
        }
    }
    wrong
        .extend(known.keys().filter(|&&place| !found.contains_key(place)).map(|place| format!("{place}: take it out")));
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

/// Catches a split of the work that leaves most of a large GPU idle.
#[test]
fn no_large_dispatch_has_a_few_workgroups() {
    let mut found = Found::new();
    for batch in BATCHES {
        let step: Vec<Work> = work::steps(batch).into_iter().filter(|work| work.form == "workgroup").collect();
        assert!(step.len() > 5);
        for work in step.iter().filter(|work| work.share > LARGE && work.groups < LEAST_WORKGROUPS) {
            found.insert(format!("{} at batch {batch}", work.dispatch), work.groups);
        }
    }
    compare("workgroups", &found, FEW_WORKGROUPS);
}

/// Whether hardware gets the pass unless someone asks for another form: the form in registers is what is left where a
/// device has no workgroup memory, and halves are asked for.
fn by_default(code: &Code, step: &[Work]) -> bool {
    let (shader, _) = &code.pass;
    step.iter().any(|work| work.pass == code.pass) || shader != "conv2d_pool" && !shader.ends_with("_f16")
}

/// Catches registers that lie in memory, in loops of all places, code that is fetched again in each turn of a loop, and
/// loops that do much else than multiply.
#[test]
fn no_kernel_spills_or_leaves_the_instruction_cache() {
    if lens::radv().is_none() {
        return skip::skipped("Mesa's driver for AMD is not here (mesa-vulkan-drivers)");
    }
    let step: Vec<Work> = work::steps(64).into_iter().filter(|work| work.form == "workgroup").collect();
    let mut found = Found::new();
    for family in FAMILIES {
        let compiled = lens::compile(family, &["--exact", "child", "--nocapture"], None).unwrap();
        if !compiled.driver.starts_with(DRIVER) {
            return skip::skipped(&format!("the figures are of {DRIVER}, and this is {}", compiled.driver));
        }
        complete(&compiled, &step);
        for code in compiled.passes.iter().filter(|code| by_default(code, &step)) {
            let pass = format!("{family}, {}.{}", code.pass.0, code.pass.1);
            if code.spilled > 0 {
                found.insert(format!("{pass}: spilled"), code.spilled);
            }
            if code.bytes > MOST_CODE {
                found.insert(format!("{pass}: bytes"), code.bytes);
            }
            if !step.iter().any(|work| work.share > LARGE && work.pass == code.pass) {
                continue;
            }
            let divisions = code.loops.iter().map(|found| found.divisions).sum();
            if divisions > 0 {
                found.insert(format!("{pass}: divisions"), divisions);
            }
            let share = code.hot().map_or(0, |hot| 100 * hot.multiply_adds / hot.instructions);
            if share < LEAST_SHARE {
                found.insert(format!("{pass}: multiply-adds"), share);
            }
        }
    }
    compare("machine code", &found, CODE);
}

/// Catches a lens that sees nothing: passes that are not compiled, products that are not counted.
fn complete(compiled: &Compiled, step: &[Work]) {
    let passes = ops::shaders()
        .filter(|shader| !shader.name.contains("_lanes"))
        .flat_map(|shader| shader.entries().iter().map(|entry| (shader.name.to_owned(), entry.name.clone())));
    for (shader, entry) in passes {
        let code = compiled.code(&shader, &entry).unwrap_or_else(|| panic!("{shader}.{entry} is not compiled"));
        assert!(code.registers > 0 && code.bytes > 0 && code.waves > 0 && [32, 64].contains(&code.wave), "{code:?}");
    }
    for work in step.iter().filter(|work| work.share > LARGE) {
        let code = work.code(compiled).unwrap();
        let hot = code.hot().unwrap_or_else(|| panic!("{}: no loop has products", work.dispatch));
        assert!(
            hot.share() > 0.1 && hot.vector >= hot.multiply_adds / 2 && work.floor(code, 72) > Some(0.0),
            "{hot:?}"
        );
    }
}

/// No test: the process that [`lens::compile`] starts comes here.
#[test]
fn child() {
    lens::child();
}
