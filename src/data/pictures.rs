//! Many pictures, as a folder or a table lists them, become the sets of a data set.
//!
//! What is listed is split first, where it is not; then read, on every core; a split's images are kept for the next
//! start ([`super::cache`]). One error names every file that is no picture.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::Dataset;
use super::cache::Kept;
use super::format::{Loaded, Pictures, ReadProgress, Reading, TEST_SPLIT};
use super::labels::carve;
use super::reader::{Item, Reader, most_frequent, some};
use crate::{Error, Result};

/// What a set is called, by its place in [`Listing::splits`].
pub(super) const SPLITS: [&str; 3] = ["training", "validation", "test"];

/// What the data has, before anything is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// What the files' paths begin at.
    pub root: PathBuf,
    /// The data itself, for errors.
    pub path: PathBuf,
    /// What the classes are called, by their label.
    pub classes: Vec<String>,
    /// Training set, validation set, test set.
    pub splits: [Vec<Item>; 3],
    /// What a user should know of it.
    pub notes: Vec<String>,
}

/// A class with fewer training images is pointed out.
const FEW: usize = 10;

/// Reads what is listed.
///
/// # Errors
/// [`Error::Data`] for a class without training images, files that are no pictures, pictures of several sizes where
/// none is asked for; [`Error::Usage`] for a share of a test set that is there, or that leaves a set empty.
pub(super) fn load(mut listing: Listing, how: &Reading, progress: ReadProgress) -> Result<Loaded> {
    how.pictures.check()?;
    let mut notes = std::mem::take(&mut listing.notes);
    if how.classes.is_none() {
        check_classes(&listing.path, &listing.classes, &listing.splits[0])?;
    }
    let [train, _, test] = &mut listing.splits;
    let labels: Vec<u32> = train.iter().map(|item| item.label).collect();
    if let Some(Carved(rest, carved, note)) = held_out(&labels, listing.classes.len(), test.len(), &how.pictures)? {
        let take = |indices: &[u32]| indices.iter().map(|&i| train[i as usize].clone()).collect::<Vec<_>>();
        (*test, *train) = (take(&carved), take(&rest));
        notes.extend(note);
    }
    let Listing { root, path, classes, mut splits, .. } = listing;
    splits[0].truncate(how.limit_train.unwrap_or(usize::MAX));
    splits[2].truncate(how.limit_test.unwrap_or(usize::MAX));
    if how.limit_train == Some(0) {
        // Nothing is trained, and nothing validated.
        splits[1].clear();
    }

    let reader = Reader { root: &root, path: &path, how, progress, failed: AtomicBool::new(false) };
    let mut shape = None;
    let mut read = vec![];
    for (items, name) in splits.iter().zip(SPLITS) {
        read.push(if items.is_empty() { Kept::default() } else { reader.split(items, name, shape)? });
        let found = &read[read.len() - 1];
        shape = shape.or((!items.is_empty()).then_some(found.shape));
    }
    let shape = shape.ok_or_else(|| Error::data(&path, "found no picture, expected a training set and a test set"))?;
    let bad: Vec<String> = read.iter().zip(&splits).flat_map(|(kept, items)| bad(kept, items)).collect();
    if !bad.is_empty() && !how.pictures.skip_bad {
        return Err(refused(&root, &path, bad));
    }
    notes.extend(duplicates(&read, &splits));
    notes.extend(bad_notes(&bad));
    let mut sizes = BTreeMap::new();
    for (size, n) in read.iter().flat_map(|kept| &kept.sizes) {
        *sizes.entry(*size).or_insert(0) += n;
    }
    let sizes = most_frequent(sizes);
    let [train, validation, test] =
        [0, 1, 2].map(|i| set(shape, classes.len(), std::mem::take(&mut read[i]), &splits[i]));
    notes.extend(counts(&classes, &train));
    for (set, items, name) in [(&train, &splits[0], SPLITS[0]), (&test, &splits[2], SPLITS[2])] {
        if set.is_empty() && !items.is_empty() {
            let message = format!("found no file in the {name} set that is a picture, expected at least one");
            return Err(Error::data(&path, message));
        }
    }
    let normalisation = train.normalisation();
    let validation = (!validation.is_empty()).then_some(validation);
    Ok(Loaded { train, validation, test, classes, normalisation, notes, left_out: bad, sizes, ignored: None })
}

/// The indices of the images that stay in the training set, those that become the test set, and what to say of it.
pub(super) struct Carved(pub Vec<u32>, pub Vec<u32>, pub Option<String>);

/// Carves a test set out of training images with these labels, where the data has none of its own (`test` images).
///
/// # Errors
/// [`Error::Usage`] for a share of a test set that is there, or that leaves a set empty.
pub(super) fn held_out(labels: &[u32], classes: usize, test: usize, how: &Pictures) -> Result<Option<Carved>> {
    // A model is asked about other data: then it takes all that there is.
    let share = match how.test_split {
        Some(1.0) | None if test > 0 => return Ok(None),
        Some(share) if test > 0 => {
            let found = format!("found {share}, and the data has a test set of {test} images");
            return Err(Error::Usage(format!("--test-split: {found}; expected one of the two")));
        }
        share => share.unwrap_or(TEST_SPLIT),
    };
    let (rest, carved) = carve(labels, classes, share);
    if share == 1.0 {
        return Ok(Some(Carved(rest, carved, None)));
    }
    if rest.is_empty() || carved.is_empty() {
        let n = labels.len();
        let found = format!("found {share}, which leaves the training set or the test set without any of {n} images");
        return Err(Error::Usage(format!("--test-split: {found}; expected a share that leaves some to both")));
    }
    let (percent, n) = (100.0 * share, carved.len());
    let note = format!(
        "data: no test set is there: {percent:.0} % of each class, {n} images, is held out as one, always the same \
         (--test-split)"
    );
    Ok(Some(Carved(rest, carved, Some(note))))
}

/// Every class has something to train on, and there are at least two.
fn check_classes(path: &Path, classes: &[String], train: &[Item]) -> Result<()> {
    if let [only] = classes {
        return Err(Error::data(path, format!("found one class only, {only}, expected at least two")));
    }
    let mut has = vec![false; classes.len()];
    train.iter().for_each(|item| has[item.label as usize] = true);
    let without: Vec<_> = classes.iter().zip(has).filter(|(_, has)| !has).map(|(name, _)| name.clone()).collect();
    match without.is_empty() {
        true => Ok(()),
        false => {
            let names = some(&without);
            Err(Error::data(path, format!("found no training image of {names}, expected at least one of each class")))
        }
    }
}

/// What [`Kept`] holds of the pictures that could be read.
fn set(shape: [usize; 3], classes: usize, kept: Kept, items: &[Item]) -> Dataset {
    let is_bad: Vec<usize> = kept.bad.iter().map(|(i, _)| *i).collect();
    let good = || (0..items.len()).filter(|i| is_bad.binary_search(i).is_err());
    let pixels: usize = shape.iter().product();
    let mut images = kept.images;
    if !is_bad.is_empty() {
        for (to, from) in good().enumerate() {
            images.copy_within(from * pixels..(from + 1) * pixels, to * pixels);
        }
        images.truncate((items.len() - is_bad.len()) * pixels);
    }
    let labels = good().map(|i| items[i].label).collect();
    let files = good().map(|i| items[i].file.clone()).collect();
    Dataset { shape, classes, images, labels, files }
}

fn bad<'a>(kept: &'a Kept, items: &'a [Item]) -> impl Iterator<Item = String> + 'a {
    kept.bad.iter().map(|(i, why)| format!("{}: {why}", items[*i].file))
}

/// The error that names files which are no pictures: the one, or some and how many.
fn refused(root: &Path, path: &Path, bad: Vec<String>) -> Error {
    let advice = "--skip-bad leaves out such files";
    match &bad[..] {
        [one] => {
            let (file, why) = one.split_once(": ").unwrap_or((one, ""));
            Error::data(root.join(file), format!("{why}; {advice}"))
        }
        many => Error::data(path, format!("found {} files that are no pictures; {advice}: {}", many.len(), some(many))),
    }
}

fn bad_notes(bad: &[String]) -> Vec<String> {
    const LINES: usize = 20;
    let mut lines: Vec<_> = bad.iter().take(LINES).map(|line| format!("data: left out {line}")).collect();
    if bad.len() > LINES {
        lines.push(format!("data: left out {} more; `smoothcnn data info` lists them all", bad.len() - LINES));
    }
    lines
}

/// Pictures of the test or validation set that are in an earlier set too.
fn duplicates(read: &[Kept], splits: &[Vec<Item>; 3]) -> Vec<String> {
    let mut seen: HashMap<[u8; 16], (usize, usize)> = HashMap::new();
    let mut notes = vec![];
    for (split, kept) in read.iter().enumerate() {
        let is_bad = |i: usize| kept.bad.binary_search_by_key(&i, |(bad, _)| *bad).is_ok();
        let good = || kept.hashes.iter().enumerate().filter(|(i, _)| !is_bad(*i));
        let found: Vec<_> = good().filter_map(|(i, hash)| Some((i, *seen.get(hash)?))).collect();
        if let Some((i, (of, j))) = found.first() {
            let (n, here, there) = (found.len(), SPLITS[split], SPLITS[*of]);
            let pictures = if n == 1 { "picture is" } else { "pictures are" };
            let (this, that) = (&splits[split][*i].file, &splits[*of][*j].file);
            notes.push(format!(
                "data: {n} {pictures} in the {here} set and, byte for byte, in an earlier one: {this} is {that} of the \
                 {there} set; measures on the {here} set are too good"
            ));
        }
        for (i, hash) in good() {
            seen.entry(*hash).or_insert((split, i));
        }
    }
    notes
}

/// What is to be said of the number of training images in each class.
fn counts(classes: &[String], train: &Dataset) -> Option<String> {
    let mut counts = vec![0; classes.len()];
    train.labels.iter().for_each(|&label| counts[label as usize] += 1);
    let few: Vec<_> = (classes.iter().zip(counts))
        .filter(|(_, n)| *n < FEW && !train.is_empty())
        .map(|(class, n)| format!("{class} {n}"))
        .collect();
    (!few.is_empty()).then(|| format!("data: fewer than {FEW} training images: {}", some(&few)))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use image::{GrayImage, Luma, Rgb, RgbImage};

    use super::*;

    pub fn save_grey(path: &Path, value: u8, side: u32) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        GrayImage::from_pixel(side, side, Luma([value])).save(path).unwrap();
    }

    pub fn save_colour(path: &Path, value: [u8; 3], side: u32) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_pixel(side, side, Rgb(value)).save(path).unwrap();
    }

    fn items(n: usize, label: u32) -> impl Iterator<Item = Item> {
        (0..n).map(move |i| Item { file: format!("{label}/{i}.png"), label })
    }

    /// Twelve pictures of class a, ten of class b, each of its own grey, of side 4.
    fn listing(root: &Path) -> Listing {
        let train: Vec<_> = items(12, 0).chain(items(10, 1)).collect();
        for (i, item) in train.iter().enumerate() {
            save_grey(&root.join(&item.file), i as u8 * 10, 4);
        }
        let (root, path) = (root.to_owned(), root.to_owned());
        Listing { root, path, classes: vec!["a".into(), "b".into()], splits: [train, vec![], vec![]], notes: vec![] }
    }

    fn read(listing: &Listing, how: &Reading) -> Result<Loaded> {
        load(listing.clone(), how, &|_, _| {})
    }

    fn refusal(listing: &Listing, how: &Reading) -> String {
        read(listing, how).unwrap_err().to_string()
    }

    /// Catches a test set that overlaps the training set, takes nothing of a class, changes, or is not said.
    #[test]
    fn a_test_set_is_carved_out_of_every_class() {
        let dir = tempfile::tempdir().unwrap();
        let listing = listing(dir.path());
        let loaded = read(&listing, &Reading::default()).unwrap();
        assert_eq!((loaded.train.len(), loaded.test.len(), loaded.validation), (18, 4, None));
        assert_eq!(loaded.test.labels.iter().filter(|label| **label == 0).count(), 2);
        assert_eq!(loaded.notes.len(), 2, "{:?}", loaded.notes);
        assert!(loaded.notes[0].contains("20 % of each class, 4 images"), "{:?}", loaded.notes);
        assert!(loaded.notes[1].contains("fewer than 10 training images: b 8"), "{:?}", loaded.notes);
        let mut files: Vec<_> = loaded.train.files.iter().chain(&loaded.test.files).collect();
        files.sort();
        files.dedup();
        assert_eq!(files.len(), 22);
        assert_eq!(read(&listing, &Reading::default()).unwrap().test, loaded.test);
        // Every image is its file's.
        for set in [&loaded.train, &loaded.test] {
            for (i, file) in set.files.iter().enumerate() {
                let (class, number) = file.strip_suffix(".png").unwrap().split_once('/').unwrap();
                let value = 10 * (number.parse::<usize>().unwrap() + if class == "0" { 0 } else { 12 });
                assert_eq!((set.image(i)[7], set.labels[i].to_string()), (value as u8, class.into()));
            }
        }
        let all = Pictures { test_split: Some(1.0), ..Pictures::default() };
        let loaded = read(&listing, &Reading { pictures: all, ..Reading::default() }).unwrap();
        assert_eq!((loaded.train.len(), loaded.test.len()), (0, 22));
        let none = Pictures { test_split: Some(0.001), ..Pictures::default() };
        assert!(
            refusal(&listing, &Reading { pictures: none, ..Reading::default() })
                .starts_with("--test-split: found 0.001")
        );
    }

    #[test]
    fn mean_and_deviation_are_those_of_the_training_images() {
        let dir = tempfile::tempdir().unwrap();
        let mut listing = listing(dir.path());
        let [train, _, test] = &mut listing.splits;
        *test = train.split_off(20);
        let loaded = read(&listing, &Reading::default()).unwrap();
        // 0, 10, … 190: mean 95, variance 100 (20² - 1) / 12.
        let [[mean, std]] = loaded.normalisation[..] else { panic!("{:?}", loaded.normalisation) };
        assert!((mean - 95.0 / 255.0).abs() < 1e-12, "{mean}");
        assert!((std - 3325_f64.sqrt() / 255.0).abs() < 1e-12, "{std}");
        assert_eq!(loaded.test.labels, [1, 1]);
        let given = Pictures { test_split: Some(0.5), ..Pictures::default() };
        let message = refusal(&listing, &Reading { pictures: given, ..Reading::default() });
        assert!(message.starts_with("--test-split: found 0.5, and the data has a test set of 2 images"), "{message}");
    }

    /// One colour picture among grey ones is enough, in the training set; a test set never decides.
    #[test]
    fn channels_come_from_the_training_set() {
        let dir = tempfile::tempdir().unwrap();
        let mut listing = listing(dir.path());
        // A colour that is none.
        save_colour(&dir.path().join("0/0.png"), [200; 3], 4);
        save_grey(&dir.path().join("1/1.bmp"), 7, 4);
        listing.splits[0].push(Item { file: "1/1.bmp".into(), label: 1 });
        let grey = read(&listing, &Reading::default()).unwrap().train;
        assert_eq!((grey.shape, grey.image(0)), ([1, 4, 4], &[200; 16][..]));
        save_colour(&dir.path().join("0/0.png"), [200, 100, 50], 4);
        let shape = |listing: &Listing, channels| {
            let pictures = Pictures { channels, ..Pictures::default() };
            read(listing, &Reading { pictures, ..Reading::default() }).unwrap().train.shape
        };
        assert_eq!(shape(&listing, Some(1)), [1, 4, 4]);
        let [train, _, test] = &mut listing.splits;
        *test = train.drain(..2).collect();
        assert_eq!(shape(&listing, None), [1, 4, 4]);
        let [train, _, test] = &mut listing.splits;
        train.append(test);
        *test = train.drain(..2).collect();
        assert_eq!(shape(&listing, None), [3, 4, 4]);
    }

    #[test]
    fn several_sizes_are_an_error_or_scaled() {
        let dir = tempfile::tempdir().unwrap();
        let mut listing = listing(dir.path());
        save_grey(&dir.path().join("0/3.png"), 30, 6);
        listing.splits[2] = listing.splits[0].split_off(20);
        let message = refusal(&listing, &Reading::default());
        assert!(message.ends_with("found training pictures of 2 sizes, 4x4 (19), 6x6 (1); expected one size, or --size HxW, which scales them"), "{message}");
        let scaled = Pictures { size: Some([5, 3]), ..Pictures::default() };
        let loaded = read(&listing, &Reading { pictures: scaled, ..Reading::default() }).unwrap();
        assert_eq!((loaded.train.shape, loaded.train.image(3)[0]), ([1, 5, 3], 30));
        assert_eq!(loaded.sizes, [([4, 4], 21), ([6, 6], 1)]);
        save_grey(&dir.path().join("0/3.png"), 30, 4);
        save_grey(&dir.path().join("1/8.png"), 30, 6);
        save_grey(&dir.path().join("1/9.png"), 30, 6);
        let message = refusal(&listing, &Reading::default());
        assert!(
            message.contains("found test pictures of 6x6, and training pictures of 4x4; expected one size"),
            "{message}"
        );
    }

    /// Catches a bad file that shifts the labels of those behind it.
    #[test]
    fn files_that_are_no_pictures_are_named_or_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let listing = listing(dir.path());
        std::fs::write(dir.path().join("0/2.png"), "no picture").unwrap();
        let message = refusal(&listing, &Reading::default());
        assert!(message.contains("2.png: found another kind of file, expected a PNG"), "{message}");
        assert!(message.ends_with("; --skip-bad leaves out such files"), "{message}");
        std::fs::remove_file(dir.path().join("0/5.png")).unwrap();
        let message = refusal(&listing, &Reading::default());
        assert!(message.contains("found 2 files that are no pictures; --skip-bad"), "{message}");
        assert!(message.contains("0/2.png: found") && message.contains("0/5.png: no such file"), "{message}");
        let skip = Pictures { skip_bad: true, ..Pictures::default() };
        let loaded = read(&listing, &Reading { pictures: skip.clone(), ..Reading::default() }).unwrap();
        assert_eq!((loaded.train.len() + loaded.test.len(), loaded.left_out.len()), (20, 2));
        for set in [&loaded.train, &loaded.test] {
            for (i, file) in set.files.iter().enumerate() {
                assert!(file.starts_with(&set.labels[i].to_string()), "{file}");
                let number: u8 = file[2..].strip_suffix(".png").unwrap().parse().unwrap();
                assert_eq!(set.image(i)[0], 10 * (number + 12 * set.labels[i] as u8), "{file}");
            }
        }
        assert!(
            loaded.notes.iter().any(|note| note.starts_with("data: left out 0/2.png: found")),
            "{:?}",
            loaded.notes
        );
    }

    /// Catches a failure of the system that is kept for the next start, which may not have it.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_system_failed_to_read_is_not_kept() {
        let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let listing = listing(dir.path());
        // A regular file that cannot be read from its beginning.
        std::fs::remove_file(dir.path().join("0/2.png")).unwrap();
        std::os::unix::fs::symlink("/proc/self/mem", dir.path().join("0/2.png")).unwrap();
        let pictures = Pictures { skip_bad: true, ..Pictures::default() };
        let how = Reading { pictures, cache: Some(cache.path().into()), ..Reading::default() };
        let loaded = read(&listing, &how).unwrap();
        assert_eq!(loaded.left_out.len(), 1, "{:?}", loaded.left_out);
        let kept = || std::fs::read_dir(cache.path()).unwrap().count();
        assert_eq!(kept(), 1, "of two sets the one that has it is not kept");
        std::fs::remove_file(dir.path().join("0/2.png")).unwrap();
        save_grey(&dir.path().join("0/2.png"), 20, 4);
        assert!(read(&listing, &how).unwrap().left_out.is_empty());
        assert_eq!(kept(), 2);
    }

    #[test]
    fn a_picture_in_two_sets_is_pointed_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut listing = listing(dir.path());
        std::fs::copy(dir.path().join("0/1.png"), dir.path().join("1/9.png")).unwrap();
        listing.splits[2] = listing.splits[0].split_off(20);
        let notes = read(&listing, &Reading::default()).unwrap().notes;
        let expected = "data: 1 picture is in the test set and, byte for byte, in an earlier one: 1/9.png is 0/1.png";
        assert!(notes.iter().any(|note| note.starts_with(expected)), "{notes:?}");
        // Within a set nothing is measured too well.
        std::fs::copy(dir.path().join("0/1.png"), dir.path().join("0/2.png")).unwrap();
        listing.splits[2].truncate(1);
        assert!(!read(&listing, &Reading::default()).unwrap().notes.iter().any(|note| note.contains("byte")));
    }

    /// Catches images of files that have changed since, of other settings, and a second start that reads every file.
    #[test]
    fn a_second_start_reads_no_picture_and_notices_every_change() {
        let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let listing = listing(dir.path());
        let load = |listing: &Listing, size| {
            let count = AtomicUsize::new(0);
            let pictures = Pictures { size, ..Pictures::default() };
            let how = Reading { pictures, cache: Some(cache.path().into()), ..Reading::default() };
            let loaded = load(listing.clone(), &how, &|_, _| _ = count.fetch_add(1, Ordering::Relaxed)).unwrap();
            (loaded, count.into_inner())
        };
        let (first, cold) = load(&listing, None);
        let (second, warm) = load(&listing, None);
        assert_eq!((cold, warm), (22, 0));
        assert_eq!(first, second);
        assert_eq!(load(&listing, Some([2, 2])).1, 22);
        save_grey(&dir.path().join("0/1.png"), 99, 4);
        let (changed, read) = load(&listing, None);
        assert!(read > 0);
        assert!(changed.train != first.train || changed.test != first.test);
        // A damaged file is as good as none.
        for file in std::fs::read_dir(cache.path()).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[3] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        assert_eq!(load(&listing, None), (changed, 22));
    }

    #[test]
    fn a_class_needs_images_and_company() {
        let dir = tempfile::tempdir().unwrap();
        let mut listing = listing(dir.path());
        listing.classes.push("c".into());
        let message = refusal(&listing, &Reading::default());
        assert!(message.contains("found no training image of c, expected at least one of each class"), "{message}");
        listing.classes = vec!["a".into()];
        listing.splits[0].truncate(12);
        assert!(refusal(&listing, &Reading::default()).contains("found one class only, a, expected at least two"));
    }
}
