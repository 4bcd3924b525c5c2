//! A layer over one batch: what its checks, its finite differences and its benches start from.

use std::sync::Arc;

use super::compare::sum_tolerance;
use super::random;
use crate::layer::{Backward, Element, First, Forward, Inputs, Kept, Mode, Op, Random, Role};
use crate::ops::Case;
use crate::{Error, Result};

/// `len` numbers of the kind that shows an operation's mistakes.
pub fn inputs(kind: Inputs, len: usize, stream: u64) -> Vec<f32> {
    let mut values = random(len, stream);
    match kind {
        Inputs::Any => {}
        Inputs::Zeros => {
            values.iter_mut().step_by(5).for_each(|v| *v = 0.0);
            values.iter_mut().step_by(7).for_each(|v| *v = -0.0);
        }
        // Seven values: most windows hold a tie.
        Inputs::Ties => values.iter_mut().for_each(|v| *v = (*v * 3.5).floor()),
    }
    values
}

/// A layer over one batch, and all that its passes read.
#[derive(Clone, Debug)]
pub struct CaseBatch<T> {
    /// The layer.
    pub op: Arc<dyn Op>,
    /// Images.
    pub n: usize,
    /// Their input.
    pub x: Vec<T>,
    /// What an operation that adds adds to it.
    pub skip: Vec<T>,
    /// The gradient of their output.
    pub dy: Vec<T>,
    /// The trained parameters.
    pub params: Vec<Vec<T>>,
    /// The buffers.
    pub buffers: Vec<Vec<T>>,
    /// Random numbers.
    pub random: Random,
}

/// What a forward pass gives.
#[derive(Clone, Debug)]
pub struct Given<T> {
    /// Output.
    pub y: Vec<T>,
    /// What the backward pass needs.
    pub kept: Kept<T>,
    /// The buffers after it.
    pub buffers: Vec<Vec<T>>,
}

/// Gradients.
#[derive(Clone, Debug)]
pub struct Gradients<T> {
    /// Of the input.
    pub dx: Vec<T>,
    /// Of the trained parameters.
    pub params: Vec<Vec<T>>,
}

impl<T: Element> CaseBatch<T> {
    /// Random numbers for a case: all of them are numbers of f32.
    ///
    /// # Errors
    /// [`Error::Layer`] for a case that does not fit.
    pub fn new(case: &Case) -> Result<Self> {
        let op = case.layer.fit(case.input).map_err(|misfit| Error::Layer {
            layer: case.layer.kind().into(),
            got: misfit.got,
            needs: misfit.needs,
        })?;
        let n = case.n;
        let (mut params, mut buffers) = (vec![], vec![]);
        for (i, parameter) in op.parameters().iter().enumerate() {
            let values = random(parameter.shape.iter().product(), 2 + i as u64);
            // A buffer may be what a variance is: never below 0.
            let near = |first: f32| -> Vec<f32> { values.iter().map(|v| first + 0.5 * v).collect() };
            match (parameter.role, parameter.first) {
                (Role::Buffer, First::Constant(first)) => buffers.push(wide(&near(first as f32))),
                (Role::Buffer, _) => buffers.push(wide(&values)),
                _ => params.push(wide(&values)),
            }
        }
        Ok(Self {
            n,
            x: wide(&inputs(op.inputs(), n * op.input().len(), 1)),
            skip: if op.adds() { wide(&random(n * op.output().len(), 51)) } else { vec![] },
            dy: wide(&random(n * op.output().len(), 101)),
            params,
            buffers,
            random: Random { seed: 0x1234_5678_9abc, step: 7, layer: 3, before: 0 },
            op,
        })
    }

    /// The same with what `of` makes of each number.
    pub fn map(&self, of: impl Fn(T) -> T) -> Self {
        let values = |values: &Vec<T>| values.iter().map(|&v| of(v)).collect::<Vec<T>>();
        Self {
            op: self.op.clone(),
            n: self.n,
            x: values(&self.x),
            skip: values(&self.skip),
            dy: values(&self.dy),
            params: self.params.iter().map(values).collect(),
            buffers: self.buffers.iter().map(values).collect(),
            random: self.random,
        }
    }

    /// The plain form's forward pass.
    pub fn forward(&self, mode: Mode) -> Given<T> {
        self.run_forward(mode, |op, pass| op.twin().forward(pass))
    }

    /// A forward pass by `run`.
    fn run_forward<R>(&self, mode: Mode, run: impl FnOnce(&dyn Op, Forward<T>) -> R) -> Given<T> {
        let mut buffers = self.buffers.clone();
        // What is not written stays a NaN, and shows.
        let mut y = vec![T::nan(); self.n * self.op.output().len()];
        let mut kept = Kept::default();
        kept.fit(&*self.op, self.n);
        let pass = Forward {
            n: self.n,
            mode,
            x: &self.x,
            skip: &self.skip,
            params: &self.params.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            buffers: &mut buffers.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(),
            y: &mut y,
            kept: &mut kept,
            random: self.random,
        };
        run(&*self.op, pass);
        Given { y, kept, buffers }
    }

    /// The plain form's backward pass.
    pub fn backward(&self, given: &Given<T>) -> Gradients<T> {
        self.run_backward(given, |op, pass| op.twin().backward(pass))
    }

    /// A backward pass by `run`.
    fn run_backward<R>(&self, given: &Given<T>, run: impl FnOnce(&dyn Op, Backward<T>) -> R) -> Gradients<T> {
        let mut params: Vec<Vec<T>> = self.params.iter().map(|v| vec![T::nan(); v.len()]).collect();
        let mut dx = vec![T::nan(); self.x.len()];
        let pass = Backward {
            n: self.n,
            x: &self.x,
            y: &given.y,
            params: &self.params.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            kept: &given.kept,
            dy: &self.dy,
            dx: Some(&mut dx),
            grads: &mut params.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(),
            random: self.random,
        };
        run(&*self.op, pass);
        Gradients { dx, params }
    }
}

fn wide<T: Element>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&v| T::of(v.into())).collect()
}

impl CaseBatch<f64> {
    /// The size of the terms that each result of the forward pass adds.
    pub fn forward_terms(&self, mode: Mode) -> Given<f64> {
        let mut said = false;
        let given = self.run_forward(mode, |op, pass| said = op.forward_terms(pass));
        if said { given } else { self.map(f64::abs).forward(mode) }
    }

    /// The same of the backward pass after the forward pass that gave `given`.
    pub fn backward_terms(&self, given: &Given<f64>) -> Gradients<f64> {
        let mut said = false;
        let gradients = self.run_backward(given, |op, pass| said = op.backward_terms(pass));
        if said { gradients } else { self.map(f64::abs).backward(given) }
    }

    /// How far each element of `want` may be off, `magnitude` being the same pass over absolute values.
    pub fn tolerance(&self, pass: usize, want: &[f64], magnitude: &[f64]) -> Vec<f64> {
        let rounding = self.op.rounding(self.n);
        let of = |(want, magnitude): (&f64, &f64)| {
            let sum = if rounding.terms[pass] > 0 { sum_tolerance(rounding.terms[pass], magnitude.abs()) } else { 0.0 };
            sum + rounding.ulps * 2f64.powi(-24) * want.abs()
        };
        want.iter().zip(magnitude).map(of).collect()
    }
}
