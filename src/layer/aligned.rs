//! Memory that vectors are loaded from.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// A cache line, and the widest vector of any machine.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Values that begin where a cache line does. The allocator places large memory 16 bytes behind: every vector of 64
/// bytes would lie in two lines, and to load it would take twice as long.
#[derive(Clone, Debug)]
pub struct Aligned<T> {
    lines: Vec<Line>,
    len: usize,
    of: PhantomData<T>,
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Self { lines: vec![], len: 0, of: PhantomData }
    }
}

impl<T: Pod> Aligned<T> {
    /// No value is left; the memory is.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Makes it `len` values, with `value` for each that is new.
    pub fn resize(&mut self, len: usize, value: T) {
        let before = self.len.min(len);
        let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        if self.lines.len() < lines {
            self.lines.resize(lines, Line::zeroed());
        }
        self.len = len;
        self[before..].fill(value);
    }

    /// Makes room for `len` values, as [`super::grow`] does.
    pub fn grow(&mut self, len: usize) {
        if self.len < len {
            self.resize(len, T::zeroed());
        }
    }

    /// Puts these values behind the others.
    pub fn extend_from_slice(&mut self, values: &[T]) {
        let before = self.len;
        self.resize(before + values.len(), T::zeroed());
        self[before..].copy_from_slice(values);
    }
}

impl<T: Pod> FromIterator<T> for Aligned<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let values: Vec<T> = values.into_iter().collect();
        let mut aligned = Self::default();
        aligned.extend_from_slice(&values);
        aligned
    }
}

impl<T: Pod> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<T: Pod> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches values that are lost or left over when the memory grows, and memory that begins within a line.
    #[test]
    fn values_stay_and_begin_with_a_line() {
        let mut values = Aligned::<f64>::default();
        assert!(values.is_empty());
        values.extend_from_slice(&[1.0, 2.0, 3.0]);
        for len in [9, 100, 40_000] {
            values.grow(len);
            assert_eq!((values.len(), values.as_ptr().addr() % 64), (len, 0));
            assert!(values[..3] == [1.0, 2.0, 3.0] && values[3..].iter().all(|&value| value == 0.0));
        }
        values.grow(5);
        assert_eq!(values.len(), 40_000, "what has grown does not shrink");
        values.resize(2, 7.0);
        values.resize(4, 7.0);
        assert_eq!(values[..], [1.0, 2.0, 7.0, 7.0]);
        values.clear();
        values.resize(3, 5.0);
        assert_eq!(values[..], [5.0; 3]);
    }
}
