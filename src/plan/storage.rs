//! In what activations are stored that one layer writes in forward and that forward and backward of other layers read.
//! All arithmetic is in f32 either way, and so are parameters, gradients and the optimizer's memory.

/// In what activations are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// As they are computed.
    #[default]
    F32,
    /// In halves, two a word, where a fused kernel writes them and only fused kernels read them: half the memory and
    /// the traffic, for a rounding to 11 bits. What no half holds (above 65504) becomes a loss that is not a number.
    F16,
}

impl Storage {
    /// Whether this is what nobody has to ask for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Elements of a four-byte word.
    pub fn per_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::F16 => 2,
        }
    }
}
