//! What FXC chokes on. It is the old compiler of DirectX, which every Windows has, and which wgpu takes where it finds
//! no DXC. It keeps local arrays in registers: where one is written under an index that it does not know, it unrolls
//! the loops around, for minutes or until it gives up. Long texts take it minutes too.

use std::collections::BTreeSet;

use naga::back::hlsl::ShaderModel;
use naga::valid::Capabilities;

use smoothcnn::plan::shaders::{Binding, BindingKind, EntryPoint};

use crate::translate;

/// Lines of a pass, with every loop of a known number of turns written out. The longest has 1418; nobody here has FXC,
/// and what it would say of more is not known.
const MOST_LINES: usize = 1600;

/// Passes with a local array, or a local vector, under an index that is not a number: what the index is used on. None
/// is better; these are known, and a line that is no longer needed fails too.
const INDEXED: &[(&str, &str)] = &[
    // One of four random words, which is read once, and outside of every loop.
    ("dropout.drop", "_e22"),
];

/// Passes that are longer than [`MOST_LINES`].
const LONG: &[&str] = &[];

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_number(text: &str) -> bool {
    let digits =
        text.strip_prefix("int(").and_then(|text| text.strip_suffix(')')).unwrap_or(text).trim_end_matches('u');
    !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit())
}

/// What lies in the memory of the workgroup, which may be indexed.
fn shared(hlsl: &str) -> BTreeSet<&str> {
    let lines = hlsl.lines().filter(|line| line.starts_with("groupshared"));
    lines.filter_map(|line| line.split(['[', ';']).next()?.split_whitespace().last()).collect()
}

/// What is indexed by something that is no number, and is not shared.
fn indexed(hlsl: &str) -> BTreeSet<String> {
    let shared = shared(hlsl);
    let mut found = BTreeSet::new();
    for (at, _) in hlsl.match_indices('[') {
        let base = &hlsl[..at];
        let start = base.rfind(|c| !is_word(c) && c != '.').map_or(0, |end| end + 1);
        let name = &base[start..];
        let mut depth = 0;
        let end = hlsl[at..].find(|c| {
            depth += i32::from(c == '[') - i32::from(c == ']');
            depth == 0
        });
        let index = end.map_or("", |end| &hlsl[at + 1..at + end]);
        // An attribute has nothing before it.
        if !name.is_empty() && !is_number(index) && !shared.contains(name.split('.').next().unwrap_or(name)) {
            found.insert(name.to_owned());
        }
    }
    found
}

/// Lines of a text in which loops of a known number of turns are written out; their innermost loops first.
fn unrolled(hlsl: &str) -> usize {
    // Of each block that is open: lines, how often it is gone through, if it is a loop.
    let mut open: Vec<(usize, Option<usize>)> = vec![(0, None)];
    for line in hlsl.lines() {
        let line = line.trim();
        let closes = line.starts_with('}');
        if closes && open.len() > 1 {
            let (lines, turns) = open.pop().unwrap_or_default();
            if let Some(outer) = open.last_mut() {
                outer.0 += lines * turns.unwrap_or(1);
            }
        }
        if let Some(block) = open.last_mut() {
            block.0 += 1;
            // naga writes the end of `for (var i = 0u; i < 4u; i++)` as the first condition in its loop.
            if block.1 == Some(1)
                && let Some(turns) = bound(line)
            {
                block.1 = Some(turns);
            }
        }
        if line.ends_with('{') {
            open.push((0, line.starts_with("while(true)").then_some(1)));
        }
    }
    open.iter().map(|(lines, _)| lines).sum()
}

/// The number in `if ((i < 4u)) {`.
fn bound(line: &str) -> Option<usize> {
    let condition = line.strip_prefix("if ((")?.strip_suffix(")) {")?;
    let (_, bound) = condition.split_once(" < ")?;
    bound.trim_end_matches('u').parse().ok()
}

/// Catches a new local array under an index that is computed, and one that is no longer there but still listed.
#[test]
fn no_local_array_is_indexed_by_what_is_computed() {
    let mut found = BTreeSet::new();
    for pass in translate::all().iter().filter(|pass| !translate::needs_subgroups(pass.shader)) {
        let name = format!("{}.{}", pass.shader.name, pass.entry.name);
        found.extend(indexed(&pass.hlsl).into_iter().map(|what| (name.clone(), what)));
    }
    let found: Vec<_> = found.iter().map(|(pass, what)| (pass.as_str(), what.as_str())).collect();
    assert_eq!(found, INDEXED);
}

/// Catches a pass that FXC would compile for minutes, and a hint that it should unroll a loop.
#[test]
fn no_pass_is_long_once_its_loops_are_unrolled() {
    let (mut long, mut sizes) = (vec![], vec![]);
    for pass in translate::all().iter().filter(|pass| !translate::needs_subgroups(pass.shader)) {
        let name = format!("{}.{}", pass.shader.name, pass.entry.name);
        assert!(!pass.hlsl.contains("[unroll"), "{name}");
        let lines = unrolled(&pass.hlsl);
        sizes.push((lines, name.clone()));
        if lines > MOST_LINES {
            long.push(name);
        }
    }
    sizes.sort();
    for (lines, name) in sizes.iter().rev().take(10) {
        println!("{name}: {lines} lines");
    }
    assert_eq!(long, LONG);
}

/// The reader itself, on a shader that has all of it: else the tests above might see nothing.
#[test]
fn what_is_looked_for_is_found() {
    let source = "
        struct Pair { both: array<f32, 4>, other: f32 }
        var<workgroup> tile: array<f32, 64>;
        @group(0) @binding(0) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(64)
        fn main(@builtin(local_invocation_index) local: u32) {
            var sums: array<f32, 8>;
            var fixed: array<f32, 8>;
            var pair: Pair;
            var four: vec4f;
            for (var i = 0u; i < 8u; i++) {
                sums[i] += y[i];
                for (var j = 0u; j < 16u; j++) { pair.both[j & 3u] += y[i + j]; }
            }
            four[local & 3u] = 2.0;
            fixed[2] = 1.0;
            tile[local] = sums[3] + fixed[2] + pair.both[1] + four.x;
            y[local] = tile[63u - local];
        }";
    let (module, info) = translate::parse("a shader", source, Capabilities::empty());
    let entry = EntryPoint {
        name: "main".into(),
        workgroup_size: [64, 1, 1],
        workgroup_memory: 256,
        bindings: vec![Binding { name: "y".into(), number: 0, kind: BindingKind::Storage { writable: true } }],
    };
    let hlsl = translate::hlsl(&module, &info, &entry, ShaderModel::V5_1).unwrap();
    let found: Vec<_> = indexed(&hlsl).into_iter().collect();
    assert_eq!(found, ["four", "pair.both", "sums"], "{hlsl}");
    // The inner loop has at least three lines, and is gone through 8 * 16 times.
    let lines = unrolled(&hlsl);
    assert!(lines > 3 * 8 * 16 && lines < 40 * 8 * 16, "{lines} lines: {hlsl}");
}
