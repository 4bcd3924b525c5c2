//! Storage in halves as kernels store them ([`Storage::F16`]), on the host.

use crate::plan::Storage;
use crate::train::checkpoint::f16_to_f64;

/// Every storage, with those that a check starts from first.
pub(super) const ALL: [Storage; 2] = [Storage::F32, Storage::F16];

/// The values nearest to these that a half holds, if they are at most 4 in size: whole multiples of 2^-8.
pub(super) fn exact(stored: Storage, values: Vec<f32>) -> Vec<f32> {
    match stored {
        Storage::F32 => values,
        Storage::F16 => values.iter().map(|v| (v * 256.0).round() / 256.0).collect(),
    }
}

/// The words that hold these values, which are exact.
pub(super) fn words(stored: Storage, values: &[f32]) -> Vec<u32> {
    match stored {
        Storage::F32 => values.iter().map(|v| v.to_bits()).collect(),
        Storage::F16 => {
            values.chunks(2).map(|pair| pair.iter().rev().fold(0, |word, &v| word << 16 | half(v))).collect()
        }
    }
}

/// The values in these words.
pub(super) fn values(words: &[u32]) -> Vec<f32> {
    let halves = words.iter().flat_map(|&word| [word as u16, (word >> 16) as u16]);
    halves.map(|bits| f16_to_f64(bits) as f32).collect()
}

/// The bits of a number that is 0 or that a normal half holds, or of a NaN.
fn half(v: f32) -> u32 {
    if v.is_nan() {
        return v.to_bits() >> 16 & 0x8000 | 0x7e00;
    }
    let bits = v.to_bits();
    let exponent = (bits >> 23 & 0xff).saturating_sub(127 - 15);
    let half = if v == 0.0 { bits >> 16 } else { bits >> 16 & 0x8000 | exponent << 10 | bits >> 13 & 0x3ff };
    assert_eq!(f16_to_f64(half as u16), f64::from(v), "no half holds it");
    half
}

/// How far from `want` a half may be that holds a number within `tolerance` of it. WGSL leaves open in which direction
/// a conversion rounds, so the error is up to the spacing of halves, 2^-10 of the number; and whether numbers below
/// 2^-14 are 0. What a half holds stays what it is.
pub(super) fn tolerance(want: f64, tolerance: f64) -> f64 {
    let spacing = 2f64.powi(want.abs().max(2f64.powi(-14)).log2().floor() as i32 - 10);
    if tolerance == 0.0 && want % spacing == 0.0 {
        return 0.0;
    }
    tolerance + (2f64.powi(-10) * (want.abs() + tolerance)).max(2f64.powi(-14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_half_holds_comes_back() {
        let held = [0.0, -0.0, 1.0, -2.5, 65504.0, 2f32.powi(-14), 1.0 + 2f32.powi(-10), -255.0 / 256.0];
        let packed = words(Storage::F16, &held);
        assert_eq!(packed.len(), 4);
        assert_eq!(values(&packed), held);
        assert_eq!(packed[1], 0xc100_3c00, "the first of a pair is below");
    }

    /// Catches a number that is taken for one that a half holds: between two of them, above the largest, below the
    /// normal ones.
    #[test]
    fn what_no_half_holds_is_refused() {
        for v in [1.0 + 2f32.powi(-11), 65505.0, 65520.0, 65536.0, f32::INFINITY, 2f32.powi(-15)] {
            assert!(std::panic::catch_unwind(|| half(v)).is_err(), "{v}");
        }
        assert_eq!([0x7bff, 0x7c00, 0x0400].map(f16_to_f64), [65504.0, f64::INFINITY, 2f64.powi(-14)]);
        // Halves are 32 apart there.
        assert_eq!(tolerance(65520.0, 0.0), 65520.0 / 1024.0);
        assert_eq!(tolerance(65504.0, 0.0), 0.0);
    }

    /// Catches a tolerance that a missing rounding or one bit less would pass.
    #[test]
    fn the_tolerance_is_one_spacing_and_none_where_nothing_is_rounded() {
        assert_eq!(tolerance(2048.0, 0.0), 0.0);
        assert_eq!(tolerance(-0.75, 0.0), 0.0);
        assert_eq!(tolerance(2049.0, 0.0), 2049.0 / 1024.0);
        assert_eq!(tolerance(1e-6, 0.0), 2f64.powi(-14));
        assert!(tolerance(1.0, 0.25) > 0.251 && tolerance(1.0, 0.25) < 0.252);
    }
}
