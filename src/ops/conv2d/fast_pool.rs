//! The pooling at the end of a [`ConvBlock`], with its ReLU. Formulas: [`crate::ops::max_pool2d`],
//! [`crate::ops::relu`].

use pulp::Simd;

use super::fast_block::ConvBlock;
use crate::real::{Real, lanes};

/// Pools row `i` of windows. `band [row][column][vectors]` is the convolution's output under it, `columns` wide.
///
/// The first maximum of a window wins, and so does a NaN, as in PyTorch. The ReLU comes after the maximum: the same
/// value, and the same gradient, since where the maximum is negative the gradient is zero whichever element wins.
#[inline(always)]
pub fn forward_row<S: Simd, T: Real>(
    simd: S,
    stage: &ConvBlock,
    columns: usize,
    band: &[T::Vector<S>],
    i: usize,
    y: &mut [T],
    argmax: &mut [u8],
) {
    let lanes = const { lanes::<T, S>() };
    let vectors = stage.padded_c_out() / lanes;
    let windows = stage.pool.output_plane()[1];
    let argmax = &mut argmax[i * windows * vectors * lanes..][..windows * vectors * lanes];
    let zero = T::splat(simd, T::zero());
    for (at, argmax) in argmax.chunks_exact_mut(lanes).enumerate() {
        let (j, k) = (at / vectors, at % vectors);
        let corner = j * stage.pool.stride[1];
        let mut best = band[corner * vectors + k];
        let mut best_index = zero;
        let mut index = zero;
        for p in 0..stage.pool.kernel[0] {
            for q in 0..stage.pool.kernel[1] {
                let value = band[(p * columns + corner + q) * vectors + k];
                // value <= best keeps best; so does a best that is a NaN (it is not <= itself).
                let unless_nan = |new, old| T::select_le(simd, [best, best], new, old);
                let (taken, taken_index) = (unless_nan(value, best), unless_nan(index, best_index));
                best_index = T::select_le(simd, [value, best], best_index, taken_index);
                best = T::select_le(simd, [value, best], best, taken);
                index = T::vadd(simd, index, T::splat(simd, T::one()));
            }
        }
        if stage.relu {
            best = T::select_le(simd, [best, zero], zero, best);
        }
        for (byte, index) in argmax.iter_mut().zip(bytemuck::cast_slice::<_, T>(&[best_index])) {
            *byte = index.to_byte();
        }
        let to = stage.output.at(k * lanes, i, j);
        if stage.output.channel_stride == 1 && stage.output.column_stride >= vectors * lanes {
            T::vectors_mut::<S>(&mut y[to..][..lanes])[0] = best;
        } else {
            let used = lanes.min(stage.dims.c_out - k * lanes);
            let best = [best];
            for (c, value) in bytemuck::cast_slice::<_, T>(&best)[..used].iter().enumerate() {
                y[to + c * stage.output.channel_stride] = *value;
            }
        }
    }
}
