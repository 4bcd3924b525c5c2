//! A plan: buffers with their sizes, and labelled dispatches over them, in order. It is a plain value, made with no
//! device in scope; [`crate::backend::gpu::Engine`] carries it out. Printing it, timing it kernel by kernel and
//! checking it against the oracle all read the same list.

pub mod order;
pub mod shaders;
pub mod storage;
pub mod tuning;

pub use storage::Storage;

use crate::plan::shaders::{BindingKind, EntryPoint, Shader};
use crate::{Error, Result};

/// A struct that is copied byte for byte into a shader's uniform block.
pub trait Uniform: bytemuck::Pod {
    /// Each field's name and byte offset, as the shader must have them.
    const FIELDS: &'static [(&'static str, u32)];
}

/// Declares a uniform block: a `repr(C)` struct of four-byte fields with [`Uniform`](crate::plan::Uniform). Where it is
/// used the crate `bytemuck` must be known, with its feature `derive`.
#[macro_export]
macro_rules! uniform {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $crate::plan::Uniform for $name {
            const FIELDS: &'static [(&'static str, u32)] =
                &[$((stringify!($field), std::mem::offset_of!($name, $field) as u32)),*];
        }
    };
}
pub use uniform;

uniform! {
    /// The batch of a step (`Batch` in `shaders/common/batch.wgsl`).
    pub struct BatchBlock {
        /// Images in the batch.
        count: u32,
        /// Where the batch starts in the epoch's order.
        first: u32,
        /// Where the batch's losses go.
        slot: u32,
        /// A number that no other step of the plan had: what holds it is of this step.
        stamp: u32,
        /// The run's seed, its low half.
        seed_low: u32,
        /// Its high half.
        seed_high: u32,
        /// The update's number, from 1, its low half.
        step_low: u32,
        /// Its high half.
        step_high: u32,
    }
}

/// The largest uniform block that changes from step to step.
const BLOCK_BYTES: usize = 32;

/// A uniform block of someone above this module, as a step holds it: its bytes, and zeros behind them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block([u8; BLOCK_BYTES]);

impl Block {
    /// The bytes of `uniform`, which are at most 32.
    pub fn new<U: Uniform>(uniform: &U) -> Self {
        let mut block = Self::default();
        block.0[..size_of::<U>()].copy_from_slice(bytemuck::bytes_of(uniform));
        block
    }
}

/// What changes from step to step: a uniform block each of the batch, the loss, the optimizer, and of how images are
/// mixed. A shader declares those that it reads, each under its field's name here.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    /// Which images.
    pub batch: BatchBlock,
    /// The loss's block: [`crate::loss::LossBlock`].
    pub loss: Block,
    /// The optimizer's: [`crate::optimizer::OptimizerBlock`].
    pub optimizer: Block,
    /// That of mixed images: [`crate::ops::mix::PartBlock`].
    pub part: Block,
}

impl Step {
    /// The names of the blocks.
    pub const BLOCKS: [&str; 4] = ["batch", "loss", "optimizer", "part"];
    /// Bytes of each block, at most.
    pub const BLOCK_BYTES: usize = BLOCK_BYTES;

    /// Which of the blocks a binding of this name is.
    pub fn block(name: &str) -> Option<usize> {
        Self::BLOCKS.iter().position(|block| *block == name)
    }

    /// The blocks' bytes, in the order of [`Self::BLOCKS`].
    pub fn bytes(&self) -> [[u8; BLOCK_BYTES]; 4] {
        [bytemuck::cast(self.batch), self.loss.0, self.optimizer.0, self.part.0]
    }
}

impl From<BatchBlock> for Step {
    fn from(batch: BatchBlock) -> Self {
        Self { batch, ..Self::default() }
    }
}

/// The name under which every shader declares its dimensions.
pub const DIMS: &str = "dims";

/// A size or an index as the shaders count: in 32 bits. [`Plan::buffer`] has refused everything that does not fit.
///
/// # Panics
/// If it does not fit.
pub fn word(n: usize) -> u32 {
    u32::try_from(n).expect("every size is below that of a buffer, and buffers hold less than 2^32 elements")
}

/// One device buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// For the printed plan and for error messages.
    pub name: String,
    /// Bytes, a multiple of 4.
    pub bytes: u64,
    /// What it holds at first; the rest is zero.
    pub contents: Vec<u32>,
}

/// A part of a buffer that is bound, written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Index into [`Plan::buffers`].
    pub buffer: usize,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Slice {
    /// `len` four-byte elements from element `start` on.
    pub fn part(&self, start: usize, len: usize) -> Self {
        let part = Self { offset: self.offset + start as u64 * 4, bytes: len as u64 * 4, ..*self };
        assert!(part.offset + part.bytes <= self.offset + self.bytes, "a part outside its whole");
        part
    }
}

/// One run of one kernel.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// `conv1.forward`, …
    pub label: String,
    /// The shader.
    pub shader: &'static Shader,
    /// Its pass.
    pub entry: &'static EntryPoint,
    /// The uniform block `dims`, if the pass has one.
    pub dims: Vec<u8>,
    /// A part of a buffer for each storage binding, in the entry's order.
    pub slices: Vec<Slice>,
    /// Workgroups along x, y, z.
    pub workgroups: [u32; 3],
    /// Floating-point operations of its products for a full batch.
    pub flops: u64,
    /// How often a thread goes through the bodies of its loops, where that grows with the batch or the images
    /// ([`Plan::loops`]).
    pub turns: u64,
    /// Bytes that it must at least read and write: every bound part once, unless its operation knows better.
    pub bytes: u64,
}

impl Dispatch {
    /// How much there is to do, in operations: a byte that is moved counts as one.
    pub fn work(&self) -> u64 {
        self.flops.saturating_add(self.bytes)
    }
}

/// How many threads or workgroups a dispatch needs.
#[derive(Clone, Copy, Debug)]
pub enum Grid {
    /// At least this many threads, along one axis.
    Threads(usize),
    /// This many workgroups, along one axis.
    Workgroups(usize),
}

/// Buffers and dispatches.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Every buffer.
    pub buffers: Vec<Buffer>,
    /// Every dispatch.
    pub dispatches: Vec<Dispatch>,
}

/// The most workgroups along one axis that WebGPU guarantees.
const MAX_WORKGROUPS: usize = 65_535;

impl Plan {
    /// A new buffer of `len` four-byte elements.
    ///
    /// # Errors
    /// [`Error::OverLimit`] if its elements cannot be counted in 32 bits.
    pub fn buffer(&mut self, name: impl Into<String>, len: usize) -> Result<Slice> {
        let name = name.into();
        if len >= u32::MAX as usize {
            return Err(Error::OverLimit(format!(
                "buffer {name}: {len} elements, at most {} can be addressed: lower --batch-size",
                u32::MAX
            )));
        }
        // A binding of no bytes is invalid.
        let bytes = len.max(1) as u64 * 4;
        self.buffers.push(Buffer { name, bytes, contents: vec![] });
        Ok(Slice { buffer: self.buffers.len() - 1, offset: 0, bytes })
    }

    /// A new buffer that holds `contents`.
    ///
    /// # Errors
    /// As [`Plan::buffer`].
    pub fn constant<T: bytemuck::NoUninit>(&mut self, name: impl Into<String>, contents: &[T]) -> Result<Slice> {
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(contents);
        let slice = self.buffer(name, words.len())?;
        self.buffers[slice.buffer].contents = words;
        Ok(slice)
    }

    /// Adds a dispatch. `bindings` gives a part of a buffer for each storage binding of the pass, by name, in any
    /// order.
    ///
    /// # Errors
    /// [`Error::Plan`] if the pass does not exist, a binding is missing or unknown, or `dims` is not what the shader
    /// declares.
    pub fn dispatch<D: Uniform>(
        &mut self,
        label: impl Into<String>,
        (shader, pass): (&'static Shader, &str),
        dims: D,
        grid: Grid,
        flops: u64,
        bindings: &[(&str, Slice)],
    ) -> Result<()> {
        let label = label.into();
        let fail = |what: String| Error::Plan(format!("{label} ({}.wgsl, {pass}): {what}", shader.name));
        let entry = shader.entry(pass).ok_or_else(|| fail("there is no such entry point".into()))?;

        let mut slices = vec![];
        let mut has_dims = false;
        for binding in &entry.bindings {
            match &binding.kind {
                BindingKind::Storage { .. } => {
                    let (_, slice) = bindings
                        .iter()
                        .find(|(name, _)| *name == binding.name)
                        .ok_or_else(|| fail(format!("nothing is bound to `{}`", binding.name)))?;
                    slices.push(*slice);
                }
                BindingKind::Uniform { fields, size } => {
                    has_dims |= binding.name == DIMS;
                    let (ours, bytes) = match Step::block(&binding.name) {
                        Some(0) => (BatchBlock::FIELDS, size_of::<BatchBlock>()),
                        // Their owners stand above this module, and hold them against the shaders in tests.
                        Some(_) if *size as usize <= BLOCK_BYTES => continue,
                        _ => (D::FIELDS, size_of::<D>()),
                    };
                    let same = fields.iter().map(|(name, offset)| (name.as_str(), *offset)).eq(ours.iter().copied());
                    if !same || *size as usize != bytes {
                        return Err(fail(format!(
                            "`{}` is {fields:?}, {size} bytes, in the shader; {ours:?}, {bytes} bytes, here",
                            binding.name
                        )));
                    }
                }
            }
        }
        if let Some((name, _)) = bindings.iter().find(|(name, _)| entry.bindings.iter().all(|b| b.name != *name)) {
            return Err(fail(format!("the pass has no binding called `{name}`")));
        }

        let groups = match grid {
            Grid::Threads(threads) => threads.div_ceil(entry.workgroup_size.iter().product::<u32>() as usize),
            Grid::Workgroups(groups) => groups,
        };
        // Rows of almost equal length, so that few workgroups past the end are started.
        let rows = groups.max(1).div_ceil(MAX_WORKGROUPS);
        let workgroups = [word(groups.max(1).div_ceil(rows)), word(rows), 1];
        let dims = if has_dims { bytemuck::bytes_of(&dims).to_vec() } else { vec![] };
        let bytes = slices.iter().map(|slice| slice.bytes).sum();
        self.dispatches.push(Dispatch { label, shader, entry, dims, slices, workgroups, flops, turns: 0, bytes });
        Ok(())
    }

    /// Says of the last dispatch how long a thread's loops are, the outermost first. The turn in which a loop ends
    /// counts too.
    pub fn loops(&mut self, nested: &[usize]) {
        let turns = nested
            .iter()
            .rev()
            .fold(0u64, |inner, &len| inner.saturating_add(1).saturating_mul(len as u64).saturating_add(1));
        if let Some(last) = self.dispatches.last_mut() {
            last.turns = turns;
        }
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.bytes).sum()
    }
}
