//! Reads the recorded values of tests/golden. make_golden.py says what each file holds. Anything missing or of another
//! kind panics with its name: these files are part of the tests.
#![allow(dead_code)] // each test binary uses its own part

use std::collections::HashMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

/// One file of recorded values.
pub struct Golden {
    file: String,
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl Golden {
    /// Opens tests/golden/`name`.safetensors.
    pub fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.safetensors"));
        let file = path.display().to_string();
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| panic!("{file}: {e}"));
        let metadata = header.metadata().clone().unwrap_or_default();
        Self { file, bytes, metadata }
    }

    /// The cases in the order they were recorded.
    pub fn cases(&self) -> Vec<Case<'_>> {
        self.text("cases").split(',').map(|name| Case { golden: self, name }).collect()
    }

    /// Whether there is a tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    /// The shape of tensor `name`; `[]` for a scalar.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors().tensor(name).unwrap_or_else(|e| panic!("{}: {e}", self.file)).shape().to_vec()
    }

    /// The F64 tensor `name`, flat in row-major order.
    pub fn f64(&self, name: &str) -> Vec<f64> {
        self.words(name, Dtype::F64).map(f64::from_le_bytes).collect()
    }

    /// The F64 tensor `name` of one element.
    pub fn scalar(&self, name: &str) -> f64 {
        let values = self.f64(name);
        assert_eq!(values.len(), 1, "{}: elements of {name}", self.file);
        values[0]
    }

    /// The I64 tensor `name`, flat in row-major order.
    pub fn i64(&self, name: &str) -> Vec<i64> {
        self.words(name, Dtype::I64).map(i64::from_le_bytes).collect()
    }

    /// The I64 tensor `name` as labels.
    pub fn labels(&self, name: &str) -> Vec<u32> {
        self.i64(name).into_iter().map(|v| u32::try_from(v).expect("a label")).collect()
    }

    /// The metadata of `key`.
    pub fn text(&self, key: &str) -> &str {
        self.metadata.get(key).unwrap_or_else(|| panic!("{}: no metadata {key}", self.file))
    }

    /// The metadata of `key` as a number or a bool.
    pub fn parse<T: std::str::FromStr>(&self, key: &str) -> T {
        let text = self.text(key);
        text.parse().unwrap_or_else(|_| panic!("{}: metadata {key} is {text:?}", self.file))
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("checked when opened")
    }

    fn words(&self, name: &str, dtype: Dtype) -> impl Iterator<Item = [u8; 8]> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).unwrap_or_else(|e| panic!("{}: {e}", self.file));
        assert_eq!(view.dtype(), dtype, "{}: type of {name}", self.file);
        view.data().as_chunks::<8>().0.iter().copied()
    }
}

/// One case of a file: the same calls, with `<case>.` put before the name.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    golden: &'a Golden,
    /// The case's name, for messages.
    pub name: &'a str,
}

impl<'a> Case<'a> {
    /// The shape of a tensor.
    pub fn shape(&self, tensor: &str) -> Vec<usize> {
        self.golden.shape(&self.full(tensor))
    }

    /// An F64 tensor, flat.
    pub fn f64(&self, tensor: &str) -> Vec<f64> {
        self.golden.f64(&self.full(tensor))
    }

    /// An F64 tensor of one element.
    pub fn scalar(&self, tensor: &str) -> f64 {
        self.golden.scalar(&self.full(tensor))
    }

    /// An I64 tensor, flat.
    pub fn i64(&self, tensor: &str) -> Vec<i64> {
        self.golden.i64(&self.full(tensor))
    }

    /// An I64 tensor as labels.
    pub fn labels(&self, tensor: &str) -> Vec<u32> {
        self.golden.labels(&self.full(tensor))
    }

    /// The metadata of `key`.
    pub fn text(&self, key: &str) -> &'a str {
        self.golden.text(&self.full(key))
    }

    /// The metadata of `key` as a number or a bool.
    pub fn parse<T: std::str::FromStr>(&self, key: &str) -> T {
        self.golden.parse(&self.full(key))
    }

    fn full(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }
}
