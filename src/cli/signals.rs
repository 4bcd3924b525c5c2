//! Signals that ask the program to end: Ctrl-C, SIGTERM (schedulers, `kill`) and SIGHUP (a terminal that goes away).
//!
//! While a training or a sweep has something to bring to an end ([`ending_well`]), the first one is noted
//! ([`received`]), and the second one ends the program at once. At all other times the first one does.

use std::io::Read;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Set for a process whose parent holds the other end of its standard input: when the parent ends, it ends too.
pub const ENDS_WITH_STDIN: &str = "SMOOTHCNN_ENDS_WITH_STDIN";
/// How long such a process may take to end well.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(not(unix))]
const SIGINT: u8 = 2;
const SIGTERM: u8 = 15;

struct State {
    /// The first signal, 0 before it.
    signal: Arc<AtomicUsize>,
    /// Whether the next one ends the program at once.
    at_once: Arc<AtomicBool>,
}

fn state() -> &'static State {
    static STATE: OnceLock<State> = OnceLock::new();
    STATE.get_or_init(|| State { signal: Arc::default(), at_once: Arc::new(AtomicBool::new(true)) })
}

/// The signal that asked for the end, if one did.
pub fn received() -> Option<u8> {
    match state().signal.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(signal as u8),
    }
}

/// As long as this lives, the first signal is only noted.
pub struct EndingWell(());

/// From here on the first signal is only noted: whoever calls this asks [`received`] again and again.
pub fn ending_well() -> EndingWell {
    state().at_once.store(received().is_some(), Ordering::SeqCst);
    EndingWell(())
}

impl Drop for EndingWell {
    fn drop(&mut self) {
        state().at_once.store(true, Ordering::SeqCst);
    }
}

/// Watches for signals. To be called once, at the start.
pub fn watch() -> std::io::Result<()> {
    handle()?;
    if std::env::var_os(ENDS_WITH_STDIN).is_some() {
        std::thread::Builder::new().spawn(|| {
            let mut nothing = [0; 64];
            // Nobody writes: it ends when the parent does, however that ends.
            while std::io::stdin().read(&mut nothing).is_ok_and(|n| n > 0) {}
            ask(SIGTERM);
            std::thread::sleep(PATIENCE);
            std::process::exit(i32::from(128 + SIGTERM));
        })?;
    }
    Ok(())
}

/// What a signal does where the system tells the program of it in a thread.
fn ask(signal: u8) {
    let State { signal: noted, at_once } = state();
    if noted.load(Ordering::SeqCst) != 0 {
        return;
    }
    if at_once.swap(true, Ordering::SeqCst) {
        std::process::exit(i32::from(128 + signal));
    }
    noted.store(signal.into(), Ordering::SeqCst);
}

#[cfg(unix)]
fn handle() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::flag;
    let State { signal, at_once } = state();
    for number in [SIGINT, SIGTERM, SIGHUP] {
        if is_ignored(number) {
            continue;
        }
        // They run in this order: the end, if it is to be at once; else it is noted, and the next one is the end.
        flag::register_conditional_shutdown(number, 128 + number, at_once.clone())?;
        flag::register_usize(number, signal.clone(), number as usize)?;
        flag::register(number, at_once.clone())?;
    }
    Ok(())
}

/// Whether the program was started with this signal ignored, as `nohup` does with SIGHUP, and a shell with SIGINT for
/// what it runs in the background. That stays so. Where the system does not say, SIGHUP is left to it.
#[cfg(unix)]
fn is_ignored(number: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    match mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) {
        Some(mask) => mask >> (number - 1) & 1 == 1,
        None => number == signal_hook::consts::SIGHUP,
    }
}

#[cfg(not(unix))]
fn handle() -> std::io::Result<()> {
    ctrlc::set_handler(|| {
        if received().is_some() {
            std::process::exit(i32::from(128 + SIGINT));
        }
        ask(SIGINT);
    })
    .map_err(std::io::Error::other)
}
