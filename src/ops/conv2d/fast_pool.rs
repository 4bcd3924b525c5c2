//! The pooling at the end of a [`ConvBlock`], with its ReLU. Formulas: [`crate::ops::max_pool2d`],
//! [`crate::ops::relu`].

use pulp::Simd;

use super::fast_block::ConvBlock;
use crate::ops::max_pool2d::fast_vectors;
use crate::real::{Real, lanes};

/// Pools row `i` of windows. `band [row][column][vectors]` is the convolution's output under it, `columns` wide.
/// Nothing of it is kept.
///
/// The ReLU comes after the maximum: the same value, and the same gradient, since where the maximum is negative the
/// gradient is zero whichever element wins.
#[inline(always)]
pub fn forward_row<S: Simd, T: Real>(
    simd: S,
    stage: &ConvBlock,
    columns: usize,
    band: &mut [T::Vector<S>],
    i: usize,
    y: &mut [T],
    argmax: &mut [u8],
) {
    // Compiled for the size that nearly all networks have, without loops over the window.
    match stage.pool.kernel {
        [2, 2] => pool_row::<S, T>(simd, stage, [2, 2], columns, band, i, (y, argmax)),
        kernel => pool_row::<S, T>(simd, stage, kernel, columns, band, i, (y, argmax)),
    }
}

#[inline(always)]
fn pool_row<S: Simd, T: Real>(
    simd: S,
    stage: &ConvBlock,
    kernel: [usize; 2],
    columns: usize,
    band: &mut [T::Vector<S>],
    i: usize,
    (y, argmax): (&mut [T], &mut [u8]),
) {
    let lanes = const { lanes::<T, S>() };
    let vectors = stage.padded_c_out() / lanes;
    let windows = stage.pool.output_plane()[1];
    let argmax = &mut argmax[i * windows * vectors * lanes..][..windows * vectors * lanes];
    let zero = T::splat(simd, T::zero());
    let in_vectors = stage.output.channel_stride == 1 && stage.output.column_stride >= vectors * lanes;
    for (j, argmax) in argmax.chunks_exact_mut(vectors * lanes).enumerate() {
        let corner = j * stage.pool.stride[1] * vectors;
        let window = &mut band[corner..][..((kernel[0] - 1) * columns + kernel[1]) * vectors];
        let mut in_place =
            in_vectors.then(|| T::vectors_mut::<S>(&mut y[stage.output.at(0, i, j)..][..vectors * lanes]));
        for (k, argmax) in argmax.chunks_exact_mut(lanes).enumerate() {
            let [mut best, best_index] = fast_vectors::best::<S, T>(
                simd,
                kernel,
                #[inline(always)]
                |p, q| window[(p * columns + q) * vectors + k],
            );
            if stage.relu {
                best = T::select_le(simd, [best, zero], zero, best);
            }
            for (byte, index) in argmax.iter_mut().zip(bytemuck::cast_slice::<_, T>(&[best_index])) {
                *byte = index.to_byte();
            }
            match &mut in_place {
                Some(y) => y[k] = best,
                None => window[k] = best,
            }
        }
    }
    if !in_vectors {
        let step = stage.pool.stride[1] * vectors * lanes;
        fast_vectors::write_row(bytemuck::cast_slice(band), step, i, y, &stage.output);
    }
}
