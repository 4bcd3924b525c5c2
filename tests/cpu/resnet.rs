//! A residual network with batch norm, trained on the CPU, against PyTorch.

use smoothcnn::backend::cpu::CpuTrainer;
use smoothcnn::backend::reference::ReferenceTrainer;

use crate::resnet8::agrees;

#[test]
fn sixteen_steps_agree_with_pytorch() {
    agrees("oracle", 1e-9, |setup, params| Box::new(ReferenceTrainer::<f64>::new(setup, params)));
    agrees("CPU path in f64", 1e-9, |setup, params| Box::new(CpuTrainer::<f64>::new(setup, params)));
    agrees("CPU path", 5e-4, |setup, params| Box::new(CpuTrainer::<f32>::new(setup, params)));
}
