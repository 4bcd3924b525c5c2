//! Clocks, and which of them can be believed. Some devices' timestamps are all zero (macOS 26), or of another clock
//! than they say.

use std::time::Duration;

/// Whose clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// The device's: the kernel alone.
    #[default]
    Device,
    /// The host's: the kernel with its submission.
    Host,
}

/// How long each of some dispatches took.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// Seconds.
    pub seconds: Vec<f64>,
    /// By which clock.
    pub clock: Clock,
}

/// No device does so many floating-point operations a second.
const IMPOSSIBLE: f64 = 1e16;

/// Seconds between pairs of timestamps, `period` nanoseconds a tick; `None` if they cannot be right: time that stands
/// still or runs backwards, more of it than went by on the host (`wall`, from before the first to after the last), or
/// less than `flops` operations take anywhere.
pub fn seconds(ticks: &[u64], period: f64, wall: Duration, flops: u64) -> Option<Vec<f64>> {
    let (pairs, rest) = ticks.as_chunks::<2>();
    let in_order = rest.is_empty() && pairs.iter().all(|[begin, end]| begin <= end);
    let (first, last) = (pairs.iter().map(|pair| pair[0]).min()?, pairs.iter().map(|pair| pair[1]).max()?);
    let seconds = |ticks: u64| ticks as f64 * period * 1e-9;
    let whole = seconds(last.checked_sub(first)?);
    // The two clocks need not agree to the last percent.
    let possible = whole > 0.0 && whole <= wall.as_secs_f64() * 1.25 + 1e-3 && flops as f64 <= whole * IMPOSSIBLE;
    (in_order && possible).then(|| pairs.iter().map(|[begin, end]| seconds(end - begin)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_stands_still_or_cannot_be_is_no_time() {
        let wall = Duration::from_millis(10);
        let of = |ticks: &[u64], period| seconds(ticks, period, wall, 1_000_000);
        assert_eq!(of(&[1000, 2000, 2000, 2500], 1000.0), Some(vec![1e-3, 5e-4]));
        assert_eq!(of(&[1000, 1000, 1000, 2500], 1000.0).unwrap()[0], 0.0, "shorter than a tick");
        for (ticks, period, why) in [
            (&[0, 0, 0, 0][..], 1.0, "all zero"),
            (&[7, 7, 7, 7], 1.0, "standing still"),
            (&[2000, 1000, 2000, 2500], 1000.0, "running backwards"),
            (&[u64::MAX, 0, 2000, 2500], 1000.0, "not written"),
            (&[0, 1 << 60, 1 << 60, 1 << 61], 1.0, "years"),
            (&[0, 20_000, 20_000, 40_000], 1000.0, "40 ms out of 10"),
            (&[1000, 2000, 2000, 2500], 0.0, "no period"),
            (&[1000, 2000, 2000, 2500], f64::NAN, "no period"),
            (&[1000, 1000, 1000, 1001], 1e-4, "faster than anything"),
            (&[1000, 2000, 2000], 1000.0, "half a pair"),
            (&[], 1.0, "none"),
        ] {
            assert_eq!(of(ticks, period), None, "{why}");
        }
    }
}
