//! One layer on its own: its passes on a GPU, beside the plain form and the fast CPU form, in f32. Before a case is
//! timed, its kernels are held against the plain form in f64: no timing of a wrong answer.

use std::sync::Arc;
use std::time::Instant;

use pulp::Arch;

use crate::backend::cpu::plain::Plain;
use crate::backend::gpu::{Engine, Gpu};
use crate::check::batch::{CaseBatch, Given};
use crate::check::{layers, steps};
use crate::layer::{At, Following, ImageLayout, Mode, Node, NodeBatch, NodeGradients, Role, Scratch, Shape};
use crate::ops::Case;
use crate::plan::{Plan, Slice};
use crate::{Error, Result};

/// A case, ready to run.
pub struct LayerBench {
    /// The case in words.
    pub name: String,
    batch: CaseBatch<f32>,
    given: Given<f32>,
    gpu: Option<(Engine, [std::ops::Range<usize>; 2])>,
    fast: Fast,
}

/// The fast form, with its input and output in planes or as it has them.
struct Fast {
    node: Box<dyn Node<f32>>,
    from: ImageLayout,
    x: Vec<f32>,
    scratch: Scratch,
}

/// Seconds of the passes of a case: forward, then backward.
#[derive(Clone, Copy, Debug)]
pub struct LayerTimes {
    /// On the GPU, a submission and its end included: below some size it is all that is seen.
    pub gpu: Option<[f64; 2]>,
    /// In the plain form.
    pub plain: [f64; 2],
    /// In the form of the fast CPU path.
    pub fast: [f64; 2],
}

impl LayerBench {
    /// A case of the layer `name`, on a GPU too if there is one.
    ///
    /// # Errors
    /// [`Error::Check`] where its kernels are wrong, [`Error::Layer`] for a case that does not fit, and what the device
    /// reports.
    pub fn new(gpu: Option<&Arc<Gpu>>, name: &str, case: &Case) -> Result<Self> {
        let batch = CaseBatch::<f32>::new(case)?;
        if let Some(gpu) = gpu {
            let rows = layers::layer(gpu, name, case)?;
            if let Some((row, failure)) = rows.iter().find_map(|row| row.failure.as_ref().map(|failure| (row, failure)))
            {
                return Err(Error::Check(format!("{} {}: {failure}", row.pass, row.case)));
            }
        }
        let given = batch.forward(Mode::Training);
        let gpu = gpu.map(|gpu| record(gpu, name, &batch)).transpose()?;
        let following = Following { ops: &[], wants_dx: true, arch: Arch::new() };
        let node = batch.op.twin::<f32>().fast(&following).map(|(node, _)| node);
        let mut node = node.unwrap_or_else(|| Box::new(Plain::new(&batch.op)));
        node.pack(&params(&batch), &[], Mode::Training);
        let planes = planes(batch.op.input());
        let from = node.reads().unwrap_or(planes);
        let mut x = vec![0.0; batch.n * from.len];
        for (to, image) in x.chunks_mut(from.len).zip(batch.x.chunks(planes.len)) {
            from.write(image, to);
        }
        let fast = Fast { node, from, x, scratch: Scratch::default() };
        let mut bench = Self { name: format!("{}x{:?}", batch.n, batch.op), given, batch, gpu, fast };
        bench.fast_forward();
        Ok(bench)
    }

    /// The forward pass on the GPU, to its end.
    ///
    /// # Errors
    /// What the device reports.
    pub fn gpu_pass(&self, backward: bool) -> Result<()> {
        let Some((engine, ranges)) = &self.gpu else { return Ok(()) };
        let one = Slice { buffer: 0, offset: 0, bytes: 4 };
        let step = steps::step(self.batch.n);
        engine.run(ranges[usize::from(backward)].clone(), &[step], one).wait::<f32>().map(|_| ())
    }

    /// The forward pass in the plain form.
    pub fn plain_forward(&self) -> Vec<f32> {
        self.batch.forward(Mode::Training).y
    }

    /// The backward pass in the plain form.
    pub fn plain_backward(&self) -> Vec<f32> {
        self.batch.backward(&self.given).dx
    }

    /// The forward pass in the fast form.
    pub fn fast_forward(&mut self) -> Vec<f32> {
        let Self { batch, fast: Fast { node, from, x, scratch }, .. } = self;
        let to = planes(batch.op.output());
        let mut y = vec![0.0; batch.n * to.len];
        let of = NodeBatch {
            n: batch.n,
            arch: Arch::new(),
            from: *from,
            to,
            x,
            skip: batch.op.adds().then_some((&batch.skip[..], planes(batch.op.output()))),
            params: &params(batch),
            random: batch.random,
            scratch,
        };
        let mut buffers = batch.buffers.clone();
        let buffers = &mut buffers.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>();
        node.forward(of, Mode::Training, buffers, &mut y);
        y
    }

    /// The backward pass in the fast form, after a forward pass.
    pub fn fast_backward(&mut self) -> Vec<f32> {
        let Self { batch, given, fast: Fast { node, from, x, scratch }, .. } = self;
        let mut dx = vec![0.0; x.len()];
        let mut grads: Vec<Vec<f32>> = batch.params.iter().map(|values| vec![0.0; values.len()]).collect();
        let of = NodeBatch {
            n: batch.n,
            arch: Arch::new(),
            from: *from,
            to: planes(batch.op.output()),
            x,
            skip: batch.op.adds().then_some((&batch.skip[..], planes(batch.op.output()))),
            params: &params(batch),
            random: batch.random,
            scratch,
        };
        let grads = &mut grads.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>();
        let to = NodeGradients { dx: Some(&mut dx), adds: false, dskip: None, params: grads };
        node.backward(of, &given.y, &batch.dy, to);
        dx
    }

    /// The median time of each pass over about `seconds` each.
    ///
    /// # Errors
    /// What the device reports.
    pub fn times(&mut self, seconds: f64) -> Result<LayerTimes> {
        let timed = |pass: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
            let began = Instant::now();
            let mut all = vec![];
            while all.is_empty() || began.elapsed().as_secs_f64() < seconds {
                let start = Instant::now();
                pass()?;
                all.push(start.elapsed().as_secs_f64());
            }
            Ok(super::spread(all)[0])
        };
        let gpu = match self.gpu {
            Some(_) => Some([timed(&mut || self.gpu_pass(false))?, timed(&mut || self.gpu_pass(true))?]),
            None => None,
        };
        let run = |pass: &mut dyn FnMut() -> Vec<f32>| {
            timed(&mut || {
                std::hint::black_box(pass());
                Ok(())
            })
        };
        let plain = [run(&mut || self.plain_forward())?, run(&mut || self.plain_backward())?];
        let fast = [run(&mut || self.fast_forward())?, run(&mut || self.fast_backward())?];
        Ok(LayerTimes { gpu, plain, fast })
    }
}

fn params(batch: &CaseBatch<f32>) -> Vec<&[f32]> {
    batch.params.iter().map(Vec::as_slice).collect()
}

fn planes(shape: Shape) -> ImageLayout {
    ImageLayout::planes(match shape {
        Shape::Image(dims) => dims,
        Shape::Features(n) => [n, 1, 1],
    })
}

/// Both passes in a plan of their own, on the device.
fn record(gpu: &Arc<Gpu>, name: &str, batch: &CaseBatch<f32>) -> Result<(Engine, [std::ops::Range<usize>; 2])> {
    let (op, n) = (&batch.op, batch.n);
    let mut plan = Plan::default();
    let [x, dx] = ["x", "dx"].map(|what| plan.buffer(what, batch.x.len()));
    let [y, dy] = ["y", "dy"].map(|what| plan.buffer(what, batch.dy.len()));
    let (x, dx, y, dy) = (x?, dx?, y?, dy?);
    let skip = if op.adds() { Some(plan.buffer("skip", batch.skip.len())?) } else { None };
    let saved = op.saved(n).map(|saved| plan.buffer(saved.name, saved.len)).transpose()?;
    let (mut params, mut grads, mut values) = (vec![], vec![], vec![(x, &batch.x), (y, &batch.dy), (dy, &batch.dy)]);
    values.extend(skip.map(|skip| (skip, &batch.skip)));
    let (mut trained, mut buffers) = (batch.params.iter(), batch.buffers.iter());
    for parameter in op.parameters() {
        let own = if parameter.role == Role::Buffer { buffers.next() } else { trained.next() };
        let own = own.expect("values for each parameter");
        params.push(plan.buffer(parameter.name, own.len())?);
        grads.push(plan.buffer(format!("d{}", parameter.name), own.len())?);
        values.push((params[params.len() - 1], own));
    }
    let mode = Mode::Training;
    let at = At { name, n, mode, x, skip, y, params: &params, grads: &grads, saved, layer: batch.random.layer };
    op.record_forward(&mut plan, &at)?;
    let forward = 0..plan.dispatches.len();
    op.record_backward(&mut plan, &at, dy, Some(dx))?;
    let backward = forward.end..plan.dispatches.len();
    let engine = Engine::new(gpu, plan)?;
    values.into_iter().for_each(|(slice, values)| engine.write(slice, values));
    // The backward pass reads what the forward pass saved.
    engine.run(forward.clone(), &[steps::step(n)], x.part(0, 1)).wait::<f32>()?;
    Ok((engine, [forward, backward]))
}
