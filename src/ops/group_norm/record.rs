//! The group norm's passes in a plan.

use super::{GroupNorm, reference};
use crate::Result;
use crate::layer::{
    At, Backward, Exported, First, Forward, OnnxInput, OnnxOperator, OnnxValue, Op, Parameter, Role, Rounding, Saved,
    Shape,
};
use crate::ops::WORKGROUP;
use crate::plan::shaders::{Shader, shader};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// `shaders/group_norm.wgsl`
pub static SHADER: Shader = shader!("group_norm" with "reduce");

uniform! {
    /// `GroupNorm` in `shaders/group_norm.wgsl`.
    struct Dims {
        channels: u32,
        num_groups: u32,
        plane: u32,
        eps: f32,
    }
}

impl GroupNorm {
    fn record(&self, plan: &mut Plan, at: &At, pass: &str, grid: Grid, bound: &[(&str, Slice)]) -> Result<()> {
        let dims = Dims {
            channels: word(self.image[0]),
            num_groups: word(self.num_groups),
            plane: word(self.plane()),
            eps: self.eps as f32,
        };
        plan.dispatch(format!("{}.{pass}", at.name), (&SHADER, pass), dims, grid, 0, bound)
    }
}

/// Turns of a workgroup's threads over so many elements.
fn turns(elements: usize) -> usize {
    elements.div_ceil(WORKGROUP)
}

impl Op for GroupNorm {
    fn input(&self) -> Shape {
        Shape::Image(self.image)
    }

    fn output(&self) -> Shape {
        Shape::Image(self.image)
    }

    fn parameters(&self) -> Vec<Parameter> {
        let of = |name, first| Parameter {
            name,
            shape: vec![self.image[0]],
            first: First::Constant(first),
            role: Role::Trained,
        };
        vec![of("weight", 1.0), of("bias", 0.0)]
    }

    fn saved(&self, n: usize) -> Option<Saved> {
        Some(Saved { name: "statistics", len: 2 * n * self.num_groups, numbers: true })
    }

    fn rounding(&self, n: usize) -> Rounding {
        let of_group = self.group_len() + 16;
        Rounding { terms: [of_group, of_group, n * self.plane() + 16], ulps: 4.0 }
    }

    fn forward_terms(&self, pass: Forward<f64>) -> bool {
        reference::forward_terms(self, pass);
        true
    }

    fn backward_terms(&self, pass: Backward<f64>) -> bool {
        reference::backward_terms(self, pass);
        true
    }

    /// The version of ONNX that is written has no group norm. Each group is one channel of an instance norm; a batch
    /// norm of mean 0 and variance 1 has the weight and the bias.
    fn exported(&self) -> Option<Exported> {
        use OnnxInput::{Floats, Last, Others, Sizes};
        let Self { image: [channels, h, w], num_groups, eps } = *self;
        let torch = format!("nn.GroupNorm({num_groups}, {channels}, eps={eps:?})");
        let reshape = |to: &[i64]| OnnxOperator::new("Reshape", vec![Last, Sizes(to.to_vec())], vec![]);
        let all = |value: f32, len: usize| Floats(vec![value; len]);
        let epsilon = |value: f64| vec![("epsilon", OnnxValue::Float(value as f32))];
        let norm = vec![Last, all(1.0, num_groups), all(0.0, num_groups)];
        let affine = vec![Last, Others, all(0.0, channels), all(1.0, channels)];
        let onnx = vec![
            // 0 leaves the batch as it is.
            reshape(&[0, num_groups as i64, -1]),
            OnnxOperator::new("InstanceNormalization", norm, epsilon(eps)),
            reshape(&[0, channels as i64, h as i64, w as i64]),
            OnnxOperator::new("BatchNormalization", affine, epsilon(0.0)),
        ];
        Some(Exported { torch, onnx })
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        let saved = at.saved.expect("the norm said that it saves its statistics");
        let affine = [("weight", at.params[0]), ("bias", at.params[1])];
        let bound = [&[("x", at.x), ("y", at.y), ("saved", saved)], &affine[..]].concat();
        self.record(plan, at, "forward", Grid::Workgroups(at.n * self.num_groups), &bound)?;
        plan.loops(&[3 * turns(self.group_len())]);
        Ok(())
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        let [channels, ..] = self.image;
        let saved = at.saved.expect("the norm said that it saves its statistics");
        let given = [("x", at.x), ("dy", dy), ("statistics", saved)];
        let parts = plan.buffer(format!("{}.parts", at.name), 2 * at.n * channels)?;
        let grid = Grid::Workgroups(at.n * channels);
        self.record(plan, at, "reduce_parameters", grid, &[&given[..], &[("parts", parts)]].concat())?;
        plan.loops(&[turns(self.plane())]);
        let sums = [("found", parts), ("dweight", at.grads[0]), ("dbias", at.grads[1])];
        self.record(plan, at, "finish_parameters", Grid::Threads(channels), &sums)?;
        plan.loops(&[at.n]);
        let Some(dx) = dx else { return Ok(()) };
        let bound = [&given[..], &[("weight", at.params[0]), ("dx", dx)]].concat();
        self.record(plan, at, "backward", Grid::Workgroups(at.n * self.num_groups), &bound)?;
        plan.loops(&[2 * turns(self.group_len())]);
        Ok(())
    }
}
