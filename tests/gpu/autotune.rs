//! The fastest form of the kernels is found out once, and then kept.

use std::fs;
use std::sync::Arc;

use smoothcnn::backend::Setup;
use smoothcnn::backend::gpu::autotune::{self, Chosen};
use smoothcnn::backend::gpu::{Gpu, cache};
use smoothcnn::check::losses::losses;
use smoothcnn::check::network::random_data;
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::optimizer::{Adam, Optimizer};
use smoothcnn::plan::Storage;
use smoothcnn::plan::tuning::{Tiles, Tuning};

use super::skip::skipped;
use super::{few_channels, opened};

/// The choice, of which there must be nothing to say: every form is right.
fn tuned(gpu: &Arc<Gpu>, setup: &Setup, activations: Storage) -> Tuning {
    let Chosen { tuning, notes } = autotune::tuning(gpu, setup, activations).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    tuning
}

/// Catches a choice that follows the clock after it was kept, one of another batch or driver that is taken over, and a
/// file that is wrong and in the way.
#[test]
fn a_choice_is_kept_and_then_no_clock_changes_it() {
    let net = few_channels([1, 8, 8], 4);
    let data = random_data(6, net.input, 4);
    let setup = |batch_size| Setup {
        seed: 0,
        net: &net,
        batch_size,
        loss: Smoothing::NONE.into(),
        optimizer: Optimizer::Adam(Adam::default()),
        recipe: Default::default(),
        normalisation: vec![[0.5, 0.25]],
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &data,
        test: &data,
    };
    let folder = tempfile::tempdir().unwrap();
    let gpu = opened(Some(folder.path().to_owned()));
    let chosen = tuned(&gpu, &setup(4), Storage::F32);
    gpu.offers(chosen).unwrap();
    let files = || -> Vec<_> {
        let paths = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
    };
    let [path] = &files()[..] else {
        assert!(!gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY), "nothing was kept");
        assert_eq!(chosen, gpu.tuning());
        return skipped("this device has no clock to choose by");
    };

    // Whatever the file says is the choice, were it the slowest.
    let text = String::from_utf8(cache::read(path).unwrap()).unwrap();
    let ours = serde_json::to_string(&chosen).unwrap();
    for conv_forward in [Tiles::Registers, Tiles::Workgroup] {
        let other = Tuning { conv_forward, ..chosen };
        cache::write(path, text.replace(&ours, &serde_json::to_string(&other).unwrap()).as_bytes());
        assert_eq!(tuned(&gpu, &setup(4), Storage::F32), other);
    }
    // Another batch is timed for itself.
    tuned(&gpu, &setup(3), Storage::F32);
    assert_eq!(files().len(), 2);
    // And so is another storage.
    if gpu.stores(Storage::F16) {
        tuned(&gpu, &setup(4), Storage::F16);
        assert_eq!(files().len(), 3);
    }
    // What is of another driver, or no choice at all, is made anew.
    for wrong in
        [text.replace("batch 4", "batch 9"), "{}".into(), text.replace("conv-forward\":\"", "conv-forward\":\"no")]
    {
        cache::write(path, wrong.as_bytes());
        gpu.offers(tuned(&gpu, &setup(4), Storage::F32)).unwrap();
        assert_ne!(cache::read(path).unwrap(), wrong.as_bytes());
    }
}

/// Catches a choice by the clock that nobody keeps: the next run would be free to choose another.
#[test]
fn where_nothing_can_be_kept_the_adapter_decides() {
    let net = few_channels([1, 8, 8], 4);
    let data = random_data(4, net.input, 4);
    let file = tempfile::NamedTempFile::new().unwrap();
    for folder in [None, Some(file.path().join("no folder"))] {
        let gpu = opened(folder);
        let setup = Setup {
            seed: 0,
            net: &net,
            batch_size: 2,
            loss: Smoothing::NONE.into(),
            optimizer: Optimizer::Adam(Adam::default()),
            recipe: Default::default(),
            normalisation: vec![[0.5, 0.25]],
            augment: smoothcnn::ops::augment::Augment::NONE,
            train: &data,
            test: &data,
        };
        assert_eq!(tuned(&gpu, &setup, Storage::F32), gpu.tuning());
    }
}

/// Catches a loss with something for each training image, of which a trial on a few of them has too much.
#[test]
fn every_loss_can_be_tried() {
    let net = few_channels([1, 8, 8], 4);
    let data = random_data(6, net.input, 4);
    let folder = tempfile::tempdir().unwrap();
    let gpu = opened(Some(folder.path().to_owned()));
    for (name, loss) in losses(4, 6).unwrap() {
        let setup = Setup {
            seed: 0,
            net: &net,
            batch_size: 3,
            loss,
            optimizer: Optimizer::Adam(Adam::default()),
            recipe: Default::default(),
            normalisation: vec![[0.5, 0.25]],
            augment: smoothcnn::ops::augment::Augment::NONE,
            train: &data,
            test: &data,
        };
        // A choice of another loss would be taken over.
        fs::read_dir(folder.path()).unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
        println!("{name}");
        tuned(&gpu, &setup, Storage::F32);
    }
}
