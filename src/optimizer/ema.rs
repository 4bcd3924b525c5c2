//! The moving average of all weights: timm's `ModelEmaV2`.
//!
//! ```text
//! average = decay * average + (1 - decay) * value      after each update, of parameters and of the layers' buffers
//! ```
//!
//! It begins as what the training begins with. Source: Polyak and Juditsky 1992; Tarvainen and Valpola 2017.

use rayon::prelude::*;

use crate::Result;
use crate::plan::shaders::EMA;
use crate::plan::{Grid, Plan, Slice, uniform, word};
use crate::real::Real;

/// Elements that one task takes.
const CHUNK: usize = 16_384;

uniform! {
    /// `Ema` in `shaders/ema.wgsl`.
    struct Dims {
        len: u32,
        decay: f32,
        rest: f32,
    }
}

/// The averages after an update that left `values`. Each element is by itself: there is no faster form.
pub fn update<T: Real>(decay: f64, values: &[T], averages: &mut [T]) {
    let [decay, rest] = [decay, 1.0 - decay].map(T::of);
    averages.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(averages, values)| {
        averages.iter_mut().zip(values).for_each(|(average, &value)| *average = decay * *average + rest * value);
    });
}

/// Records the same of `len` values, a multiple of 4.
///
/// # Errors
/// As [`Plan::dispatch`].
pub fn record(plan: &mut Plan, name: &str, decay: f64, len: usize, values: Slice, averages: Slice) -> Result<()> {
    assert!(len.is_multiple_of(4), "a thread owns four numbers");
    let dims = Dims { len: word(len), decay: decay as f32, rest: (1.0 - decay) as f32 };
    let bindings = [("values", values), ("averages", averages)];
    plan.dispatch(format!("{name}.ema"), (&EMA, "update"), dims, Grid::Threads(len / 4), 0, &bindings)
}
