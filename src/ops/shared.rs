//! What the operations have in common: how one is listed, and what several of them use.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::layer::{Layer, Misfit, Shape};
use crate::plan::Slice;
use crate::plan::shaders::Shader;
use crate::rng::Philox;

/// A layer in the registry: all that check, tests, benches and tables need to know of it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The stem of its folder, its shader and its recorded values.
    pub name: &'static str,
    /// What it is, in a line.
    pub summary: &'static str,
    /// What it runs on, on a GPU.
    pub shaders: &'static [&'static Shader],
    /// Makes it of the settings in a file.
    pub read: Read,
    /// The shapes that it is tested on.
    pub cases: fn() -> Vec<Case>,
    /// Random settings for this input, if any fit.
    pub draw: fn(&mut Philox, Shape) -> Option<Layer>,
    /// A case of `tests/golden/<name>.safetensors`, by its numbers; absent where PyTorch has nothing to say.
    pub golden: Option<Golden>,
}

/// Makes a layer of its settings, and of what is around it in its file.
pub type Read = fn(Value, Around) -> serde_json::Result<Layer>;

/// What is around a layer in the file of a network.
#[derive(Clone, Debug)]
pub struct Around {
    /// The layers of its branch, if it is a residual block.
    pub branch: Vec<Layer>,
    /// Those of its shortcut.
    pub shortcut: Vec<Layer>,
    /// How many classes the network tells apart.
    pub classes: usize,
}

/// A pooling without padding in a file: its window, and its stride, which is the window's size where it is left out, as
/// in PyTorch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pooling {
    #[serde(deserialize_with = "pair")]
    pub kernel: [usize; 2],
    pub stride: Option<Stride>,
}

#[derive(Deserialize)]
pub(crate) struct Stride(#[serde(deserialize_with = "pair")] pub [usize; 2]);

/// A layer without settings.
pub(crate) fn plain(settings: Value, layer: Layer) -> serde_json::Result<Layer> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoSettings {}
    NoSettings::deserialize(settings).map(|NoSettings {}| layer)
}

/// Height and width: one number for both, or a pair.
pub(crate) fn pair<'de, D: Deserializer<'de>>(from: D) -> Result<[usize; 2], D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a whole number, or two: [height, width]")]
    enum Size {
        Both(usize),
        Each([usize; 2]),
    }
    Size::deserialize(from).map(|size| match size {
        Size::Both(size) => [size; 2],
        Size::Each(sizes) => sizes,
    })
}

/// Makes a case from recorded numbers, which it asks for by name.
pub type Golden = fn(&dyn Fn(&str) -> f64) -> Case;

/// A layer on a batch of images.
#[derive(Clone, Debug)]
pub struct Case {
    /// Images.
    pub n: usize,
    /// An image's shape.
    pub input: Shape,
    /// The layer.
    pub layer: Layer,
}

/// The target that stands for an ignored sample, on the device, in the oracle and in a data set: no class.
pub const IGNORED: u32 = u32::MAX;

/// Threads of a workgroup, as `WORKGROUP` in `shaders/common/dispatch.wgsl`.
pub(crate) const WORKGROUP: usize = 64;

/// A task of an operation that is done element by element has at least so many: fewer are not worth a thread.
pub(crate) const ELEMENTS: usize = 1 << 12;

/// The buffers of a layer with a weight and a bias in a plan.
#[derive(Clone, Copy, Debug)]
pub struct AffineBuffers {
    /// Input, `[n, …]`.
    pub x: Slice,
    /// Weight: OIHW, or `[outputs, inputs]`.
    pub w: Slice,
    /// Bias, one for each output channel or feature.
    pub b: Slice,
    /// Output, `[n, …]`.
    pub y: Slice,
    /// Gradient of the weight.
    pub dw: Slice,
    /// Gradient of the bias.
    pub db: Slice,
}

/// The largest stride, dilation and padding: shaders count in 32 bits.
pub(crate) const MOST_STEP: usize = 1 << 31;

/// PyTorch's floor rule for a window over one axis: `floor((size + 2 padding - kernel) / stride) + 1`, or `None` where
/// the window does not fit once.
pub(crate) fn windows(size: usize, kernel: usize, stride: usize, padding: usize) -> Option<usize> {
    (kernel > 0 && stride > 0 && size > 0 && stride.max(padding) <= MOST_STEP)
        .then(|| (size + 2 * padding).checked_sub(kernel).map(|room| room / stride + 1))?
}

/// Height and width of what a pooling makes of an image.
pub(crate) fn pooled(
    [channels, h, w]: [usize; 3],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> Result<[usize; 2], Misfit> {
    match (windows(h, kernel[0], stride[0], padding[0]), windows(w, kernel[1], stride[1], padding[1])) {
        (Some(rows), Some(columns)) => Ok([rows, columns]),
        _ => Err(Misfit {
            got: format!("a {channels}x{h}x{w} input, stride {stride:?}, padding {padding:?}"),
            needs: format!(
                "strides from 1 to 2^31 and a padded image of at least the window's {}x{}",
                kernel[0], kernel[1]
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Layer, Shape};
    use crate::ops::conv2d;

    /// Catches a step that fits because there is one window only, and then ends the program where it is written down.
    #[test]
    fn a_step_that_no_shader_counts_is_refused() {
        let huge = 1 << 40;
        assert_eq!([windows(4, 2, huge, 0), windows(4, 2, 1, huge)], [None, None]);
        assert_eq!(windows(4, 2, MOST_STEP, 0), Some(1));
        let plain = conv2d::Settings::square(1, 2, 0);
        let steps = [
            conv2d::Settings { stride: [huge, 1], ..plain },
            conv2d::Settings { padding: [1, huge], ..plain },
            conv2d::Settings { dilation: [1, huge], ..plain },
        ];
        for settings in steps {
            let misfit = Layer::new(settings).fit(Shape::Image([1, 4, 4])).unwrap_err();
            assert!(misfit.needs.contains("2^31"), "{settings:?}: {misfit:?}");
        }
    }
}
