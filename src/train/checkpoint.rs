//! Weights as safetensors files, named as in PyTorch's `state_dict` (`conv1.weight`, `fc2.bias`, ...), so that
//! `safetensors.torch.load_file` and `load_state_dict` take them as they are.
//!
//! Format: <https://github.com/huggingface/safetensors#format>. Every file that is written here has a seal in its
//! metadata: `sha256`, the SHA-256 of the whole file, with the seal's own 64 digits taken as zeros. A file that has one
//! is held to it; those of other programs have none, and are read without.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype as FileDtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};
use sha2::{Digest, Sha256};

use crate::fs::write_output;
use crate::parse::hex;
use crate::{Error, Result, input};

/// Free text by key, in the file's header.
pub type Metadata = BTreeMap<String, String>;

/// One tensor to save.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// Its name in PyTorch's `state_dict`.
    pub name: String,
    /// Its dimensions; `[]` is a scalar.
    pub shape: Vec<usize>,
    /// Its elements in row-major order, as many as the product of `shape`.
    pub data: Cow<'a, [f64]>,
}

/// The number type of the tensors of a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits: what the kernels compute in, so nothing is lost.
    F32,
    /// 64 bits.
    F64,
}

/// The seal's key in the metadata.
const SEAL: &str = "sha256";
/// Its digits before they are known.
const NO_SEAL: [u8; 64] = [b'0'; 64];

/// The seal of a file whose digits are at `at`.
fn seal(bytes: &[u8], at: usize) -> String {
    let mut hash = Sha256::new();
    hash.update(&bytes[..at]);
    hash.update(NO_SEAL);
    hash.update(&bytes[at + NO_SEAL.len()..]);
    hex(&hash.finalize())
}

/// Where the digits of a seal are: behind its key, in the file's header.
fn seal_at(bytes: &[u8], digits: &str) -> Option<usize> {
    let text = format!("\"{SEAL}\":\"{digits}\"");
    let header = u64::from_le_bytes(*bytes.first_chunk()?).min(bytes.len() as u64 - 8) as usize;
    let found = bytes[..8 + header].windows(text.len()).position(|window| window == text.as_bytes())?;
    Some(found + text.len() - 1 - digits.len())
}

/// Writes `tensors` to `path` as [`write_output`] does, as `dtype`, with `metadata` and a seal in the header. Equal
/// arguments give equal bytes.
///
/// # Errors
///
/// [`Error::Data`] if an element is NaN or infinite, or becomes so as `dtype`: [`load`] would refuse the file, so it
/// must not replace one that it takes. [`Error::Io`] as [`write_output`].
///
/// # Panics
///
/// If a tensor's shape and data disagree, a name is there twice, or the metadata has a seal: the caller's mistake.
pub fn save(path: &Path, tensors: &[Tensor], dtype: Dtype, metadata: &Metadata) -> Result<()> {
    // The header is written here, not with `safetensors::serialize`, which puts the metadata in a random order.
    let (word, size) = match dtype {
        Dtype::F32 => ("F32", 4),
        Dtype::F64 => ("F64", 8),
    };
    let mut metadata = metadata.clone();
    let zeros = String::from_utf8_lossy(&NO_SEAL).into_owned();
    assert!(metadata.insert(SEAL.into(), zeros.clone()).is_none(), "metadata with a seal");
    let mut header = BTreeMap::from([("__metadata__", serde_json::json!(metadata))]);
    let mut end = 0;
    for Tensor { name, shape, data } in tensors {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "elements of {name} {shape:?}");
        let start = end;
        end += data.len() * size;
        let info = serde_json::json!({ "dtype": word, "shape": shape, "data_offsets": [start, end] });
        assert!(header.insert(name, info).is_none(), "two tensors are named {name}");
    }
    let mut text = serde_json::to_vec(&header).expect("maps of strings to JSON values");
    text.resize(text.len().next_multiple_of(8), b' '); // the data starts at a multiple of 8

    let mut bytes = Vec::with_capacity(8 + text.len() + end);
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text);
    for Tensor { name, data, .. } in tensors {
        for (i, &value) in data.iter().enumerate() {
            let finite = match dtype {
                Dtype::F32 => {
                    bytes.extend((value as f32).to_le_bytes());
                    (value as f32).is_finite()
                }
                Dtype::F64 => {
                    bytes.extend(value.to_le_bytes());
                    value.is_finite()
                }
            };
            if !finite {
                let message =
                    format!("not written: tensor {name}: found {value} at element {i}, expected a finite {word}");
                return Err(Error::data(path, message));
            }
        }
    }
    let at = seal_at(&bytes, &zeros).expect("the header was just written with it");
    let digits = seal(&bytes, at);
    bytes[at..][..digits.len()].copy_from_slice(digits.as_bytes());
    write_output(path, &bytes)
}

/// The SHA-256, in hexadecimal digits, of the tensors in the file at `path`: of their names, shapes and number types,
/// and of their bytes. The metadata, which others may add to, makes no difference.
///
/// # Errors
///
/// As [`load_metadata`].
pub fn tensors_sha256(path: &Path) -> Result<String> {
    let bytes = read(path)?;
    let (_, file) = parse(path, &bytes)?;
    let mut tensors = file.tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hash = Sha256::new();
    for (name, tensor) in tensors {
        hash.update(format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.shape()));
        hash.update(tensor.data());
    }
    Ok(hex(&hash.finalize()))
}

/// Reads the weights at `path`: exactly the tensors `expected` (name, shape), and gives their elements in that order,
/// row-major, with the file's metadata. F64, F32, F16 and BF16 are read, all without loss.
///
/// # Errors
///
/// [`Error::Data`], one line with the tensor, what was found and what was expected: no such file, not a safetensors
/// file or a damaged one, one that is not as its seal says, a tensor missing, one too many, a wrong shape or number
/// type, a NaN or an infinity. [`Error::Io`] if the file is there and cannot be read.
pub fn load(path: &Path, expected: &[(String, Vec<usize>)]) -> Result<(Vec<Vec<f64>>, Metadata)> {
    load_among(path, expected, &|_, _| false)
}

/// As [`load`], but for tensors that are `ignored`, by the file's metadata and their name.
///
/// # Errors
///
/// As [`load`].
pub fn load_among(
    path: &Path,
    expected: &[(String, Vec<usize>)],
    ignored: &dyn Fn(&Metadata, &str) -> bool,
) -> Result<(Vec<Vec<f64>>, Metadata)> {
    let bad = |message: String| Error::data(path, message);
    let bytes = read(path)?;
    let (metadata, file) = parse(path, &bytes)?;

    let mut names = file.names();
    names.sort_unstable();
    let mut weights = Vec::with_capacity(expected.len());
    for (name, shape) in expected {
        let Ok(view) = file.tensor(name) else {
            let found = list(&names);
            return Err(bad(format!("found no tensor {name}, expected one of shape {shape:?}; the file has {found}")));
        };
        if view.shape() != shape {
            return Err(bad(format!("tensor {name}: found shape {:?}, expected {shape:?}", view.shape())));
        }
        let values = numbers(&view).ok_or_else(|| {
            bad(format!("tensor {name}: found numbers of type {}, expected F32, F64, F16 or BF16", view.dtype()))
        })?;
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(bad(format!("tensor {name}: found {} at element {i}, expected finite numbers", values[i])));
        }
        weights.push(values);
    }
    let is_extra = |name: &&&str| expected.iter().all(|(e, _)| e != **name) && !ignored(&metadata, name);
    if let Some(extra) = names.iter().find(is_extra) {
        let wanted: Vec<_> = expected.iter().map(|(name, _)| name.as_str()).collect();
        return Err(bad(format!("found a tensor {extra:?}, expected only {}", list(&wanted))));
    }
    Ok((weights, metadata))
}

/// The metadata of the weights at `path`.
///
/// # Errors
///
/// As [`load`], whatever tensors the file has.
pub fn load_metadata(path: &Path) -> Result<Metadata> {
    Ok(parse(path, &read(path)?)?.0)
}

/// The names of the tensors at `path`, in alphabetical order.
///
/// # Errors
///
/// As [`load_metadata`].
pub fn load_names(path: &Path) -> Result<Vec<String>> {
    let bytes = read(path)?;
    let (_, file) = parse(path, &bytes)?;
    let mut names: Vec<_> = file.names().into_iter().map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    input::read(path, input::WEIGHTS, "weights in a safetensors file")
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<(Metadata, SafeTensors<'a>)> {
    let damaged = |e: SafeTensorError| {
        // The reason may quote the file: escaped, it stays on one line.
        let (n, reason) = (bytes.len(), e.to_string());
        let reason = reason.escape_debug();
        Error::data(path, format!("found {n} bytes that are no whole safetensors file ({reason}), expected weights"))
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let mut metadata: Metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    if let Some(digits) = metadata.remove(SEAL) {
        let found = seal_at(bytes, &digits).filter(|_| digits.len() == NO_SEAL.len()).map(|at| seal(bytes, at));
        if found.as_ref() != Some(&digits) {
            let found =
                format!("found a file that is not as it was written (its SHA-256 differs from {SEAL} in its metadata)");
            return Err(Error::data(path, format!("{found}, expected a whole one; who changes a file drops that key")));
        }
    }
    Ok((metadata, file))
}

/// Reads a file that holds one matrix: its rows, its columns, and its elements row by row.
///
/// # Errors
///
/// As [`load`]; [`Error::Data`] too if there is another number of tensors than one, or it has not two dimensions.
pub fn load_matrix(path: &Path) -> Result<(usize, usize, Vec<f64>)> {
    let bytes = input::read(path, input::WEIGHTS, "a matrix in a safetensors file")?;
    let (_, file) = parse(path, &bytes)?;
    let names = file.names();
    let shape = |name: &str| file.tensor(name).map(|view| view.shape().to_vec()).unwrap_or_default();
    let ([name], [rows, columns]) = (&names[..], &shape(names.first().copied().unwrap_or_default())[..]) else {
        return Err(Error::data(path, format!("found the tensors {}, expected one matrix", list(&names))));
    };
    let (weights, _) = load(path, &[((*name).to_owned(), vec![*rows, *columns])])?;
    Ok((*rows, *columns, weights.concat()))
}

/// The first few names for a message, quoted, so that a name from a file cannot break the line.
fn list(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    if text.is_empty() { "none".into() } else { text }
}

/// The elements as f64, or `None` if they are not of a floating-point type of 16 bits or more.
fn numbers(view: &TensorView) -> Option<Vec<f64>> {
    let data = view.data();
    Some(match view.dtype() {
        FileDtype::F64 => data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        FileDtype::F32 => data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect(),
        FileDtype::F16 => data.as_chunks().0.iter().map(|&b| f16_to_f64(u16::from_le_bytes(b))).collect(),
        FileDtype::BF16 => {
            // The upper half of an f32.
            data.as_chunks().0.iter().map(|&b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16).into()).collect()
        }
        _ => return None,
    })
}

/// IEEE 754 binary16: 1 bit of sign, 5 of exponent (bias 15), 10 of fraction.
pub(crate) fn f16_to_f64(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24), // zero and the subnormals
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    fn sample() -> Vec<Tensor<'static>> {
        let tensor = |name: &str, shape: &[usize], data: &[f64]| Tensor {
            name: name.into(),
            shape: shape.into(),
            data: data.to_vec().into(),
        };
        vec![
            tensor("fc1.weight", &[2, 3], &[0.1, -0.0, 1e-30, 4.0, -5.5, 6.25]),
            tensor("fc1.bias", &[2], &[0.5, -1.0 / 3.0]),
            tensor("conv1.weight", &[1, 1, 1, 1], &[7.0]),
        ]
    }

    fn expected() -> Vec<(String, Vec<usize>)> {
        sample().into_iter().map(|t| (t.name, t.shape)).collect()
    }

    fn note() -> Metadata {
        [("format", "pt"), ("classes", "2"), ("note", "a \"quoted\"\nline, é")]
            .map(|(k, v)| (k.into(), v.into()))
            .into()
    }

    /// A folder with the sample in `w.safetensors`.
    fn saved(dtype: Dtype) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        save(&path, &sample(), dtype, &note()).unwrap();
        (folder, path)
    }

    /// A one-tensor file, header and all.
    fn raw(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{}]}}}}"#, data.len());
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    /// The message of the [`Error::Data`] that loading gives, checked to be one line that starts with the path.
    fn refused(path: &Path, expected: &[(String, Vec<usize>)]) -> String {
        let error = load(path, expected).expect_err("a refusal");
        assert!(matches!(error, Error::Data { .. }), "{error:?}");
        let line = error.to_string();
        assert!(!line.contains('\n') && line.starts_with(&path.display().to_string()), "{line}");
        line[path.display().to_string().len() + 2..].to_owned()
    }

    /// A file that ends within its header is not read beyond its end.
    #[test]
    fn a_seal_is_looked_for_within_the_file() {
        let header = format!("{{\"__metadata__\":{{\"{SEAL}\":\"77\"}}}}");
        let file = |length: u64| [&length.to_le_bytes()[..], header.as_bytes()].concat();
        let expected = 8 + header.find("77").unwrap();
        for length in [header.len() as u64, header.len() as u64 + 8, u64::MAX / 2] {
            assert_eq!((seal_at(&file(length), "77"), seal_at(&file(length), "78")), (Some(expected), None));
        }
        assert_eq!(seal_at(&file(3), "77"), None, "a header that ends before it");
        assert_eq!(seal_at(&[1, 2, 3], "77"), None);
    }

    #[test]
    fn round_trip() {
        let (_folder, path) = saved(Dtype::F64);
        let (weights, metadata) = load(&path, &expected()).unwrap();
        for (found, wanted) in weights.iter().zip(sample()) {
            let bits = |v: &[f64]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(found), bits(&wanted.data), "{}", wanted.name);
        }
        assert_eq!(metadata, note());
        assert_eq!(load_metadata(&path).unwrap(), note());

        let (_folder, path) = saved(Dtype::F32);
        let (weights, _) = load(&path, &expected()).unwrap();
        for (found, wanted) in weights.iter().zip(sample()) {
            assert_eq!(*found, wanted.data.iter().map(|&v| f64::from(v as f32)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_order_is_the_expected_one() {
        let (_folder, path) = saved(Dtype::F64);
        let mut wanted = expected();
        wanted.reverse();
        let (weights, _) = load(&path, &wanted).unwrap();
        assert_eq!((weights[0].len(), weights[1].len(), weights[2].len()), (1, 2, 6));
    }

    #[test]
    fn equal_arguments_give_equal_bytes() {
        let (_a, a) = saved(Dtype::F32);
        let (_b, b) = saved(Dtype::F32);
        assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap());
    }

    #[test]
    fn no_tensors_and_empty_tensors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.safetensors");
        save(&path, &[], Dtype::F32, &Metadata::new()).unwrap();
        assert_eq!(load(&path, &[]).unwrap(), (vec![], Metadata::new()));
        let empty = Tensor { name: "w".into(), shape: vec![0, 3], data: Cow::default() };
        save(&path, &[empty], Dtype::F32, &Metadata::new()).unwrap();
        assert_eq!(load(&path, &[("w".into(), vec![0, 3])]).unwrap().0, [Vec::<f64>::new()]);
    }

    #[test]
    fn missing_file_and_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert!(refused(&folder.path().join("none"), &expected()).starts_with("no such file, expected"));
        assert!(refused(folder.path(), &expected()).starts_with("found a folder, expected"));
    }

    #[test]
    fn damaged_files() {
        let (_folder, path) = saved(Dtype::F32);
        let whole = fs::read(&path).unwrap();
        for n in 0..whole.len() {
            fs::write(&path, &whole[..n]).unwrap();
            assert!(refused(&path, &expected()).starts_with(&format!("found {n} bytes that are no whole")));
        }
        fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
        assert!(refused(&path, &expected()).contains("no whole safetensors file"));
        // Any one bit changed is noticed, wherever it is but in the seal's own name: then there is no seal.
        let text = String::from_utf8_lossy(&whole);
        let name = text.find(SEAL).unwrap();
        for i in (0..whole.len()).filter(|i| !(name..name + SEAL.len()).contains(i)) {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[i] ^= 1 << bit;
                fs::write(&path, bytes).unwrap();
                refused(&path, &expected());
            }
        }
        fs::write(&path, [&whole[..whole.len() - 36], &[0; 36]].concat()).unwrap();
        assert!(refused(&path, &expected()).contains("its SHA-256 differs"));
        // A file of another program has none.
        fs::write(&path, raw("F32", "[1]", &1f32.to_le_bytes())).unwrap();
        assert_eq!(load(&path, &[("w".to_owned(), vec![1])]).unwrap().0, [[1.0]]);
        fs::write(&path, b"PK\x03\x04 a zip file, as torch.save writes").unwrap();
        assert!(refused(&path, &expected()).contains("no whole safetensors file"));
    }

    #[test]
    fn missing_extra_and_misshapen_tensors() {
        let (_folder, path) = saved(Dtype::F32);
        let mut more = expected();
        more.push(("fc2.bias".into(), vec![4]));
        assert_eq!(
            refused(&path, &more),
            r#"found no tensor fc2.bias, expected one of shape [4]; the file has "conv1.weight", "fc1.bias", "fc1.weight""#
        );
        assert_eq!(
            refused(&path, &expected()[..2]),
            r#"found a tensor "conv1.weight", expected only "fc1.weight", "fc1.bias""#
        );
        let mut other = expected();
        other[0].1 = vec![3, 2];
        assert_eq!(refused(&path, &other), "tensor fc1.weight: found shape [2, 3], expected [3, 2]");
    }

    #[test]
    fn number_types() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w");
        let wanted = [("w".to_owned(), vec![2])];
        let values = |dtype: &str, data: &[u8]| {
            fs::write(&path, raw(dtype, "[2]", data)).unwrap();
            load(&path, &wanted).unwrap().0.remove(0)
        };
        assert_eq!(values("F16", &[0x00, 0x3c, 0x00, 0xc1]), [1.0, -2.5]);
        assert_eq!(values("F16", &[0x01, 0x00, 0xff, 0x7b]), [2f64.powi(-24), 65504.0]);
        assert_eq!(values("BF16", &[0x80, 0x3f, 0x20, 0xc0]), [1.0, -2.5]);
        for (dtype, bytes) in [("I64", 16), ("U8", 2), ("BOOL", 2), ("F8_E5M2", 2), ("C64", 16)] {
            fs::write(&path, raw(dtype, "[2]", &vec![0; bytes])).unwrap();
            let line = format!("tensor w: found numbers of type {dtype}, expected F32, F64, F16 or BF16");
            assert_eq!(refused(&path, &wanted), line);
        }
        fs::write(&path, raw("F16", "[2]", &[0, 0x3c, 0, 0xfc])).unwrap();
        assert_eq!(refused(&path, &wanted), "tensor w: found -inf at element 1, expected finite numbers");
        fs::write(&path, raw("F64", "[2]", &[[0; 8], f64::NAN.to_le_bytes()].concat())).unwrap();
        assert_eq!(refused(&path, &wanted), "tensor w: found NaN at element 1, expected finite numbers");
    }

    #[test]
    fn what_could_not_be_loaded_is_not_saved() {
        let (folder, path) = saved(Dtype::F32);
        let before = fs::read(&path).unwrap();
        let mut tensors = sample();
        tensors[1].data.to_mut()[1] = 1e39; // finite, but not as F32
        let error = save(&path, &tensors, Dtype::F32, &note()).unwrap_err();
        assert!(error.to_string().contains("not written: tensor fc1.bias: found 1"), "{error}");
        tensors[1].data.to_mut()[1] = f64::NAN;
        assert!(save(&path, &tensors, Dtype::F64, &note()).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// Infinity is all ones in the exponent and nothing behind it; NaN has something there.
    #[test]
    fn halves_have_their_numbers() {
        let of = |bits: u16| f16_to_f64(bits);
        assert_eq!([of(0x7c00), of(0xfc00), of(0x7bff)], [f64::INFINITY, f64::NEG_INFINITY, 65504.0]);
        assert!(of(0x7c01).is_nan() && of(0xfe00).is_nan());
        assert_eq!(
            [of(0x0000), of(0x8001), of(0x0400), of(0x3c01)],
            [0.0, -2f64.powi(-24), 2f64.powi(-14), 1.0 + 2f64.powi(-10)]
        );
    }

    #[test]
    fn a_matrix_stands_alone_in_its_file() {
        let (_folder, path) = saved(Dtype::F64);
        assert_eq!(load_names(&path).unwrap(), ["conv1.weight", "fc1.bias", "fc1.weight"]);
        assert!(load_matrix(&path).unwrap_err().to_string().contains("found the tensors"));
        save(&path, &sample()[1..2], Dtype::F64, &note()).unwrap();
        assert!(load_matrix(&path).unwrap_err().to_string().contains("found the tensors \"fc1.bias\", expected one"));
        save(&path, &sample()[..1], Dtype::F64, &note()).unwrap();
        assert_eq!(load_matrix(&path).unwrap(), (2, 3, vec![0.1, -0.0, 1e-30, 4.0, -5.5, 6.25]));
    }

    #[test]
    fn twelve_names_are_shown() {
        let names: Vec<String> = (10..23).map(|i| i.to_string()).collect();
        let names: Vec<&str> = names.iter().map(|name| &name[..]).collect();
        let twelve = r#""10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20", "21""#;
        assert_eq!((list(&names[..12]), list(&names)), (twelve.to_owned(), format!("{twelve} and 1 more")));
        assert_eq!(list(&[]), "none");
    }
}
