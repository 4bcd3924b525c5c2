//! The gradient of all parameters, made shorter where it is too long: `torch.nn.utils.clip_grad_norm_`.
//!
//! ```text
//! norm = sqrt(sum of g^2);  g *= min(1, most / (norm + 1e-6))
//! ```
//!
//! Source: Pascanu et al. 2013. On a device it stands between the backward passes and the optimizer: the norm is that
//! of the whole gradient, so what comes in parts is added first.

pub mod fast;
pub mod reference;

use crate::Result;
use crate::ops::WORKGROUP;
use crate::ops::stage::Segment;
use crate::plan::shaders::CLIP;
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// PyTorch's, so that a norm of 0 divides nothing.
const LITTLE: f64 = 1e-6;
/// Workgroups of either pass, at most.
const GROUPS: usize = 256;

uniform! {
    /// `Clip` in `shaders/clip.wgsl`.
    struct Dims {
        len: u32,
        segments: u32,
        parted: u32,
        groups: u32,
        most: f32,
    }
}

/// What a gradient of this norm is multiplied by.
fn factor(most: f64, norm: f64) -> f64 {
    (most / (norm + LITTLE)).min(1.0)
}

/// Where it is in a plan.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// The gradient, and behind it the parts of the segments' gradients.
    pub grads: Slice,
    /// The norm of each step of a submission, before it was clipped.
    pub step_norms: Slice,
}

/// Records both passes over all `len` parameters. The segments' gradients are whole after it: gives the segments as the
/// optimizer is to read them.
///
/// # Errors
/// As [`Plan::dispatch`] and [`Plan::buffer`].
pub fn record(plan: &mut Plan, most: f64, len: usize, segments: &[Segment], at: &Buffers) -> Result<Vec<Segment>> {
    assert!(len.is_multiple_of(4), "a thread owns four parameters at a time");
    let groups = (len / 4).div_ceil(WORKGROUP).clamp(1, GROUPS);
    let parted = segments.iter().map(|segment| segment.first + segment.len).max().unwrap_or(0);
    let (dims_len, count) = (word(len), word(segments.len()));
    let dims = Dims { len: dims_len, segments: count, parted, groups: word(groups), most: most as f32 };
    let of_parts = match segments {
        // A binding holds at least one.
        [] => plan.constant("clip.segments", &[Segment::default()])?,
        some => plan.constant("clip.segments", some)?,
    };
    let squares = plan.buffer("clip.squares", groups)?;
    let grid = Grid::Workgroups(groups);
    let bindings = [("grads", at.grads), ("segments", of_parts), ("squares", squares)];
    plan.dispatch("clip.square", (&CLIP, "square"), dims, grid, 0, &bindings)?;
    let bindings = [("grads", at.grads), ("squares", squares), ("step_norms", at.step_norms)];
    plan.dispatch("clip.scale", (&CLIP, "scale"), dims, grid, 0, &bindings)?;
    Ok(segments.iter().map(|segment| segment.whole()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a sum that depends on the number of threads, a part that is left out, and a short gradient that changes.
    #[test]
    fn both_forms_clip_alike() {
        for len in [1, 7, 16_384, 50_001] {
            let grads: Vec<f64> = (0..len).map(|i| ((i * 37 % 101) as f64 - 50.0) / 50.0).collect();
            let expected = grads.iter().map(|g| g * g).sum::<f64>().sqrt();
            for most in [1e9, expected, 0.5, 1e-3] {
                let [mut plain, mut fast] = [grads.clone(), grads.clone()];
                let norms = [reference::clip(&mut plain, most), fast::clip(&mut fast, most)];
                for norm in norms {
                    assert!((norm - expected).abs() <= 1e-12 * expected, "{len}: {norm}, {expected}");
                }
                for (plain, fast) in plain.iter().zip(&fast) {
                    assert!((plain - fast).abs() <= 1e-12 * plain.abs(), "{len}, {most}");
                }
                let after = plain.iter().map(|g| g * g).sum::<f64>().sqrt();
                assert!(after <= most * (1.0 + 1e-12), "{len}: {after}, {most}");
                assert_eq!(plain == grads, most > expected + LITTLE, "{len}, {most}");
            }
        }
        let mut none = [0.0; 3];
        assert_eq!((reference::clip(&mut none, 1.0), fast::clip(&mut none, 1.0), none), (0.0, 0.0, [0.0; 3]));
        // What is no number stays none, so that the step says so.
        let mut broken = [f32::NAN, 1.0];
        assert!(fast::clip(&mut broken, 1.0).is_nan() && broken[0].is_nan());
    }
}
