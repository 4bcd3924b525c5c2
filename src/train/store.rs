//! For whoever reads or writes what a run keeps: every tensor by its name, as PyTorch would call it.
//!
//! | tensor | in a model | in a checkpoint |
//! |---|---|---|
//! | `conv1.weight`, `conv1.bias`, … | trained parameters | trained parameters |
//! | `bn1.running_mean`, … | buffers, where layers have some | buffers |
//! | `optimizer.exp_avg.conv1.weight`, … | | each slot of the optimizer, for each trained parameter |
//! | `ema.conv1.weight`, … | | the weights' moving average, where the recipe has one (`averages` in the metadata) |
//! | `best.conv1.weight`, … | | the same of the best epoch so far, where there is one: its number is `best_epoch` in the metadata |
//!
//! A model has PyTorch's names and nothing else, and loads there with `load_state_dict`. A checkpoint has the format's
//! version in its metadata (`format_version`, now 2); another one is refused. A tensor that is missing, one too many,
//! and one of another shape are errors that name it.

use std::collections::BTreeMap;
use std::path::Path;

use super::checkpoint::{self, Dtype, Metadata, Tensor};
use super::names;
use crate::backend::State;
use crate::network::{FittedLayer, NamedParameter, Network};
use crate::optimizer::Optimizer;
use crate::{Error, Result};

/// The version of a checkpoint's format.
const VERSION: &str = "2";
/// Its key in the metadata.
const KEY: &str = "format_version";
/// The best epoch's key in the metadata.
const BEST_EPOCH: &str = "best_epoch";
/// How the names of the counters end that PyTorch keeps beside a batch norm's statistics. Nothing reads them here.
const COUNTER: &str = ".num_batches_tracked";
/// What the tensors of the best epoch are called before their name.
const BEST: &str = "best.";
/// The key in the metadata that says that there are averages.
const AVERAGES: &str = "averages";
/// What their tensors are called before their name.
const EMA: &str = "ema.";

/// The weights of a run's best epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct BestWeights {
    /// From 1.
    pub epoch: usize,
    /// Parameters and buffers, without the optimizer's memory.
    pub state: State,
}

/// What the tensors of a model are called before their parameter's name: nothing; those of a slot in a checkpoint: its
/// name.
fn prefixes(optimizer: Option<&Optimizer>) -> Vec<String> {
    let slots = optimizer.map_or(&[][..], Optimizer::slots);
    std::iter::once(String::new()).chain(slots.iter().map(|slot| format!("optimizer.{slot}."))).collect()
}

/// Names and shapes: parameters, then each slot of the `optimizer` if one is given, then buffers.
fn expected(net: &Network, optimizer: Option<&Optimizer>) -> Vec<(String, Vec<usize>)> {
    let of = |prefix: &str, list: &[NamedParameter]| -> Vec<_> {
        list.iter().map(|p| (format!("{prefix}{}", p.name), p.shape.clone())).collect()
    };
    let trained = prefixes(optimizer).into_iter().flat_map(|prefix| of(&prefix, &net.parameters));
    trained.chain(of("", &net.buffers)).collect()
}

fn tensors<'a>(net: &Network, optimizer: Option<&Optimizer>, state: &'a State) -> Vec<Tensor<'a>> {
    let of = |prefix: &str, list: &[NamedParameter], flat: &'a [f64]| -> Vec<Tensor<'a>> {
        let tensor = |p: &NamedParameter| Tensor {
            name: format!("{prefix}{}", p.name),
            shape: p.shape.clone(),
            data: flat[p.range()].into(),
        };
        list.iter().map(tensor).collect()
    };
    let flats = std::iter::once(&state.params).chain(&state.slots);
    let trained =
        prefixes(optimizer).into_iter().zip(flats).flat_map(|(prefix, flat)| of(&prefix, &net.parameters, flat));
    trained.chain(of("", &net.buffers, &state.buffers)).collect()
}

/// The tensors that [`expected`] names, as a state.
fn state(net: &Network, optimizer: Option<&Optimizer>, tensors: &[Vec<f64>]) -> State {
    let mut tensors = tensors.iter();
    let mut flat = |list: &[NamedParameter], len: usize| {
        let mut flat = vec![0.0; len];
        list.iter().zip(tensors.by_ref()).for_each(|(p, values)| flat[p.range()].copy_from_slice(values));
        flat
    };
    let mut trained: Vec<_> = prefixes(optimizer).iter().map(|_| flat(&net.parameters, net.flat_len())).collect();
    let buffers = flat(&net.buffers, net.buffers_len());
    State { params: trained.remove(0), slots: trained, buffers, averages: vec![] }
}

/// Writes the model of a state as the weights file at `path`.
///
/// # Errors
/// As [`checkpoint::save`].
pub fn save_model(path: &Path, net: &Network, state: &State, dtype: Dtype, metadata: &Metadata) -> Result<()> {
    checkpoint::save(path, &tensors(net, None, state), dtype, metadata)
}

/// Reads a model, or the model that a checkpoint has: its state has no slots, which is an empty optimizer's memory.
///
/// # Errors
/// As [`checkpoint::load`].
pub fn load_model(path: &Path, net: &Network) -> Result<(State, Metadata)> {
    load_expected(path, net, &expected(net, None))
}

/// As [`load_model`], of a file of whatever names: behind the prefixes `module.`, `model.` and `_orig_mod.`, or with
/// the numbers of a plain `nn.Sequential`. Gives a line that says so where it was so.
///
/// # Errors
/// As [`load_model`]; [`Error::Data`] too for names that fit in no way or in several.
pub fn load_foreign(path: &Path, net: &Network) -> Result<(State, Option<String>)> {
    let names = |list: &[NamedParameter]| list.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    let of_layer = |layer: &FittedLayer| {
        [names(&net.parameters[layer.parameters.clone()]), names(&net.buffers[layer.buffers.clone()])].concat()
    };
    let layers: Vec<_> = net.layers.iter().map(of_layer).filter(|names| !names.is_empty()).collect();
    let mut found = checkpoint::load_names(path)?;
    found.retain(|name| !name.ends_with(COUNTER));
    let renamed = names::renamed(&found, &layers).map_err(|message| Error::data(path, message))?;
    let Some(renamed) = renamed else { return Ok((load_model(path, net)?.0, None)) };
    let by_own: BTreeMap<String, String> = layers.into_iter().flatten().zip(renamed.names).collect();
    let expected = expected(net, None).into_iter().map(|(name, shape)| (by_own[&name].clone(), shape));
    let (state, _) = load_expected(path, net, &expected.collect::<Vec<_>>())?;
    Ok((state, Some(renamed.how)))
}

fn load_expected(path: &Path, net: &Network, expected: &[(String, Vec<usize>)]) -> Result<(State, Metadata)> {
    let of_checkpoint = |metadata: &Metadata, name: &str| {
        let own = || ["optimizer.", BEST, EMA].iter().any(|prefix| name.starts_with(prefix));
        name.ends_with(COUNTER) || metadata.contains_key(KEY) && own()
    };
    let (tensors, metadata) = checkpoint::load_among(path, expected, &of_checkpoint)?;
    Ok((state(net, None, &tensors), metadata))
}

/// Writes a state with the optimizer's memory, and the best epoch's weights where there are some.
///
/// # Errors
/// As [`checkpoint::save`].
pub fn save_checkpoint(
    path: &Path,
    net: &Network,
    optimizer: &Optimizer,
    (state, best): (&State, Option<&BestWeights>),
    (mut metadata, dtype): (Metadata, Dtype),
) -> Result<()> {
    metadata.insert(KEY.into(), VERSION.into());
    let mut all = tensors(net, Some(optimizer), state);
    let averaged = state.averaged();
    if !state.averages.is_empty() {
        metadata.insert(AVERAGES.into(), "ema".into());
        let averages = tensors(net, None, &averaged).into_iter();
        all.extend(averages.map(|tensor| Tensor { name: format!("{EMA}{}", tensor.name), ..tensor }));
    }
    if let Some(best) = best {
        metadata.insert(BEST_EPOCH.into(), best.epoch.to_string());
        let of_best = tensors(net, None, &best.state).into_iter();
        all.extend(of_best.map(|tensor| Tensor { name: format!("{BEST}{}", tensor.name), ..tensor }));
    }
    checkpoint::save(path, &all, dtype, &metadata)
}

/// Reads what [`save_checkpoint`] wrote.
///
/// # Errors
/// As [`checkpoint::load`]; [`Error::Data`] too for a checkpoint of another version.
pub fn load_checkpoint(
    path: &Path,
    net: &Network,
    optimizer: &Optimizer,
) -> Result<(State, Option<BestWeights>, Metadata)> {
    let mut metadata = checkpoint::load_metadata(path)?;
    let found = metadata.remove(KEY);
    if found.as_deref() != Some(VERSION) {
        let found = found.map_or_else(|| "none".to_owned(), |found| format!("{found:?}"));
        let why = "this version cannot go on with a checkpoint of another one";
        return Err(Error::data(path, format!("metadata {KEY}: found {found}, expected {VERSION:?}: {why}")));
    }
    let mut all = expected(net, Some(optimizer));
    let own = all.len();
    let of_model = |prefix: &str| {
        expected(net, None).into_iter().map(move |(name, shape)| (format!("{prefix}{name}"), shape)).collect::<Vec<_>>()
    };
    let has_averages = metadata.remove(AVERAGES).is_some();
    if has_averages {
        all.extend(of_model(EMA));
    }
    let averages = all.len();
    let best_epoch = metadata.remove(BEST_EPOCH);
    if best_epoch.is_some() {
        all.extend(of_model(BEST));
    }
    let (tensors, metadata) = checkpoint::load(path, &all)?;
    let best = |epoch: String| match epoch.parse() {
        Ok(epoch) => Ok(BestWeights { epoch, state: state(net, None, &tensors[averages..]) }),
        Err(_) => Err(Error::data(path, format!("metadata {BEST_EPOCH}: found {epoch:?}, expected an epoch's number"))),
    };
    let best = best_epoch.map(best).transpose()?;
    let mut found = state(net, Some(optimizer), &tensors[..own]);
    if has_averages {
        let State { params, buffers, .. } = state(net, None, &tensors[own..averages]);
        found.averages = vec![params, buffers];
    }
    Ok((found, best, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Layer;
    use crate::optimizer::{Adam, Sgd};

    fn net(features: usize) -> Network {
        Network::new([1, 2, 2], &[Layer::flatten(), Layer::linear(features), Layer::linear(2)]).unwrap()
    }

    fn with(optimizer: &Optimizer, net: &Network) -> State {
        let mut state = State::initial(net, 1);
        state.slots = optimizer.slots().iter().zip(3..).map(|(_, v)| vec![f64::from(v); net.flat_len()]).collect();
        state
    }

    const fn sgd(momentum: f64) -> Optimizer {
        Optimizer::Sgd(Sgd { lr: 0.1, momentum, nesterov: false, weight_decay: 0.0 })
    }

    /// Catches a slot under another's name, or one that an optimizer does not have.
    #[test]
    fn a_checkpoint_has_each_slot_of_its_optimizer_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let net = net(3);
        for (optimizer, slots) in [
            (Optimizer::Adam(Adam::default()), &["exp_avg", "exp_avg_sq"][..]),
            (Optimizer::AdamW(Adam::default()), &["exp_avg", "exp_avg_sq"]),
            (sgd(0.9), &["momentum_buffer"]),
            (sgd(0.0), &[]),
        ] {
            let state = with(&optimizer, &net);
            save_checkpoint(&path, &net, &optimizer, (&state, None), (Metadata::new(), Dtype::F32)).unwrap();
            let mut names = vec![];
            for prefix in std::iter::once(String::new()).chain(slots.iter().map(|slot| format!("optimizer.{slot}."))) {
                names
                    .extend(["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"].map(|name| format!("{prefix}{name}")));
            }
            names.sort();
            let bytes = std::fs::read(&path).unwrap();
            let mut found: Vec<_> =
                safetensors::SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(String::from).collect();
            found.sort();
            assert_eq!(found, names);
            let (loaded, best, _) = load_checkpoint(&path, &net, &optimizer).unwrap();
            assert_eq!(best, None);
            for (loaded, saved) in std::iter::once(&loaded.params)
                .chain(&loaded.slots)
                .zip(std::iter::once(&state.params).chain(&state.slots))
            {
                for parameter in &net.parameters {
                    assert_eq!(loaded[parameter.range()], saved[parameter.range()], "{}", parameter.name);
                }
            }
            assert_eq!(loaded.slots.len(), slots.len());
        }
    }

    /// Catches weights of the best epoch that are mixed up with the last one's, and a checkpoint that is no model.
    #[test]
    fn a_checkpoint_has_the_best_weights_beside_its_own_and_is_a_model_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let (net, adam) = (net(3), Optimizer::Adam(Adam::default()));
        let best = BestWeights { epoch: 3, state: State::initial(&net, 2) };
        let state = with(&adam, &net);
        save_checkpoint(&path, &net, &adam, (&state, Some(&best)), (Metadata::new(), Dtype::F32)).unwrap();
        let (own, found, _) = load_checkpoint(&path, &net, &adam).unwrap();
        assert_eq!((&own.params, found), (&state.params, Some(best)));
        assert_eq!(load_model(&path, &net).unwrap().0.params, state.params);
    }

    /// Catches weights of PyTorch's that are refused for what a batch norm counts there.
    #[test]
    fn the_counters_of_batch_norms_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let layers = [Layer::conv2d(2, 1, 0), Layer::batch_norm2d(), Layer::flatten(), Layer::linear(2)];
        let net = Network::new([1, 2, 2], &layers).unwrap();
        let state = State::initial(&net, 5);
        let mut all = tensors(&net, None, &state);
        all.push(Tensor { name: format!("bn1{COUNTER}"), shape: vec![], data: vec![3.0].into() });
        checkpoint::save(&path, &all, Dtype::F32, &Metadata::new()).unwrap();
        assert_eq!(load_model(&path, &net).unwrap().0.params, state.params);
        all.iter_mut().for_each(|tensor| tensor.name = format!("module.{}", tensor.name));
        checkpoint::save(&path, &all, Dtype::F32, &Metadata::new()).unwrap();
        let (loaded, how) = load_foreign(&path, &net).unwrap();
        assert_eq!((loaded.buffers, how.is_some()), (state.buffers, true));
    }

    /// Catches what is filled with zeros, cut or overlooked in silence.
    #[test]
    fn missing_extra_and_misshapen_tensors_and_other_versions_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let adam = Optimizer::Adam(Adam::default());
        let write = |net: &Network, optimizer: &Optimizer| {
            let state = with(optimizer, net);
            save_checkpoint(&path, net, optimizer, (&state, None), (Metadata::new(), Dtype::F32)).unwrap();
        };
        let refused = |optimizer: &Optimizer, parts: &[&str]| {
            let error = load_checkpoint(&path, &net(3), optimizer).unwrap_err().to_string();
            parts.iter().for_each(|part| assert!(error.contains(part), "{error:?} lacks {part:?}"));
        };
        write(&net(3), &sgd(0.9));
        refused(&adam, &["no tensor optimizer.exp_avg.fc1.weight"]);
        write(&net(3), &adam);
        refused(&sgd(0.0), &["optimizer.exp_avg"]);
        write(&net(4), &adam);
        refused(&adam, &["fc1.weight", "[4, 4]", "[3, 4]"]);
        let metadata = Metadata::from([(KEY.into(), "3".into())]);
        checkpoint::save(&path, &tensors(&net(3), Some(&adam), &with(&adam, &net(3))), Dtype::F32, &metadata).unwrap();
        refused(&adam, &["format_version", "found \"3\"", "expected \"2\""]);
    }

    /// Catches a model of another program that is read under wrong names, or without a word.
    #[test]
    fn a_foreign_model_is_read_by_its_place_in_the_network() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let net = net(3);
        let state = State::initial(&net, 1);
        save_model(&path, &net, &state, Dtype::F32, &Metadata::new()).unwrap();
        assert_eq!(load_foreign(&path, &net).unwrap(), (state.clone(), None));
        // A prefix, and tensors that would be left out of a checkpoint of this program alone.
        let renamed = |prefix: &str| {
            let mut renamed = tensors(&net, None, &state);
            renamed.iter_mut().for_each(|tensor| tensor.name.insert_str(0, prefix));
            renamed
        };
        checkpoint::save(&path, &renamed("module."), Dtype::F32, &Metadata::new()).unwrap();
        let (found, how) = load_foreign(&path, &net).unwrap();
        assert_eq!(
            (found, how.unwrap()),
            (state.clone(), "the prefix \"module.\" of its names is left out".to_owned())
        );
        let mut more = tensors(&net, None, &state);
        more.extend(renamed("optimizer."));
        checkpoint::save(&path, &more, Dtype::F32, &Metadata::new()).unwrap();
        assert!(load_model(&path, &net).unwrap_err().to_string().contains("found a tensor \"optimizer."));
    }
}
