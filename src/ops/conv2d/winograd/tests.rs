use pulp::Arch;

use super::*;
use crate::layer::Mode;
use crate::ops::conv2d::fast_direct::Direct;
use crate::ops::conv2d::reference;
use crate::real::machine_lanes;
use crate::rng::Philox;

/// Numbers around 0.
fn numbers<T: Real>(seed: u64, len: usize) -> Vec<T> {
    (0..len).map(|i| T::of(f64::from(Philox::of_layer(seed, 1, 0, i)) / f64::from(u32::MAX) - 0.5)).collect()
}

fn wide<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.wide()).collect()
}

/// The method's output, weight gradient and input gradient of `n` images, the last added to `base`.
fn passes<T: Real>(conv: &mut dyn Convolve<T>, dims: &Conv2d, n: usize, [x, w, dy, base]: [&[T]; 4]) -> [Vec<f64>; 3] {
    let arch = Arch::new();
    let room = &mut Room::default();
    conv.pack(w, &[], Mode::Training);
    let (input, gradient) = (conv.input(), conv.gradient());
    let [rows, columns] = dims.output_plane();
    let output = ImageLayout::planes([dims.c_out, rows, columns]);
    let written = |layout: &ImageLayout, values: &[T]| {
        let mut images = vec![T::zero(); n * layout.len];
        let len = layout.dims.iter().product();
        images.chunks_mut(layout.len).zip(values.chunks(len)).for_each(|(to, from)| layout.write(from, to));
        images
    };
    let read = |layout: &ImageLayout, images: &[T]| -> Vec<f64> {
        let mut values = vec![T::zero(); layout.dims.iter().product()];
        let image = |image| {
            layout.read(image, &mut values);
            wide(&values)
        };
        images.chunks(layout.len).flat_map(image).collect()
    };
    let (x, dy) = (written(&input, x), written(&gradient, dy));
    let mut y = vec![T::zero(); n * output.len];
    conv.forward(arch, &x, &mut y, &output, After::default(), room);
    let mut sums = vec![T::zero(); conv.sums_len()];
    conv.add_weight(arch, &x, &dy, &mut sums, room);
    let mut dw = vec![T::zero(); dims.weight_len()];
    conv.unpack(arch, &sums, &mut dw, room);
    let mut dx = written(&input, base);
    conv.input_gradient(arch, &dy, &mut dx, true, room);
    [read(&output, &y), wide(&dw), read(&input, &dx)]
}

/// The largest error of each pass, in units of the last place of the largest result.
fn errors<T: Real>(conv: &mut dyn Convolve<T>, dims: &Conv2d, n: usize) -> [f64; 3] {
    let input = n * dims.input_len();
    let (x, w) = (numbers::<T>(1, input), numbers::<T>(2, dims.weight_len()));
    let (dy, base) = (numbers::<T>(3, n * dims.output_len()), numbers::<T>(4, input));
    let found = passes(conv, dims, n, [&x, &w, &dy, &base]);
    let [x, w, dy, base] = [x, w, dy, base].map(|values| wide(&values));
    let none = vec![0.0; dims.c_out];
    let mut y = vec![0.0; n * dims.output_len()];
    reference::forward(dims, &x, &w, &none, &mut y);
    let (mut dw, mut db) = (vec![0.0; w.len()], none);
    reference::backward_weight(dims, &x, &dy, &mut dw, &mut db);
    let mut dx = vec![0.0; input];
    reference::backward_input(dims, &dy, &w, &mut dx);
    dx.iter_mut().zip(&base).for_each(|(dx, base)| *dx += base);
    let mut expected = [y, dw, dx].into_iter();
    found.map(|found| {
        let expected = expected.next().expect("three passes");
        let most = expected.iter().fold(0f64, |most, v| most.max(v.abs()));
        let worst = found.iter().zip(&expected).fold(0f64, |worst, (a, b)| worst.max((a - b).abs()));
        worst / most / T::epsilon().wide()
    })
}

/// Catches a wrong transform, a tile at an edge that is read or written wrongly, and rounding errors beyond what the
/// method has: a few times those of the direct one.
#[test]
fn every_pass_agrees_with_the_plain_one() {
    fn of<T: Real>(dims: &Conv2d, n: usize) {
        let lanes = machine_lanes::<T>(Arch::new());
        let winograd = errors::<T>(&mut Winograd::new(dims, lanes), dims, n);
        let direct = errors::<T>(&mut Direct::new(*dims, true, lanes), dims, n);
        for (pass, (winograd, direct)) in ["y", "dw", "dx"].iter().zip(winograd.into_iter().zip(direct)) {
            println!("{dims:?} x {n} {pass}: {winograd:.1} ulp, direct {direct:.1}");
            assert!(winograd <= 8.0 * (direct + 1.0), "{dims:?} x {n} {pass}: {winograd} ulp, direct {direct}");
        }
    }
    let cases = [
        ([16, 8, 8], 16, [1, 1], 3),
        ([64, 4, 4], 64, [1, 1], 9),
        ([3, 9, 6], 5, [1, 1], 2),
        ([20, 7, 11], 33, [0, 2], 2),
        ([48, 6, 5], 48, [2, 0], 4),
        ([32, 12, 12], 32, [1, 1], 3),
    ];
    for (input, c_out, padding, n) in cases {
        let dims = Conv2d { input, c_out, kernel: [3, 3], stride: [1, 1], padding, bias: false, ..Conv2d::PLAIN };
        of::<f32>(&dims, n);
        of::<f64>(&dims, n);
    }
}
