//! What a training step of the seed network has to do, dispatch by dispatch, in each form of its kernels.

use smoothcnn::compile::fuse::Kernels;
use smoothcnn::compile::{Job, compile};
use smoothcnn::loss::Loss;
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::network::Network;
use smoothcnn::optimizer::{Adam, Optimizer};
use smoothcnn::plan::Storage;
use smoothcnn::plan::tuning::{Tiles, Tuning};

use super::{Code, Compiled};

/// The forms that hardware may get, the usual one first. That for software drivers is not among them.
pub const FORMS: [(&str, Kernels, Tiles, Storage); 7] = [
    ("workgroup", Kernels::Fused, Tiles::Workgroup, Storage::F32),
    ("workgroup-few", Kernels::Fused, Tiles::WorkgroupFew, Storage::F32),
    ("workgroup-many", Kernels::Fused, Tiles::WorkgroupMany, Storage::F32),
    ("workgroup f16", Kernels::Fused, Tiles::Workgroup, Storage::F16),
    ("registers", Kernels::Fused, Tiles::Registers, Storage::F32),
    ("registers f16", Kernels::Fused, Tiles::Registers, Storage::F16),
    ("reference", Kernels::Reference, Tiles::Registers, Storage::F32),
];

/// One dispatch of a step.
#[derive(Clone, Debug)]
pub struct Work {
    /// The form's name.
    pub form: &'static str,
    /// The label; that of a pass which no step has is empty.
    pub dispatch: String,
    /// The shader's name and the entry point's.
    pub pass: (String, String),
    /// Workgroups.
    pub groups: u64,
    /// Threads of one.
    pub threads: u64,
    /// Operations of its products.
    pub flops: u64,
    /// Their part of the step's.
    pub share: f64,
}

/// Every dispatch of a training step at this batch in every form.
pub fn steps(batch: usize) -> Vec<Work> {
    FORMS.into_iter().flat_map(|form| step(batch, form)).collect()
}

fn step(batch: usize, (form, kernels, tiles, activations): (&'static str, Kernels, Tiles, Storage)) -> Vec<Work> {
    let net = Network::seed([1, 28, 28], 10).expect("the seed network fits");
    let loss = Loss::from(Smoothing::NONE);
    let optimizer = Optimizer::Adam(Adam::default());
    let tuning = Tuning::all(tiles);
    let (train_images, test_images, loss_slots) = (60_000, 10_000, 256);
    let job = Job {
        recipe: Default::default(),
        net: &net,
        batch_size: batch,
        augment: smoothcnn::ops::augment::Augment::NONE,
        loss: &loss,
        optimizer,
        train_images,
        test_images,
        loss_slots,
        kernels,
        tuning,
        activations,
    };
    let compiled = compile(&job).expect("the batch fits");
    let dispatches = &compiled.plan.dispatches[compiled.train];
    let all: u64 = dispatches.iter().map(|dispatch| dispatch.flops).sum();
    let work = |dispatch: &smoothcnn::plan::Dispatch| Work {
        form,
        dispatch: dispatch.label.clone(),
        pass: (dispatch.shader.name.to_owned(), dispatch.entry.name.clone()),
        groups: dispatch.workgroups.iter().map(|&n| u64::from(n)).product(),
        threads: dispatch.entry.workgroup_size.iter().map(|&n| u64::from(n)).product(),
        flops: dispatch.flops,
        share: dispatch.flops as f64 / all as f64,
    };
    dispatches.iter().map(work).collect()
}

impl Work {
    /// Operations of a thread.
    pub fn flops_a_thread(&self) -> f64 {
        self.flops as f64 / (self.groups * self.threads) as f64
    }

    /// Cycles that the vector units need at least for the products and what goes with them in the hot loop. A SIMD, of
    /// which a compute unit has two, issues an instruction for 32 threads in a cycle; waves that it has no part in
    /// leave it idle.
    pub fn floor(&self, code: &Code, compute_units: u64) -> Option<f64> {
        let hot = code.hot()?;
        let waves = self.groups * self.threads.div_ceil(code.wave);
        let instructions = self.flops_a_thread() / 2.0 * hot.vector as f64 / hot.multiply_adds as f64;
        Some(waves.div_ceil(2 * compute_units) as f64 * instructions * (code.wave as f64 / 32.0))
    }

    /// The code of its pass.
    pub fn code<'a>(&self, compiled: &'a Compiled) -> Option<&'a Code> {
        compiled.code(&self.pass.0, &self.pass.1)
    }
}
