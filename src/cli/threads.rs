//! The threads of the CPU path, started here so that what goes wrong with them is said in a line.

use smoothcnn::{Error, Result, memory};

/// rayon's own variable.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// More than the cores of any machine.
const MOST: usize = 1024;

/// What a thread takes of the addresses: its stack of 2 MiB, and as much again for what it needs beside that.
const STACK: u64 = 4 << 20;

/// What glibc takes of them for the allocations of a thread; for at most 8 threads a core.
const ARENA: u64 = 64 << 20;

/// Starts as many as the variable says; without it, or with 0, one for each core.
pub fn start() -> Result<()> {
    let count = match std::env::var_os(VARIABLE) {
        None => 0,
        Some(text) => {
            let wrong = || {
                let expected = format!("a whole number from 0, one for each core, to {MOST}");
                Error::Usage(format!("{VARIABLE}: found {text:?}, expected {expected}"))
            };
            text.to_str().and_then(|text| text.parse().ok()).filter(|count| *count <= MOST).ok_or_else(wrong)?
        }
    };
    // A thread that starts where there is no room is ended by the C library, and the program with it.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if count > 0 { count } else { cores };
    let needed = threads as u64 * STACK + threads.min(8 * cores) as u64 * ARENA;
    if let Some(room) = memory::addresses().filter(|room| needed > *room) {
        let found = format!("{threads} threads and {} of addresses for them", memory::bytes(room));
        return Err(Error::OverLimit(format!(
            "threads: found {found}, expected fewer: {VARIABLE}=1 starts the fewest"
        )));
    }
    rayon::ThreadPoolBuilder::new().num_threads(count).build_global().map_err(|error| {
        let found = error.to_string();
        Error::OverLimit(format!("threads: found {found}, expected room for them: {VARIABLE}=1 starts the fewest"))
    })
}
