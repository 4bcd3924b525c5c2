//! NumPy's archives, `.npz`, with the arrays `x_train`, `y_train` and, where they are there, `x_val`, `y_val`,
//! `x_test`, `y_test`.
//!
//! Images are `[n, h, w]`, `[n, h, w, channels]` or `[n, channels, h, w]`, of 1 or 3 channels: bytes, or floats from 0
//! to 1, or from 0 to 255 where one is above 1. Labels are whole numbers, `[n]` or `[n, 1]`; the classes are their
//! values, in order.
//!
//! Source of the format: NumPy's documentation, `numpy.lib.format`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::ZipArchive;

use super::format::{Format, Loaded, Pictures, ReadProgress, Reading};
use super::pictures::{Carved, SPLITS, held_out};
use super::{Dataset, picture};
use crate::{Error, Result, input, memory};

/// The archive as a format.
pub struct Npz;

impl Format for Npz {
    fn name(&self) -> &'static str {
        "npz"
    }

    fn about(&self) -> &'static str {
        "NumPy's archive with x_train, y_train and, if they are there, x_val, y_val, x_test, y_test"
    }

    fn recognises(&self, path: &Path) -> bool {
        path.is_file() && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npz"))
    }

    fn is_of_pictures(&self) -> bool {
        true
    }

    fn read(&self, path: &Path, how: &Reading, _: ReadProgress) -> Result<Loaded> {
        how.pictures.check()?;
        let file = input::open(path, "a .npz archive")?;
        let archive = ZipArchive::new(BufReader::new(file))
            .map_err(|error| Error::data(path, format!("found {error}, expected a .npz archive")))?;
        Archive { path, archive, notes: vec![] }.load(how)
    }
}

/// The most bytes of an array: more than any machine that this is for has to spare.
const MOST_BYTES: u64 = 64 << 30;

/// The most bytes of an array's header.
const MOST_HEADER: usize = 1 << 16;

/// An array as its file has it.
struct Array {
    /// NumPy's letter: `u`, `i`, `f`, `b`.
    kind: u8,
    /// Bytes of an element.
    size: usize,
    /// Whether the highest byte comes first.
    big_endian: bool,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

struct Archive<'a> {
    path: &'a Path,
    archive: ZipArchive<BufReader<File>>,
    notes: Vec<String>,
}

/// Images, each in planes, before they have a common shape.
struct Images {
    shape: [usize; 3],
    pixels: Vec<u8>,
    labels: Vec<i64>,
}

impl Archive<'_> {
    fn load(mut self, how: &Reading) -> Result<Loaded> {
        let mut sets = vec![];
        for (name, set) in ["train", "val", "test"].into_iter().zip(SPLITS) {
            let images = self.set(name, set)?;
            sets.push(images);
        }
        let [train, validation, test] = &sets[..] else { unreachable!("three names") };
        let Some(train) = train else {
            let found = self.archive.file_names().flatten().take(8).collect::<Vec<_>>().join(", ");
            return Err(self.error(format!("found the arrays {found}, expected x_train and y_train")));
        };
        let names = match &how.classes {
            Some(known) => known.clone(),
            None => {
                let classes: BTreeSet<i64> = train.labels.iter().copied().collect();
                classes.into_iter().map(|class| class.to_string()).collect()
            }
        };
        if let ([only], None) = (&names[..], &how.classes) {
            return Err(self.error(format!("found one class only, {only}, expected at least two")));
        }
        let [_, h, w] = train.shape;
        let [h, w] = how.pictures.size.unwrap_or([h, w]);
        let shape = [how.pictures.channels.unwrap_or(train.shape[0]), h, w];
        let train = self.dataset(train, SPLITS[0], shape, &names, how)?;
        let validation = validation.as_ref().map(|set| self.dataset(set, SPLITS[1], shape, &names, how)).transpose()?;
        let test = test.as_ref().map(|set| self.dataset(set, SPLITS[2], shape, &names, how)).transpose()?;
        let n = test.as_ref().map_or(0, Dataset::len);
        let (train, test) = match (held_out(&train.labels, names.len(), n, &how.pictures)?, test) {
            (Some(Carved(rest, carved, note)), _) => {
                self.notes.extend(note);
                (train.subset(&rest), train.subset(&carved))
            }
            (None, test) => (train, test.unwrap_or_default()),
        };
        let normalisation = train.normalisation();
        Ok(Loaded { train, validation, test, classes: names, normalisation, notes: self.notes, ..Loaded::default() })
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::data(self.path, message.into())
    }

    /// The images of a set whose arrays are called `x_NAME` and `y_NAME`, if it is there.
    fn set(&mut self, name: &str, set: &str) -> Result<Option<Images>> {
        let [x, y] = ["x", "y"].map(|letter| format!("{letter}_{name}"));
        let (images, labels) = match (self.array(&x)?, self.array(&y)?) {
            (None, None) => return Ok(None),
            (Some(images), Some(labels)) => (images, labels),
            (found, _) => {
                let (found, missing) = if found.is_some() { (x, y) } else { (y, x) };
                return Err(self.error(format!("found {found} and no {missing}, expected both")));
            }
        };
        let labels = self.labels(&y, &labels)?;
        let n = images.shape.first().copied().unwrap_or(0);
        if n == 0 || labels.len() != n {
            let found = format!("found {n} images in {x} and {} labels in {y}", labels.len());
            return Err(self.error(format!("{found}, expected as many of each, at least one")));
        }
        let (shape, channels_last) = match images.shape[1..] {
            [h, w] => ([1, h, w], false),
            [c @ (1 | 3), h, w] if ![1, 3].contains(&w) => ([c, h, w], false),
            [h, w, c @ (1 | 3)] if ![1, 3].contains(&h) => ([c, h, w], true),
            _ => {
                let expected = "[n, h, w], or 1 or 3 channels, second or last";
                return Err(self.error(format!("found {x} of the shape {:?}, expected {expected}", images.shape)));
            }
        };
        if shape.contains(&0) {
            return Err(self.error(format!("found {x} of the shape {:?}, expected at least a pixel", images.shape)));
        }
        let values = self.pixels(&x, &images, set)?;
        let pixels = match (channels_last, shape) {
            (true, [c, h, w]) if c > 1 => {
                let planes = |image: &[u8]| {
                    (0..c).flat_map(|channel| image.iter().skip(channel).step_by(c).copied()).collect::<Vec<_>>()
                };
                values.chunks(c * h * w).flat_map(planes).collect()
            }
            _ => values,
        };
        Ok(Some(Images { shape, pixels, labels }))
    }

    /// A set in the shape that all have, its labels as places among the classes.
    fn dataset(&self, set: &Images, name: &str, shape: [usize; 3], names: &[String], how: &Reading) -> Result<Dataset> {
        let Images { shape: found, pixels, labels } = set;
        let Pictures { size, crop_mode, channels, .. } = how.pictures;
        if size.is_none() && found[1..] != shape[1..] {
            let ([_, h, w], [_, expected_h, expected_w]) = (found, shape);
            let message = format!("found {name} images of {h}x{w}, and training images of {expected_h}x{expected_w}");
            return Err(self.error(format!("{message}; expected one size, or --size HxW, which scales them")));
        }
        if channels.is_none() && found[0] != shape[0] {
            let message = format!("found {name} images of {} channels, and training images of {}", found[0], shape[0]);
            return Err(self.error(format!("{message}; expected as many, or --channels")));
        }
        let images = match *found == shape {
            true => pixels.clone(),
            false => {
                let each = pixels.chunks(found.iter().product());
                each.flat_map(|image| picture::refit(image, *found, shape, crop_mode)).collect()
            }
        };
        let labels = labels.iter().map(|label| {
            let place = names.iter().position(|name| *name == label.to_string());
            // A model's classes may have names.
            let number = || usize::try_from(*label).ok().filter(|label| how.classes.is_some() && *label < names.len());
            place.or_else(number).map(|label| label as u32).ok_or_else(|| {
                let of = if how.classes.is_some() { "the model has" } else { "the training set has" };
                self.error(format!("found the label {label} in the {name} set, which is none that {of}"))
            })
        });
        let labels = labels.collect::<Result<_>>()?;
        Ok(Dataset { shape, classes: names.len(), images, labels, files: vec![] })
    }

    /// An array of the archive, if it is there.
    fn array(&mut self, name: &str) -> Result<Option<Array>> {
        let file = format!("{name}.npy");
        let path = self.path;
        let wrong = |what: String| Error::data(path, format!("{file}: found {what}"));
        let mut member = match self.archive.by_name(&file) {
            Ok(member) => member,
            Err(zip::result::ZipError::FileNotFound) => return Ok(None),
            Err(error) => return Err(wrong(format!("{error}, expected an array that is stored or deflated"))),
        };
        let damaged = |error: std::io::Error| wrong(format!("{error}, expected a whole array"));
        let mut start = [0; 10];
        member.read_exact(&mut start).map_err(damaged)?;
        if start[..6] != *b"\x93NUMPY" {
            return Err(wrong("no array of NumPy's, expected one".into()));
        }
        // Version 1 has two bytes of length; later ones have four.
        let length = match start[6] {
            1 => usize::from(u16::from_le_bytes([start[8], start[9]])),
            _ => {
                let mut more = [0; 2];
                member.read_exact(&mut more).map_err(damaged)?;
                u32::from_le_bytes([start[8], start[9], more[0], more[1]]) as usize
            }
        };
        if length > MOST_HEADER {
            return Err(wrong(format!("a header of {length} bytes, expected at most {MOST_HEADER}")));
        }
        let mut header = vec![0; length];
        member.read_exact(&mut header).map_err(damaged)?;
        let header = String::from_utf8_lossy(&header);
        let (kind, size, big_endian, shape) = parse(&header).map_err(|what| wrong(what.into()))?;
        let bytes = shape.iter().try_fold(size as u64, |bytes, side| bytes.checked_mul(*side as u64));
        let Some(length) = bytes.filter(|length| *length <= MOST_BYTES) else {
            return Err(wrong(format!(
                "a header that claims the shape {shape:?}, expected at most {MOST_BYTES} bytes"
            )));
        };
        if let Some(available) = memory::available().filter(|available| length > *available) {
            let [length, available] = [length, available].map(memory::bytes);
            let message = format!("found {length} in {file}, and {available} of memory are available");
            return Err(Error::OverLimit(format!("{}: {message}", path.display())));
        }
        // As much as is there, however much the header claims.
        let mut bytes = vec![];
        member.take(length + 1).read_to_end(&mut bytes).map_err(damaged)?;
        if bytes.len() as u64 != length {
            let more = if bytes.len() as u64 > length { "more" } else { "fewer" };
            return Err(wrong(format!("{more} bytes than the {length} of its shape {shape:?}, expected as many")));
        }
        Ok(Some(Array { kind, size, big_endian, shape, bytes }))
    }

    fn labels(&self, name: &str, array: &Array) -> Result<Vec<i64>> {
        let is_list = matches!(array.shape[..], [_] | [_, 1]);
        if !is_list || !matches!(array.kind, b'i' | b'u') {
            let found = format!("found {name} of the shape {:?} and the type {}", array.shape, array.type_name());
            return Err(self.error(format!("{found}, expected a whole number for each image")));
        }
        array.integers().ok_or_else(|| self.error(format!("found a label in {name} above 2^63")))
    }

    /// Images as bytes.
    fn pixels(&mut self, name: &str, array: &Array, set: &str) -> Result<Vec<u8>> {
        if (array.kind, array.size) == (b'u', 1) {
            return Ok(array.bytes.clone());
        }
        let Some(values) = array.floats() else {
            let found = format!("found {name} of the type {}", array.type_name());
            return Err(self.error(format!("{found}, expected bytes (uint8), float32 or float64")));
        };
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in &values {
            // Of a NaN both comparisons are false.
            if !(*value >= 0.0 && *value <= 255.0) {
                return Err(
                    self.error(format!("found {value} in {name}, expected numbers from 0 to 1, or from 0 to 255"))
                );
            }
            (least, most) = (least.min(*value), most.max(*value));
        }
        let (range, factor) = if most <= 1.0 { ("0 to 1", 255.0) } else { ("0 to 255", 1.0) };
        self.notes.push(format!(
            "data: {name} has floats from {least} to {most}: the {set} images are taken as {range}, rounded to bytes"
        ));
        Ok(values.into_iter().map(|value| (value * factor).round() as u8).collect())
    }
}

impl Array {
    /// As NumPy calls it.
    fn type_name(&self) -> String {
        let name = match self.kind {
            b'u' => "uint",
            b'i' => "int",
            b'f' => "float",
            b'b' => return "bool".into(),
            _ => "complex",
        };
        format!("{name}{}", 8 * self.size)
    }

    /// Each element's bytes, the lowest first.
    fn elements(&self) -> impl Iterator<Item = [u8; 8]> + '_ {
        self.bytes.chunks_exact(self.size).map(|element| {
            let mut bytes = [0; 8];
            let n = self.size.min(8);
            bytes[..n].copy_from_slice(&element[..n]);
            if self.big_endian {
                bytes[..n].reverse();
            }
            bytes
        })
    }

    /// Whole numbers; none where one is above 2^63.
    fn integers(&self) -> Option<Vec<i64>> {
        let unused = 64 - 8 * self.size as u32;
        let number = |bytes: [u8; 8]| match self.kind {
            b'u' => i64::try_from(u64::from_le_bytes(bytes)).ok(),
            // The sign is in the highest byte that is used.
            _ => Some(i64::from_le_bytes(bytes) << unused >> unused),
        };
        self.elements().map(number).collect()
    }

    fn floats(&self) -> Option<Vec<f64>> {
        let single = |bytes: [u8; 8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).into();
        match (self.kind, self.size) {
            (b'f', 4) => Some(self.elements().map(single).collect()),
            (b'f', 8) => Some(self.elements().map(f64::from_le_bytes).collect()),
            _ => None,
        }
    }
}

/// An array's type, the size of an element, whether its highest byte comes first, and the shape, out of a header such
/// as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`; what is wrong with it otherwise.
fn parse(header: &str) -> Result<(u8, usize, bool, Vec<usize>), &'static str> {
    const DAMAGED: &str = "a header that is no description of an array, expected one";
    let value = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
    let descr = value("descr").ok_or(DAMAGED)?;
    let Some((descr, _)) = descr.strip_prefix('\'').and_then(|descr| descr.split_once('\'')) else {
        return Err("records of several fields, expected numbers");
    };
    let mut letters = descr.bytes();
    let (order, kind) = (letters.next().ok_or(DAMAGED)?, letters.next().ok_or(DAMAGED)?);
    if kind == b'O' {
        return Err("Python's objects, expected numbers");
    }
    let size = descr.get(2..).and_then(|size| size.parse().ok());
    let size = size.filter(|size| [1, 2, 4, 8].contains(size) && b"uifb".contains(&kind));
    let size = size.ok_or("elements that are no whole numbers and no floats, expected numbers")?;
    if !value("fortran_order").ok_or(DAMAGED)?.starts_with("False") {
        return Err("an array in Fortran's order, expected C's (numpy.ascontiguousarray)");
    }
    let shape = value("shape").and_then(|shape| shape.strip_prefix('(')?.split_once(')')).ok_or(DAMAGED)?.0;
    let sides = shape.split(',').map(str::trim).filter(|side| !side.is_empty());
    let shape = sides.map(|side| side.parse().ok()).collect::<Option<_>>().ok_or(DAMAGED)?;
    Ok((kind, size, order == b'>', shape))
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    use super::*;

    /// An array as NumPy saves it.
    fn npy(descr: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(bytes);
        file
    }

    fn archive(arrays: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, std::path::PathBuf) {
        let mut zip = ZipWriter::new(Cursor::new(vec![]));
        for (i, (name, bytes)) in arrays.iter().enumerate() {
            // `savez` stores, `savez_compressed` deflates.
            let method = if i % 2 == 0 { CompressionMethod::Deflated } else { CompressionMethod::Stored };
            zip.start_file(format!("{name}.npy"), SimpleFileOptions::default().compression_method(method)).unwrap();
            zip.write_all(bytes).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        std::fs::write(&path, zip.finish().unwrap().into_inner()).unwrap();
        (dir, path)
    }

    fn read(arrays: &[(&str, Vec<u8>)]) -> Result<Loaded> {
        let (_dir, path) = archive(arrays);
        assert!(Npz.recognises(&path));
        Npz.read(&path, &Reading::default(), &|_, _| {})
    }

    fn refusal(arrays: &[(&str, Vec<u8>)]) -> String {
        let error = read(arrays).unwrap_err();
        assert!(matches!(error, Error::Data { .. }), "{error:?}");
        error.to_string().split_once("a.npz: ").unwrap().1.to_owned()
    }

    /// Labels 3 and 5 in turn.
    fn labels(n: u8) -> Vec<u8> {
        npy("'|u1'", &format!("({n},)"), &(0..n).map(|i| 3 + i % 2 * 2).collect::<Vec<_>>())
    }

    /// Catches channels in the wrong place, and labels that are not numbered from 0.
    #[test]
    fn every_layout_becomes_planes() {
        let bytes: Vec<u8> = (0..2 * 4 * 5 * 3).collect();
        let set = |shape: &str| {
            let x = npy("'|u1'", shape, &bytes);
            let test = ("x_test", npy("'|u1'", shape, &bytes));
            read(&[("x_train", x), ("y_train", labels(2)), test, ("y_test", labels(2))]).unwrap()
        };
        let Loaded { train, test, classes, validation, .. } = set("(2, 4, 5, 3)");
        assert_eq!((train.shape, &train.image(1)[..2], train.image(1)[20]), ([3, 4, 5], &[60, 63][..], 61));
        assert_eq!((&classes[..], &train.labels[..]), (&["3".to_owned(), "5".into()][..], &[0, 1][..]));
        assert_eq!((test, validation), (train, None));
        assert_eq!(set("(2, 3, 4, 5)").train.image(1), &bytes[60..]);
        assert_eq!(set("(2, 12, 5)").train.shape, [1, 12, 5]);
    }

    #[test]
    fn floats_are_taken_in_a_range_that_is_said() {
        let floats = |values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            npy("'<f4'", &format!("({}, 2, 2)", values.len() / 4), &bytes)
        };
        let with = |values: &[f32]| {
            let n = (values.len() / 4) as u8;
            read(&[
                ("x_train", floats(values)),
                ("y_train", labels(n)),
                ("x_test", floats(values)),
                ("y_test", labels(n)),
            ])
        };
        let Loaded { train, notes, .. } = with(&[0.0, 0.5, 1.0, 0.25, 0.0, 0.0, 0.0, 0.0]).unwrap();
        assert_eq!(train.image(0), [0, 128, 255, 64]);
        assert_eq!(
            notes[0],
            "data: x_train has floats from 0 to 1: the training images are taken as 0 to 1, rounded to bytes"
        );
        assert_eq!(with(&[0.0, 0.5, 200.4, 1.0, 0.0, 0.0, 0.0, 0.0]).unwrap().train.image(0), [0, 1, 200, 1]);
        for bad in [-0.1, 256.0, f32::NAN] {
            let error = with(&[bad; 8]).unwrap_err().to_string();
            assert!(error.contains("in x_train, expected numbers from 0 to 1, or from 0 to 255"), "{error}");
        }
    }

    #[test]
    fn labels_of_any_whole_number_are_classes() {
        let x = npy("'|u1'", "(10, 1, 1)", &[7; 10]);
        let big: Vec<u8> = (0..10).flat_map(|i| (if i % 2 == 0 { -2_i64 } else { 300 }).to_be_bytes()).collect();
        let y = npy("'>i8'", "(10, 1)", &big);
        let Loaded { train, mut test, classes, notes, .. } = read(&[("x_train", x), ("y_train", y)]).unwrap();
        test.labels.sort();
        assert_eq!((&classes[..], train.len(), test.labels), (&["-2".to_owned(), "300".into()][..], 8, vec![0, 1]));
        assert!(notes[0].contains("no test set is there"), "{notes:?}");
    }

    #[test]
    fn an_archive_that_lies_is_refused() {
        let good = || npy("'|u1'", "(2, 4, 4)", &[1; 32]);
        let x = |x: Vec<u8>| refusal(&[("x_train", x), ("y_train", labels(2))]);
        assert_eq!(x(npy("'|O'", "(2, 4, 4)", b"x")), "x_train.npy: found Python's objects, expected numbers");
        let more = "x_train.npy: found more bytes than the 16 of its shape [1, 4, 4], expected as many";
        assert_eq!(x(npy("'|u1'", "(1, 4, 4)", &[1; 32])), more);
        assert!(x(npy("'|u1'", "(9, 4, 4)", &[1; 32])).contains("found fewer bytes than the 144 of its shape"));
        assert!(x(npy("'|u1'", "(99999999999, 99999, 9999)", &[1])).contains("a header that claims the shape"));
        assert!(x(npy("[('a', '<i4')]", "(2,)", &[1])).contains("found records of several fields"));
        assert!(x(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f".to_vec()).contains("a header of 2147483647 bytes"));
        assert!(x(b"hello, world".to_vec()).contains("no array of NumPy's"));
        assert!(x(npy("'|u1'", "(2, 4, 4, 4)", &[1; 128])).contains("found x_train of the shape [2, 4, 4, 4]"));
        let y = |y: Vec<u8>| refusal(&[("x_train", good()), ("y_train", y)]);
        assert_eq!(
            y(labels(3)),
            "found 2 images in x_train and 3 labels in y_train, expected as many of each, at least one"
        );
        assert!(y(npy("'<f4'", "(2,)", &[0; 8])).contains("[2] and the type float32, expected a whole number"));
        assert_eq!(refusal(&[("x_train", good())]), "found x_train and no y_train, expected both");
        assert_eq!(refusal(&[("a", good())]), "found the arrays a.npy, expected x_train and y_train");
        let one_class = npy("'|u1'", "(2,)", &[4, 4]);
        assert_eq!(y(one_class), "found one class only, 4, expected at least two");
        let (_dir, path) = archive(&[("x_train", good())]);
        std::fs::write(&path, b"PK\x03\x04 and no more").unwrap();
        assert!(Npz.read(&path, &Reading::default(), &|_, _| {}).unwrap_err().to_string().contains("expected a .npz"));
    }

    /// A member that unpacks to more than its shape says is not unpacked to its end.
    #[test]
    fn a_bomb_does_not_go_off() {
        let mut bomb = npy("'|u1'", "(2, 4, 4)", &[]);
        bomb.resize(64 << 20, 0);
        let message = refusal(&[("x_train", bomb), ("y_train", labels(2))]);
        assert!(message.contains("found more bytes than the 32 of its shape"), "{message}");
    }
}
