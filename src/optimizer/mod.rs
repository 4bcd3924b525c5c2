//! The optimizers: Adam, AdamW, SGD and [Muon](muon) over all parameters at once, with PyTorch's update and order of
//! operations.
//!
//! ```text
//! Adam   g += wd * p;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p -= lr/(1-b1^t) * m / (sqrt(v)/sqrt(1-b2^t) + eps)
//! AdamW  p *= 1 - lr * wd, and then Adam without the first term
//! SGD    g += wd * p;  m = momentum m + g;  p -= lr * (nesterov ? g + momentum m : m)
//! ```
//!
//! Sources: Kingma and Ba 2015; Loshchilov and Hutter 2019; `torch.optim`; Muon's are in its folder. A folder each:
//! settings, slots and recording in `mod.rs`, the plain form in `reference.rs`, that of the fast CPU path in `fast.rs`.
//! What an optimizer remembers of each parameter is in slots, which have PyTorch's names ([`Optimizer::slots`]); it has
//! as many as it needs.
//!
//! No weight decay reaches parameters whose role is [`Undecayed`](crate::layer::Role::Undecayed): they are the last of
//! the flat vector, from [`decayed`](Values::decayed) on.

pub mod accumulate;
pub mod adam;
pub mod clip;
pub mod ema;
pub mod muon;
pub mod recipe;
pub mod sgd;
mod update;

use pulp::Arch;

pub use adam::Adam;
pub use sgd::Sgd;
pub use update::{Slots, Update, Values, WeightMatrix};

use update::Extent;

use crate::ops::WORKGROUP;
use crate::ops::stage::Segment;
use crate::plan::{Plan, Slice, uniform, word};
use crate::real::Real;
use crate::{Error, Result};

/// Parts in which a step's loss is stored: one for each thread that adds some.
pub const LOSS_PARTS: usize = WORKGROUP;

/// Words of a step's slot, `Slot` in `shaders/common/optimizer.wgsl`: a loss and a nll from each of [`LOSS_PARTS`],
/// then two stamps.
pub const SLOT_WORDS: usize = 2 * LOSS_PARTS + 2;

/// What a step left in its slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slot {
    /// The batch's mean loss.
    pub loss: f64,
    /// The batch's mean nll.
    pub nll: f64,
    /// Of the last step that wrote here.
    pub stamp: u32,
    /// Of the last step after which a parameter or a moment was not finite.
    pub broken: u32,
}

impl Slot {
    /// From a slot's [`SLOT_WORDS`] words. The parts are added in their order.
    pub fn read(words: &[u32; SLOT_WORDS]) -> Self {
        let [pairs @ .., stamp, broken] = words;
        let sum = |i: usize| pairs.iter().skip(i).step_by(2).map(|&part| f64::from(f32::from_bits(part))).sum();
        Self { loss: sum(0), nll: sum(1), stamp: *stamp, broken: *broken }
    }
}

/// Which optimizer, with what does not change from step to step.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam, with weight decay as an L2 term in the gradient.
    Adam(Adam),
    /// Adam with decoupled weight decay.
    AdamW(Adam),
    /// AdamW with the momentum of hidden layers' weights made orthogonal; its momentum is the first beta.
    Muon(Adam),
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
}

uniform! {
    /// An [`Update`] as the device has it (`Optimizer` in `shaders/common/optimizer.wgsl`).
    pub struct OptimizerBlock {
        /// The parameter is first multiplied by this.
        keep: f32,
        /// The L2 term's factor in the gradient.
        l2: f32,
        /// Adam: `lr / (1 - b1^t)`. SGD: `lr`.
        step_size: f32,
        /// Adam: `sqrt(1 - b2^t)`. SGD: 1.
        denominator: f32,
        /// Adam: its first beta. SGD: its momentum.
        momentum: f32,
        /// 1 less that, rounded once, from the exact value.
        rest: f32,
        /// The learning rate.
        rate: f32,
    }
}

impl OptimizerBlock {
    /// For a step whose update nobody reads: it leaves parameters finite.
    pub const NONE: Self =
        Self { keep: 1.0, l2: 0.0, step_size: 0.0, denominator: 1.0, momentum: 0.0, rest: 1.0, rate: 0.0 };
}

impl From<Update> for OptimizerBlock {
    fn from(update: Update) -> Self {
        let Update { keep, l2, step_size, denominator, momentum, rate } = update;
        let all = [keep, l2, step_size, denominator, momentum, 1.0 - momentum, rate];
        let [keep, l2, step_size, denominator, momentum, rest, rate] = all.map(|v| v as f32);
        Self { keep, l2, step_size, denominator, momentum, rest, rate }
    }
}

impl Optimizer {
    /// What it remembers of each parameter, by PyTorch's names.
    pub fn slots(&self) -> &'static [&'static str] {
        match self {
            Self::Adam(_) | Self::AdamW(_) | Self::Muon(_) => adam::SLOTS,
            Self::Sgd(s) => s.slots(),
        }
    }

    /// An empty memory for `len` parameters.
    pub fn empty<T: Real>(&self, len: usize) -> Slots<T> {
        vec![vec![T::zero(); len]; self.slots().len()]
    }

    /// Update `t` (from 1) in the plain form. Whether parameters and memory are finite after it.
    pub fn step<T: Real>(&self, t: u64, values: Values<T>) -> bool {
        match self {
            Self::Adam(a) | Self::AdamW(a) => {
                let Values { params, grads, slots, decayed, .. } = values;
                adam::reference::step(a, self.update(t), params, grads, adam::moments(slots), decayed)
            }
            Self::Muon(a) => muon::reference::step(a, self.update(t), values),
            Self::Sgd(s) => sgd::reference::step(s, self.update(t), values),
        }
    }

    /// The same in the form of the fast CPU path.
    pub fn fast_step<T: Real>(&self, arch: Arch, t: u64, values: Values<T>) -> bool {
        match self {
            Self::Adam(a) | Self::AdamW(a) => {
                let Values { params, grads, slots, decayed, .. } = values;
                adam::fast::step(arch, a, self.update(t), params, grads, adam::moments(slots), decayed)
            }
            Self::Muon(a) => muon::fast::step(arch, a, self.update(t), values),
            Self::Sgd(s) => sgd::fast::step(arch, s, self.update(t), values),
        }
    }

    /// Its name and its settings, for a person.
    pub fn describe(&self) -> String {
        let (name, lr, weight_decay) = match self {
            Self::Adam(Adam { lr, weight_decay, .. }) => ("Adam".into(), lr, weight_decay),
            Self::AdamW(Adam { lr, weight_decay, .. }) => ("AdamW".into(), lr, weight_decay),
            Self::Muon(Adam { lr, betas, weight_decay, .. }) => {
                (format!("Muon with momentum {}", betas[0]), lr, weight_decay)
            }
            Self::Sgd(Sgd { lr, momentum, nesterov, weight_decay }) => {
                let nesterov = if *nesterov { "Nesterov's " } else { "" };
                (format!("SGD with {nesterov}momentum {momentum}"), lr, weight_decay)
            }
        };
        format!("{name}, weight decay {weight_decay}, learning rate {lr}")
    }

    /// The learning rate.
    pub fn lr(&self) -> f64 {
        match self {
            Self::Adam(a) | Self::AdamW(a) | Self::Muon(a) => a.lr,
            Self::Sgd(s) => s.lr,
        }
    }

    /// Weight decay.
    pub fn weight_decay(&self) -> f64 {
        match self {
            Self::Adam(a) | Self::AdamW(a) | Self::Muon(a) => a.weight_decay,
            Self::Sgd(s) => s.weight_decay,
        }
    }

    /// The same with another learning rate, and, where it has one, another momentum (Adam: first beta).
    pub(crate) fn with(mut self, lr: f64, momentum: Option<f64>) -> Self {
        let (own_lr, own) = match &mut self {
            Self::Adam(a) | Self::AdamW(a) | Self::Muon(a) => (&mut a.lr, Some(&mut a.betas[0])),
            // Without momentum there is no memory that another could be kept in.
            Self::Sgd(s) => (&mut s.lr, (s.momentum != 0.0).then_some(&mut s.momentum)),
        };
        *own_lr = lr;
        if let (Some(own), Some(momentum)) = (own, momentum) {
            *own = momentum;
        }
        self
    }

    /// Refuses settings with which no training makes sense, `most` being the largest number of the precision it is in.
    ///
    /// # Errors
    /// [`Error::Usage`], naming the flag, or what would be the flag of a setting that has none.
    pub fn check(&self, most: f64) -> Result<()> {
        let in_range = |flag: &str, value: f64, holds: bool, expected: &str| {
            if holds { Ok(()) } else { Err(Error::Usage(format!("{flag}: found {value}, expected {expected}"))) }
        };
        let not_negative = |flag: &str, value: f64| {
            in_range(
                flag,
                value,
                (0.0..=most).contains(&value),
                &format!("a number of at least 0 and at most {most:.0e}"),
            )
        };
        not_negative("--lr", self.lr())?;
        not_negative("--weight-decay", self.weight_decay())?;
        match self {
            Self::Adam(a) | Self::AdamW(a) | Self::Muon(a) => {
                for (i, beta) in a.betas.into_iter().enumerate() {
                    let holds = beta >= 0.0 && (beta as f32) < 1.0;
                    match (self, i) {
                        (Self::Muon(_), 0) => in_range("--momentum", beta, holds, "a number from 0 on, below 1")?,
                        _ => in_range("--betas", beta, holds, "two numbers from 0 on, below 1")?,
                    }
                }
                // The divisor of a parameter without a gradient.
                in_range("--eps", a.eps, a.eps.is_finite() && a.eps as f32 > 0.0, "a number above 0")
            }
            Self::Sgd(s) => {
                not_negative("--momentum", s.momentum)?;
                match s.nesterov && s.momentum == 0.0 {
                    true => Err(Error::Usage("--nesterov: found with a momentum of 0, expected one above 0".into())),
                    false => Ok(()),
                }
            }
        }
    }

    /// The numbers of update `t`, counted from 1.
    pub fn update(&self, t: u64) -> Update {
        match self {
            Self::Adam(a) | Self::AdamW(a) | Self::Muon(a) => {
                let decoupled = !matches!(self, Self::Adam(_));
                Update {
                    keep: if decoupled { 1.0 - a.lr * a.weight_decay } else { 1.0 },
                    l2: if decoupled { 0.0 } else { a.weight_decay },
                    step_size: a.lr / (1.0 - libm::pow(a.betas[0], t as f64)),
                    denominator: (1.0 - libm::pow(a.betas[1], t as f64)).sqrt(),
                    momentum: a.betas[0],
                    rate: a.lr,
                }
            }
            Self::Sgd(s) => {
                let momentum = s.momentum;
                Update { keep: 1.0, l2: s.weight_decay, step_size: s.lr, denominator: 1.0, momentum, rate: s.lr }
            }
        }
    }
}

/// The optimizer's buffers in a plan.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// The flat vector of parameters.
    pub params: Slice,
    /// Their gradient, and behind it the parts of the segments' gradients.
    pub grads: Slice,
    /// The optimizer's memory: as many as it has [`Optimizer::slots`], each as long as the parameters.
    pub slots: [Option<Slice>; 2],
    /// Copies of weights in the orders in which kernels read them.
    pub packed: Slice,
    /// Loss and nll of each of the batch's images, `[n, 2]`.
    pub losses: Slice,
    /// A [`Slot`] for each step of a submission.
    pub step_losses: Slice,
}

impl Optimizer {
    /// Records the update of all `len` (a multiple of 4) parameters, of which weight decay reaches the first `decayed`
    /// and `matrices` are what Muon takes as such, and the batch's means into the step's slot of `step_losses`: the
    /// sums of `losses` times the step's `dloss` and `dnll`, in [`LOSS_PARTS`] parts. The step's stamp goes with them,
    /// and says too if a parameter or a moment is no longer finite.
    ///
    /// # Errors
    /// As [`Plan::dispatch`] and [`Plan::buffer`].
    pub fn record(
        &self,
        plan: &mut Plan,
        [len, decayed]: [usize; 2],
        matrices: &[WeightMatrix],
        segments: &[Segment],
        at: &Buffers,
    ) -> Result<()> {
        assert!(len.is_multiple_of(4) && decayed.is_multiple_of(4), "a thread owns four parameters");
        let parted = segments.iter().map(|segment| segment.first + segment.len).max().unwrap_or(0);
        let extent =
            Extent { begin: 0, len: word(len), decayed: word(decayed), segments: word(segments.len()), parted };
        let segments = match segments {
            // A binding holds at least one.
            [] => plan.constant("segments", &[Segment::default()])?,
            some => plan.constant("segments", some)?,
        };
        let mut bindings = vec![
            ("params", at.params),
            ("grads", at.grads),
            ("segments", segments),
            ("packed", at.packed),
            ("losses", at.losses),
            ("step_losses", at.step_losses),
        ];
        bindings.extend(["first", "second"].into_iter().zip(at.slots.into_iter().flatten()));
        match self {
            Self::Adam(a) | Self::AdamW(a) => a.record(plan, extent, &bindings),
            Self::Muon(a) => muon::record(a, plan, extent, matrices, &bindings),
            Self::Sgd(s) => s.record(plan, extent, &bindings),
        }
    }
}
