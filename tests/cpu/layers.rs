//! Every layer that has a fast form, alone, against its plain form in f64: over the registry's cases and random ones,
//! in every layout that it takes and gives.

use pulp::Arch;
use smoothcnn::check::batch::CaseBatch;
use smoothcnn::layer::{Element, Following, ImageLayout, Layer, Mode, Node, NodeBatch, NodeGradients, Scratch, Shape};
use smoothcnn::ops::{ALL, Case, gelu};
use smoothcnn::real::machine_lanes;
use smoothcnn::rng::Philox;

/// The layer's images in planes.
fn planes(shape: Shape) -> ImageLayout {
    ImageLayout::planes(match shape {
        Shape::Image(dims) => dims,
        Shape::Features(n) => [n, 1, 1],
    })
}

/// Pixel by pixel, with a border, channels filled up to whole vectors.
fn bordered(layout: &ImageLayout, border: [usize; 2], lanes: usize) -> ImageLayout {
    ImageLayout::pixels(layout.dims, border, layout.dims[0].next_multiple_of(lanes), 0)
}

/// Images from planes, everything else being `rest`.
fn written<T: Element>(layout: &ImageLayout, values: &[T], rest: T) -> Vec<T> {
    let len = layout.dims.iter().product::<usize>();
    let image = |values| {
        let mut image = vec![rest; layout.len];
        layout.write(values, &mut image);
        image
    };
    values.chunks(len).flat_map(image).collect()
}

/// Images to planes.
fn read<T: Element>(layout: &ImageLayout, images: &[T]) -> Vec<f64> {
    let mut all = vec![];
    for image in images.chunks(layout.len) {
        let mut values = vec![T::zero(); layout.dims.iter().product()];
        layout.read(image, &mut values);
        all.extend(values.iter().map(|v| v.wide()));
    }
    all
}

/// The border of an output, which a convolution may read as zeros, must be as it was: NaNs. Between a pixel's
/// channels and the next pixel anything may have been written.
fn keeps_border<T: Element>(layout: &ImageLayout, images: &[T]) -> Result<(), String> {
    for image in images.chunks(layout.len).filter(|_| !layout.is_planes()) {
        let mut rest = image.to_vec();
        let [_, rows, columns] = layout.dims;
        for i in 0..rows {
            for j in 0..columns {
                rest[layout.at(0, i, j)..][..layout.column_stride].fill(T::nan());
            }
        }
        if let Some(at) = rest.iter().position(|v| !v.is_nan()) {
            return Err(format!("the border was written to, at {at}"));
        }
    }
    Ok(())
}

/// Each element within its tolerance, which a NaN never is. In f64 the tolerance is as much smaller as f64 is finer,
/// and the plain form's own rounding comes to it.
fn agrees<T: Element>(what: &str, found: &[f64], want: &[f64], tolerance: &[f64]) -> Result<(), String> {
    let share = if size_of::<T>() == 4 { 1.0 } else { 2f64.powi(-27) };
    assert_eq!(found.len(), want.len());
    for (i, ((found, want), tolerance)) in found.iter().zip(want).zip(tolerance).enumerate() {
        let error = (found - want).abs();
        if error.is_nan() || error > tolerance * share {
            return Err(format!(
                "{what}, element {i}: found {found:e}, expected {want:e} +- {:.1e}",
                tolerance * share
            ));
        }
    }
    Ok(())
}

/// A node of the layer, if there is one.
fn node<T: Element>(batch: &CaseBatch<f64>, wants_dx: bool) -> Option<Box<dyn Node<T>>> {
    let following = Following { ops: &[], wants_dx, arch: Arch::new() };
    batch.op.twin::<T>().fast(&following).map(|(node, _)| node)
}

/// The layouts in which a node is tried: input, and output.
fn layouts<T: Element>(batch: &CaseBatch<f64>, wants_dx: bool) -> Vec<[ImageLayout; 2]> {
    let lanes = machine_lanes::<T>(Arch::new());
    let Some(mut node) = node::<T>(batch, wants_dx) else { return vec![] };
    let [from, to] = [batch.op.input(), batch.op.output()].map(planes);
    let mut inputs: Vec<_> = match (node.reads(), node.prefers()) {
        (Some(reads), _) => vec![reads],
        (None, Some(liked)) => vec![liked, from, bordered(&from, [1, 2], lanes)],
        (None, None) => vec![from],
    };
    let wide = bordered(&from, inputs[0].border().map(|border| border + 1), lanes);
    if !inputs[0].is_planes() && node.takes(&wide) {
        inputs.push(wide);
    }
    let mut outputs = vec![to];
    outputs.extend([bordered(&to, [0, 0], lanes), bordered(&to, [2, 1], lanes)].into_iter().filter(|to| node.give(to)));
    inputs.iter().flat_map(|from| outputs.iter().map(|to| [*from, *to])).collect()
}

/// All passes of a case in `T`; the first that is wrong.
fn check<T: Element>(case: &Case, wants_dx: bool) -> Result<usize, String> {
    let batch = CaseBatch::<f64>::new(case).map_err(|error| error.to_string())?;
    let narrow = |values: &[f64]| values.iter().map(|&v| T::of(v)).collect::<Vec<T>>();
    let each = |values: &[Vec<f64>]| values.iter().map(|values| narrow(values)).collect::<Vec<_>>();
    let layouts = layouts::<T>(&batch, wants_dx);
    for &[from, to] in &layouts {
        let mut node = node::<T>(&batch, wants_dx).expect("it had one before");
        if node.reads().is_some_and(|reads| reads != from) {
            assert!(node.takes(&from));
        }
        assert!(to.is_planes() || node.give(&to));
        let (params, skipped) = (each(&batch.params), planes(batch.op.output()));
        let params = &params.iter().map(Vec::as_slice).collect::<Vec<_>>();
        let (x, skip) = (written(&from, &narrow(&batch.x), T::zero()), narrow(&batch.skip));
        let scratch = &mut Scratch::default();
        let mut y = vec![];
        for mode in [Mode::Inference, Mode::Training] {
            let mut buffers = each(&batch.buffers);
            node.pack(params, &buffers.iter().map(Vec::as_slice).collect::<Vec<_>>(), mode);
            y = vec![T::nan(); batch.n * to.len];
            let of = NodeBatch {
                n: batch.n,
                arch: Arch::new(),
                from,
                to,
                x: &x,
                skip: batch.op.adds().then_some((&skip[..], skipped)),
                params,
                random: batch.random,
                scratch,
            };
            node.forward(of, mode, &mut buffers.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(), &mut y);
            let (want, size) = (batch.forward(mode), batch.forward_terms(mode));
            keeps_border(&to, &y)?;
            agrees::<T>("y", &read(&to, &y), &want.y, &batch.tolerance(0, &want.y, &size.y))?;
            for ((found, want), size) in buffers.iter().zip(&want.buffers).zip(&size.buffers) {
                let found: Vec<f64> = found.iter().map(|v| v.wide()).collect();
                agrees::<T>("buffer", &found, want, &batch.tolerance(0, want, size))?;
            }
        }
        let given = batch.forward(Mode::Training);
        let (want, size) = (batch.backward(&given), batch.backward_terms(&given));
        let dy = written(&to, &narrow(&batch.dy), T::zero());
        for adds in [false, true] {
            if adds && !(wants_dx && node.adds_gradient()) {
                continue;
            }
            let base: Vec<f64> = batch.x.iter().map(|x| if adds { *x } else { f64::NAN }).collect();
            let mut dx = written(&from, &narrow(&base), T::nan());
            let mut grads: Vec<Vec<T>> = batch.params.iter().map(|v| vec![T::nan(); v.len()]).collect();
            let mut dskip = vec![T::nan(); skip.len()];
            let of = NodeBatch {
                n: batch.n,
                arch: Arch::new(),
                from,
                to,
                x: &x,
                skip: batch.op.adds().then_some((&skip[..], skipped)),
                params,
                random: batch.random,
                scratch,
            };
            let gradients = NodeGradients {
                dx: wants_dx.then_some(&mut dx),
                adds,
                dskip: batch.op.adds().then_some(&mut dskip),
                params: &mut grads.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(),
            };
            node.backward(of, &y, &dy, gradients);
            if wants_dx {
                let added = |i: usize| if adds { base[i] } else { 0.0 };
                let mut tolerance = batch.tolerance(1, &want.dx, &size.dx);
                tolerance.iter_mut().enumerate().for_each(|(i, of)| *of += 2f64.powi(-22) * added(i).abs());
                let want: Vec<f64> = want.dx.iter().enumerate().map(|(i, dx)| dx + added(i)).collect();
                agrees::<T>("dx", &read(&from, &dx), &want, &tolerance)?;
            }
            assert!(!batch.op.adds() || dskip.iter().zip(&batch.dy).all(|(found, dy)| found.wide() == *dy));
            for ((found, want), size) in grads.iter().zip(&want.params).zip(&size.params) {
                let found: Vec<f64> = found.iter().map(|v| v.wide()).collect();
                agrees::<T>("gradient", &found, want, &batch.tolerance(2, want, size))?;
            }
        }
    }
    Ok(layouts.len())
}

/// Catches a fast form that is wrong for a shape, a layout or a mode, and one that reads or writes what is not its own.
#[test]
fn every_fast_form_agrees_with_the_plain_one() {
    const RANDOM: u64 = 60;
    let mut failures = vec![];
    for entry in ALL {
        let mut cases = (entry.cases)();
        for seed in 0..RANDOM {
            let mut rng = Philox::new(seed, 0xFA57);
            let mut upto = |most: u32| 1 + rng.below(most) as usize;
            let (n, image) = (upto(6), Shape::Image([upto(40), upto(10), upto(10)]));
            let layer = (entry.draw)(&mut rng, image);
            cases.extend(layer.map(|layer| Case { n, input: image, layer }));
        }
        let mut tried = 0;
        for case in cases {
            for wants_dx in [true, false] {
                for (precision, result) in
                    [("f32", check::<f32>(&case, wants_dx)), ("f64", check::<f64>(&case, wants_dx))]
                {
                    match result {
                        Ok(layouts) => tried += layouts,
                        Err(why) => failures.push(format!("{} in {precision}, {case:?}: {why}", entry.name)),
                    }
                }
            }
        }
        println!("{}: {tried} times", entry.name);
    }
    assert!(failures.is_empty(), "{} wrong:\n{}", failures.len(), failures.join("\n"));
}

/// Catches a NaN that is lost or takes the wrong side, and a size or a zero at which a fast form breaks.
#[test]
fn activations_are_right_where_numbers_end() {
    const X: [f64; 9] = [f64::NAN, 0.0, -0.0, 1e6, -1e6, 100.0, -100.0, 1e-40, -1e-40];
    /// Whether there is a fast form, which is right then.
    fn check<T: Element>(layer: Layer) -> bool {
        let case = Case { n: 1, input: Shape::Features(X.len()), layer };
        let mut batch = CaseBatch::<f64>::new(&case).unwrap();
        (batch.x, batch.dy) = (X.to_vec(), vec![2.0; X.len()]);
        let (Some(mut node), layout) = (node::<T>(&batch, true), planes(case.input)) else { return false };
        let [x, dy] = [&batch.x, &batch.dy].map(|values| values.iter().map(|&v| T::of(v)).collect::<Vec<T>>());
        let [mut y, mut dx] = [vec![T::one(); X.len()], vec![T::one(); X.len()]];
        let of = |scratch| NodeBatch {
            n: 1,
            arch: Arch::new(),
            from: layout,
            to: layout,
            x: &x,
            skip: None,
            params: &[],
            random: batch.random,
            scratch,
        };
        let [forward, backward] = &mut [Scratch::default(), Scratch::default()];
        node.forward(of(forward), Mode::Training, &mut [], &mut y);
        let gradients = NodeGradients { dx: Some(&mut dx), adds: false, dskip: None, params: &mut [] };
        node.backward(of(backward), &y, &dy, gradients);
        let given = batch.forward(Mode::Training);
        let wanted = [given.y.clone(), batch.backward(&given).dx];
        for (name, found, wanted) in [("y", y, &wanted[0]), ("dx", dx, &wanted[1])] {
            for ((x, found), &want) in X.iter().zip(found).zip(wanted) {
                let found = found.wide();
                let close = (found - want).abs() <= 1e-5 * want.abs() + 1e-30;
                assert!(
                    close || found.is_nan() && want.is_nan(),
                    "{name} of {:?} at {x:e}: found {found:e}, expected {want:e}",
                    case.layer
                );
            }
        }
        true
    }
    let tanh = gelu::Settings { approximate: gelu::Approximate::Tanh };
    for layer in [Layer::relu(), Layer::leaky_relu(0.1), Layer::silu(), Layer::gelu(), Layer::new(tanh)] {
        assert!(check::<f32>(layer.clone()), "no fast form of {layer:?}");
        check::<f64>(layer);
    }
}
