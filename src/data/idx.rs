//! IDX files, the format of MNIST, Fashion-MNIST and EMNIST, plain or gzip.
//!
//! A file is a header of big-endian 32-bit words, then bytes. The first word is `0x0000_08dd`: 08 means unsigned bytes,
//! dd is the number of dimensions; one word for each dimension follows.
//! Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section on file formats.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::Dataset;
use super::idx_files::SetFiles;
use crate::ops::IGNORED;
use crate::parse::hex;
use crate::{Error, Result, input};

/// The most data a file may announce: 2 GiB. The largest sets in this format (EMNIST) have about 0.5 GiB.
const MAX_BYTES: u128 = 1 << 31;

/// Grey images as an IDX file holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxImages {
    /// How many images, at least 1.
    pub n: usize,
    /// Rows of each image, at least 1.
    pub h: usize,
    /// Pixels in a row, at least 1.
    pub w: usize,
    /// `[n, h, w]`, 0..=255.
    pub pixels: Vec<u8>,
}

/// Reads images: an IDX file of unsigned bytes with three dimensions, plain or gzip (told by its content).
///
/// # Errors
///
/// [`Error::Data`] if the file is missing, holds no images, or is not exactly what its header says; [`Error::Io`] if
/// the system cannot read it.
pub fn read_images(path: &Path) -> Result<IdxImages> {
    let ([n, h, w], pixels) = read(path, "images")?;
    Ok(IdxImages { n, h, w, pixels })
}

/// Reads labels, `[n]` with n at least 1: an IDX file of unsigned bytes with one dimension, plain or gzip.
///
/// # Errors
///
/// As [`read_images`].
pub fn read_labels(path: &Path) -> Result<Vec<u8>> {
    let ([_], labels) = read(path, "labels")?;
    Ok(labels)
}

/// Counts for each of several items, such as votes for each class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxCounts {
    /// How many items.
    pub rows: usize,
    /// How many counts each has.
    pub columns: usize,
    /// `[rows, columns]`.
    pub values: Vec<u8>,
}

/// Reads counts: an IDX file of unsigned bytes with two dimensions, plain or gzip.
///
/// # Errors
///
/// As [`read_images`].
pub fn read_counts(path: &Path) -> Result<IdxCounts> {
    let ([rows, columns], values) = read(path, "counts")?;
    Ok(IdxCounts { rows, columns, values })
}

/// Images of any number of channels: an IDX file of unsigned bytes, plain or gzip, of three dimensions (images, height,
/// width) or of four (images, channels, height, width; 1 or 3 channels).
pub(super) fn read_planes(path: &Path) -> Result<(usize, [usize; 3], Vec<u8>)> {
    let (dims, pixels) = read_any(path, "images", &[3, 4])?;
    match dims[..] {
        [n, h, w] => Ok((n, [1, h, w], pixels)),
        [n, c @ (1 | 3), h, w] => Ok((n, [c, h, w], pixels)),
        _ => {
            let found = dims.iter().map(|d| d.to_string()).collect::<Vec<_>>().join(" x ");
            let expected = "images x channels x height x width with 1 or 3 channels";
            Err(Error::data(path, format!("its header announces {found}, expected {expected}")))
        }
    }
}

/// Reads the four files of a data set of the MNIST family: training set, test set, images `[n, 1, h, w]`.
///
/// The files have torchvision's names (`train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...`), each plain or
/// with `.gz` (the plain one is taken if there are both). They lie where torchvision puts them under its root,
/// `dir/FOLDER/raw` with `torchvision_folder` as FOLDER, e.g. `MNIST` or `FashionMNIST`; or in `dir`. Names that are
/// near these are taken too. Every label must be below `classes`.
///
/// # Errors
///
/// [`Error::Data`] if a file is missing or damaged ([`read_images`]), if counts of images and labels differ, if a
/// label is out of range, or if training and test images differ in size.
pub fn load_dir(dir: &Path, torchvision_folder: &str, classes: usize) -> Result<(Dataset, Dataset)> {
    load_dir_ignoring(dir, torchvision_folder, classes, None)
}

/// As [`load_dir`]; the label `ignored` becomes [`IGNORED`] ([`classes`]).
///
/// # Errors
///
/// As [`load_dir`].
pub fn load_dir_ignoring(
    dir: &Path,
    torchvision_folder: &str,
    classes: usize,
    ignored: Option<i64>,
) -> Result<(Dataset, Dataset)> {
    load_files(&SetFiles::published(dir, torchvision_folder, "")?, classes, ignored)
}

/// As [`load_dir_ignoring`], of files that were found.
pub(super) fn load_files(files: &SetFiles, classes: usize, ignored: Option<i64>) -> Result<(Dataset, Dataset)> {
    let [train_images, train_labels, test_images, test_labels] = &files.paths;
    let train = load_pair(train_images, train_labels, classes, ignored)?;
    let test = load_pair(test_images, test_labels, classes, ignored)?;
    check_shapes((train_images, train.shape), (test_images, test.shape))?;
    Ok((train, test))
}

/// Whether the training labels of the set in `dir` are those with this SHA-256.
pub(super) fn has_labels(dir: &Path, torchvision_folder: &str, sha256: &str) -> bool {
    let Ok(files) = SetFiles::published(dir, torchvision_folder, "") else { return false };
    let Ok((source, _)) = open(&files.paths[1]) else { return false };
    let mut bytes = vec![];
    // A published one has 60,008 bytes.
    source.take(1 << 20).read_to_end(&mut bytes).is_ok() && hex(&Sha256::digest(bytes)) == sha256
}

/// Refuses test images of another shape than the training images.
pub(super) fn check_shapes(
    (train_path, train): (&Path, [usize; 3]),
    (test_path, test): (&Path, [usize; 3]),
) -> Result<()> {
    if test == train {
        return Ok(());
    }
    let text = |[c, h, w]: [usize; 3]| if test[0] == train[0] { format!("{h}x{w}") } else { format!("{c}x{h}x{w}") };
    let (test, train) = (text(test), text(train));
    Err(Error::data(test_path, format!("images are {test}, expected {train} as in {}", train_path.display())))
}

/// One split: images and their labels.
fn load_pair(images_path: &Path, labels_path: &Path, classes: usize, ignored: Option<i64>) -> Result<Dataset> {
    let images = read_images(images_path)?;
    let labels = read_labels_of(labels_path, images_path, images.n)?;
    let labels = self::classes(labels_path, &labels, classes, ignored)?;
    Ok(Dataset { shape: [1, images.h, images.w], classes, images: images.pixels, labels, files: vec![] })
}

/// The labels of the `n` images of another file.
pub(super) fn read_labels_of(path: &Path, images: &Path, n: usize) -> Result<Vec<u8>> {
    let labels = read_labels(path)?;
    if labels.len() != n {
        let message = format!("{} labels, expected {n}: one for each image of {}", labels.len(), images.display());
        return Err(Error::data(path, message));
    }
    Ok(labels)
}

/// The labels of the file `path` as class indices; those that are `ignored`, which may be any number, as [`IGNORED`].
///
/// # Errors
///
/// [`Error::Data`] for another label that is not below `classes`.
pub fn classes(path: &Path, labels: &[u8], classes: usize, ignored: Option<i64>) -> Result<Vec<u32>> {
    let class = |(i, &label): (usize, &u8)| match label {
        _ if ignored == Some(label.into()) => Ok(IGNORED),
        _ if usize::from(label) < classes => Ok(label.into()),
        _ => Err(Error::data(path, format!("the label at index {i} is {label}, expected below {classes}"))),
    };
    labels.iter().enumerate().map(class).collect()
}

/// Reads an IDX file of unsigned bytes with `D` dimensions; `what` names its contents in messages.
fn read<const D: usize>(path: &Path, what: &str) -> Result<([usize; D], Vec<u8>)> {
    let (dims, data) = read_any(path, what, &[D])?;
    Ok((std::array::from_fn(|d| dims[d]), data))
}

/// As [`read`], with any of `allowed` numbers of dimensions, of at most four.
fn read_any(path: &Path, what: &str, allowed: &[usize]) -> Result<(Vec<usize>, Vec<u8>)> {
    let (mut source, gzip) = open(path)?;
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof if gzip => {
            Error::data(path, format!("truncated or corrupt gzip: {error}"))
        }
        _ => Error::io(path)(error),
    };

    let magic = |dimensions: &usize| 0x0800 | *dimensions as u32;
    let mut header = Vec::new();
    source.by_ref().take(4).read_to_end(&mut header).map_err(failed)?;
    let word = header.as_chunks().0.first().map(|&word| u32::from_be_bytes(word));
    let dimensions = match word {
        None => allowed[0],
        Some(word) => *allowed.iter().find(|d| magic(d) == word).ok_or_else(|| {
            let expected: Vec<_> = allowed.iter().map(|d| format!("0x{:08x}", magic(d))).collect();
            let message = format!("magic number 0x{word:08x}, expected {} (IDX {what})", expected.join(" or "));
            Error::data(path, message)
        })?,
    };
    let header_bytes = 4 + 4 * dimensions;
    source.by_ref().take(header_bytes as u64 - 4).read_to_end(&mut header).map_err(failed)?;
    if header.len() < header_bytes {
        let message = format!("ends after {} bytes, expected a header of {header_bytes} (IDX {what})", header.len());
        return Err(Error::data(path, message));
    }

    let dims: Vec<usize> = header[4..].as_chunks().0.iter().map(|&word| u32::from_be_bytes(word) as usize).collect();
    let sizes = dims.iter().map(|d| d.to_string()).collect::<Vec<_>>().join(" x ");
    // At most four factors below 2^32: no overflow.
    let announced: u128 = dims.iter().map(|&d| d as u128).product();
    if announced == 0 {
        return Err(Error::data(path, format!("holds no {what}: its header announces {sizes}, expected at least 1")));
    }
    if announced > MAX_BYTES {
        let message = format!("its header announces {sizes} = {announced} bytes, expected at most {MAX_BYTES}");
        return Err(Error::data(path, message));
    }
    // The buffer grows with what is really there. One byte more than announced is asked for, to see whether the file
    // goes on; at the end of a gzip stream this is also what makes the decoder check its sum.
    let mut data = Vec::new();
    source.take(announced as u64 + 1).read_to_end(&mut data).map_err(failed)?;
    let found = data.len() as u128;
    if found != announced {
        let found = if found > announced { "more".to_owned() } else { found.to_string() };
        let message = format!("{found} bytes after the header, expected {sizes} = {announced}");
        return Err(Error::data(path, message));
    }
    data.shrink_to_fit();
    Ok((dims, data))
}

/// The file's bytes, decompressed if they begin as gzip does (1f 8b: RFC 1952, 2.3.1), and whether they did.
pub(super) fn open(path: &Path) -> Result<(Box<dyn Read>, bool)> {
    let file = input::open(path, "a file of data, plain or gzip")?;
    let mut bytes = BufReader::with_capacity(1 << 16, file);
    let gzip = bytes.fill_buf().map_err(Error::io(path))?.starts_with(&[0x1f, 0x8b]);
    Ok((if gzip { Box::new(MultiGzDecoder::new(bytes)) } else { Box::new(bytes) }, gzip))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use tempfile::TempDir;

    use super::*;

    const TRAIN_IMAGES: &str = "train-images-idx3-ubyte";
    const TRAIN_LABELS: &str = "train-labels-idx1-ubyte";
    const TEST_IMAGES: &str = "t10k-images-idx3-ubyte";
    const TEST_LABELS: &str = "t10k-labels-idx1-ubyte";

    fn idx(magic: u32, dims: &[u32], data: &[u8]) -> Vec<u8> {
        let words = [magic].into_iter().chain(dims.iter().copied());
        words.flat_map(u32::to_be_bytes).chain(data.iter().copied()).collect()
    }

    /// `n` images of `h` x `w` with pixels 0, 1, 2, ...
    fn images(n: u32, h: u32, w: u32) -> Vec<u8> {
        let data: Vec<u8> = (0..n * h * w).map(|i| i as u8).collect();
        idx(0x0803, &[n, h, w], &data)
    }

    fn labels(labels: &[u8]) -> Vec<u8> {
        idx(0x0801, &[labels.len() as u32], labels)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Four good files, three training images and two test images, in `folder`.
    fn write_set(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(TRAIN_IMAGES), images(3, 2, 5)).unwrap();
        fs::write(folder.join(TRAIN_LABELS), labels(&[0, 9, 4])).unwrap();
        fs::write(folder.join(TEST_IMAGES), images(2, 2, 5)).unwrap();
        fs::write(folder.join(TEST_LABELS), labels(&[7, 7])).unwrap();
    }

    fn good_set() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        write_set(dir.path());
        dir
    }

    /// The message must be that of an [`Error::Data`] and hold every one of `parts`, in one line.
    fn expect<T: std::fmt::Debug>(result: Result<T>, parts: &[&str]) {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Data { .. }), "{error:?}");
        let message = error.to_string();
        assert!(!message.contains('\n'), "{message}");
        for part in parts {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }

    /// What [`read_images`] says of a file with these bytes.
    fn read_bytes(bytes: &[u8]) -> Result<IdxImages> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some-images");
        fs::write(&path, bytes).unwrap();
        read_images(&path)
    }

    /// Replaces one file of a good set, then loads it.
    fn load_with(name: &str, bytes: &[u8]) -> Result<(Dataset, Dataset)> {
        let dir = good_set();
        fs::write(dir.path().join(name), bytes).unwrap();
        load_dir(dir.path(), "MNIST", 10)
    }

    #[test]
    fn reads_plain_and_gzip_whatever_the_name() {
        let file = images(3, 2, 5);
        let plain = read_bytes(&file).unwrap();
        assert_eq!(plain, IdxImages { n: 3, h: 2, w: 5, pixels: (0..30).collect() });
        assert_eq!(read_bytes(&gzip(&file)).unwrap(), plain);
        // Two members, cut in the middle of the header.
        let (a, b) = file.split_at(7);
        assert_eq!(read_bytes(&[gzip(a), gzip(b)].concat()).unwrap(), plain);
    }

    #[test]
    fn loads_a_folder_and_torchvisions_layout() {
        let dir = good_set();
        let (train, test) = load_dir(dir.path(), "MNIST", 10).unwrap();
        assert_eq!((train.shape, train.classes, &train.labels[..]), ([1, 2, 5], 10, &[0, 9, 4][..]));
        assert_eq!(train.image(2), &(20..30).collect::<Vec<u8>>()[..]);
        assert_eq!((test.len(), &test.labels[..]), (2, &[7, 7][..]));

        let root = tempfile::tempdir().unwrap();
        let raw = root.path().join("FashionMNIST/raw");
        write_set(&raw);
        fs::remove_file(raw.join(TEST_LABELS)).unwrap();
        fs::write(raw.join("t10k-labels-idx1-ubyte.gz"), gzip(&labels(&[7, 7]))).unwrap();
        assert_eq!(load_dir(root.path(), "FashionMNIST", 10).unwrap(), (train, test));
    }

    #[test]
    fn a_published_set_is_known_by_its_labels() {
        let dir = good_set();
        let hash = hex(&Sha256::digest(labels(&[0, 9, 4])));
        assert!(has_labels(dir.path(), "MNIST", &hash));
        fs::rename(dir.path().join(TRAIN_LABELS), dir.path().join("other")).unwrap();
        assert!(!has_labels(dir.path(), "MNIST", &hash));
        fs::write(dir.path().join(format!("{TRAIN_LABELS}.gz")), gzip(&labels(&[0, 9, 4]))).unwrap();
        assert!(has_labels(dir.path(), "MNIST", &hash) && !has_labels(dir.path(), "MNIST", &hash[1..]));
    }

    #[test]
    fn missing_files_are_named() {
        let empty = tempfile::tempdir().unwrap();
        let raw = empty.path().join("MNIST").join("raw");
        let parts = [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS, ".gz", raw.to_str().unwrap()];
        expect(load_dir(empty.path(), "MNIST", 10), &parts);

        let dir = good_set();
        fs::remove_file(dir.path().join(TEST_LABELS)).unwrap();
        let parts = ["neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte.gz", dir.path().to_str().unwrap()];
        expect(load_dir(dir.path(), "MNIST", 10), &parts);

        expect(read_labels(&dir.path().join("nowhere")), &["nowhere", "no such file"]);
    }

    #[test]
    fn damaged_gzip() {
        let good = gzip(&images(3, 2, 5));
        for keep in [5, 15, good.len() - 12, good.len() - 1] {
            expect(read_bytes(&good[..keep]), &["some-images", "truncated or corrupt gzip"]);
        }
        let mut wrong_sum = good.clone();
        wrong_sum[good.len() - 8] ^= 1;
        expect(read_bytes(&wrong_sum), &["truncated or corrupt gzip"]);
        expect(read_bytes(&[&good[..], b"garbage after the end"].concat()), &["truncated or corrupt gzip"]);
        expect(read_bytes(&[&good[..], &gzip(b"more")].concat()), &["more bytes after the header"]);
    }

    #[test]
    fn wrong_magic() {
        let parts = ["some-images", "0x00000801", "expected 0x00000803", "images"];
        expect(read_bytes(&labels(&[1, 2, 3, 4])), &parts);
        expect(load_with(TEST_LABELS, &images(2, 2, 5)), &[TEST_LABELS, "0x00000803", "expected 0x00000801", "labels"]);
        // Little-endian, and not an IDX file at all.
        expect(read_bytes(&[3, 8, 0, 0]), &["0x03080000"]);
        expect(read_bytes(b"<html>"), &["0x3c68746d"]);
    }

    #[test]
    fn short_header() {
        expect(read_bytes(b""), &["ends after 0 bytes", "header of 16"]);
        expect(read_bytes(&images(3, 2, 5)[..15]), &["ends after 15 bytes", "header of 16"]);
        expect(load_with(TRAIN_LABELS, &labels(&[])[..7]), &[TRAIN_LABELS, "ends after 7 bytes", "header of 8"]);
    }

    #[test]
    fn length_differs_from_header() {
        let good = images(3, 2, 5);
        expect(read_bytes(&good[..good.len() - 1]), &["29 bytes after the header", "3 x 2 x 5 = 30"]);
        expect(read_bytes(&[&good[..], &[0]].concat()), &["more bytes after the header", "3 x 2 x 5 = 30"]);
    }

    #[test]
    fn absurd_header() {
        let huge = idx(0x0803, &[u32::MAX; 3], &[0; 30]);
        expect(read_bytes(&huge), &["4294967295 x 4294967295 x 4294967295", "at most 2147483648"]);
        // Below the cap, but far more than the file has.
        let large = idx(0x0803, &[2_000_000, 32, 32], &[0; 30]);
        expect(read_bytes(&gzip(&large)), &["30 bytes after the header", "2000000 x 32 x 32 = 2048000000"]);
    }

    #[test]
    fn zero_images() {
        expect(read_bytes(&images(0, 28, 28)), &["holds no images", "0 x 28 x 28"]);
        expect(read_bytes(&images(4, 0, 28)), &["holds no images", "4 x 0 x 28"]);
        expect(load_with(TRAIN_LABELS, &labels(&[])), &[TRAIN_LABELS, "holds no labels"]);
    }

    #[test]
    fn counts_differ() {
        expect(load_with(TRAIN_LABELS, &labels(&[1, 2])), &[TRAIN_LABELS, "2 labels", "expected 3", TRAIN_IMAGES]);
    }

    #[test]
    fn label_out_of_range() {
        let parts = [TRAIN_LABELS, "index 1", "is 10", "expected below 10"];
        expect(load_with(TRAIN_LABELS, &labels(&[0, 10, 11])), &parts);
    }

    #[test]
    fn sizes_differ_between_splits() {
        expect(load_with(TEST_IMAGES, &images(2, 5, 2)), &[TEST_IMAGES, "5x2", "expected 2x5", TRAIN_IMAGES]);
    }
}
