//! `Plan::dispatch` refuses what does not match its shader, and folds what does not fit an axis.

use bytemuck::{Pod, Zeroable};
use smoothcnn::Error;
use smoothcnn::ops::relu;
use smoothcnn::plan::{Grid, Plan, Slice, Uniform};

/// A uniform block of one word, under a name.
macro_rules! block {
    ($name:ident, $type:ty, $fields:expr) => {
        #[repr(C)]
        #[derive(Clone, Copy, Default, Pod, Zeroable)]
        struct $name($type);

        impl Uniform for $name {
            const FIELDS: &'static [(&'static str, u32)] = $fields;
        }
    };
}

block!(Features, [u32; 1], &[("features", 0)]);
block!(OtherName, [u32; 1], &[("channels", 0)]);
block!(OtherOffset, [u32; 1], &[("features", 4)]);
block!(OneTooMany, [u32; 2], &[("features", 0), ("more", 4)]);
block!(Longer, [u32; 4], &[("features", 0)]);

/// What recording relu's forward pass says, with one thing changed.
fn record<D: Uniform + Default>(pass: &str, grid: Grid, names: &[&str]) -> smoothcnn::Result<Plan> {
    let mut plan = Plan::default();
    let slice = plan.buffer("any", 16)?;
    let bindings: Vec<(&str, Slice)> = names.iter().map(|&name| (name, slice)).collect();
    plan.dispatch("layer.forward", (relu::ENTRY.shaders[0], pass), D::default(), grid, 0, &bindings)?;
    Ok(plan)
}

const GRID: Grid = Grid::Threads(16);

/// Catches a mismatch of shader and host that goes through to the driver, or a message that does not name it.
#[test]
fn a_mismatch_is_refused_by_name() {
    assert!(record::<Features>("forward", GRID, &["y", "x"]).is_ok());
    for (recorded, says) in [
        (record::<Features>("sideways", GRID, &["x", "y"]), vec!["sideways", "no such entry point"]),
        (record::<Features>("forward", GRID, &["x"]), vec!["nothing is bound to `y`"]),
        (record::<Features>("forward", GRID, &["x", "y", "z"]), vec!["no binding called `z`"]),
        // It is in the file, but not in this pass.
        (record::<Features>("forward", GRID, &["x", "y", "dy"]), vec!["no binding called `dy`"]),
        (record::<OtherName>("forward", GRID, &["x", "y"]), vec!["`dims`", "channels", "features"]),
        (record::<OtherOffset>("forward", GRID, &["x", "y"]), vec!["`dims`", "features"]),
        (record::<OneTooMany>("forward", GRID, &["x", "y"]), vec!["`dims`", "more"]),
        (record::<Longer>("forward", GRID, &["x", "y"]), vec!["`dims`", "4 bytes", "16 bytes"]),
    ] {
        let Err(error) = recorded else { panic!("recorded; expected {says:?}") };
        assert!(matches!(error, Error::Plan(_)), "{error:?}");
        let message = error.to_string();
        for part in says.iter().chain(&["layer.forward", "relu.wgsl"]) {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }
}

/// Catches a refused dispatch that is left in the plan.
#[test]
fn a_refused_dispatch_is_not_recorded() {
    let mut plan = Plan::default();
    plan.dispatch("layer.forward", (relu::ENTRY.shaders[0], "forward"), Features::default(), GRID, 0, &[]).unwrap_err();
    assert!(plan.dispatches.is_empty());
}

/// Catches workgroups that are missing, or more than WebGPU allows along an axis, or far more than needed.
#[test]
fn workgroups_fold_over_two_axes() {
    let threads = relu::ENTRY.shaders[0].entry("forward").unwrap().workgroup_size.iter().product::<u32>() as usize;
    for (groups, rows) in [(0, 1), (1, 1), (65_535, 1), (65_536, 2), (131_070, 2), (131_071, 3), (10_000_019, 153)] {
        for (grid, needed) in [
            (Grid::Workgroups(groups), groups),
            (Grid::Threads(groups * threads), groups),
            (Grid::Threads((groups * threads).saturating_sub(1)), groups),
        ] {
            let plan = record::<Features>("forward", grid, &["x", "y"]).unwrap();
            let [x, y, z] = plan.dispatches[0].workgroups.map(|n| n as usize);
            assert_eq!((y, z), (rows, 1), "{grid:?}");
            assert!((1..=65_535).contains(&x), "{grid:?}: {x}");
            let idle = x * y - needed;
            assert!(x * y >= needed && (idle < y || needed == 0), "{grid:?}: {x} x {y}");
        }
    }
}

/// Catches a part of a buffer that reaches beyond the whole.
#[test]
#[should_panic(expected = "a part outside its whole")]
fn a_part_lies_within_its_whole() {
    let mut plan = Plan::default();
    let whole = plan.buffer("whole", 64).unwrap();
    assert_eq!(whole.part(16, 48), Slice { buffer: 0, offset: 64, bytes: 192 });
    whole.part(17, 48);
}
