//! Muon: AdamW, but for the weights of hidden layers, whose momentum is made orthogonal before it is a step.
//!
//! ```text
//! m = b1 m + (1-b1) g;  u = (1-b1) g + b1 m;  X = u / max(norm(u), 1e-7)
//! five times:  G = X X^T;  X = a X + (b G + c G G) X        (a, b, c) = (3.4445, -4.775, 2.0315)
//! p = (1 - lr * wd) p - lr * 0.2 sqrt(max(rows, columns)) * X
//! ```
//!
//! A weight `[out, in, …]` is a matrix of `out` rows, and its transpose where it has more rows than columns. What is no
//! such weight (biases, norms, the last layer) is updated as by AdamW, with the same rate: a step has about the size of
//! Adam's. Sources: Jordan et al. 2024; Liu et al. 2025 (the size); `torch.optim.Muon` with
//! `adjust_lr_fn="match_rms_adamw"`, which computes X in bfloat16 where this has the precision of the parameters.

pub mod fast;
mod record;
pub mod reference;

pub(super) use record::record;

use super::adam::Adam;
use super::update::WeightMatrix;

/// Of the Newton-Schulz steps.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.775, 2.0315];
/// How many of them.
const STEPS: usize = 5;
/// The least norm that divides.
const LEAST_NORM: f64 = 1e-7;
/// The first beta, which is the momentum too.
pub const MOMENTUM: f64 = 0.95;

/// Its settings where nobody says.
pub fn settings() -> Adam {
    Adam { betas: [MOMENTUM, 0.999], ..Adam::default() }
}

/// By what the orthogonal matrix is multiplied beside the learning rate, so that its elements are as large as a step of
/// Adam's.
pub(crate) fn size(matrix: &WeightMatrix) -> f64 {
    0.2 * (matrix.rows.max(matrix.columns) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches products of the wrong side, and coefficients that do not bring singular values near 1.
    #[test]
    fn both_forms_make_a_matrix_orthogonal() {
        for [rows, columns] in [[1, 1], [1, 7], [7, 1], [4, 4], [5, 12], [12, 5], [24, 27]] {
            let at = |i: usize| ((i * 7919 + 13) % 1000) as f64 / 500.0 - 1.0;
            let start: Vec<f64> = (0..rows * columns).map(at).collect();
            let plain = reference::orthogonal(start.clone(), [rows, columns]);
            let fast = fast::orthogonal(start.clone(), [rows, columns]);
            for (plain, fast) in plain.iter().zip(&fast) {
                assert!((plain - fast).abs() < 1e-10, "{rows} x {columns}: {plain}, {fast}");
            }
            // The sum of squares is that of the singular values, each between 0.6 and 1.3 unless it is very small.
            let squares = plain.iter().map(|v| v * v).sum::<f64>() / rows.min(columns) as f64;
            assert!((0.3..1.7).contains(&squares), "{rows} x {columns}: {squares}");
            // A step along the gradient.
            assert!(plain.iter().zip(&start).map(|(x, g)| x * g).sum::<f64>() > 0.0);
        }
        assert_eq!(reference::orthogonal(vec![0.0; 6], [2, 3]), [0.0; 6]);
        assert_eq!(fast::orthogonal(vec![0.0f32; 6], [2, 3]), [0.0; 6]);
    }
}
