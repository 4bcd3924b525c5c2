//! What a seed gave once it gives always: a random stream that shifts changes every run of every user. The numbers were
//! recorded; a change here is a change of what `--seed` means, and must be said in the changelog.

use std::sync::Mutex;

use smoothcnn::data::digits;
use smoothcnn::data::labels::{Flipped, Noise, flip, stratified_split};
use smoothcnn::layer::{Init, Layer};
use smoothcnn::measure::bootstrap::intervals;
use smoothcnn::network::Network;
use smoothcnn::ops::{conv2d, linear};
use smoothcnn::train::Course;

/// The labels of 40 images, four classes in turn.
fn labels() -> Vec<u32> {
    (0..40).map(|i| i % 4).collect()
}

#[test]
fn initial_parameters() {
    let net = Network::seed([1, 28, 28], 10).unwrap();
    let flat = net.initial_parameters(7);
    let found: Vec<[f32; 2]> = net.parameters.iter().map(|p| [flat[p.offset], flat[p.offset + 1]]).collect();
    let expected = [
        [0.22564846, -0.18024297],
        [0.02189409, -0.0003875026],
        [0.028081523, 0.056031648],
        [0.053090632, -0.0017819096],
        [0.004312512, -0.01580791],
        [0.010347364, -0.01776099],
        [-0.033794906, 0.0058553866],
        [0.0118021155, -0.024681117],
    ];
    assert_eq!(found, expected);
}

/// The same in Python, of the generator's definition: `sqrt(2/fan_out) sqrt(-2 ln(1 - u)) cos(2 pi v)`.
#[test]
fn initial_parameters_by_kaiming() {
    let init = Init::Kaiming;
    let conv = conv2d::Settings { init, ..conv2d::Settings::square(4, 3, 1) };
    let linear = linear::Settings { init, ..linear::Settings::new(3) };
    let net = Network::new([1, 4, 4], &[Layer::new(conv), Layer::flatten(), Layer::new(linear)]).unwrap();
    let flat = net.initial_parameters(7);
    let found: Vec<&[f32]> = net.parameters.iter().map(|p| &flat[p.offset..p.offset + 3]).collect();
    let expected: [&[f32]; 4] =
        [&[0.057431284, 0.25231317, -0.45637158], &[0.0; 3], &[1.3210204, 0.20229167, 0.43618885], &[0.0; 3]];
    assert_eq!(found, expected);
}

#[test]
fn the_order_of_an_epoch() {
    let order = |epoch, seed| Course { epochs: 2, seed, shuffle: true }.order(epoch, 10);
    assert_eq!(order(1, 5), [6, 8, 3, 9, 2, 7, 5, 4, 1, 0]);
    assert_eq!(order(2, 5), [5, 0, 6, 7, 3, 4, 2, 9, 8, 1]);
    assert_eq!(order(1, 1 << 40), [5, 2, 3, 8, 9, 4, 7, 0, 1, 6]);
}

#[test]
fn a_validation_split() {
    let (train, validation) = stratified_split(&labels(), 4, 0.25, 5);
    assert_eq!((train.len(), validation), (28, vec![0, 2, 4, 5, 8, 11, 19, 22, 25, 29, 30, 31]));
}

#[test]
fn flipped_labels() {
    let mut noisy = labels();
    let flipped = flip(&mut noisy, Flipped::Training, &[0, 1, 2, 3], 0.25, Noise::Symmetric, 5);
    let found: Vec<(u32, u32)> = flipped.iter().map(|&i| (i, noisy[i as usize])).collect();
    let expected = [(1, 3), (5, 0), (6, 0), (10, 0), (16, 1), (18, 1), (21, 2), (31, 0), (36, 2), (37, 2)];
    assert_eq!(found, expected);
}

#[test]
fn the_resamples_of_a_bootstrap() {
    let drawn = Mutex::new(vec![]);
    intervals(6, 2, 0.9, 5, |resample| {
        drawn.lock().unwrap().push(resample.to_vec());
        [0.0]
    });
    let mut drawn = drawn.into_inner().unwrap();
    drawn.sort();
    assert_eq!(drawn, [[2, 5, 1, 1, 5, 3], [2, 5, 5, 2, 4, 2]]);
}

#[test]
fn the_built_in_digits() {
    let (train, test) = digits::Digits { train: 12, test: 12, ..digits::Digits::default() }.generate();
    let ink = |images: &[u8]| images.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    assert_eq!(train.labels, [7, 2, 6, 8, 9, 0, 4, 1, 3, 5, 3, 4]);
    assert_eq!(test.labels, [5, 2, 6, 9, 7, 0, 3, 8, 4, 1, 0, 4]);
    assert_eq!((ink(train.image(0)), ink(test.image(0))), (31_422, 21_276));
}
