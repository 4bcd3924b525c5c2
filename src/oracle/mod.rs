//! The CPU path in its plain form: every operation in plain Rust, generic over `f32` and `f64`.
//!
//! In `f64` it is the oracle that every kernel, and the fast path of [`crate::backend::cpu`], is held against. It imports
//! nothing of [`crate::backend::gpu`]. Work is split by fixed rules (never by the number of threads), so the same input gives the
//! same bits with any number of threads.

pub mod conv2d;
pub mod linear;
pub mod max_pool2d;
pub mod network;
pub mod optimizer;
pub mod relu;
pub mod trainer;

/// `f32` or `f64`.
pub trait Real:
    num_traits::Float + num_traits::NumAssign + std::iter::Sum + std::fmt::Debug + Default + Send + Sync + 'static
{
    /// The nearest value.
    fn of(value: f64) -> Self;
    /// Widened without loss.
    fn wide(self) -> f64;
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn wide(self) -> f64 {
        self
    }
}

/// Images that one task of a weight gradient sums over, in order. Each task writes its own partial sum and the partial
/// sums are added in order: which thread runs which task changes nothing.
const IMAGES_PER_PARTIAL_SUM: usize = 8;

/// A read-only matrix over a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// `data` row by row.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns);
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// Whether a product replaces what is there or adds to it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Into {
    Replace,
    Add,
}

/// `c = a b` or `c += a b`, with `c` row by row.
pub(crate) fn matmul<T: Real>(a: Matrix<T>, b: Matrix<T>, c: &mut [T], into: Into, threads: gemm::Parallelism) {
    assert_eq!(a.columns, b.rows);
    assert_eq!(c.len(), a.rows * b.columns);
    // SAFETY: a `Matrix` covers its slice exactly (`new` checks rows * columns, `transposed` swaps both), so every
    // element that gemm addresses, row * row_stride + column * column_stride, lies inside `data`; `c` has rows * columns
    // elements with row stride `columns`, is borrowed mutably, and so overlaps neither.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            c.as_mut_ptr(),
            1,
            b.columns as isize,
            into == Into::Add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::one(),
            T::one(),
            false,
            false,
            false,
            threads,
        );
    }
}
