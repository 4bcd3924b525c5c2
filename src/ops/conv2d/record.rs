//! The convolution's passes in a plan.

use super::Conv2d;
use crate::Result;
use crate::layer::{At, Exported, OnnxValue, Op, Parameter, Rounding, Shape};
use crate::plan::shaders::{Shader, shader};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// `shaders/conv2d.wgsl`
pub static SHADER: Shader = shader!("conv2d");

uniform! {
    /// `Conv2d` in `shaders/conv2d.wgsl`.
    struct Dims {
        c_in: u32, h_in: u32, w_in: u32,
        c_out: u32, h_out: u32, w_out: u32,
        kernel_h: u32, kernel_w: u32,
        stride_h: u32, stride_w: u32,
        padding_h: u32, padding_w: u32,
        dilation_h: u32, dilation_w: u32,
        c_in_of: u32, c_out_of: u32,
    }
}

impl Conv2d {
    fn dims(&self) -> Dims {
        let [c_in, h_in, w_in] = self.input.map(word);
        let [h_out, w_out] = self.output_plane().map(word);
        let [kernel_h, kernel_w] = self.kernel.map(word);
        let [stride_h, stride_w] = self.stride.map(word);
        let [padding_h, padding_w] = self.padding.map(word);
        let [dilation_h, dilation_w] = self.dilation.map(word);
        let [c_in_of, c_out_of] = self.channels_of_group().map(word);
        Dims {
            c_in,
            h_in,
            w_in,
            c_out: word(self.c_out),
            h_out,
            w_out,
            kernel_h,
            kernel_w,
            stride_h,
            stride_w,
            padding_h,
            padding_w,
            dilation_h,
            dilation_w,
            c_in_of,
            c_out_of,
        }
    }
}

impl Op for Conv2d {
    fn input(&self) -> Shape {
        Shape::Image(self.input)
    }

    fn output(&self) -> Shape {
        let [rows, columns] = self.output_plane();
        Shape::Image([self.c_out, rows, columns])
    }

    fn parameters(&self) -> Vec<Parameter> {
        let [rows, columns] = self.kernel;
        let shape = vec![self.c_out, self.channels_of_group()[0], rows, columns];
        let mut both = Parameter::weight_and_bias(shape, self.init);
        both.truncate(if self.bias { 2 } else { 1 });
        both
    }

    fn flops(&self) -> u64 {
        self.flops()
    }

    fn rounding(&self, n: usize) -> Rounding {
        let positions: usize = self.output_plane().iter().product();
        let of_input = self.channels_of_group()[1] * self.kernel[0] * self.kernel[1];
        Rounding { terms: [self.fan_in() + 1, of_input, n * positions], ..Rounding::default() }
    }

    fn exported(&self) -> Option<Exported> {
        let Self { input: [c_in, ..], c_out, kernel: [h, w], stride: [down, right], padding: [rows, columns], .. } =
            *self;
        let mut torch =
            format!("nn.Conv2d({c_in}, {c_out}, ({h}, {w}), stride=({down}, {right}), padding=({rows}, {columns})");
        if self.dilation != [1; 2] {
            torch += &format!(", dilation=({}, {})", self.dilation[0], self.dilation[1]);
        }
        if self.groups != 1 {
            torch += &format!(", groups={}", self.groups);
        }
        torch += if self.bias { ")" } else { ", bias=False)" };
        let attributes = vec![
            ("dilations", OnnxValue::sizes(&self.dilation)),
            ("group", OnnxValue::Int(self.groups as i64)),
            ("kernel_shape", OnnxValue::sizes(&self.kernel)),
            ("pads", OnnxValue::sizes(&[rows, columns, rows, columns])),
            ("strides", OnnxValue::sizes(&self.stride)),
        ];
        Some(Exported::new(torch, "Conv", attributes))
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        // A new buffer is zero, and nobody writes to this one.
        let no_bias = || plan.buffer(format!("{}.no_bias", at.name), self.c_out);
        let bias = at.params.get(1).copied().map_or_else(no_bias, Ok)?;
        plan.dispatch(
            format!("{}.forward", at.name),
            (&SHADER, "forward"),
            self.dims(),
            Grid::Threads(at.n * self.output_len()),
            self.flops() * at.n as u64,
            &[("x", at.x), ("w", at.params[0]), ("b", bias), ("y", at.y)],
        )?;
        plan.loops(&[self.channels_of_group()[0], self.kernel[0], self.kernel[1]]);
        Ok(())
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        let At { name, n, .. } = *at;
        plan.dispatch(
            format!("{name}.backward_weight"),
            (&SHADER, "backward_weight"),
            self.dims(),
            Grid::Threads(self.weight_len()),
            self.flops() * n as u64,
            &[("x", at.x), ("dy", dy), ("dw", at.grads[0])],
        )?;
        let [h, w] = self.output_plane();
        plan.loops(&[n, h, w]);
        if let Some(&db) = at.grads.get(1) {
            plan.dispatch(
                format!("{name}.backward_bias"),
                (&SHADER, "backward_bias"),
                self.dims(),
                Grid::Threads(self.c_out),
                (self.output_len() * n) as u64,
                &[("dy", dy), ("db", db)],
            )?;
            plan.loops(&[n, h * w]);
        }
        let Some(dx) = dx else { return Ok(()) };
        plan.dispatch(
            format!("{name}.backward_input"),
            (&SHADER, "backward_input"),
            self.dims(),
            Grid::Threads(n * self.input_len()),
            self.flops() * n as u64,
            &[("w", at.params[0]), ("dy", dy), ("dx", dx)],
        )?;
        plan.loops(&[self.channels_of_group()[1], self.kernel[0], self.kernel[1]]);
        Ok(())
    }
}
