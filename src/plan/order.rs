//! What each dispatch waits for, and which can run side by side.
//!
//! A dispatch waits for an earlier one that writes what it reads or writes, or reads what it writes. The data asks for
//! that where the two use a common part of a buffer. wgpu looks at whole buffers: it also lets a dispatch wait for one
//! that uses another part of the same buffer. And what it puts between the two is a barrier, which divides all that was
//! recorded before from all that comes behind.

use std::ops::Range;

use super::shaders::BindingKind;
use super::{Dispatch, Slice};

/// That one dispatch waits for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The other, an index into the dispatches.
    pub on: usize,
    /// The buffers of which both use a common part.
    pub data: Vec<usize>,
    /// The buffers of which they use different parts, and which wgpu waits for all the same.
    pub whole: Vec<usize>,
}

/// What each of the dispatches waits for, the first one first. Those that an earlier wait brings about are named too.
pub fn waits(dispatches: &[Dispatch]) -> Vec<Vec<Wait>> {
    let of = |at: usize| (0..at).filter_map(move |on| wait(on, &dispatches[on], &dispatches[at])).collect();
    (0..dispatches.len()).map(of).collect()
}

fn wait(on: usize, before: &Dispatch, after: &Dispatch) -> Option<Wait> {
    let (mut data, mut whole) = (vec![], vec![]);
    for (a, a_writes) in uses(before) {
        for (b, b_writes) in uses(after) {
            if a.buffer != b.buffer || !(a_writes || b_writes) {
                continue;
            }
            let common = a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
            if common { data.push(a.buffer) } else { whole.push(a.buffer) }
        }
    }
    for list in [&mut data, &mut whole] {
        list.sort_unstable();
        list.dedup();
    }
    whole.retain(|buffer| !data.contains(buffer));
    (!data.is_empty() || !whole.is_empty()).then_some(Wait { on, data, whole })
}

/// The parts of buffers that a dispatch binds, and whether it may write to them.
fn uses(dispatch: &Dispatch) -> impl Iterator<Item = (&Slice, bool)> {
    let writable = |kind: &BindingKind| match kind {
        BindingKind::Storage { writable } => Some(*writable),
        BindingKind::Uniform { .. } => None,
    };
    dispatch.slices.iter().zip(dispatch.entry.bindings.iter().filter_map(move |binding| writable(&binding.kind)))
}

/// The dispatches that run side by side as they are recorded: a row of them, none of which waits for another.
pub fn waves(waits: &[Vec<Wait>]) -> Vec<Range<usize>> {
    let mut waves: Vec<Range<usize>> = vec![];
    for (at, waits) in waits.iter().enumerate() {
        match waves.last_mut() {
            Some(wave) if waits.iter().all(|wait| wait.on < wave.start) => wave.end = at + 1,
            _ => waves.push(at..at + 1),
        }
    }
    waves
}

/// In how many waves the dispatches would run in the best order, if nothing but data held them back: the longest chain
/// of dispatches that wait for each other.
pub fn least_waves(waits: &[Vec<Wait>]) -> usize {
    let mut chains: Vec<usize> = vec![];
    for waits in waits {
        let before = waits.iter().filter(|wait| !wait.data.is_empty()).map(|wait| chains[wait.on]);
        chains.push(before.max().unwrap_or(0) + 1);
    }
    chains.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::shaders::Shader;
    use crate::plan::{Grid, Plan, uniform};

    uniform! { struct NoDims {} }

    static COPY: Shader = Shader::new(
        "copy",
        &["@group(0) @binding(0) var<storage, read> x: array<u32>;
           @group(0) @binding(1) var<storage, read_write> y: array<u32>;
           @compute @workgroup_size(1) fn copy() { y[0] = x[0]; }"],
    );

    /// A plan of copies, each from one part to another.
    fn plan(copies: &[(Slice, Slice)]) -> Vec<Dispatch> {
        let mut plan = Plan::default();
        for (i, (x, y)) in copies.iter().enumerate() {
            let bindings = [("x", *x), ("y", *y)];
            plan.dispatch(format!("{i}"), (&COPY, "copy"), NoDims {}, Grid::Threads(1), 0, &bindings).unwrap();
        }
        plan.dispatches
    }

    /// Words of a buffer.
    fn part(buffer: usize, words: Range<u64>) -> Slice {
        Slice { buffer, offset: words.start * 4, bytes: (words.end - words.start) * 4 }
    }

    fn on(on: usize, data: &[usize], whole: &[usize]) -> Wait {
        Wait { on, data: data.into(), whole: whole.into() }
    }

    /// Catches a wait that is left out: reading before it is written, writing before it is read or written.
    #[test]
    fn each_kind_of_conflict_is_a_wait() {
        let [a, b, c] = [0, 1, 2].map(|buffer| part(buffer, 0..4));
        // b = a; c = b (read after write); b = a (write after read, and after write); c = a.
        let waits = waits(&plan(&[(a, b), (b, c), (a, b), (a, c)]));
        assert_eq!(waits[0], []);
        assert_eq!(waits[1], [on(0, &[1], &[])]);
        assert_eq!(waits[2], [on(0, &[1], &[]), on(1, &[1], &[])]);
        assert_eq!(waits[3], [on(1, &[2], &[])]);
        assert_eq!(waves(&waits), [0..1, 1..2, 2..4]);
        assert_eq!(least_waves(&waits), 3);
    }

    /// Catches two readers that wait for each other, and two parts of one buffer that count as the same data.
    #[test]
    fn readers_run_together_and_parts_of_one_buffer_wait_by_the_whole() {
        let [a, low, high] = [part(0, 0..4), part(1, 0..2), part(1, 2..4)];
        let [c, d] = [part(2, 0..4), part(3, 0..4)];
        let all = waits(&plan(&[(a, c), (a, d), (a, low), (a, high), (high, c)]));
        assert_eq!(all[..3], [vec![], vec![], vec![]]);
        assert_eq!(all[3], [on(2, &[], &[1])], "they touch, and have nothing in common");
        assert_eq!(all[4], [on(0, &[2], &[]), on(2, &[], &[1]), on(3, &[1], &[])]);
        assert_eq!(waves(&all), [0..3, 3..4, 4..5], "wgpu waits for the whole buffer");
        assert_eq!(least_waves(&all), 2, "by the data, the first four run together");
        assert_eq!((waves(&[]), least_waves(&[])), (vec![], 0));
    }
}
