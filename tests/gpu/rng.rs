//! Random numbers on the device: the generator's published vectors, and the same numbers as the host's.

use smoothcnn::backend::gpu::Engine;
use smoothcnn::plan::shaders::{COMMON, RANDOM, Shader};
use smoothcnn::plan::{BatchBlock, Grid, Plan, Step};
use smoothcnn::rng::Philox;

use super::GPU;

static SHADER: Shader = Shader::new("rng", &[COMMON, RANDOM, include_str!("rng.wgsl")]);

smoothcnn::uniform! {
    /// The passes have no dimensions.
    struct None {}
}

fn run(pass: &str, input: &[u32], batch: BatchBlock) -> Vec<u32> {
    let mut plan = Plan::default();
    let count = batch.count as usize;
    let from = plan.buffer("input", input.len()).unwrap();
    let to = plan.buffer("output", count * 4).unwrap();
    let all = [("input", from), ("output", to)];
    let bindings = if input.is_empty() { &all[1..] } else { &all[..] };
    plan.dispatch("rng", (&SHADER, pass), None {}, Grid::Threads(count), 0, bindings).unwrap();
    let engine = Engine::new(&GPU, plan).unwrap();
    engine.write(from, input);
    engine.run(0..1, &[Step::from(batch)], to).wait().unwrap()
}

/// The known answers of the Random123 distribution (kat_vectors, philox4x32 10).
#[test]
fn known_answers() {
    let zeros = [0; 8];
    let ones = [!0, !0, !0, !0, !0, !0, 0, 0];
    let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344, 0xa409_3822, 0x299f_31d0, 0, 0];
    let found = run("blocks", &[zeros, ones, pi].concat(), BatchBlock { count: 3, ..BatchBlock::default() });
    let expected = [
        [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
        [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
    ];
    assert_eq!(found, expected.concat());
}

/// Catches a half of the seed or of the update's number that is lost, and a layer that draws another's numbers.
#[test]
fn a_layer_draws_on_the_device_what_it_draws_on_the_host() {
    for (seed, step) in [(5u64, 1u64), (0x1234_5678_9abc_def0, 0xfedc_ba98), (u64::MAX, 0x7_0000_0003)] {
        let batch = BatchBlock {
            count: 70,
            seed_low: seed as u32,
            seed_high: (seed >> 32) as u32,
            step_low: step as u32,
            step_high: (step >> 32) as u32,
            ..BatchBlock::default()
        };
        let found = run("of_layer", &[], batch);
        let expected: Vec<u32> =
            (0..280).map(|i| Philox::of_layer(seed, step, if i % 4 == 3 { 4 } else { 3 }, i)).collect();
        assert_eq!(found, expected, "seed {seed:#x}, step {step:#x}");
    }
}
