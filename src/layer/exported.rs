//! How other programs write a layer.

/// An operation in inference, as other programs have it. Parameters keep their names and shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// PyTorch's module, with `torch.nn` as `nn`: `nn.Conv2d(1, 32, (3, 3), padding=(1, 1))`.
    pub torch: String,
    /// ONNX's operator; none where the output is the input, as dropout's is.
    pub onnx: Option<OnnxOperator>,
}

/// An operator of ONNX's own set, of the version that [`Exported::OPSET`] says. Its inputs are the layer's input and
/// then the parameters, in the order of [`super::Op::parameters`].
#[derive(Clone, Debug, PartialEq)]
pub struct OnnxOperator {
    /// `Conv`, …
    pub name: &'static str,
    /// Attributes, by name.
    pub attributes: Vec<(&'static str, OnnxValue)>,
}

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub enum OnnxValue {
    /// A whole number.
    Int(i64),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// A number.
    Float(f32),
}

impl Exported {
    /// The version of ONNX's operators.
    pub const OPSET: i64 = 13;

    /// An operation with this module and this operator.
    pub fn new(torch: impl Into<String>, name: &'static str, attributes: Vec<(&'static str, OnnxValue)>) -> Self {
        Self { torch: torch.into(), onnx: Some(OnnxOperator { name, attributes }) }
    }
}

impl OnnxValue {
    /// Sizes, as `kernel_shape` and `strides` have them.
    pub fn sizes(sizes: &[usize]) -> Self {
        Self::Ints(sizes.iter().map(|&size| size as i64).collect())
    }
}
