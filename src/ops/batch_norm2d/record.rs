//! The batch norm's passes in a plan.

use super::{BatchNorm2d, reference};
use crate::Result;
use crate::layer::{
    At, Backward, Exported, First, Forward, Mode, OnnxValue, Op, Parameter, Role, Rounding, Saved, Shape,
};
use crate::ops::WORKGROUP;
use crate::plan::shaders::{Shader, shader};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// `shaders/batch_norm2d.wgsl`
pub static SHADER: Shader = shader!("batch_norm2d" with "reduce");

/// Workgroups that a reduction is spread over, about: enough for any GPU.
const GROUPS: usize = 512;

uniform! {
    /// `BatchNorm2d` in `shaders/batch_norm2d.wgsl`.
    struct Dims {
        channels: u32,
        plane: u32,
        splits: u32,
        eps: f32,
        momentum: f32,
    }
}

impl BatchNorm2d {
    fn plane(&self) -> usize {
        self.image[1] * self.image[2]
    }

    /// Workgroups for each channel: by shapes alone, so that sums have one order.
    fn splits(&self, n: usize) -> usize {
        GROUPS.div_ceil(self.image[0]).min(n)
    }

    fn dims(&self, n: usize) -> Dims {
        Dims {
            channels: word(self.image[0]),
            plane: word(self.plane()),
            splits: word(self.splits(n)),
            eps: self.eps as f32,
            momentum: self.momentum as f32,
        }
    }

    fn record(&self, plan: &mut Plan, at: &At, pass: &'static str, bound: &[(&str, Slice)]) -> Result<()> {
        let (channels, splits) = (self.image[0], self.splits(at.n));
        let grid = match pass {
            "reduce" | "reduce_backward" => Grid::Workgroups(channels * splits),
            "finish" | "finish_backward" => Grid::Threads(channels),
            _ => Grid::Threads(at.n * channels * self.plane()),
        };
        plan.dispatch(format!("{}.{pass}", at.name), (&SHADER, pass), self.dims(at.n), grid, 0, bound)?;
        let turns = at.n.div_ceil(splits).saturating_mul(self.plane()).div_ceil(WORKGROUP);
        match pass {
            "reduce" => plan.loops(&[2 * turns]),
            "reduce_backward" => plan.loops(&[turns]),
            "finish" | "finish_backward" => plan.loops(&[2 * splits]),
            _ => {}
        }
        Ok(())
    }

    /// What the workgroups of a reduction hand to its second level.
    fn parts(&self, plan: &mut Plan, at: &At, pass: &str) -> Result<Slice> {
        plan.buffer(format!("{}.{pass}_parts", at.name), 2 * self.image[0] * self.splits(at.n))
    }
}

impl Op for BatchNorm2d {
    fn input(&self) -> Shape {
        Shape::Image(self.image)
    }

    fn output(&self) -> Shape {
        Shape::Image(self.image)
    }

    fn parameters(&self) -> Vec<Parameter> {
        let of =
            |name, first, role| Parameter { name, shape: vec![self.image[0]], first: First::Constant(first), role };
        vec![
            of("weight", 1.0, Role::Trained),
            of("bias", 0.0, Role::Trained),
            of("running_mean", 0.0, Role::Buffer),
            of("running_var", 1.0, Role::Buffer),
        ]
    }

    fn saved(&self, _n: usize) -> Option<Saved> {
        Some(Saved { name: "statistics", len: 2 * self.image[0], numbers: true })
    }

    /// One image of one pixel has no variance.
    fn least_batch(&self) -> usize {
        if self.plane() == 1 { 2 } else { 1 }
    }

    fn rounding(&self, n: usize) -> Rounding {
        Rounding { terms: [n * self.plane() + 16; 3], ulps: 4.0 }
    }

    fn forward_terms(&self, pass: Forward<f64>) -> bool {
        reference::forward_terms(self, pass);
        true
    }

    fn backward_terms(&self, pass: Backward<f64>) -> bool {
        reference::backward_terms(self, pass);
        true
    }

    fn exported(&self) -> Option<Exported> {
        let Self { image: [channels, ..], eps, momentum } = *self;
        let torch = format!("nn.BatchNorm2d({channels}, eps={eps:?}, momentum={momentum:?})");
        Some(Exported::new(torch, "BatchNormalization", vec![("epsilon", OnnxValue::Float(eps as f32))]))
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        let &[weight, bias, mean, var] = at.params else { unreachable!("its four parameters") };
        let affine = [("x", at.x), ("y", at.y), ("weight", weight), ("bias", bias)];
        let Some(saved) = at.saved.filter(|_| at.mode == Mode::Training) else {
            return self.record(plan, at, "infer", &[&affine[..], &[("kept_mean", mean), ("kept_var", var)]].concat());
        };
        let parts = self.parts(plan, at, "forward")?;
        self.record(plan, at, "reduce", &[("x", at.x), ("parts", parts)])?;
        let running = [("running_mean", mean), ("running_var", var)];
        self.record(plan, at, "finish", &[&[("found", parts), ("saved", saved)], &running[..]].concat())?;
        self.record(plan, at, "forward", &[&affine[..], &[("statistics", saved)]].concat())
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        let saved = at.saved.expect("a forward pass in training saves them");
        let parts = self.parts(plan, at, "backward")?;
        let given = [("x", at.x), ("dy", dy), ("statistics", saved)];
        self.record(plan, at, "reduce_backward", &[&given[..], &[("parts", parts)]].concat())?;
        let [dweight, dbias] = [at.grads[0], at.grads[1]];
        self.record(plan, at, "finish_backward", &[("found", parts), ("dweight", dweight), ("dbias", dbias)])?;
        let Some(dx) = dx else { return Ok(()) };
        let sums = [("weight", at.params[0]), ("sums_weight", dweight), ("sums_bias", dbias), ("dx", dx)];
        self.record(plan, at, "backward", &[&given[..], &sums].concat())
    }
}
