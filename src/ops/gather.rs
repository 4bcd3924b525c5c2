//! The next batch, gathered on the device from the data set's bytes, and normalised. A first layer whose kernel reads
//! the bytes itself ([`super::stage::Layout::Bytes`]) does without.
//!
//! ```text
//! x[n,c,h,w] = (byte / 255 - mean[c]) / std[c]   of image order[first + n]:   byte * scale[c] + offset[c]
//! targets[n] = labels[order[first + n]]
//! ```

use crate::Result;
use crate::ops::augment::{Augment, Border};
use crate::plan::shaders::GATHER;
use crate::plan::{Grid, Plan, Slice, uniform, word};

uniform! {
    /// `Gather` in `shaders/gather.wgsl`.
    struct Dims {
        channels: u32,
        plane: u32,
        width: u32,
        shift: u32,
        reflect: u32,
        flip: u32,
        cutout: u32,
        affine: u32,
        toned: u32,
        scale: i32,
        brightness: i32,
        contrast: i32,
    }
}

/// The buffers of a gather in a plan.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// The data set's bytes, `[images, channels, height, width]`.
    pub images: Slice,
    /// `[images]`.
    pub labels: Slice,
    /// Indices of the epoch's images, in order.
    pub order: Slice,
    /// Each channel's scale and offset: [`affine`].
    pub normalisation: Slice,
    /// The batch, `[n, channels, height, width]`.
    pub x: Slice,
    /// The batch's labels, `[n]`.
    pub targets: Slice,
}

/// Scale and offset of a channel from its mean and standard deviation, each rounded once.
pub fn affine([mean, std]: [f64; 2]) -> [f32; 2] {
    [(1.0 / (255.0 * std)) as f32, (-mean / std) as f32]
}

/// Records the labels alone of a batch of up to `n`, for a loss that does not look them up itself.
pub fn labels(plan: &mut Plan, name: &str, n: usize, labels: Slice, order: Slice, targets: Slice) -> Result<()> {
    plan.dispatch(
        format!("{name}.labels"),
        (&GATHER, "labels_only"),
        Dims::default(),
        Grid::Threads(n),
        0,
        &[("labels", labels), ("order", order), ("targets", targets)],
    )
}

/// Records a batch of up to `n` images of shape `image`, augmented so.
pub fn gather(plan: &mut Plan, name: &str, n: usize, image: [usize; 3], augment: &Augment, at: &Buffers) -> Result<()> {
    let [channels, h, w] = image;
    let table = augment.table();
    let dims = Dims {
        channels: word(channels),
        plane: word(h * w),
        width: word(w),
        shift: word(augment.shift),
        reflect: u32::from(augment.border == Border::Reflect),
        flip: augment.flip.into(),
        cutout: word(augment.cutout),
        affine: augment.is_affine().into(),
        toned: augment.is_toned().into(),
        scale: table.scale,
        brightness: table.brightness,
        contrast: table.contrast,
    };
    let mut bindings = vec![
        ("images", at.images),
        ("labels", at.labels),
        ("order", at.order),
        ("normalisation", at.normalisation),
        ("x", at.x),
        ("targets", at.targets),
    ];
    if !augment.is_none() {
        bindings.push(("turns", plan.constant(format!("{name}.turns"), &table.turns)?));
    }
    plan.dispatch(
        format!("{name}.gather"),
        (&GATHER, if augment.is_none() { "gather" } else { "gather_augmented" }),
        dims,
        Grid::Threads(n * channels * h * w),
        0,
        &bindings,
    )?;
    // The data set is bound whole, but only the batch's images are read: a byte in, four out, and three words an image.
    if let Some(dispatch) = plan.dispatches.last_mut() {
        dispatch.bytes = (n * (5 * channels * h * w + 12)) as u64;
    }
    Ok(())
}
