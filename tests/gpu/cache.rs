//! Pipelines that one start leaves to the next.

use std::fs;

use smoothcnn::backend::gpu::cache;
use smoothcnn::check::layers::layer;
use smoothcnn::layer::{Layer, Shape};
use smoothcnn::ops::Case;

use super::skip::skipped;
use super::{assert_rows, opened};

/// Catches a cache that is not written, or that is in the way: one that is damaged, another driver's, or a folder that
/// is none.
#[test]
fn pipelines_are_kept_and_a_file_that_is_wrong_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let start = |folder: &std::path::Path| {
        let gpu = opened(Some(folder.to_owned()));
        let case = Case { n: 3, input: Shape::Features(17), layer: Layer::relu() };
        assert_rows(layer(&gpu, "relu", &case));
        gpu.keep_pipelines();
        gpu.check("the end").unwrap();
        gpu
    };
    let gpu = start(folder.path());
    if !gpu.device.features().contains(wgpu::Features::PIPELINE_CACHE) {
        return skipped("this device keeps no pipelines");
    }
    let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [path] = &files[..] else { panic!("{files:?}") };
    let kept = cache::read(path).expect("what is kept can be read");
    start(folder.path());

    let other_driver: Vec<u8> =
        kept.iter().enumerate().map(|(i, b)| if (8..64).contains(&i) { b ^ 0x55 } else { *b }).collect();
    for contents in [&b""[..], b"no pipelines", &other_driver, &kept[..kept.len() / 2]] {
        cache::write(path, contents);
        start(folder.path());
        assert!(cache::read(path).is_some_and(|now| now != contents), "a wrong file was not replaced");
    }
    fs::write(path, b"damaged").unwrap();
    start(folder.path());
    start(path);
}
