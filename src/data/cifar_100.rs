//! CIFAR-100: photographs of a hundred classes, which form twenty groups, 32x32, in the binary version
//! (`cifar.rs` reads it).
//!
//! A record has two label bytes: the group (coarse), then the class (fine). Each makes a data set of its own.

use std::path::Path;

use super::Dataset;
use super::cifar::Layout;
use super::format::{Format, Loaded, ReadProgress, Reading};
use crate::Result;

/// Names as `fine_label_names.txt` has them, where that file is missing.
const FINE: &str = "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly \
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile \
    cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp \
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom \
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine \
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake \
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor \
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm";

/// Names as `coarse_label_names.txt` has them, where that file is missing.
const COARSE: &str = "aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices \
    household_furniture insects large_carnivores large_man-made_outdoor_things \
    large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals \
    non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2";

/// The data set as a format: with the hundred classes, or with their twenty groups.
pub struct Cifar100 {
    /// Whether the groups are the classes.
    pub coarse: bool,
}

impl Cifar100 {
    fn names(&self) -> Vec<&'static str> {
        (if self.coarse { COARSE } else { FINE }).split_whitespace().collect()
    }

    fn layout(&self) -> Layout {
        Layout {
            title: "CIFAR-100, binary",
            labels: 2,
            label: if self.coarse { 0 } else { 1 },
            classes: if self.coarse { 20 } else { 100 },
            folder: "cifar-100-binary",
            archive: "cifar-100-binary.tar.gz",
            train: &["train.bin"],
            test: "test.bin",
            names: Some(if self.coarse { "coarse_label_names.txt" } else { "fine_label_names.txt" }),
        }
    }
}

impl Format for Cifar100 {
    fn name(&self) -> &'static str {
        if self.coarse { "cifar-100-coarse" } else { "cifar-100" }
    }

    fn about(&self) -> &'static str {
        match self.coarse {
            true => "the same files, with the 20 groups of the classes",
            false => "CIFAR-100's binary files, or their archive",
        }
    }

    fn recognises(&self, path: &Path) -> bool {
        // Only whoever names the groups wants them.
        !self.coarse && self.layout().is_at(path)
    }

    fn read(&self, dir: &Path, _how: &Reading, _: ReadProgress) -> Result<Loaded> {
        let (train, test, names) = self.layout().load(dir)?;
        let normalisation = [[0.5071, 0.2673], [0.4865, 0.2564], [0.4409, 0.2762]];
        let loaded = Loaded::published((train, test), &self.names(), &normalisation);
        Ok(Loaded { classes: names.unwrap_or(loaded.classes), ..loaded })
    }

    fn check_places(&self, dir: &Path, train: &Dataset) -> Result<()> {
        self.layout().check_places(dir, train)
    }
}

#[cfg(test)]
mod tests {
    use super::super::cifar::tests::{gzip, tar};
    use super::*;

    /// Records of these groups and classes.
    fn records(labels: &[[u8; 2]]) -> Vec<u8> {
        labels.iter().flat_map(|&[coarse, fine]| [vec![coarse, fine], vec![fine; 3072]].concat()).collect()
    }

    fn read(coarse: bool, path: &Path) -> Result<Loaded> {
        Cifar100 { coarse }.read(path, &Reading::default(), &|_, _| {})
    }

    #[test]
    fn each_label_byte_makes_a_set() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(!Cifar100 { coarse: false }.recognises(root));
        std::fs::write(root.join("train.bin"), records(&[[11, 19], [0, 99], [19, 2]])).unwrap();
        std::fs::write(root.join("test.bin.gz"), gzip(&records(&[[10, 49]]))).unwrap();
        assert!(Cifar100 { coarse: false }.recognises(root) && !Cifar100 { coarse: true }.recognises(root));
        for (coarse, labels, test, n, names) in [
            (false, [19, 99, 2], 49, 100, ["cattle", "worm"]),
            (true, [11, 0, 19], 10, 20, ["large_omnivores_and_herbivores", "vehicles_2"]),
        ] {
            let loaded = read(coarse, root).unwrap();
            assert_eq!((&loaded.train.labels[..], &loaded.test.labels[..]), (&labels[..], &[test][..]));
            assert_eq!((loaded.train.classes, loaded.classes.len(), loaded.train.shape), (n, n, [3, 32, 32]));
            assert_eq!(loaded.train.image(1), [99; 3072]);
            assert_eq!([&loaded.classes[if coarse { 11 } else { 19 }], &loaded.classes[n - 1]], names);
        }
        // What the set itself says goes first.
        let own: String = (0..20).map(|i| format!("group {i}\n")).collect();
        std::fs::write(root.join("coarse_label_names.txt"), own).unwrap();
        assert_eq!(read(true, root).unwrap().classes[3], "group 3");
        std::fs::write(root.join("fine_label_names.txt"), "apple").unwrap();
        let message = read(false, root).unwrap_err().to_string();
        assert!(message.ends_with("found 1 names, 1 of them different, expected 100: one for each class"), "{message}");
    }

    #[test]
    fn places_are_those_of_the_published_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cifar-100-binary.tar.gz");
        let train = records(&vec![[1, 2]; 50_000]);
        let files = |train| {
            let files = [("cifar-100-binary/train.bin", train), ("cifar-100-binary/test.bin", &records(&[[3, 4]])[..])];
            std::fs::write(&path, gzip(&tar(&files))).unwrap();
            let loaded = read(false, dir.path()).unwrap();
            Cifar100 { coarse: false }.check_places(dir.path(), &loaded.train)
        };
        files(&train[..]).unwrap();
        let message = files(&train[3074..]).unwrap_err().to_string();
        assert!(message.ends_with("found 49999 training images, expected the published 50000"), "{message}");
    }

    #[test]
    fn a_label_that_is_no_class_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("train.bin"), records(&[[1, 1], [20, 100]])).unwrap();
        std::fs::write(dir.path().join("test.bin"), records(&[[1, 1]])).unwrap();
        for (coarse, expected) in [(false, "100, expected below 100"), (true, "20, expected below 20")] {
            let message = read(coarse, dir.path()).unwrap_err().to_string();
            assert!(message.ends_with(&format!("the label of record 1 is {expected}")), "{message}");
        }
        std::fs::write(dir.path().join("train.bin"), &records(&[[1, 1]])[1..]).unwrap();
        let message = read(false, dir.path()).unwrap_err().to_string();
        assert!(
            message.contains("3073 bytes, expected 1 to 100000 records of 3074 bytes (CIFAR-100, binary)"),
            "{message}"
        );
    }
}
