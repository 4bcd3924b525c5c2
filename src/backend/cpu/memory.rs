//! How much memory the CPU path takes: known before anything is made, so that what does not fit is refused in a line.
//! An allocation that fails ends a program without one.

use super::network::CpuNetwork;
use crate::compile::fuse::Kernels;
use crate::compile::largest_batch;
use crate::layer::Element;
use crate::memory::available;
use crate::network::Network;
use crate::{Error, Result};

/// Bytes of what a training or an inference makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Of the parameters: their gradient, the optimizer's memory, and what an epoch's end makes of them.
    pub parameters: u64,
    /// Of what a batch's images become, forward and backward.
    pub batch: u64,
}

impl Memory {
    /// Both.
    pub fn total(&self) -> u64 {
        self.parameters.saturating_add(self.batch)
    }
}

/// What the parameters take on the host whatever trains them: as [`crate::backend::State`] holds them, as they are
/// first made, and where they are `trained` as an epoch's end leaves them.
pub fn of_state(net: &Network, trained: bool) -> u64 {
    (net.flat_len() as u64).saturating_mul(if trained { 2 * 3 * 8 + 4 } else { 3 * 8 + 4 })
}

/// What a backend in `T` makes, beside the state that it starts from, for batches of up to `train` training images and
/// `infer` others.
pub fn of_backend<T: Element>(net: &Network, kernels: Kernels, train: usize, infer: usize) -> Memory {
    let size = size_of::<T>() as u64;
    let flat = net.flat_len() as u64;
    // Parameters; where they are trained also their gradient, two moments, their copy in f32, the state at an epoch's
    // end, and the bytes of its file. (Muon takes less than those last two for its products, and not at the same time.)
    let trained = if train > 0 { 3 * size + 4 + 3 * 8 + 3 * size } else { 0 };
    let batch = match kernels {
        Kernels::Fused => CpuNetwork::<T>::batch_bytes(net, train, infer),
        Kernels::Reference => of_reference(net, size, train as u64, infer as u64),
    };
    Memory { parameters: flat.saturating_mul(size + trained), batch }
}

/// The same of the plain network's batches: every layer's output and its gradient, and what its forward pass saves.
fn of_reference(net: &Network, size: u64, train: u64, infer: u64) -> u64 {
    let mut forward = net.input.iter().product::<usize>() as u64 * size;
    let mut backward = forward;
    for layer in &net.layers {
        let output = layer.output.len() as u64;
        forward += output * size;
        backward += output * size;
        forward += layer.op.saved(1).map_or(0, |saved| saved.len as u64 * if saved.numbers { size } else { 4 });
    }
    // A buffer that grows is there twice for a moment.
    let most = train.max(infer);
    let grown = if train == infer { most } else { most.saturating_add(train.min(infer)) };
    forward.saturating_mul(grown).saturating_add(backward.saturating_mul(train))
}

/// Refuses a backend in `T` that does not fit into the memory that is available, and names the batch that does: `train`
/// and `infer` are how many images there are of either kind.
///
/// # Errors
/// [`Error::OverLimit`].
pub fn check<T: Element>(
    net: &Network,
    kernels: Kernels,
    batch_size: usize,
    [train, infer]: [usize; 2],
) -> Result<Memory> {
    let of = |batch: usize| of_backend::<T>(net, kernels, batch.min(train), batch.min(infer));
    let found = of(batch_size);
    let Some(available) = available() else { return Ok(found) };
    if found.total() <= available {
        return Ok(found);
    }
    // Images that are not there need no memory.
    let batch_size = batch_size.min(train.max(infer));
    let advice = match largest_batch(batch_size, |batch| of(batch).total() <= available) {
        Some(batch) => format!("--batch-size {batch} would fit"),
        None => "no batch size would fit".into(),
    };
    let [needed, parameters, available] = [found.total(), found.parameters, available].map(mebibytes);
    Err(Error::OverLimit(format!(
        "batch size {batch_size}: the CPU path needs {needed} of memory ({parameters} for the parameters), and \
         {available} is available; {advice}"
    )))
}

/// Refuses a network whose parameters do not fit into the memory that is available.
///
/// # Errors
/// [`Error::OverLimit`].
pub fn check_state(net: &Network, trained: bool) -> Result<()> {
    let needed = of_state(net, trained);
    match available() {
        Some(available) if needed > available => {
            let [c, h, w] = net.input;
            let [needed, available] = [needed, available].map(mebibytes);
            Err(Error::OverLimit(format!(
                "images of {c}x{h}x{w}: the network's {} parameters need {needed} of memory, and \
                 {available} is available",
                net.parameter_count()
            )))
        }
        _ => Ok(()),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_the_batch_and_never_wraps() {
        let net = Network::seed([1, 28, 28], 10).unwrap();
        for kernels in [Kernels::Fused, Kernels::Reference] {
            let of = |train, infer| of_backend::<f32>(&net, kernels, train, infer);
            assert!(of(2, 2).batch > of(1, 1).batch && of(1, 1).batch > of(0, 1).batch, "{kernels:?}");
            assert_eq!(of(usize::MAX, usize::MAX).total(), u64::MAX);
            assert!(of_backend::<f64>(&net, kernels, 9, 9).total() > of(9, 9).total());
            // The network's own layers: conv1's output alone, pooled, is 32 x 14 x 14 numbers.
            assert!(of(100, 100).batch > 100 * 32 * 14 * 14 * 4, "{kernels:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_does() {
        let net = Network::seed([1, 28, 28], 10).unwrap();
        assert!(check::<f32>(&net, Kernels::Fused, usize::MAX, [10, 10]).is_ok(), "ten images are ten images");
        if available().is_some() {
            let most = usize::MAX >> 8;
            let error = check::<f32>(&net, Kernels::Fused, most, [most, 10]).unwrap_err().to_string();
            assert!(error.contains("the CPU path needs") && error.contains("would fit"), "{error}");
            let vast = Network::seed([3, 65536, 65536], 10).unwrap();
            assert!(check_state(&vast, false).is_err());
        }
    }
}
