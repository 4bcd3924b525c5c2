//! Muon in a plan.

use super::STEPS;
use crate::Result;
use crate::ops::WORKGROUP;
use crate::optimizer::adam::Adam;
use crate::optimizer::update::{Extent, WeightMatrix, between};
use crate::plan::shaders::MUON;
use crate::plan::{Grid, Plan, Slice, uniform, word};

uniform! {
    /// `Muon` in `shaders/muon.wgsl`.
    struct Dims {
        decayed: u32,
        segments: u32,
        parted: u32,
        matrices: u32,
        first: u32,
    }
}

/// `Matrix` in `shaders/muon.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Entry {
    place: [u32; 4],
    ends: [u32; 4],
}

/// Rows and columns of a product that a workgroup owns; elements of its sums that it loads at once.
const TILE: usize = 32;
const DEPTH: usize = 8;

/// Records Adam's update between the matrices, and that of the matrices: `bindings` are those of Adam's.
pub fn record(
    adam: &Adam,
    plan: &mut Plan,
    extent: Extent,
    matrices: &[WeightMatrix],
    bindings: &[(&str, Slice)],
) -> Result<()> {
    let mut ranges = between(matrices, extent.len as usize);
    if ranges.is_empty() {
        // The losses are added with the first one.
        ranges.push(extent.len as usize..extent.len as usize);
    }
    for range in ranges {
        adam.record(plan, Extent { begin: word(range.start), len: word(range.end), ..extent }, bindings)?;
    }
    if matrices.is_empty() {
        return Ok(());
    }
    let mut ends = [0; 3];
    let [mut x_len, mut gram_len] = [0; 2];
    let mut flops = 0u64;
    let mut entries = vec![];
    for &WeightMatrix { first, rows, columns } in matrices {
        let [side, length] = [rows.min(columns), rows.max(columns)];
        ends[0] += (rows * columns).div_ceil(4 * WORKGROUP);
        ends[1] += side.div_ceil(TILE).pow(2);
        ends[2] += side.div_ceil(TILE) * length.div_ceil(TILE);
        let [weight, gram, x] = ends.map(word);
        entries.push(Entry { place: [first, rows, columns, x_len].map(word), ends: [weight, gram, x, word(gram_len)] });
        x_len += rows * columns;
        gram_len += side * side;
        flops += 2 * (side * side * length) as u64;
    }
    let dims = |first| Dims {
        decayed: extent.decayed,
        segments: extent.segments,
        parted: extent.parted,
        matrices: word(matrices.len()),
        first,
    };
    let [over_weights, over_gram, over_x] = ends.map(Grid::Workgroups);
    let x = [plan.buffer("muon.x", x_len)?, plan.buffer("muon.y", x_len)?];
    let gram = plan.buffer("muon.gram", gram_len)?;
    let series = plan.buffer("muon.series", gram_len)?;
    let scales = plan.buffer("muon.scales", matrices.len())?;
    let table = plan.constant("muon.matrices", &entries)?;
    // What a pass reads of Adam's buffers, and of the matrices.
    let with = |names: &[&str], some: &[(&'static str, Slice)]| {
        let adams = bindings.iter().filter(|(name, _)| names.contains(name));
        adams.chain(some).copied().chain([("matrices", table)]).collect::<Vec<_>>()
    };
    let at = with(&["grads", "segments", "first", "step_losses"], &[("x", x[0])]);
    plan.dispatch("muon.remember", (&MUON, "remember"), dims(1), over_weights, 0, &at)?;
    let at = with(&[], &[("x", x[0]), ("scales", scales)]);
    plan.dispatch("muon.norm", (&MUON, "norm"), dims(1), Grid::Workgroups(matrices.len()), 0, &at)?;
    let largest = |of: fn(&WeightMatrix) -> usize| matrices.iter().map(of).max().unwrap_or(0);
    plan.loops(&[largest(|m| m.rows * m.columns).div_ceil(WORKGROUP)]);
    for step in 0..STEPS {
        let dims = || dims(u32::from(step == 0));
        let label = |pass: &str| format!("muon.{pass}{}", step + 1);
        let [own, next] = [x[step % 2], x[(step + 1) % 2]];
        let at = with(&[], &[("x", own), ("gram", gram), ("scales", scales)]);
        plan.dispatch(label("multiply"), (&MUON, "multiply"), dims(), over_gram, flops, &at)?;
        plan.loops(&[largest(|m| m.rows.max(m.columns)).div_ceil(DEPTH), DEPTH]);
        let at = with(&[], &[("gram", gram), ("series", series)]);
        plan.dispatch(label("square"), (&MUON, "square"), dims(), over_gram, 0, &at)?;
        plan.loops(&[largest(|m| m.rows.min(m.columns)).div_ceil(DEPTH), DEPTH]);
        let at = with(&[], &[("x", own), ("y", next), ("gram", series), ("scales", scales)]);
        plan.dispatch(label("apply"), (&MUON, "apply"), dims(), over_x, flops, &at)?;
        plan.loops(&[largest(|m| m.rows.min(m.columns)).div_ceil(DEPTH), DEPTH]);
    }
    let at = with(&["params", "segments", "packed", "step_losses"], &[("x", x[STEPS % 2])]);
    plan.dispatch("muon.update", (&MUON, "update"), dims(0), over_weights, 0, &at)
}
