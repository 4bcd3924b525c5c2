//! Records a network's passes, stage by stage: what a plan that trains and one that only answers have in common.

use std::ops::Range;

use crate::compile::fuse::Staged;
use crate::layer::{Mode, Saved};
use crate::network::{FittedLayer, NamedParameter, Network, PARAMETER_ALIGNMENT};
use crate::ops::stage::{self, Gradient, Places, Shares, StageAt};
use crate::ops::{AffineBuffers, residual};
use crate::plan::{Plan, Slice};
use crate::{Error, Result};

/// One data set's buffers.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// Bytes, four a word.
    pub images: Slice,
    /// Class indices.
    pub labels: Slice,
    /// Indices into both, in the order of the steps.
    pub order: Slice,
}

/// Refuses a batch of none, and one whose buffers no 32 bits could count.
///
/// # Errors
/// [`Error::Usage`] and [`Error::OverLimit`].
pub(super) fn check_batch(net: &Network, n: usize) -> Result<()> {
    if n == 0 {
        return Err(Error::Usage("--batch-size: found 0, expected at least 1".into()));
    }
    // Every buffer of a batch is a small multiple of this: what does not wrap here is checked against 32 bits below.
    let widest =
        net.layers.iter().map(|layer| layer.output.len()).chain([net.input.iter().product()]).max().unwrap_or(0);
    if n.checked_mul(widest).is_none_or(|len| len > usize::MAX >> 16) {
        return Err(Error::OverLimit(format!(
            "buffer of {n} images of {widest} elements each: expected fewer than 2^32"
        )));
    }
    Ok(())
}

impl Data {
    /// Allocates a set of so many images of so many pixels.
    ///
    /// # Errors
    /// As [`Plan::buffer`].
    pub(super) fn new(plan: &mut Plan, name: &str, images: usize, pixels: usize) -> Result<Self> {
        Ok(Self {
            images: plan.buffer(format!("{name}.images"), images.saturating_mul(pixels).div_ceil(4))?,
            labels: plan.buffer(format!("{name}.labels"), images)?,
            order: plan.buffer(format!("{name}.order"), images)?,
        })
    }
}

/// Where each stage's shares of the gradients (behind the parameters' own) and of the packed weights are, and how long
/// the two are. In inference there are no gradients, and no weights as the backward pass reads them.
pub(super) fn places(net: &Network, stages: &[Staged], n: usize, mode: Mode) -> (Vec<(Shares, Places)>, [usize; 2]) {
    let take = |total: &mut usize, len: usize| {
        let at = *total;
        *total = (at + len).next_multiple_of(PARAMETER_ALIGNMENT);
        at
    };
    let (mut grads, mut packed) = (net.flat_len(), 0);
    let places = stages
        .iter()
        .map(|staged| {
            let shares = match mode {
                Mode::Training => staged.stage.shares(n),
                Mode::Inference => Shares { partials: 0, packed_back: 0, ..staged.stage.shares(n) },
            };
            let places = Places {
                partials: take(&mut grads, shares.partials),
                packed: take(&mut packed, shares.packed),
                packed_back: (shares.packed_back > 0).then(|| take(&mut packed, shares.packed_back)),
            };
            (shares, places)
        })
        .collect();
    (places, [grads, packed])
}

/// Records a network's passes, stage by stage.
pub(super) struct Recorder<'a> {
    pub net: &'a Network,
    pub n: usize,
    /// All trained parameters.
    pub params: Slice,
    /// Their gradients, and behind them parts of these; `None` in a plan that only answers.
    pub grads: Option<Slice>,
    /// The copies of weights.
    pub packed: Slice,
    /// The layers' buffers.
    pub buffers: Option<Slice>,
    pub stages: &'a [Staged],
    pub places: Vec<(Shares, Places)>,
    /// Each tensor of the network ([`Network::layers`]) that lies in memory.
    pub tensors: Vec<Option<Slice>>,
    /// What each stage's forward pass leaves to its backward pass.
    pub saved: Vec<Vec<Slice>>,
    /// What a first stage reads that gathers its own input.
    pub data: Data,
    pub normalisation: Slice,
    pub mode: Mode,
}

/// A stage's parameters.
struct Parameters {
    params: Vec<Slice>,
    grads: Vec<Slice>,
    buffers: Vec<Slice>,
}

impl Recorder<'_> {
    /// Allocates what every stage gives. What only renames gives what it reads.
    pub fn allocate(&mut self, plan: &mut Plan) -> Result<()> {
        self.tensors.resize(self.net.layers.len() + 1, None);
        for Staged { layers, name, stage, .. } in self.stages {
            let [first, last] = self.ends(layers);
            let len = self.n.saturating_mul(last.output.len());
            let output = match last.op.is_view() {
                true => self.tensor(first.from),
                false => plan.buffer(format!("{name}.out"), len.div_ceil(stage.stored().per_word()))?,
            };
            let buffer = |saved: Saved| plan.buffer(format!("{name}.{}", saved.name), saved.len);
            self.saved.push(stage.saved(self.n).into_iter().map(buffer).collect::<Result<_>>()?);
            self.tensors[layers.end] = Some(output);
        }
        Ok(())
    }

    /// The first and the last of some layers.
    fn ends(&self, layers: &Range<usize>) -> [&FittedLayer; 2] {
        [layers.start, layers.end - 1].map(|i| &self.net.layers[i])
    }

    /// A tensor that a stage reads or gives.
    pub fn tensor(&self, tensor: usize) -> Slice {
        self.tensors[tensor].expect("only inside a stage there is a tensor without a place")
    }

    /// `[batch, classes]`.
    pub fn logits(&self) -> Slice {
        self.tensor(self.net.layers.len())
    }

    fn parameters(&self, i: usize) -> Parameters {
        let part = |whole: Slice, list: &[NamedParameter]| -> Vec<Slice> {
            list.iter().map(|parameter| whole.part(parameter.offset, parameter.len())).collect()
        };
        let layers = &self.net.layers[self.stages[i].layers.clone()];
        let mut of = Parameters { params: vec![], grads: vec![], buffers: vec![] };
        for layer in layers {
            let trained = &self.net.parameters[layer.parameters.clone()];
            of.params.extend(part(self.params, trained));
            of.grads.extend(self.grads.map(|all| part(all, trained)).unwrap_or_default());
            of.buffers.extend(
                self.buffers.map(|all| part(all, &self.net.buffers[layer.buffers.clone()])).unwrap_or_default(),
            );
        }
        of
    }

    /// Where stage `i`, whose parameters these are, finds its buffers.
    fn at<'a>(&'a self, i: usize, own: &'a Parameters) -> StageAt<'a> {
        let Staged { layers, name, .. } = &self.stages[i];
        let (shares, places) = self.places[i];
        // Where there are no gradients nothing is shared out of them.
        let grads = self.grads.unwrap_or(self.params);
        let Data { images, order, .. } = self.data;
        StageAt {
            name,
            n: self.n,
            mode: self.mode,
            x: self.tensor(self.net.layers[layers.start].from),
            skip: self.skip(layers).map(|skip| self.tensor(skip)),
            dskip: None,
            before: None,
            bytes: stage::Bytes { images, order, normalisation: self.normalisation },
            y: self.tensor(layers.end),
            params: &own.params,
            buffers: &own.buffers,
            grads: &own.grads,
            saved: &self.saved[i],
            partials: grads.part(places.partials, shares.partials),
            packed: self.packed.part(places.packed, shares.packed),
            packed_back: places.packed_back.map(|at| self.packed.part(at, shares.packed_back)),
            layer: layers.start,
        }
    }

    /// The buffers of a stage with a weight and a bias.
    pub fn affine(&self, i: usize) -> AffineBuffers {
        let Parameters { params, grads, .. } = self.parameters(i);
        let layers = &self.stages[i].layers;
        AffineBuffers {
            x: self.tensor(self.net.layers[layers.start].from),
            w: params[0],
            b: params[1],
            y: self.tensor(layers.end),
            dw: grads[0],
            db: grads[1],
        }
    }

    /// What the optimizer does for the stages beside adding their gradients.
    pub fn segments(&self) -> Vec<stage::Segment> {
        let of_stage = |(staged, (_, places)): (&Staged, &(Shares, Places))| {
            let layers = &self.net.layers[staged.layers.clone()];
            let places_of = |layer: &FittedLayer| layer.parameters.clone();
            let params: Vec<_> = layers.iter().flat_map(places_of).map(|i| self.net.parameters[i].offset).collect();
            staged.stage.segments(self.n, &params, *places)
        };
        self.stages.iter().zip(&self.places).flat_map(of_stage).collect()
    }

    /// The copies of weights, from the parameters.
    pub fn pack(&self, plan: &mut Plan) -> Result<()> {
        (0..self.stages.len()).try_for_each(|i| self.stages[i].stage.pack(plan, &self.at(i, &self.parameters(i))))
    }

    /// The forward passes of the first `count` stages.
    pub fn forward(&self, plan: &mut Plan, count: usize) -> Result<()> {
        (0..count).try_for_each(|i| self.stages[i].stage.forward(plan, &self.at(i, &self.parameters(i))))
    }

    /// The tensor that a stage of these layers adds.
    fn skip(&self, layers: &Range<usize>) -> Option<usize> {
        self.net.layers[layers.clone()].iter().find_map(|layer| layer.skip)
    }

    /// The backward passes, from the logits' gradient down to the first layer with parameters: below it nobody needs a
    /// gradient. An addition hands its gradient to both inputs as it is; what several stages read gets the sum of what
    /// they give.
    pub fn backward(&self, plan: &mut Plan, dlogits: Slice) -> Result<()> {
        let mut gradients: Vec<Option<(Slice, Gradient)>> = vec![None; self.tensors.len()];
        gradients[self.net.layers.len()] = Some((dlogits, Gradient::Plain));
        for (i, Staged { layers, name, stage, .. }) in self.stages.iter().enumerate().rev() {
            let [first, last] = self.ends(layers);
            let wanted = self.net.wants_gradient(first.from);
            let Some((mut dy, given)) = gradients[layers.end] else { continue };
            if last.op.is_view() || last.op.adds() && layers.len() == 1 {
                for tensor in [Some(first.from), last.skip].into_iter().flatten() {
                    self.give(plan, name, &mut gradients[tensor], tensor, (dy, given))?;
                }
                continue;
            }
            if layers.end <= self.net.first_trained() {
                continue;
            }
            let buffer = |plan: &mut Plan, which: &str, len: usize| {
                plan.buffer(format!("{name}.{which}.grad"), self.n.saturating_mul(len))
            };
            let dx = wanted.then(|| buffer(plan, "in", first.input.len())).transpose()?;
            let own = self.parameters(i);
            let mut at = self.at(i, &own);
            let skip = self.skip(layers).filter(|&skip| self.net.wants_gradient(skip));
            at.dskip = skip.map(|_| buffer(plan, "skip", last.output.len())).transpose()?;
            at.before = gradients[first.from].map(|(before, _)| before).filter(|_| wanted && stage.adds_gradient());
            if stage.takes_gradient() != given && stage.takes_gradient() != Gradient::Plain {
                let converted = buffer(plan, "out", last.output.len())?;
                stage.convert_gradient(plan, &at, dy, converted)?;
                dy = converted;
            }
            stage.backward(plan, &at, dy, dx)?;
            let before = at.before;
            if let Some((skip, dskip)) = skip.zip(at.dskip) {
                self.give(plan, name, &mut gradients[skip], skip, (dskip, stage.skip_gradient()))?;
            }
            match dx {
                Some(dx) if before.is_some() => gradients[first.from] = Some((dx, stage.gives_gradient())),
                Some(dx) => {
                    self.give(plan, name, &mut gradients[first.from], first.from, (dx, stage.gives_gradient()))?
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Adds what a stage gives to the `gradient` of a tensor.
    fn give(
        &self,
        plan: &mut Plan,
        name: &str,
        gradient: &mut Option<(Slice, Gradient)>,
        tensor: usize,
        (given, form): (Slice, Gradient),
    ) -> Result<()> {
        *gradient = Some(match *gradient {
            _ if !self.net.wants_gradient(tensor) => return Ok(()),
            None => (given, form),
            // All readers of a tensor give its gradient in one form.
            Some((before, _)) => {
                let len = self.net.layers[tensor - 1].output.len();
                let sum = plan.buffer(format!("{name}.in.grad_sum"), self.n.saturating_mul(len))?;
                residual::add(plan, &format!("{name}.add_gradients"), self.n, len, [before, given, sum])?;
                (sum, form)
            }
        });
        Ok(())
    }
}
