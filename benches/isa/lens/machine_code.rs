//! The instructions of each loop, counted in the driver's disassembly.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A loop without the loops in it: how many of its instructions are of which kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loop {
    /// The first and the last block.
    pub blocks: [usize; 2],
    /// All instructions.
    pub instructions: u64,
    /// Multiply-adds in floating point. An instruction that does two counts twice.
    pub multiply_adds: u64,
    /// Instructions of the vector unit, the multiply-adds among them.
    pub vector: u64,
    /// Of the scalar unit: addresses, conditions and jumps that all threads share.
    pub scalar: u64,
    /// Loads and stores of workgroup memory.
    pub shared: u64,
    /// Of buffers.
    pub memory: u64,
    /// Of spilled registers.
    pub scratch: u64,
    /// Waits and barriers.
    pub waits: u64,
    /// Of integers, by what is not a constant: each is a row of instructions, of which one is counted.
    pub divisions: u64,
}

impl Loop {
    /// Multiply-adds of all instructions.
    pub fn share(&self) -> f64 {
        self.multiply_adds as f64 / self.instructions as f64
    }

    fn count(&mut self, line: &str) {
        self.instructions += 1;
        let mut products = 0;
        // The two halves of a dual instruction.
        for part in line.split("::") {
            let name = part.trim().trim_start_matches("v_dual_").trim_start_matches("v_pk_").trim_start_matches("v_");
            products += u64::from(["fma", "mac_f", "mad_f"].iter().any(|start| name.starts_with(start)));
        }
        let name = line.split_whitespace().next().unwrap_or_default();
        // A constant is multiplied by, and nothing is corrected; the rest begins with a guess by floats.
        self.divisions += u64::from(name.starts_with("v_cvt_u32_f32"));
        match name {
            _ if name.starts_with("v_") => {
                self.vector += 1;
                self.multiply_adds += products;
            }
            _ if name.starts_with("ds_") => self.shared += 1,
            _ if name.starts_with("scratch_") => self.scratch += 1,
            _ if ["buffer_", "global_", "flat_"].iter().any(|start| name.starts_with(start)) => self.memory += 1,
            "s_barrier" | "s_delay_alu" | "s_nop" => self.waits += 1,
            _ if name.starts_with("s_waitcnt") => self.waits += 1,
            _ => self.scalar += 1,
        }
    }
}

/// The loops with more than 20 instructions of their own. A block begins with `BB7:`; a jump back to a block ends a
/// loop.
pub fn loops(assembly: &str) -> Vec<Loop> {
    let mut blocks: Vec<(usize, Vec<&str>)> = vec![];
    for line in assembly.lines() {
        let line = line.split(';').next().unwrap_or_default().trim();
        if let Some(number) = line.strip_prefix("BB").and_then(|rest| rest.strip_suffix(':')?.parse().ok()) {
            blocks.push((number, vec![]));
        } else if line.starts_with(|c: char| c.is_ascii_lowercase())
            && let Some((_, instructions)) = blocks.last_mut()
        {
            instructions.push(line);
        }
    }
    let place = |number: usize| blocks.iter().position(|(block, _)| *block == number);
    // The first block of each, and its last: one that goes on in two places is one loop.
    let mut ends: BTreeMap<usize, usize> = BTreeMap::new();
    for (end, (_, instructions)) in blocks.iter().enumerate() {
        for line in instructions.iter().filter(|line| line.starts_with("s_cbranch") || line.starts_with("s_branch")) {
            let target = line.split("BB").nth(1).and_then(|rest| rest.trim().parse().ok()).and_then(place);
            if let Some(start) = target.filter(|&start| start <= end) {
                ends.insert(start, end);
            }
        }
    }
    let counted = ends.iter().map(|(&start, &end)| {
        let mut found = Loop { blocks: [blocks[start].0, blocks[end].0], ..Loop::default() };
        // What lies in a loop that begins later is that one's.
        let inner = |block: usize| ends.iter().any(|(&first, &last)| first > start && first <= block && block <= last);
        let own = (start..=end).filter(|&block| !inner(block));
        own.flat_map(|block| &blocks[block].1).for_each(|line| found.count(line));
        found
    });
    counted.filter(|found| found.instructions > 20).collect()
}

/// Catches instructions that are counted as something else, and a loop that is counted with the one in it.
#[test]
fn loops_are_counted_apart() {
    let body =
        "\tv_fmac_f32_e32 v1, v2, v3 ; 0203\n\tv_dual_fmac_f32 v1, v2, v3 :: v_dual_add_f32 v4, v5, v6\n".repeat(8);
    let code = format!(
        "BB0:\n\ts_mov_b32 s0, 0\nBB1:\n{body}{body}\tds_load_b128 v[0:3], v9\nBB2:\n\tv_add_nc_u32_e32 v1, 1, v1\n{body}{}\
         \tv_cvt_u32_f32_e32 v1, v2\n\tscratch_load_b32 v1, off\n\ts_waitcnt vmcnt(0)\n\ts_cbranch_scc1 BB2\nBB3:\n\tv_pk_fma_f16 v1, v2, v3, v4\n\
         \tbuffer_load_b32 v1, v2, s[0:3], 0 offen\n\ts_branch BB1\nBB4:\n\ts_endpgm\n",
        "\tv_mul_f32 v1, v2, v3\n".repeat(4)
    );
    let inner = Loop {
        blocks: [2, 2],
        instructions: 25,
        multiply_adds: 16,
        vector: 22,
        divisions: 1,
        scalar: 1,
        scratch: 1,
        waits: 1,
        ..Loop::default()
    };
    let outer = Loop {
        blocks: [1, 3],
        instructions: 36,
        multiply_adds: 33,
        vector: 33,
        scalar: 1,
        shared: 1,
        memory: 1,
        ..Loop::default()
    };
    assert_eq!(loops(&code), [outer, inner]);
}
