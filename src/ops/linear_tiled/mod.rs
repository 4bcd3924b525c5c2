//! Linear in register tiles, with the ReLU above it and, backward, the ReLU below it. Formulas: [`super::linear`].

mod stage;

pub use stage::matches;

use super::linear::Linear;
use super::{AffineBuffers, WORKGROUP};
use crate::Result;
use crate::plan::Storage;
use crate::plan::shaders::{LINEAR_TILED, LINEAR_TILED_F16, LINEAR_TILED_LANES, LINEAR_TILED_LANES_F16, Shader};
use crate::plan::tuning::{LANES, Tiles};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// Rows and columns of a thread's tile, as `TILE` in the shader.
const TILE: usize = 8;

/// Besides the layer's own cases, one of so many tiles that they are of eight rows. Its rows and columns end in the
/// middle of tiles.
pub const CASES: &[(usize, Linear)] = &[(131, Linear::new(268, 124))];

/// A layer, and what is fused with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearTiled {
    /// The layer.
    pub dims: Linear,
    /// ReLU follows: forward applies it. Backward expects it to have been applied to `dy`.
    pub relu: bool,
    /// ReLU comes before: backward gives the gradient of that ReLU's input.
    pub mask: bool,
    /// Backward stores an image's gradient with its channels last. This is how many positions a channel has; 1 changes
    /// nothing. In halves it also says how `x` is stored: as the block below does, two channels of one position in a
    /// word.
    pub plane: usize,
    /// In what `x` is stored.
    pub x: Storage,
    /// In what `y` is stored; halves only where `x` is in halves, and if the outputs come in fours.
    pub y: Storage,
    /// The kernels' form.
    pub tiles: Tiles,
}

uniform! {
    /// `Linear` in `shaders/linear_tiled.wgsl`.
    struct Dims {
        inputs: u32,
        outputs: u32,
        stride: u32,
        relu: u32,
        mask: u32,
        plane: u32,
        halves: u32,
    }
}

impl LinearTiled {
    /// The layer, if these kernels compute it: its inputs come in fours.
    pub fn new(dims: &Linear) -> Option<Self> {
        (dims.inputs.is_multiple_of(4)).then_some(Self {
            dims: *dims,
            relu: false,
            mask: false,
            plane: 1,
            x: Storage::F32,
            y: Storage::F32,
            tiles: Tiles::default(),
        })
    }

    /// Elements from one row of `dy` to the next. Past the outputs there must be zeros.
    pub fn dy_stride(&self) -> usize {
        self.dims.outputs.next_multiple_of(4)
    }

    fn shader(&self) -> &'static Shader {
        match (self.tiles, self.x) {
            (Tiles::Lanes, Storage::F32) => &LINEAR_TILED_LANES,
            (Tiles::Lanes, Storage::F16) => &LINEAR_TILED_LANES_F16,
            (_, Storage::F32) => &LINEAR_TILED,
            (_, Storage::F16) => &LINEAR_TILED_F16,
        }
    }

    fn dims(&self) -> Dims {
        Dims {
            inputs: word(self.dims.inputs),
            outputs: word(self.dims.outputs),
            stride: word(self.dy_stride()),
            relu: self.relu.into(),
            mask: self.mask.into(),
            plane: word(self.plane),
            halves: (self.y == Storage::F16).into(),
        }
    }

    /// Records the forward pass over a batch of up to `n`.
    pub fn forward(&self, plan: &mut Plan, name: &str, n: usize, at: &AffineBuffers) -> Result<()> {
        let outputs = self.dims.outputs;
        let (pass, groups) = match self.tiles {
            Tiles::Lanes => ("forward", n.div_ceil(16) * outputs.div_ceil(4 * LANES)),
            tiles => match n.div_ceil(TILE) * outputs.div_ceil(TILE) {
                enough if enough >= tiles.workgroups() => ("forward", enough),
                // Where tiles are few, they have half of the rows.
                _ => ("forward_small", n.div_ceil(TILE / 2) * outputs.div_ceil(TILE)),
            },
        };
        plan.dispatch(
            format!("{name}.forward"),
            (self.shader(), pass),
            self.dims(),
            Grid::Workgroups(groups),
            self.dims.flops() * n as u64,
            &[("x", at.x), ("w", at.w), ("b", at.b), ("y", at.y)],
        )
    }

    /// Records the gradients of the weight and of the bias, and that of the input to `dx` if it is wanted, from `dy` in
    /// rows of [`Self::dy_stride`].
    pub fn backward(
        &self,
        plan: &mut Plan,
        name: &str,
        n: usize,
        at: &AffineBuffers,
        dy: Slice,
        dx: Option<Slice>,
    ) -> Result<()> {
        let Linear { inputs, outputs, .. } = self.dims;
        let mut bindings = vec![("x", at.x), ("dy", dy), ("dw", at.dw), ("db", at.db)];
        let groups_of = |rows: usize| match self.tiles {
            // Sixteen rows times eight inputs a lane.
            Tiles::Lanes => (rows.div_ceil(16) * inputs.div_ceil(8 * LANES) * LANES).div_ceil(WORKGROUP),
            // A tile's rows times four inputs a thread.
            _ => rows.div_ceil(TILE) * inputs.div_ceil(4 * WORKGROUP),
        };
        let of_weight = groups_of(outputs);
        let (pass, groups, passes) = match dx {
            None => ("backward_weight", of_weight, 1),
            Some(dx) => {
                bindings.extend([("w", at.w), ("dx", dx)]);
                ("backward", of_weight + groups_of(n), 2)
            }
        };
        plan.dispatch(
            format!("{name}.{pass}"),
            (self.shader(), pass),
            self.dims(),
            Grid::Workgroups(groups),
            passes * self.dims.flops() * n as u64,
            &bindings,
        )
    }
}
