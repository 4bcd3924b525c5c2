//! Networks: a stack of layers whose shapes follow from the input's.

use std::ops::Range;
use std::sync::Arc;

use super::presets::Preset;
use crate::layer::{Branches, First, Layer, Op, Role, Shape};
use crate::ops::linear::Linear;
use crate::optimizer::WeightMatrix;
use crate::rng::{Philox, Stream};
use crate::{Error, Result};

/// A fitted layer.
#[derive(Clone, Debug)]
pub struct FittedLayer {
    /// `conv1`, `relu1`, `pool1`, …, `fc1`: the kind and a count.
    pub name: String,
    /// The operation with its dimensions.
    pub op: Arc<dyn Op>,
    /// What reaches it.
    pub input: Shape,
    /// What it gives.
    pub output: Shape,
    /// The tensor that it reads ([`Network::layers`]): what the layer before it gives, but at the start of a branch.
    pub from: usize,
    /// The tensor that it adds, for the addition at the end of a residual block.
    pub skip: Option<usize>,
    /// Its trained parameters, as indices into [`Network::parameters`].
    pub parameters: Range<usize>,
    /// Its buffers, as indices into [`Network::buffers`].
    pub buffers: Range<usize>,
}

/// One parameter tensor, and its place in the flat vector that holds all of its kind.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedParameter {
    /// PyTorch's name: `conv1.weight`, …
    pub name: String,
    /// OIHW, `[out, in]` or `[out]`.
    pub shape: Vec<usize>,
    /// Its first values.
    pub first: First,
    /// What it is to an optimizer.
    pub role: Role,
    /// Its first element in the flat vector, a multiple of [`PARAMETER_ALIGNMENT`].
    pub offset: usize,
}

impl NamedParameter {
    /// How many numbers.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements' range in the flat vector.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// Parameters start at multiples of 64 elements: 256 bytes, the coarsest alignment that wgpu allows a device to ask for
/// when a part of a buffer is bound.
pub const PARAMETER_ALIGNMENT: usize = 64;

/// A stack of layers fitted to an input shape.
#[derive(Clone, Debug)]
pub struct Network {
    /// Channels, height, width of an image.
    pub input: [usize; 3],
    /// The layers in the order in which they run. Tensor 0 is the batch of images, tensor `i + 1` what layer `i` gives.
    pub layers: Vec<FittedLayer>,
    /// Every trained parameter, in the order of the layers. In the flat vector those that no weight decay reaches are
    /// the last.
    pub parameters: Vec<NamedParameter>,
    /// Every buffer: what training leaves for inference and no optimizer changes. They have a flat vector of their own.
    pub buffers: Vec<NamedParameter>,
    /// Logits for each image.
    pub classes: usize,
}

impl Network {
    /// Fits `layers` to images of shape `input`.
    ///
    /// # Errors
    /// [`Error::Layer`], naming the first layer that does not fit, what reaches it and what it needs.
    pub fn new(input: [usize; 3], layers: &[Layer]) -> Result<Self> {
        let mut net = Self { input, layers: vec![], parameters: vec![], buffers: vec![], classes: 0 };
        let shape = net.append("", layers, 0, Shape::Image(input))?;
        place(&mut net.parameters);
        place(&mut net.buffers);
        match shape {
            Shape::Features(classes) if classes >= 2 => net.classes = classes,
            _ => {
                return Err(Error::Layer {
                    layer: net.layers.last().map_or("(none)", |l| &l.name).to_owned(),
                    got: format!("{shape} as the network's output"),
                    needs: "a flat vector of at least 2 logits".into(),
                });
            }
        }
        Ok(net)
    }

    /// The same network, with no weight decay of the parameters that `spared` is true of. They stand behind the others
    /// then, in the flat vector.
    pub fn sparing(mut self, spared: impl Fn(&NamedParameter) -> bool) -> Self {
        self.parameters.iter_mut().filter(|p| spared(p)).for_each(|p| p.role = Role::Undecayed);
        place(&mut self.parameters);
        self
    }

    /// The seed network: conv 32, pool, conv 64, pool, 128 hidden units, with the first fully connected layer's inputs
    /// derived from the image's size.
    pub fn seed(input: [usize; 3], classes: usize) -> Result<Self> {
        Self::new(input, &Preset::Seed.layers(classes))
    }

    /// Appends `layers`, whose names begin with `scope` and whose first one reads the tensor `from`, of this `shape`.
    /// What the last one gives. A residual block is its shortcut, then its branch, then the addition of both.
    fn append(&mut self, scope: &str, layers: &[Layer], mut from: usize, mut shape: Shape) -> Result<Shape> {
        let mut counts = std::collections::HashMap::<&str, usize>::new();
        for layer in layers {
            let count = counts.entry(layer.kind()).or_default();
            *count += 1;
            let name = format!("{scope}{}{count}", layer.kind());
            let mut skip = None;
            let fork = from;
            if let Some(Branches { branch, shortcut }) = layer.branches() {
                self.append(&format!("{name}.shortcut."), shortcut, fork, shape)?;
                skip = Some(if shortcut.is_empty() { fork } else { self.layers.len() });
                self.append(&format!("{name}."), branch, fork, shape)?;
                from = self.layers.len();
            }
            let op = layer.fit(shape).map_err(|misfit| Error::Layer {
                layer: name.clone(),
                got: misfit.got,
                needs: misfit.needs,
            })?;
            shape = self.push(name, op, from, skip);
            from = self.layers.len();
        }
        Ok(shape)
    }

    /// Adds a layer that reads these tensors, and its parameters; what it gives.
    fn push(&mut self, name: String, op: Arc<dyn Op>, from: usize, skip: Option<usize>) -> Shape {
        let first = [self.parameters.len(), self.buffers.len()];
        for crate::layer::Parameter { name: own, shape, first, role } in op.parameters() {
            let list = if role == Role::Buffer { &mut self.buffers } else { &mut self.parameters };
            list.push(NamedParameter { name: format!("{name}.{own}"), shape, first, role, offset: 0 });
        }
        let (input, output) = (op.input(), op.output());
        let parameters = first[0]..self.parameters.len();
        let buffers = first[1]..self.buffers.len();
        self.layers.push(FittedLayer { name, op, input, output, from, skip, parameters, buffers });
        output
    }

    /// How many layers read a tensor.
    fn readers(&self, tensor: usize) -> usize {
        let reads = |layer: &FittedLayer| usize::from(layer.from == tensor) + usize::from(layer.skip == Some(tensor));
        self.layers.iter().map(reads).sum()
    }

    /// Whether the tensor that a layer reads has no other reader.
    pub fn reads_alone(&self, layer: usize) -> bool {
        self.readers(self.layers[layer].from) == 1
    }

    /// The layers from `first` on of which each reads what the one before it gives, and nobody else does: those that
    /// may run as one.
    pub fn run(&self, first: usize) -> Range<usize> {
        let continues = |&i: &usize| self.layers[i].from == i && self.readers(i) == 1;
        let more = (first + 1..self.layers.len()).take_while(continues).count();
        first..first + 1 + more
    }

    /// The layer that gives a tensor to one reader alone; where that layer only renames, the one below it.
    pub fn sole_giver(&self, tensor: usize) -> Option<usize> {
        let giver = tensor.checked_sub(1).filter(|_| self.readers(tensor) == 1)?;
        if self.layers[giver].op.is_view() { self.sole_giver(self.layers[giver].from) } else { Some(giver) }
    }

    /// Whether a backward pass needs the gradient of a tensor: whether a layer at or below it has parameters.
    pub fn wants_gradient(&self, tensor: usize) -> bool {
        tensor > self.first_trained()
    }

    /// The first layer with trained parameters: backward passes end there, since nobody needs a gradient below it.
    pub fn first_trained(&self) -> usize {
        self.layers.iter().position(|layer| !layer.parameters.is_empty()).unwrap_or(self.layers.len())
    }

    /// The network up to its last layer, which must be a linear one: its outputs are what that layer sees. The
    /// parameters are the first of this network's, at the same places.
    ///
    /// # Panics
    /// If the last layer is another one.
    pub fn without_last(&self) -> Self {
        let mut net = self.clone();
        let last = net.layers.pop();
        let Some((last, dims)) = last.as_ref().and_then(|last| last.op.is::<Linear>().map(|dims| (last, dims))) else {
            panic!("the last layer of {:?}, expected a linear one", self.layers);
        };
        net.parameters.truncate(last.parameters.start);
        net.buffers.truncate(last.buffers.start);
        net.classes = dims.inputs;
        net
    }

    /// Refuses a batch that is too small for a layer to learn from.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check_batches(&self, images: usize, batch_size: usize) -> Result<()> {
        let last = match images % batch_size.max(1) {
            0 => batch_size.min(images),
            rest => rest,
        };
        match self.layers.iter().find(|layer| images > 0 && layer.op.least_batch() > last) {
            None => Ok(()),
            Some(layer) => Err(Error::Usage(format!(
                "--batch-size {batch_size}: the last batch of {images} training images is {last}, expected at least {} \
                 for {}: one image of one pixel has no variance",
                layer.op.least_batch(),
                layer.name
            ))),
        }
    }

    /// How many trained parameters there are.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(NamedParameter::len).sum()
    }

    /// Elements of the flat vector that holds every trained parameter, gaps for alignment included (they stay zero).
    pub fn flat_len(&self) -> usize {
        end(&self.parameters)
    }

    /// Elements of the flat vector that holds every buffer.
    pub fn buffers_len(&self) -> usize {
        end(&self.buffers)
    }

    /// From here on no weight decay reaches the flat vector.
    pub fn decayed_len(&self) -> usize {
        let undecayed = self.parameters.iter().filter(|parameter| parameter.role == Role::Undecayed);
        undecayed.map(|parameter| parameter.offset).min().unwrap_or(self.flat_len())
    }

    /// What Muon updates as matrices: the weights of hidden layers, which are all parameters of two dimensions or more
    /// but the last, in the order of the flat vector.
    pub fn weight_matrices(&self) -> Vec<WeightMatrix> {
        let weights = self.parameters.iter().filter(|parameter| parameter.shape.len() > 1);
        let matrix = |rows: usize, len: usize, first| WeightMatrix { first, rows, columns: len / rows };
        let mut matrices: Vec<_> = weights.map(|p| matrix(p.shape[0], p.len(), p.offset)).collect();
        matrices.pop();
        matrices.sort_by_key(|matrix| matrix.first);
        matrices
    }

    /// The first values of the trained parameters, as one flat vector ([`First`]). Each parameter has its own stream of
    /// `seed`.
    pub fn initial_parameters(&self, seed: u64) -> Vec<f32> {
        initial(&self.parameters, seed, 0)
    }

    /// The first values of the buffers, likewise.
    pub fn initial_buffers(&self, seed: u64) -> Vec<f32> {
        initial(&self.buffers, seed, self.parameters.len())
    }

    /// Floating-point operations of a forward pass over one image (multiply-adds of the products only).
    pub fn forward_flops(&self) -> u64 {
        self.layers.iter().map(|layer| layer.op.flops()).sum()
    }

    /// The trained parameters of the layers `range` in the flat vector `values`.
    pub fn params<'a, T>(&self, values: &'a [T], range: Range<usize>) -> Vec<&'a [T]> {
        let of = |layer: &FittedLayer| self.parameters[layer.parameters.clone()].to_vec();
        self.layers[range].iter().flat_map(of).map(|parameter| &values[parameter.range()]).collect()
    }

    /// The same, to be changed.
    pub fn params_mut<'a, T>(&self, values: &'a mut [T], range: Range<usize>) -> Vec<&'a mut [T]> {
        let of = |layer: &FittedLayer| self.parameters[layer.parameters.clone()].to_vec();
        parts_mut(values, self.layers[range].iter().flat_map(of).map(|parameter| parameter.range()).collect())
    }

    /// The buffers of the layers `range` in their flat vector.
    pub fn buffers<'a, T>(&self, values: &'a [T], range: Range<usize>) -> Vec<&'a [T]> {
        let of = |layer: &FittedLayer| self.buffers[layer.buffers.clone()].to_vec();
        self.layers[range].iter().flat_map(of).map(|parameter| &values[parameter.range()]).collect()
    }

    /// The same, to be changed.
    pub fn buffers_mut<'a, T>(&self, values: &'a mut [T], range: Range<usize>) -> Vec<&'a mut [T]> {
        let of = |layer: &FittedLayer| self.buffers[layer.buffers.clone()].to_vec();
        parts_mut(values, self.layers[range].iter().flat_map(of).map(|parameter| parameter.range()).collect())
    }
}

/// Gives each parameter its place: those that no weight decay reaches behind the others.
fn place(parameters: &mut [NamedParameter]) {
    let mut offset = 0;
    for undecayed in [false, true] {
        for parameter in parameters.iter_mut().filter(|p| (p.role == Role::Undecayed) == undecayed) {
            parameter.offset = offset;
            offset = parameter.range().end.next_multiple_of(PARAMETER_ALIGNMENT);
        }
    }
}

fn end(parameters: &[NamedParameter]) -> usize {
    let ends = parameters.iter().map(|parameter| parameter.range().end);
    ends.max().unwrap_or(0).next_multiple_of(PARAMETER_ALIGNMENT)
}

/// First values, `before` parameters having their streams before them.
fn initial(parameters: &[NamedParameter], seed: u64, before: usize) -> Vec<f32> {
    let mut flat = vec![0.0; end(parameters)];
    for (i, parameter) in parameters.iter().enumerate() {
        let values = &mut flat[parameter.range()];
        match parameter.first {
            First::FanIn(inputs) => {
                let mut rng = Philox::of(seed, Stream::Parameter(before + i));
                let bound = 1.0 / (inputs as f64).sqrt();
                values.fill_with(|| rng.range(-bound, bound) as f32);
            }
            First::Kaiming(outputs) => {
                let mut rng = Philox::of(seed, Stream::Parameter(before + i));
                let deviation = (2.0 / outputs as f64).sqrt();
                values.fill_with(|| (deviation * rng.normal()) as f32);
            }
            First::Constant(value) => values.fill(value as f32),
        }
    }
    flat
}

/// Parts of a vector that do not overlap, in the order of `ranges`.
fn parts_mut<T>(values: &mut [T], ranges: Vec<Range<usize>>) -> Vec<&mut [T]> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&i| ranges[i].start);
    let (mut rest, mut at) = (values, 0);
    let mut parts: Vec<(usize, &mut [T])> = vec![];
    for i in order {
        let (part, behind) = rest.split_at_mut(ranges[i].end - at);
        parts.push((i, &mut part[ranges[i].start - at..]));
        (rest, at) = (behind, ranges[i].end);
    }
    parts.sort_by_key(|(i, _)| *i);
    parts.into_iter().map(|(_, part)| part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Init;
    use crate::ops::{conv2d, linear};

    #[test]
    fn the_seed_network_has_the_published_sizes() {
        assert_eq!(Network::seed([1, 28, 28], 10).unwrap().parameter_count(), 421_642);
        // The tutorial's literal fc1, 64*28*28 inputs, belongs to 112x112 images.
        let large = Network::seed([1, 112, 112], 10).unwrap();
        assert_eq!(large.parameter_count(), 6_442_762);
        assert_eq!(large.parameters[4].shape, [128, 64 * 28 * 28]);
        assert_eq!(Network::seed([3, 32, 32], 10).unwrap().parameters[4].shape, [128, 64 * 8 * 8]);
        assert_eq!(Network::seed([1, 28, 28], 10).unwrap().forward_flops(), 8_482_304);
    }

    #[test]
    fn without_its_last_layer_a_network_keeps_what_is_before() {
        let net = Network::seed([1, 28, 28], 10).unwrap();
        let cut = net.without_last();
        let layers =
            [Layer::conv2d(32, 3, 1), Layer::relu(), Layer::max_pool2d(2), Layer::conv2d(64, 3, 1), Layer::relu()];
        let rest = [Layer::max_pool2d(2), Layer::flatten(), Layer::linear(128), Layer::relu()];
        let alone = Network::new([1, 28, 28], &[&layers[..], &rest].concat()).unwrap();
        assert_eq!(format!("{cut:?}"), format!("{alone:?}"));
        assert!(cut.parameters.iter().zip(&net.parameters).all(|(a, b)| a == b));
    }

    #[test]
    fn parameters_have_pytorch_names() {
        let net = Network::seed([1, 28, 28], 10).unwrap();
        let names: Vec<_> = net.parameters.iter().map(|p| p.name.as_str()).collect();
        let expected = ["conv1", "conv2", "fc1", "fc2"].map(|l| [format!("{l}.weight"), format!("{l}.bias")]).concat();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_misfit_names_the_layer_what_it_got_and_what_it_needs() {
        let message = |input, layers: &[Layer]| Network::new(input, layers).unwrap_err().to_string();
        // The tutorial's network as written, on the images it is meant for.
        let tutorial = [
            Layer::flatten(),
            Layer::new(linear::Settings { in_features: Some(64 * 28 * 28), ..linear::Settings::new(128) }),
        ];
        assert_eq!(
            message([64, 7, 7], &tutorial),
            "layer fc1: got 3136 input features (from 3136), needs 50176, as declared"
        );
        assert!(
            message([1, 3, 3], &[Layer::linear(2)]).starts_with("layer fc1: got an image 1x3x3, needs a flat vector")
        );
        assert!(message([1, 1, 1], &[Layer::max_pool2d(2)]).starts_with("layer pool1: got a 1x1x1 input"));
        assert!(message([1, 2, 2], &[Layer::conv2d(4, 5, 1)]).contains("at least the kernel's 5x5"));
        assert!(message([1, 2, 2], &[Layer::flatten(), Layer::conv2d(4, 1, 0)]).starts_with("layer conv1: got a flat"));
        assert!(message([1, 2, 2], &[Layer::relu()]).contains("a flat vector of at least 2 logits"));
        assert!(message([1, 2, 2], &[]).contains("(none)"));
    }

    #[test]
    fn initial_values_stay_within_pytorch_bound_and_gaps_stay_zero() {
        let net = Network::seed([1, 28, 28], 10).unwrap();
        let flat = net.initial_parameters(7);
        let mut used = vec![false; flat.len()];
        for p in &net.parameters {
            let First::FanIn(inputs) = p.first else { panic!("{p:?}") };
            let bound = 1.0 / (inputs as f32).sqrt();
            let values = &flat[p.range()];
            let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(largest <= bound && largest > 0.8 * bound, "{}: {largest} against {bound}", p.name);
            used[p.range()].fill(true);
        }
        assert!(flat.iter().zip(used).all(|(&v, used)| used || v == 0.0));
        assert_eq!(flat, net.initial_parameters(7));
        assert_ne!(flat, net.initial_parameters(8));
    }

    /// Catches a variance by the wrong fan, a bias that is not 0, and a layer that was not asked and changes all the
    /// same.
    #[test]
    fn kaiming_is_normal_with_a_variance_of_2_by_the_fan_out() {
        let init = Init::Kaiming;
        let conv = conv2d::Settings { init, groups: 4, ..conv2d::Settings::square(64, 3, 1) };
        let hidden = linear::Settings { init, ..linear::Settings::new(96) };
        let layers =
            [Layer::conv2d(16, 3, 1), Layer::new(conv), Layer::flatten(), Layer::new(hidden), Layer::linear(10)];
        let net = Network::new([3, 6, 6], &layers).unwrap();
        let flat = net.initial_parameters(7);
        // torch.nn.init._calculate_fan_in_and_fan_out counts 64 * 9 and 96.
        for (index, outputs) in [(2, 64.0 * 9.0), (4, 96.0)] {
            let values: Vec<f64> = flat[net.parameters[index].range()].iter().map(|&v| v.into()).collect();
            let n = values.len() as f64;
            let (mean, square) = (values.iter().sum::<f64>() / n, values.iter().map(|v| v * v).sum::<f64>() / n);
            let variance = 2.0 / outputs;
            let name = &net.parameters[index].name;
            assert!(mean.abs() < 4.0 * (variance / n).sqrt(), "{name}: a mean of {mean}");
            let allowed = 4.0 * variance * (2.0 / n).sqrt();
            assert!((square - variance).abs() < allowed, "{name}: {square}, expected {variance} +- {allowed}");
            assert!(flat[net.parameters[index + 1].range()].iter().all(|v| *v == 0.0), "{name}'s bias");
        }
        // The layers that were not asked have what they had.
        let usual = [
            Layer::conv2d(16, 3, 1),
            Layer::new(conv2d::Settings { init: Init::Default, ..conv }),
            Layer::flatten(),
            Layer::linear(96),
            Layer::linear(10),
        ];
        let usual = Network::new([3, 6, 6], &usual).unwrap().initial_parameters(7);
        for (index, same) in [(0, true), (1, true), (2, false), (4, false), (6, true), (7, true)] {
            let range = net.parameters[index].range();
            assert_eq!(usual[range.clone()] == flat[range], same, "{}", net.parameters[index].name);
        }
    }

    /// Parameters of 4, 2, 70 and 35 numbers: each begins at a multiple of 64.
    #[test]
    fn parameters_are_parts_of_one_vector() {
        let layers = [Layer::flatten(), Layer::linear(2), Layer::relu(), Layer::linear(35)];
        let net = Network::new([1, 1, 2], &layers).unwrap();
        assert_eq!(
            net.parameters.iter().map(NamedParameter::range).collect::<Vec<_>>(),
            [0..4, 64..66, 128..198, 256..291]
        );
        assert_eq!((net.flat_len(), net.buffers_len(), net.decayed_len(), net.first_trained()), (320, 0, 320, 1));
        assert!(net.initial_buffers(1).is_empty() && net.parameters.iter().all(|p| !p.is_empty()));
        let none = NamedParameter { shape: vec![3, 0], ..net.parameters[0].clone() };
        assert!(none.is_empty() && none.range().is_empty());
        let mut values: Vec<usize> = (0..320).collect();
        let sizes = |parts: &[&[usize]]| parts.iter().map(|part| (part[0], part.len())).collect::<Vec<_>>();
        assert_eq!(sizes(&net.params(&values, 0..3)), [(0, 4), (64, 2)]);
        assert_eq!(sizes(&net.params(&values, 3..4)), [(128, 70), (256, 35)]);
        let parts = net.params_mut(&mut values, 1..4);
        let found: Vec<_> = parts.iter().map(|part| (part[0], part.len())).collect();
        assert_eq!(found, [(0, 4), (64, 2), (128, 70), (256, 35)]);
        assert!(net.buffers_mut(&mut values, 0..4).is_empty());
        // In the order that they are asked for, wherever they are.
        let found: Vec<_> = parts_mut(&mut values, vec![100..103, 5..7]).iter().map(|part| part.to_vec()).collect();
        assert_eq!(found, [vec![100, 101, 102], vec![5, 6]]);
        let no_layer = Network::new([1, 1, 2], &[Layer::flatten(), Layer::relu()]).unwrap();
        assert_eq!(no_layer.first_trained(), 2);
    }

    /// Catches a last layer that is taken, and a bias or a norm that is.
    #[test]
    fn hidden_weights_are_matrices() {
        let shapes = |net: &Network| -> Vec<[usize; 2]> {
            net.weight_matrices().iter().map(|matrix| [matrix.rows, matrix.columns]).collect()
        };
        let seed = Network::seed([1, 28, 28], 10).unwrap();
        assert_eq!(shapes(&seed), [[32, 9], [64, 288], [128, 3136]]);
        let cifar = Network::new([3, 32, 32], &Preset::Cifar.layers(10)).unwrap();
        assert_eq!(shapes(&cifar), [[24, 27], [48, 216], [48, 432], [96, 432], [96, 864]]);
        for matrix in cifar.weight_matrices() {
            assert!(cifar.parameters.iter().any(|p| p.range() == matrix.range()), "{matrix:?}");
        }
    }

    /// What no weight decay reaches stands behind the rest, and begins its own random numbers at its own number.
    #[test]
    fn undecayed_parameters_are_the_last() {
        let of = |name: &str, role, len: usize| NamedParameter {
            name: name.into(),
            shape: vec![len],
            first: First::FanIn(4),
            role,
            offset: 0,
        };
        let decayed = Network::seed([1, 28, 28], 10).unwrap().parameters[0].role;
        let mut net = Network::new([1, 1, 2], &[Layer::flatten()]).unwrap();
        net.parameters = vec![of("a", Role::Undecayed, 3), of("b", decayed, 65), of("c", Role::Undecayed, 1)];
        net.buffers = vec![of("d", Role::Buffer, 5)];
        place(&mut net.parameters);
        assert_eq!(net.parameters.iter().map(|p| p.offset).collect::<Vec<_>>(), [128, 0, 192]);
        assert_eq!((net.flat_len(), net.decayed_len(), net.buffers_len()), (256, 128, 64));
        let (parameters, buffers) = (net.initial_parameters(3), net.initial_buffers(3));
        // The buffer is number 3 of all: the stream behind those of the parameters.
        let mut rng = Philox::of(3, Stream::Parameter(3));
        let expected: Vec<f32> = (0..5).map(|_| rng.range(-0.5, 0.5) as f32).collect();
        assert_eq!(buffers[..5], expected[..]);
        assert!(parameters[128..131].iter().chain(&parameters[..65]).all(|v| *v != 0.0 && v.abs() <= 0.5));
        assert!(parameters[65..128].iter().all(|v| *v == 0.0));
        net.layers.clear();
        assert_eq!(net.first_trained(), 0);
    }
}
