//! The pooling's passes in a plan.

use super::MaxPool2d;
use crate::Result;
use crate::layer::{At, Exported, Inputs, OnnxValue, Op, Rounding, Saved, Shape};
use crate::plan::shaders::{Shader, shader};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// `shaders/max_pool2d.wgsl`
pub static SHADER: Shader = shader!("max_pool2d");

uniform! {
    /// `MaxPool2d` in `shaders/max_pool2d.wgsl`.
    struct Dims {
        channels: u32, h_in: u32, w_in: u32,
        h_out: u32, w_out: u32,
        kernel_h: u32, kernel_w: u32,
        stride_h: u32, stride_w: u32,
        padding_h: u32, padding_w: u32,
    }
}

impl MaxPool2d {
    fn dims(&self) -> Dims {
        let [channels, h_in, w_in] = self.input.map(word);
        let [h_out, w_out] = self.output_plane().map(word);
        let [kernel_h, kernel_w] = self.kernel.map(word);
        let [stride_h, stride_w] = self.stride.map(word);
        let [padding_h, padding_w] = self.padding.map(word);
        Dims { channels, h_in, w_in, h_out, w_out, kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w }
    }

    fn argmax(at: &At) -> Slice {
        at.saved.expect("the pooling said that it saves its argmax")
    }
}

impl Op for MaxPool2d {
    fn input(&self) -> Shape {
        Shape::Image(self.input)
    }

    fn output(&self) -> Shape {
        let [rows, columns] = self.output_plane();
        Shape::Image([self.input[0], rows, columns])
    }

    fn saved(&self, n: usize) -> Option<Saved> {
        Some(Saved { name: "argmax", len: n.saturating_mul(self.output_len()), numbers: false })
    }

    fn rounding(&self, _n: usize) -> Rounding {
        let windows = self.kernel[0].div_ceil(self.stride[0]) * self.kernel[1].div_ceil(self.stride[1]);
        Rounding { terms: [0, windows, 0], ..Rounding::default() }
    }

    fn inputs(&self) -> Inputs {
        Inputs::Ties
    }

    fn exported(&self) -> Option<Exported> {
        let Self { kernel: [h, w], stride: [down, right], padding: [rows, columns], .. } = *self;
        let torch = format!("nn.MaxPool2d(({h}, {w}), stride=({down}, {right}), padding=({rows}, {columns}))");
        let attributes = vec![
            ("kernel_shape", OnnxValue::sizes(&self.kernel)),
            ("pads", OnnxValue::sizes(&[rows, columns, rows, columns])),
            ("strides", OnnxValue::sizes(&self.stride)),
        ];
        Some(Exported::new(torch, "MaxPool", attributes))
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        plan.dispatch(
            format!("{}.forward", at.name),
            (&SHADER, "forward"),
            self.dims(),
            Grid::Threads(at.n * self.output_len()),
            0,
            &[("x", at.x), ("y", at.y), ("argmax", Self::argmax(at))],
        )
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        let Some(dx) = dx else { return Ok(()) };
        plan.dispatch(
            format!("{}.backward", at.name),
            (&SHADER, "backward"),
            self.dims(),
            Grid::Threads(at.n * self.input_len()),
            0,
            &[("argmax_in", Self::argmax(at)), ("dy", dy), ("dx", dx)],
        )
    }
}
