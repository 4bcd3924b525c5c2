//! What only answers gives what a trainer with the same parameters gives, of bytes and of numbers.

use smoothcnn::Error;
use smoothcnn::backend::cpu::{CpuPredictor, CpuTrainer};
use smoothcnn::backend::reference::{ReferencePredictor, ReferenceTrainer};
use smoothcnn::backend::{Asked, ImageSet, Predictor, Setup, Trainer};
use smoothcnn::check::network::random_data;
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::network::Network;
use smoothcnn::optimizer::{Adam, Optimizer};

#[test]
fn a_predictor_answers_as_a_trainer_does() {
    let net = Network::seed([3, 8, 12], 4).unwrap();
    let images = random_data(11, net.input, 4);
    let params = net.initial_parameters(3);
    let wide: Vec<f64> = params.iter().map(|&p| p.into()).collect();
    let normalisation = [[0.5, 0.25], [0.4, 0.3], [0.1, 0.5]];
    let setup = Setup {
        seed: 0,
        net: &net,
        batch_size: 4,
        loss: Smoothing::NONE.into(),
        optimizer: Optimizer::Adam(Adam::default()),
        recipe: Default::default(),
        normalisation: normalisation.to_vec(),
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &images,
        test: &images,
    };
    let asked = Asked { net: &net, params: &wide, buffers: &[], normalisation: &normalisation, batch_size: 4 };
    let floats: Vec<f32> = (0..images.len())
        .flat_map(|i| images.image(i).chunks(8 * 12).zip(normalisation))
        .flat_map(|(plane, [mean, std])| {
            plane.iter().map(move |&byte| (f32::from(byte) / 255.0 - mean as f32) / std as f32)
        })
        .collect();
    let mut pairs: [(Box<dyn Trainer>, Box<dyn Predictor>); 2] = [
        (Box::new(CpuTrainer::<f32>::new(setup.clone(), &params)), Box::new(CpuPredictor::<f32>::new(&asked))),
        (
            Box::new(ReferenceTrainer::<f32>::new(setup.clone(), &params)),
            Box::new(ReferencePredictor::<f32>::new(&asked)),
        ),
    ];
    for (trainer, predictor) in &mut pairs {
        let expected = trainer.test_logits().unwrap();
        assert_eq!(predictor.logits(ImageSet::Bytes(&images)).unwrap(), expected);
        assert_eq!(predictor.logits(ImageSet::Floats(&floats)).unwrap(), expected);
        assert!(predictor.logits(ImageSet::Floats(&[])).unwrap().is_empty());
        let error = predictor.logits(ImageSet::Floats(&floats[1..])).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
    }
}
