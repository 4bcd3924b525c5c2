//! Runs one pass on the device with everything that could hide a mistake made loud: outputs are poisoned with NaN
//! before the run, every buffer ends in guard words, and the dispatch is made for one image more than the step holds.

use std::sync::Arc;

use super::Row;
use super::compare::{Comparison, compare};
use super::halves;
use crate::Result;
use crate::backend::gpu::{Engine, Gpu};
use crate::plan::Storage;
use crate::plan::{Plan, Slice, Step};

/// A quiet NaN whose payload no arithmetic makes.
pub(super) const POISON: u32 = 0x7FC0_DEAD;
/// Poisoned elements past the end of every buffer. They are inside the binding: a write there lands, and shows.
const GUARD: usize = 64;

enum Want {
    Floats { values: Vec<f64>, tolerance: Vec<f64> },
    Halves { values: Vec<f64>, tolerance: Vec<f64> },
    Words(Vec<u32>),
    Exact { stored: Storage, values: Vec<f64> },
}

pub(super) struct Probe {
    gpu: Arc<Gpu>,
    pub plan: Plan,
    contents: Vec<(Slice, Vec<u32>)>,
    outputs: Vec<(String, Slice, Want)>,
}

impl Probe {
    pub fn new(gpu: &Arc<Gpu>) -> Self {
        Self { gpu: gpu.clone(), plan: Plan::default(), contents: vec![], outputs: vec![] }
    }

    /// A buffer with these words, and poison behind them.
    pub fn words(&mut self, name: &str, words: &[u32]) -> Result<Slice> {
        let slice = self.plan.buffer(name, words.len() + GUARD)?;
        let mut contents = words.to_vec();
        contents.resize(words.len() + GUARD, POISON);
        self.contents.push((slice, contents));
        Ok(slice)
    }

    /// A buffer with these values, and poison behind them.
    pub fn floats(&mut self, name: &str, values: &[f32]) -> Result<Slice> {
        self.words(name, bytemuck::cast_slice(values))
    }

    /// A poisoned buffer that the pass is to fill with `values`, each within its tolerance.
    pub fn output(&mut self, name: &str, values: Vec<f64>, tolerance: Vec<f64>) -> Result<Slice> {
        let slice = self.words(name, &vec![POISON; values.len()])?;
        self.outputs.push((name.to_owned(), slice, Want::Floats { values, tolerance }));
        Ok(slice)
    }

    /// The same, stored in this way: each half of the poison is no number, or far from any result.
    pub fn stored(&mut self, stored: Storage, name: &str, values: Vec<f64>, tolerance: Vec<f64>) -> Result<Slice> {
        if stored == Storage::F32 {
            return self.output(name, values, tolerance);
        }
        let slice = self.words(name, &vec![POISON; values.len() / 2])?;
        let tolerance = values.iter().zip(tolerance).map(|(&v, tolerance)| halves::tolerance(v, tolerance)).collect();
        self.outputs.push((name.to_owned(), slice, Want::Halves { values, tolerance }));
        Ok(slice)
    }

    /// A poisoned buffer that the pass is to fill with exactly these words.
    pub fn output_words(&mut self, name: &str, words: Vec<u32>) -> Result<Slice> {
        let slice = self.words(name, &vec![POISON; words.len()])?;
        self.outputs.push((name.to_owned(), slice, Want::Words(words)));
        Ok(slice)
    }

    /// A poisoned buffer that the pass is to fill with exactly these values, and with a NaN, which is not the poison,
    /// for each NaN.
    pub fn output_exact(&mut self, stored: Storage, name: &str, values: Vec<f64>) -> Result<Slice> {
        let slice = self.words(name, &vec![POISON; values.len() / stored.per_word()])?;
        self.outputs.push((name.to_owned(), slice, Want::Exact { stored, values }));
        Ok(slice)
    }

    /// A buffer that the pass updates: `before` becomes `values`.
    pub fn updated(&mut self, name: &str, before: &[f32], values: Vec<f64>, tolerance: Vec<f64>) -> Result<Slice> {
        let slice = self.floats(name, before)?;
        self.outputs.push((name.to_owned(), slice, Want::Floats { values, tolerance }));
        Ok(slice)
    }

    /// Runs everything recorded, once, and compares every output.
    pub fn run(self, op: &str, case: &str, step: Step) -> Result<Vec<Row>> {
        let labels: Vec<_> = self.plan.dispatches.iter().map(|d| d.entry.name.clone()).collect();
        let all = 0..self.plan.dispatches.len();
        let engine = Engine::new(&self.gpu, self.plan)?;
        for (slice, contents) in &self.contents {
            engine.write(*slice, contents);
        }
        let any = self.outputs[0].1;
        engine.run(all, &[step], any).wait::<u32>()?;
        let compare_one = |(name, slice, want): &(String, Slice, Want)| -> Result<Row> {
            let found: Vec<u32> = engine.read(*slice)?;
            let (values, guard) = found.split_at(found.len() - GUARD);
            let mut comparison = match want {
                Want::Floats { values: want, tolerance } => compare(bytemuck::cast_slice(values), want, tolerance),
                Want::Halves { values: want, tolerance } => compare(&halves::values(values), want, tolerance),
                Want::Words(want) => compare_words(values, want),
                Want::Exact { stored, values: want } => compare_exact(*stored, values, want),
            };
            if let Some(at) = guard.iter().position(|&word| word != POISON) {
                comparison.failure = Some(format!("guard word {at} behind the end was overwritten: {:#x}", guard[at]));
            }
            let Comparison { worst_error, tolerance_used, failure } = comparison;
            let pass = format!("{} {name}", labels.join("+"));
            Ok(Row {
                op: op.into(),
                pass,
                case: case.into(),
                elements: values.len(),
                worst_error,
                tolerance_used,
                failure,
            })
        };
        self.outputs.iter().map(compare_one).collect()
    }
}

/// As [`compare_words`]: where a NaN is wanted any will do, but for what was there before.
fn compare_exact(stored: Storage, found: &[u32], want: &[f64]) -> Comparison {
    let values = match stored {
        Storage::F32 => found.iter().map(|&word| f32::from_bits(word)).collect(),
        Storage::F16 => halves::values(found),
    };
    let right = |i: usize| match want[i].is_nan() {
        true => values[i].is_nan() && found[i / stored.per_word()] != POISON,
        false => f64::from(values[i]) == want[i],
    };
    let wrong = (0..want.len()).find(|&i| !right(i));
    let failure = wrong.map(|i| format!("element {i}: found {}, expected {}", values[i], want[i]));
    let worst = if failure.is_some() { f64::INFINITY } else { 0.0 };
    Comparison { worst_error: worst, tolerance_used: worst, failure }
}

fn compare_words(found: &[u32], want: &[u32]) -> Comparison {
    let wrong = found.iter().zip(want).position(|(found, want)| found != want);
    let failure = wrong.map(|i| format!("element {i}: found {}, expected {}", found[i], want[i]));
    let worst = if failure.is_some() { f64::INFINITY } else { 0.0 };
    Comparison { worst_error: worst, tolerance_used: worst, failure }
}
