//! Random networks on the CPU: the fast path in both precisions, and the plain one in f32.

use smoothcnn::backend::cpu::CpuTrainer;
use smoothcnn::backend::reference::ReferenceTrainer;

use super::random_network::{Precision, each};

/// Catches what no list of stacks has: a layer after another that was never tried, a batch, a loss.
#[test]
fn networks() {
    each("cpu", 400, |case| {
        let paths = [
            case.hold("fast, f64", Precision::F64, |setup, params| Box::new(CpuTrainer::<f64>::new(setup, params))),
            case.hold("fast, f32", Precision::F32, |setup, params| Box::new(CpuTrainer::<f32>::new(setup, params))),
            case.hold("plain, f32", Precision::F32, |setup, params| {
                Box::new(ReferenceTrainer::<f32>::new(setup, params))
            }),
        ];
        paths.concat()
    });
}
