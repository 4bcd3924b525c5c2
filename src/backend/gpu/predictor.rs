//! Answers on a GPU: the plan of a network that is not trained.

use std::collections::VecDeque;
use std::sync::Arc;

use super::trainer::{Answers, GpuOptions, Residence, fitting, settled};
use super::{Engine, Gpu};
use crate::Result;
use crate::backend::{Asked, ImageSet, Predictor};
use crate::compile::inference::{CompiledInference, InferenceJob, inference};
use crate::network::Network;
use crate::ops::gather::affine;
use crate::plan::Step;

/// Answers in f32 on a GPU.
pub struct GpuPredictor {
    gpu: Arc<Gpu>,
    net: Network,
    params: Vec<f32>,
    buffers: Vec<f32>,
    normalisation: Vec<[f32; 2]>,
    batch_size: usize,
    options: GpuOptions,
    ready: Option<Ready>,
    /// Of the last answer that was asked for.
    stamp: u32,
}

/// A plan on the device, for images of one kind.
struct Ready {
    batch_size: usize,
    /// Images of a data set that are on the device at once; `None` for images in numbers.
    images: Option<usize>,
    engine: Engine,
    compiled: CompiledInference,
}

impl GpuPredictor {
    /// A predictor; of `options` the most bytes are those of a data set. Nothing is compiled before it is asked.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] for a form of kernel or of activations that the device does not have.
    pub fn new(gpu: &Arc<Gpu>, asked: &Asked, options: GpuOptions) -> Result<Self> {
        let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect();
        Ok(Self {
            gpu: gpu.clone(),
            net: asked.net.clone(),
            params: narrow(asked.params),
            buffers: narrow(asked.buffers),
            normalisation: asked.normalisation.iter().map(|&channel| affine(channel)).collect(),
            batch_size: asked.batch_size,
            options: settled(gpu, options)?,
            ready: None,
            stamp: 0,
        })
    }

    /// What answers, of batches of so many images, of which so many of a data set are on the device at once.
    fn prepare(&mut self, batch_size: usize, images: Option<usize>) -> Result<Ready> {
        if let Some(ready) = self.ready.take().filter(|ready| (ready.batch_size, ready.images) == (batch_size, images))
        {
            return Ok(ready);
        }
        let GpuOptions { kernels, tuning, activations, .. } = self.options;
        let tuning = tuning.unwrap_or_default();
        let limits = self.gpu.device.limits();
        let compiled = fitting(batch_size, &limits, self.gpu.memory_available(), |batch_size| {
            let job = InferenceJob { net: &self.net, batch_size, images, kernels, tuning, activations };
            inference(&job).map(|compiled| (compiled.plan.clone(), compiled))
        })?;
        let engine = Engine::new(&self.gpu, compiled.plan.clone())?;
        self.gpu.keep_pipelines();
        engine.write(compiled.normalisation, &self.normalisation);
        engine.write(compiled.params, &self.params);
        if let Some(buffers) = compiled.buffers {
            engine.write(buffers, &self.buffers);
        }
        // What the copies need has been submitted, and nobody waits for it: a failure shows at the next result.
        drop(engine.run(compiled.load.clone(), &[Step::default()], compiled.params.part(0, 1)));
        Ok(Ready { batch_size, images, engine, compiled })
    }
}

impl Predictor for GpuPredictor {
    fn logits(&mut self, images: ImageSet) -> Result<Vec<f64>> {
        let pixels: usize = self.net.input.iter().product();
        // No batch is larger than its set, and none needs more room.
        let batch_size = self.batch_size.min(images.count(pixels)?.max(1));
        let set = match images {
            ImageSet::Bytes(set) => Some((set, Residence::new(set, 0, batch_size, self.options.max_data_bytes))),
            ImageSet::Floats(_) => None,
        };
        let ready = self.prepare(batch_size, set.map(|(set, residence)| residence.images(set)))?;
        let Ready { engine, compiled, .. } = &ready;
        let mut answers = Answers {
            engine,
            infer: compiled.infer.clone(),
            results: [compiled.logits, compiled.logits_seal],
            batch_size,
            classes: self.net.classes,
            stamp: &mut self.stamp,
            logits: vec![],
            under_way: VecDeque::new(),
        };
        match (images, set) {
            (ImageSet::Floats(values), _) => {
                for batch in values.chunks(batch_size * pixels) {
                    engine.write(compiled.batch, batch);
                    answers.batch([0, batch.len() / pixels])?;
                }
            }
            (ImageSet::Bytes(set), residence) => {
                let residence = residence.map_or(Residence::Whole, |(_, residence)| residence);
                if residence == Residence::Whole {
                    engine.write(compiled.data.images, &set.images);
                    engine.write(compiled.data.labels, &set.labels);
                }
                answers.set(set, residence, &compiled.data)?;
            }
        }
        let logits = answers.all()?;
        self.ready = Some(ready);
        Ok(logits)
    }
}
