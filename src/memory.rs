//! How much memory the machine has left: for whoever is to refuse in a line what does not fit.

/// Addresses that glibc reserves for the allocations of a thread, which may be after they are asked about here.
const ARENA: u64 = 64 << 20;

/// How much memory this process can still get, as far as the system says: of the machine, of its control group and of
/// its limit on addresses, the least. `None` on systems without `/proc`.
pub fn available() -> Option<u64> {
    let of_machine = field("/proc/meminfo", "MemAvailable:").map(|kibibytes| kibibytes << 10);
    // The C library's allocator takes more addresses than it hands out.
    let arenas = ARENA * rayon::current_num_threads().clamp(2, 64) as u64;
    let of_process = addresses().map(|left| left.saturating_sub(arenas));
    // A container sees its own group here. What it holds of files can be taken back.
    let of_group = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current"));
    let of_group = of_group.map(|(limit, used)| {
        let files =
            ["inactive_file ", "active_file "].map(|name| field("/sys/fs/cgroup/memory.stat", name).unwrap_or(0));
        limit.saturating_sub(used.saturating_sub(files.iter().sum()))
    });
    [of_machine, of_process, of_group].into_iter().flatten().min()
}

/// How many bytes of addresses this process may still take, where they are limited (`ulimit -v`).
pub fn addresses() -> Option<u64> {
    let limit = field("/proc/self/limits", "Max address space")?;
    Some(limit.saturating_sub(field("/proc/self/status", "VmSize:")? << 10))
}

/// The first number behind `name`, which begins a line.
fn field(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A number of bytes for people: `12.3 MiB`.
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}
