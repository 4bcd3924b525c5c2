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

/// Of a loop of products in a large dispatch, how many of a hundred instructions are multiply-adds at least.
const LEAST_SHARE: u64 = 75;

/// The same in a convolution that is not the first layer.
const LEAST_SHARE_CONV: u64 = 90;

/// Registers of a thread, where fewer would let a SIMD hold more waves.
const MOST_REGISTERS: u64 = 128;

/// Passes that keep registers in memory, and passes of too much code; large dispatches with divisions in a loop, with
/// fewer multiply-adds, or with more registers. The first layer's gradient has no more of them (benches/README.md).
/// This compiler gives a thread at most 132 registers on RDNA 3. The 3x3 convolution without a pooling takes 160 on
/// RDNA 2, since it keeps the rows of x that two rows of taps share; the order that needs fewer has a sixth more
/// instructions (benches/REJECTED.md). The registers of `linear_tiled.forward` are 128, given out by twelves, and its
/// workgroup memory allows no more waves.
const CODE: &[(&str, u64)] = &[
    ("GFX1100, conv2d_tiled.answered: spilled", 36),
    ("GFX1100, conv2d_tiled.gradient: spilled", 36),
    ("GFX1100, conv2d_tiled.measured: spilled", 37),
    ("GFX1100, conv2d_pool_tiled.backward_weight_bytes: multiply-adds", 57),
    ("GFX1100, linear_tiled.forward: registers", 132),
    ("NAVI21, conv2d_pool_tiled.backward_weight_bytes: multiply-adds", 57),
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

/// The dispatches of a step in one of the forms for workgroups, at every batch: large ones have other parts.
fn steps(form: &str) -> Vec<Work> {
    BATCHES.into_iter().flat_map(work::steps).filter(|work| work.form == form).collect()
}

/// Of a hundred instructions, how many are multiply-adds in that loop of products which has fewest of them, and how
/// many there should be. A loop for what is left of a tile is no such loop.
fn shares(code: &Code) -> [u64; 2] {
    let most = code.hot().map_or(0, |hot| hot.multiply_adds);
    let products = code.loops.iter().filter(|found| found.multiply_adds > 128.min(most - 1));
    let share = products.map(|found| 100 * found.multiply_adds / found.instructions).min();
    let (shader, entry) = &code.pass;
    let conv = shader.starts_with("conv2d") && !entry.ends_with("_bytes");
    [share.unwrap_or(0), if conv { LEAST_SHARE_CONV } else { LEAST_SHARE }]
}

/// Divisions in loops.
fn divisions(code: &Code) -> u64 {
    code.loops.iter().map(|found| found.divisions).sum()
}

/// Catches registers that lie in memory, in loops of all places, code that is fetched again in each turn of a loop, and
/// loops that do much else than multiply.
#[test]
fn no_kernel_spills_or_leaves_the_instruction_cache() {
    if lens::radv().is_none() {
        return skip::skipped("Mesa's driver for AMD is not here (mesa-vulkan-drivers)");
    }
    let step = steps("workgroup");
    let halves = steps("workgroup f16");
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
            let [share, least] = shares(code);
            if share < least {
                found.insert(format!("{pass}: multiply-adds"), share);
            }
            if code.registers > MOST_REGISTERS {
                found.insert(format!("{pass}: registers"), code.registers);
            }
        }
        for work in step.iter().chain(&halves).filter(|work| work.share > LARGE) {
            let divisions = divisions(work.code(&compiled).unwrap());
            if divisions > 0 {
                found.insert(format!("{family}, {}.{}: divisions", work.pass.0, work.pass.1), divisions);
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
