//! Matrix products on the CPU path: the `gemm` crate behind checked slices.

use gemm::Parallelism;

use crate::real::Real;

/// gemm splits rows and columns of the result among threads, never the sum: the bits do not depend on the threads.
pub const ALL_THREADS: Parallelism = Parallelism::Rayon(0);

/// A read-only matrix over a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
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
pub enum Into {
    Replace,
    Add,
}

/// `c = a b` or `c += a b`, with `c` row by row.
pub fn matmul<T: Real>(a: Matrix<T>, b: Matrix<T>, c: &mut [T], into: Into, threads: Parallelism) {
    assert_eq!(a.columns, b.rows);
    assert_eq!(c.len(), a.rows * b.columns);
    // SAFETY: a `Matrix` covers its slice exactly (`new` checks rows * columns, `transposed` swaps both), so every
    // element that gemm addresses, row * row_stride + column * column_stride, lies inside `data`; `c` has rows *
    // columns elements with row stride `columns`, is borrowed mutably, and so overlaps neither.
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
