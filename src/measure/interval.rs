//! Intervals of shares: how far the accuracy on a set of images may be from that on all such images.

/// The 0.975 quantile of the normal distribution: of an interval of 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// The 95 % interval of a share of which `right` of `images` were seen. Source: Wilson 1927, the score interval:
/// (p + z^2/2n ± z sqrt(p (1-p)/n + z^2/4n^2)) / (1 + z^2/n). Without images it is all from 0 to 1.
pub fn wilson(right: usize, images: usize) -> [f64; 2] {
    if images == 0 {
        return [0.0, 1.0];
    }
    let n = images as f64;
    let p = right as f64 / n;
    let zz = Z * Z / n;
    let half = Z * (p * (1.0 - p) / n + zz / (4.0 * n)).sqrt();
    let at = |end: f64| (((p + zz / 2.0) + end) / (1.0 + zz)).clamp(0.0, 1.0);
    [at(-half), at(half)]
}

/// By how much one share of right answers is above another on the same images, and its 95 % interval: `[difference,
/// low, high]`. `gained` images are right in the first only, `lost` in the second only. Source: Agresti 2013, section
/// 11.1.1: d = (gained - lost)/n, its standard error sqrt(gained + lost - (gained - lost)^2/n) / n.
pub fn paired_difference(gained: usize, lost: usize, images: usize) -> [f64; 3] {
    let (b, c, n) = (gained as f64, lost as f64, images as f64);
    let difference = (b - c) / n;
    let half = Z * (b + c - (b - c).powi(2) / n).sqrt() / n;
    [difference, difference - half, difference + half]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R: `prop.test(8, 10, correct = FALSE)$conf.int` is 0.4901625 0.9433178.
    #[test]
    fn intervals_are_those_of_others() {
        let [low, high] = wilson(8, 10);
        assert!((low - 0.490_162_5).abs() < 1e-7 && (high - 0.943_317_8).abs() < 1e-7, "{low} {high}");
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
        let [low, high] = [wilson(0, 20)[0], wilson(20, 20)[1]];
        assert_eq!((low, high), (0.0, 1.0));
    }

    /// Agresti's example, approval of a prime minister: of 1600 people 150 went one way and 86 the other; 0.04, from
    /// 0.021 to 0.059.
    #[test]
    fn paired_answers_differ_less_than_others() {
        let [difference, low, high] = paired_difference(150, 86, 1600).map(|value| (value * 1e3).round());
        assert_eq!([difference, low, high], [40.0, 21.0, 59.0]);
        assert_eq!(paired_difference(0, 0, 5), [0.0; 3]);
        // Where all five were gained, nothing is left to chance: 5 - 5^2 / 5 = 0.
        assert_eq!(paired_difference(5, 0, 5), [1.0; 3]);
    }
}
