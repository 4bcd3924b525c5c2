//! What a compiler for hardware says of the kernels, without the hardware: Mesa's RADV compiles for a named family of
//! AMD GPUs where there is no card. The bench `isa` prints it, the test `isa` holds limits.
//!
//! It is a lens and no clock. It sees registers, spills, code, how many waves fit, and the instructions of each loop.
//! It does not see memory, caches, clocks, or the compilers of others.

mod driver;
mod machine_code;
pub mod work;

pub use machine_code::Loop;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The families that are looked at: RDNA 2 (RX 6800), RDNA 3 (RX 7900).
pub const FAMILIES: [&str; 2] = ["NAVI21", "GFX1100"];

/// What a family's compiler made of every pass.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compiled {
    /// The family.
    pub family: String,
    /// The driver and its version: what it makes of a kernel changes from one to the next.
    pub driver: String,
    /// Each pass's code.
    pub passes: Vec<Code>,
}

/// One pass as machine code.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Code {
    /// The shader's name and the entry point's.
    pub pass: (String, String),
    /// Vector registers of a thread.
    pub registers: u64,
    /// Of them, those that did not fit and lie in memory.
    pub spilled: u64,
    /// Bytes that a workgroup's threads share.
    pub workgroup_memory: u64,
    /// Bytes of instructions.
    pub bytes: u64,
    /// Waves that a SIMD holds at once.
    pub waves: u64,
    /// Threads of a wave.
    pub wave: u64,
    /// The loops with products or with much else in them.
    pub loops: Vec<Loop>,
}

impl Compiled {
    /// A pass's code.
    pub fn code(&self, shader: &str, entry: &str) -> Option<&Code> {
        self.passes.iter().find(|code| code.pass.0 == shader && code.pass.1 == entry)
    }
}

impl Code {
    /// The loop in which most of the products are.
    pub fn hot(&self) -> Option<&Loop> {
        self.loops.iter().filter(|found| found.multiply_adds > 0).max_by_key(|found| found.multiply_adds)
    }
}

/// RADV's file for the Vulkan loader.
pub fn radv() -> Option<PathBuf> {
    let folders = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let files = folders.iter().flat_map(std::fs::read_dir).flatten().flatten().map(|entry| entry.path());
    files.into_iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("radeon_icd")))
}

/// The variable that tells a process to compile and to print, and whose value is where to leave machine code, if
/// anywhere.
const CHILD: &str = "SMOOTHCNN_ISA_CHILD";

/// What the line begins with on which a child prints what it found.
const MARK: &str = "isa: ";

/// Compiles every pass for `family`. The driver reads the family from the environment, so another process of this
/// program does it: one that is run with `args` and comes to [`child`]. Machine code is left in `dump`.
pub fn compile(family: &str, args: &[&str], dump: Option<&Path>) -> Result<Compiled, String> {
    let driver = radv().ok_or("Mesa's driver for AMD is not here (Debian: mesa-vulkan-drivers)")?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(args)
        .env("RADV_FORCE_FAMILY", family)
        .envs([("VK_DRIVER_FILES", &driver), ("VK_ICD_FILENAMES", &driver)])
        .env(CHILD, dump.unwrap_or(Path::new("")))
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split_once(MARK)).map(|(_, line)| line);
    let line = line.ok_or_else(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
    serde_json::from_str::<Result<Compiled, String>>(line).map_err(|error| error.to_string())?
}

/// Does the work of a child of [`compile`], if this process is one, and prints it.
pub fn child() -> bool {
    let Some(dump) = std::env::var_os(CHILD) else { return false };
    let dump = PathBuf::from(dump);
    let found = driver::compile((!dump.as_os_str().is_empty()).then_some(&*dump));
    println!("\n{MARK}{}", serde_json::to_string(&found).expect("numbers and names"));
    true
}
