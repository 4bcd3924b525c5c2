//! Residual networks with batch norm on the GPU.

use smoothcnn::backend::gpu::trainer::GpuTrainer;
use smoothcnn::check::batch::CaseBatch;
use smoothcnn::check::layers::of_batch;
use smoothcnn::layer::{Layer, Shape};
use smoothcnn::ops::Case;

use super::resnet8::agrees;
use super::{GPU, assert_rows};

#[test]
fn sixteen_steps_agree_with_pytorch() {
    agrees("GPU", 2e-3, |setup, params| Box::new(GpuTrainer::new(&GPU, setup, params).unwrap()));
}

/// Catches a variance that is lost in the square of a mean far from 0.
#[test]
fn batch_norm_far_from_zero() {
    for mean in [1e4, -300.0] {
        let case = Case { n: 5, input: Shape::Image([3, 4, 7]), layer: Layer::batch_norm2d() };
        let mut batch = CaseBatch::<f64>::new(&case).unwrap();
        // As numbers of f32, which the device reads.
        batch.x.iter_mut().for_each(|x| *x = f64::from((*x + mean) as f32));
        assert_rows(of_batch(&GPU, "batch_norm2d", &batch));
    }
}
