//! How other programs write a layer.

/// An operation in inference, as other programs have it. Parameters keep their names and shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// PyTorch's module, with `torch.nn` as `nn`: `nn.Conv2d(1, 32, (3, 3), padding=(1, 1))`.
    pub torch: String,
    /// ONNX's operators, one after the other, the last of which gives the output; none where the output is the input,
    /// as dropout's is.
    pub onnx: Vec<OnnxOperator>,
}

/// An operator of ONNX's own set, of the version that [`Exported::OPSET`] says.
#[derive(Clone, Debug, PartialEq)]
pub struct OnnxOperator {
    /// `Conv`, …
    pub name: &'static str,
    /// In order.
    pub inputs: Vec<OnnxInput>,
    /// Attributes, by name.
    pub attributes: Vec<(&'static str, OnnxValue)>,
}

/// An input of an operator.
#[derive(Clone, Debug, PartialEq)]
pub enum OnnxInput {
    /// What the operator before it gives; of the first, the layer's input.
    Last,
    /// The layer's input.
    First,
    /// What the layer [adds](super::Op::adds), and then its parameters, in the order of [`super::Op::parameters`].
    Others,
    /// Numbers, in a tensor of one axis.
    Floats(Vec<f32>),
    /// One number.
    Number(f32),
    /// Whole numbers, in a tensor of one axis.
    Sizes(Vec<i64>),
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

    /// An operation with this module and this one operator, whose inputs are the layer's input and then
    /// [`OnnxInput::Others`].
    pub fn new(torch: impl Into<String>, name: &'static str, attributes: Vec<(&'static str, OnnxValue)>) -> Self {
        let operator = OnnxOperator::new(name, vec![OnnxInput::Last, OnnxInput::Others], attributes);
        Self { torch: torch.into(), onnx: vec![operator] }
    }
}

impl OnnxOperator {
    /// An operator.
    pub fn new(name: &'static str, inputs: Vec<OnnxInput>, attributes: Vec<(&'static str, OnnxValue)>) -> Self {
        Self { name, inputs, attributes }
    }
}

impl OnnxValue {
    /// Sizes, as `kernel_shape` and `strides` have them.
    pub fn sizes(sizes: &[usize]) -> Self {
        Self::Ints(sizes.iter().map(|&size| size as i64).collect())
    }
}
