//! For whoever resumes a run: its checkpoint, and the record beside it; and weights as a network has them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::LineWriter;
use std::path::Path;

use super::checkpoint::{Dtype, Metadata};
use super::run_folder::{CHECKPOINT, METRICS, MODEL};
use super::store::BestWeights;
use super::{Progress, Sums, store};
use crate::backend::State;
use crate::backend::cpu::memory;
use crate::backend::device::Note;
use crate::fs::write_atomic;
use crate::network::Network;
use crate::optimizer::Optimizer;
use crate::parse::to_json;
use crate::{Error, Result, input};
use serde::Deserialize;
use serde_json::Value;

/// A run as its checkpoint has it.
pub struct SavedRun {
    /// Parameters and the optimizer's memory.
    pub state: State,
    /// How far it was.
    pub progress: Progress,
    /// The record's lines of the whole epochs, without what a clock measured.
    pub epochs: Vec<Value>,
    /// The weights of the best of them, where images are held out to choose it.
    pub best: Option<BestWeights>,
}

/// Writes the checkpoint of the run in `out`; the metadata is that of a model, `epochs` are [`SavedRun::epochs`].
///
/// # Errors
/// As [`store::save_checkpoint`].
pub fn write(
    out: &Path,
    (net, optimizer): (&Network, &Optimizer),
    weights: (&State, Option<&BestWeights>),
    (mut metadata, dtype): (Metadata, Dtype),
    progress: &Progress,
    epochs: &[Value],
) -> Result<()> {
    metadata.insert("epochs".into(), to_json(&epochs));
    if progress.steps > 0 {
        let Sums { loss, nll, weight, counted, entropy, seconds } = progress.sums;
        // A number's shortest decimal form reads back to the same bits, NaN included.
        let sums = [loss, nll, weight, counted, entropy, seconds].map(|sum| sum.to_string());
        metadata.insert("steps".into(), progress.steps.to_string());
        metadata.insert("sums".into(), sums.join(","));
    }
    store::save_checkpoint(&out.join(CHECKPOINT), net, optimizer, weights, (metadata, dtype))
}

/// Reads the checkpoint of the run in `out`, whose epochs have `steps_per_epoch` steps. `None` where the run ended
/// before it had one, which it writes after every `every` epochs (0: at its end).
///
/// # Errors
/// As [`store::load_checkpoint`]; [`Error::Data`] too for metadata that no run leaves.
pub fn read(
    out: &Path,
    (net, optimizer): (&Network, &Optimizer),
    steps_per_epoch: usize,
    every: usize,
) -> Result<Option<SavedRun>> {
    let path = &out.join(CHECKPOINT);
    let none_is_due = || every == 0 || recorded_epochs(out) <= every;
    if !path.exists() && !out.join(MODEL).exists() && none_is_due() {
        return Ok(None);
    }
    let (state, best, metadata) = store::load_checkpoint(path, net, optimizer)?;
    let progress = progress(path, &metadata)?;
    if progress.steps >= steps_per_epoch.max(1) {
        let found = progress.steps;
        let message = format!("metadata steps: found {found} of an epoch, expected fewer than its {steps_per_epoch}");
        return Err(Error::data(path, message));
    }
    let epochs: Option<Vec<Value>> = metadata.get("epochs").and_then(|text| serde_json::from_str(text).ok());
    let epochs = epochs.filter(|epochs| epochs.len() == progress.epochs).ok_or_else(|| {
        let done = progress.epochs;
        Error::data(path, format!("metadata epochs: expected the lines of the {done} epochs that are done"))
    })?;
    Ok(Some(SavedRun { state, progress, epochs, best }))
}

/// Parameters and buffers from a file, with the optimizer's memory empty, and the file's metadata.
///
/// # Errors
/// As [`store::load_model`]; [`Error::OverLimit`] where the memory does not hold them.
pub fn load_params(net: &Network, path: &Path) -> Result<(State, Metadata)> {
    memory::check_state(net, false)?;
    store::load_model(path, net)
}

/// As [`load_params`], of a file of whatever names ([`store::load_foreign`]), with a line that says how they were
/// understood.
///
/// # Errors
/// As [`load_params`] and [`store::load_foreign`].
pub fn load_foreign(net: &Network, path: &Path) -> Result<(State, Option<String>)> {
    memory::check_state(net, false)?;
    store::load_foreign(path, net)
}

fn progress(path: &Path, metadata: &Metadata) -> Result<Progress> {
    let wrong =
        |key: &str, expected: &str| Error::data(path, format!("metadata {key}: found none, expected {expected}"));
    let number = |key: &str| metadata.get(key).and_then(|text| text.parse::<usize>().ok());
    let epochs = number("epoch").ok_or_else(|| wrong("epoch", "the epochs done"))?;
    if !metadata.contains_key("steps") {
        return Ok(Progress { epochs, ..Progress::default() });
    }
    let steps = number("steps").ok_or_else(|| wrong("steps", "the steps done"))?;
    let sums =
        metadata.get("sums").and_then(|text| text.split(',').map(|sum| sum.parse().ok()).collect::<Option<Vec<f64>>>());
    let Some([loss, nll, weight, counted, entropy, seconds]) = sums.as_deref().and_then(|sums| sums.as_array()) else {
        return Err(wrong("sums", "six numbers"));
    };
    let [loss, nll, weight, counted, entropy, seconds] = [*loss, *nll, *weight, *counted, *entropy, *seconds];
    Ok(Progress { epochs, steps, sums: Sums { loss, nll, weight, counted, entropy, seconds } })
}

/// A line of the record, as far as its place goes.
#[derive(Deserialize)]
struct Line {
    kind: String,
    epoch: usize,
    #[serde(default)]
    step: usize,
}

/// How many epochs the record in `out` has a line of.
fn recorded_epochs(out: &Path) -> usize {
    let text = fs::read(out.join(METRICS)).unwrap_or_default();
    let lines = String::from_utf8_lossy(&text);
    lines.lines().filter(|line| serde_json::from_str::<Line>(line).is_ok_and(|line| line.kind == "epoch")).count()
}

/// The lines of the record in the run's folder `out`; damaged ones are left out, as where a run goes on.
///
/// # Errors
/// As [`input::read_text`].
pub fn read_record(out: &Path) -> Result<Vec<Value>> {
    let text = input::read_text(&out.join(METRICS), "the record of a run")?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The record in `out` with the lines up to `progress`, ready for more. A damaged line is left out; the lines of epochs
/// that are lost come from the checkpoint. Whoever is to know of that is told.
///
/// # Errors
/// [`Error::Io`].
pub fn record(
    out: &Path,
    progress: &Progress,
    epochs: &[Value],
    steps_per_epoch: usize,
    note: Note,
) -> Result<LineWriter<File>> {
    let path = out.join(METRICS);
    let mut kept = String::new();
    if *progress != Progress::default() {
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                note(&format!("{}: found no such file; the lines of its steps are lost", path.display()));
                String::new()
            }
            Err(source) => return Err(Error::Io { path, source }),
        };
        let mut restored = vec![];
        let (mut steps, mut lines, damaged) = sorted(&text);
        for (i, line) in epochs.iter().enumerate() {
            lines.entry(i + 1).or_insert_with(|| {
                restored.push(i + 1);
                line.to_string()
            });
        }
        let last = progress.epochs * steps_per_epoch + progress.steps;
        for epoch in 1..=progress.epochs + 1 {
            let of_epoch = steps.remove(&epoch).unwrap_or_default();
            let done = of_epoch.into_iter().filter(|(step, _)| *step <= last).map(|(_, line)| line);
            // The epoch under way has no line of its own yet.
            let own = lines.remove(&epoch).filter(|_| epoch <= progress.epochs);
            done.chain(own).for_each(|line| kept += &(line + "\n"));
        }
        if damaged > 0 {
            note(&format!("{}: found {damaged} damaged lines, which are left out", path.display()));
        }
        if !restored.is_empty() {
            let shown = path.display();
            note(&format!(
                "{shown}: the lines of epochs {restored:?} were lost; they are restored, without their times"
            ));
        }
    }
    write_atomic(&path, kept.as_bytes())?;
    let file = File::options().append(true).open(&path).map_err(Error::io(&path))?;
    Ok(LineWriter::new(file))
}

/// The lines of steps by epoch, with the step; the line of each epoch; and how many lines are damaged. The test set is
/// measured at the end, anew.
type Sorted = (BTreeMap<usize, Vec<(usize, String)>>, BTreeMap<usize, String>, usize);

fn sorted(text: &str) -> Sorted {
    let (mut steps, mut epochs, mut damaged) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::new(), 0);
    for line in text.split_inclusive('\n') {
        // All of it must be JSON with numbers that there are, not only the part that tells its place.
        let found = serde_json::from_str::<Value>(line).and_then(serde_json::from_value::<Line>);
        match (found, line.strip_suffix('\n')) {
            // Cut off by whatever ended the run, after the last checkpoint.
            (_, None) => {}
            (Ok(found), Some(line)) => match found.kind.as_str() {
                "step" => steps.entry(found.epoch).or_default().push((found.step, line.to_owned())),
                "epoch" => drop(epochs.insert(found.epoch, line.to_owned())),
                _ => {}
            },
            (Err(_), Some(_)) => damaged += 1,
        }
    }
    (steps, epochs, damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::Adam;

    /// A run that ended before its first checkpoint was due has none; one that lost it does not begin anew in silence.
    #[test]
    fn a_checkpoint_is_missed_where_it_was_due() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let (net, adam) = (Network::seed([1, 8, 8], 10).unwrap(), Optimizer::Adam(Adam::default()));
        let begun_anew = |every| read(out, (&net, &adam), 4, every).map(|run| run.is_none());
        assert!(begun_anew(1).unwrap() && begun_anew(0).unwrap());
        // Two epochs are recorded; a step, the test, a damaged line and one that was cut off are none.
        let epoch = |epoch: usize| serde_json::json!({ "kind": "epoch", "epoch": epoch }).to_string();
        let step = serde_json::json!({ "kind": "step", "epoch": 1, "step": 1 }).to_string();
        let lines = [epoch(1), step, epoch(2), "{".into(), "{\"kind\":\"ep".into()].join("\n");
        fs::write(out.join(METRICS), lines).unwrap();
        assert_eq!(recorded_epochs(out), 2);
        // After the second of them one was due, if not before the process was killed. After the third: not yet.
        assert!(begun_anew(1).is_err() && begun_anew(2).unwrap() && begun_anew(3).unwrap() && begun_anew(0).unwrap());
        fs::write(out.join(MODEL), "").unwrap();
        assert!(begun_anew(3).is_err() && begun_anew(0).is_err());
    }

    /// Catches a step's line that is written twice, a lost one, and a record that changes without a word.
    #[test]
    fn a_record_is_kept_up_to_where_the_run_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let notes = std::sync::Mutex::new(vec![]);
        let kept = |text: &str, (epochs, steps): (usize, usize), lines: &[Value]| {
            fs::write(out.join(METRICS), text).unwrap();
            let progress = Progress { epochs, steps, ..Progress::default() };
            drop(record(out, &progress, lines, 2, &|line| notes.lock().unwrap().push(line.to_owned())).unwrap());
            (fs::read_to_string(out.join(METRICS)).unwrap(), std::mem::take(&mut *notes.lock().unwrap()))
        };
        let step = |epoch: usize, step: usize| format!("{{\"kind\":\"step\",\"epoch\":{epoch},\"step\":{step}}}\n");
        let epoch = |epoch: usize| format!("{{\"epoch\":{epoch},\"kind\":\"epoch\"}}\n");
        let value = |n: usize| serde_json::from_str::<Value>(&epoch(n)).unwrap();
        let first = [step(1, 1), step(1, 2), epoch(1)].concat();
        let second = [step(2, 3), step(2, 4), epoch(2)].concat();
        let test = "{\"kind\":\"test\",\"epoch\":2}\n";
        let all = [&first, &second, test, &step(3, 5)].concat();
        let none = Vec::<String>::new();
        assert_eq!(kept(&all, (1, 0), &[value(1)]), (first.clone(), none.clone()));
        assert_eq!(kept(&all, (1, 1), &[value(1)]), (first.clone() + &step(2, 3), none.clone()));
        assert_eq!(kept(&all, (2, 0), &[value(1), value(2)]), ([&first[..], &second].concat(), none.clone()));
        assert_eq!(kept(&all, (0, 1), &[]), (step(1, 1), none.clone()));
        assert_eq!(kept(&all, (0, 0), &[]), (String::new(), none.clone()), "a run from its beginning");

        // Two lines are damaged, and the last one is cut off.
        let damaged = [&first, "{\n", "\n", &step(2, 3), "{\"kind\":\"st"].concat();
        let (text, notes) = kept(&damaged, (1, 1), &[value(1)]);
        assert_eq!((text, notes.len()), (first.clone() + &step(2, 3), 1));
        assert!(notes[0].ends_with("found 2 damaged lines, which are left out"), "{notes:?}");
        // Both epochs' lines are lost, and what the file has of the second is not.
        let (text, notes) = kept(&[step(1, 2), step(2, 4)].concat(), (2, 0), &[value(1), value(2)]);
        assert_eq!((text, notes.len()), ([step(1, 2), epoch(1), step(2, 4), epoch(2)].concat(), 1));
        assert!(notes[0].contains("the lines of epochs [1, 2] were lost"), "{notes:?}");
    }

    #[test]
    fn a_record_that_is_gone_is_missed_and_one_that_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS);
        let notes = std::sync::Mutex::new(String::new());
        let of = |steps| {
            let progress = Progress { steps, ..Progress::default() };
            record(folder.path(), &progress, &[], 2, &|line| notes.lock().unwrap().push_str(line))
        };
        drop(of(0).unwrap());
        assert_eq!(*notes.lock().unwrap(), "");
        fs::remove_file(&path).unwrap();
        drop(of(1).unwrap());
        assert!(notes.lock().unwrap().contains("found no such file; the lines of its steps are lost"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(of(1), Err(Error::Io { .. })));
    }

    /// Catches a run that goes on from another place, or with other sums, than where it ended.
    #[test]
    fn a_checkpoint_says_how_far_the_run_was() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let (net, adam) = (Network::seed([1, 8, 8], 10).unwrap(), Optimizer::Adam(Adam::default()));
        let state = State::initial(&net, 1);
        // What is between the parameters is not saved.
        let mut slot = vec![0.0; net.flat_len()];
        net.parameters.iter().for_each(|parameter| slot[parameter.range()].fill(0.5));
        let state = State { slots: vec![slot; 2], ..state };
        let sums = Sums { loss: 0.1, nll: f64::NAN, weight: 3.0, counted: 4.0, entropy: -0.5, seconds: 6.25 };
        let lines = [serde_json::json!({ "epoch": 1 })];
        let kept = |steps: usize, change: &[(&str, &str)]| {
            let mut metadata = Metadata::from([("epoch".to_owned(), "1".to_owned())]);
            let progress = Progress { epochs: 1, steps, sums };
            write(out, (&net, &adam), (&state, None), (metadata.clone(), Dtype::F64), &progress, &lines).unwrap();
            if !change.is_empty() {
                let (state, _, written) = store::load_checkpoint(&out.join(CHECKPOINT), &net, &adam).unwrap();
                metadata = written;
                metadata.extend(change.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())));
                metadata.retain(|_, value| value != "gone");
                let path = out.join(CHECKPOINT);
                store::save_checkpoint(&path, &net, &adam, (&state, None), (metadata, Dtype::F64)).unwrap();
            }
            read(out, (&net, &adam), 4, 1).map(Option::unwrap)
        };
        let found = kept(3, &[]).unwrap();
        assert_eq!((found.progress.epochs, found.progress.steps, &found.epochs[..]), (1, 3, &lines[..]));
        assert_eq!(format!("{:?}", found.progress.sums), format!("{sums:?}"));
        assert!(found.state == state, "another state came back");
        assert_eq!(kept(0, &[]).unwrap().progress, Progress { epochs: 1, ..Progress::default() });
        for (change, expected) in [
            (("steps", "4"), "metadata steps: found 4 of an epoch, expected fewer than its 4"),
            (("steps", "x"), "metadata steps: found none"),
            (("sums", "1,2,3,4,5"), "metadata sums: found none, expected six numbers"),
            (("epoch", "gone"), "metadata epoch: found none"),
            (("epoch", "2"), "metadata epochs: expected the lines of the 2 epochs"),
            (("epochs", "gone"), "metadata epochs: expected the lines of the 1 epochs"),
        ] {
            let error = kept(3, &[change]).err().expect("a refusal").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
