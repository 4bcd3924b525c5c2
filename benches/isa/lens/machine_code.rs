//! The instructions of each innermost loop, counted in the driver's disassembly.

use serde::{Deserialize, Serialize};

/// An innermost loop: how many of its instructions are of which kind.
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

/// The innermost loops of more than 20 instructions. A block begins with `BB7:`; a jump back to a block ends a loop.
pub fn innermost(assembly: &str) -> Vec<Loop> {
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
    let mut loops: Vec<[usize; 2]> = vec![];
    for (end, (_, instructions)) in blocks.iter().enumerate() {
        for line in instructions.iter().filter(|line| line.starts_with("s_cbranch") || line.starts_with("s_branch")) {
            let target = line.split("BB").nth(1).and_then(|rest| rest.trim().parse().ok()).and_then(place);
            loops.extend(target.filter(|&start| start <= end).map(|start| [start, end]));
        }
    }
    let holds = |outer: &[usize; 2], inner: &[usize; 2]| outer != inner && outer[0] <= inner[0] && inner[1] <= outer[1];
    let innermost = loops.iter().filter(|outer| !loops.iter().any(|inner| holds(outer, inner)));
    let counted = innermost.map(|&[start, end]| {
        let mut found = Loop { blocks: [blocks[start].0, blocks[end].0], ..Loop::default() };
        blocks[start..=end].iter().flat_map(|(_, lines)| lines).for_each(|line| found.count(line));
        found
    });
    counted.filter(|found| found.instructions > 20).collect()
}
