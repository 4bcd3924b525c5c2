//! A folder that this program made: it is marked as such, and locked while a process works in it.
//!
//! The mark is the file `.smoothcnn`. A process that works in the folder holds that file's lock, which the system takes
//! back however the process ends, and writes into it who it is. Nothing in a folder without the mark is ever replaced
//! or removed; in one with it, only files of this program, by their names.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::fs::{folder_of, is_temporary, names, remove};
use crate::{Error, Result, input};

/// The mark's name.
pub const MARK: &str = ".smoothcnn";
const MARK_TEXT: &str = "This folder was made by smoothcnn. A process that works in it holds the lock of this file.\n";

/// The configuration of a run.
pub const CONFIG: &str = "config.toml";
/// Its record, a line of JSON for every N-th step and for every epoch.
pub const METRICS: &str = "metrics.jsonl";
/// The epochs' lines of the record as a table.
pub const RESULTS: &str = "results.csv";
/// The trained weights.
pub const MODEL: &str = "model.safetensors";
/// The moving average of the weights, where the recipe has one.
pub const MODEL_EMA: &str = "model-ema.safetensors";
/// The weights of the best epoch, where images were held out to choose it.
pub const BEST: &str = "best.safetensors";
/// What a run goes on from.
pub const CHECKPOINT: &str = "checkpoint.safetensors";
/// Which labels noise has changed, an index a line.
pub const FLIPPED: &str = "flipped.txt";
/// What a run of a sweep came to; it is written last.
pub const RESULT: &str = "result.json";
/// What the report of a sweep shows of a run.
pub const PROJECTION: &str = "projection.csv";
/// What a run of a sweep answers to the test images.
pub const ANSWERS: &str = "answers.safetensors";
/// What `smoothcnn calibrate` writes.
pub const TEMPERATURE: &str = "temperature.toml";
/// The scores of held-out images, which it writes too.
pub const CONFORMAL: &str = "conformal.json";

/// The files of a run that have its weights, the one first that answers for it.
pub const WEIGHTS: [&str; 3] = [BEST, MODEL, CHECKPOINT];

/// What a run came to, as a page to look at.
pub const REPORT: &str = "report.html";

/// The record as TensorBoard reads it, which knows such files by their name.
pub const EVENTS: &str = "events.out.tfevents.smoothcnn";

/// Every file of a run.
pub const RUN_FILES: [&str; 15] = [
    CONFIG,
    METRICS,
    RESULTS,
    MODEL,
    MODEL_EMA,
    BEST,
    CHECKPOINT,
    FLIPPED,
    RESULT,
    PROJECTION,
    ANSWERS,
    TEMPERATURE,
    CONFORMAL,
    REPORT,
    EVENTS,
];

/// A folder of this program's, which nobody else works in as long as this value lives.
#[derive(Debug)]
pub struct OwnFolder {
    path: PathBuf,
    mark: File,
    locked: bool,
}

impl OwnFolder {
    /// Takes the folder at `path`, which is made if it is not there. Temporary files that killed writers of `files`
    /// left are removed.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process works in it, [`Error::Usage`] if it has no mark and is not empty,
    /// [`Error::Io`].
    pub fn take(path: &Path, files: &[&str]) -> Result<Self> {
        Self::take_waiting(path, files, None)
    }

    /// As [`Self::take`], but where another process works in it, waits for it to end; `on_wait` is told once who that
    /// is.
    ///
    /// # Errors
    /// As [`Self::take`], without [`Error::InUse`].
    pub fn wait_for(path: &Path, files: &[&str], on_wait: &mut dyn FnMut(&str)) -> Result<Self> {
        Self::take_waiting(path, files, Some(on_wait))
    }

    fn take_waiting(path: &Path, files: &[&str], on_wait: Option<&mut dyn FnMut(&str)>) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::io(path))?;
        if !path.join(MARK).exists()
            && let Some(name) = names(path)?.iter().find(|name| **name != Path::new(MARK))
        {
            return Err(not_ours(path, name));
        }
        let folder = Self::lock(path, on_wait)?;
        folder.remove_temporary(files)?;
        Ok(folder)
    }

    /// Removes what killed writers of `files` left.
    fn remove_temporary(&self, files: &[&str]) -> Result<()> {
        let temporary = |name: &&PathBuf| files.iter().any(|file| is_temporary(&name.to_string_lossy(), file));
        names(&self.path)?.iter().filter(temporary).try_for_each(|name| remove(&self.path.join(name)))
    }

    /// Makes a folder for a new run at `path`: one that is not there yet or is empty, or one with a run that was ended
    /// before it had anything to go on from, which is begun again.
    ///
    /// # Errors
    /// As [`Self::take`]; [`Error::Usage`] too if there is a run to go on with.
    pub fn new_run(path: &Path) -> Result<Self> {
        Self::take(path, &RUN_FILES)?.begin()
    }

    /// The same folder for a new run: what an earlier one left without having come to a checkpoint is removed.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is a run to go on with.
    pub fn begin(self) -> Result<Self> {
        let shown = self.path.display();
        if [CHECKPOINT, MODEL, RESULT].iter().any(|file| self.path.join(file).exists()) {
            return Err(Error::Usage(format!(
                "--out {shown}: found a run there, expected a new folder (or --resume {shown})"
            )));
        }
        self.clear()?;
        Ok(self)
    }

    /// Removes the files of a run.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn clear(&self) -> Result<()> {
        RUN_FILES.iter().try_for_each(|file| remove(&self.path.join(file)))
    }

    /// Makes the first folder of `parent/prefix1`, `parent/prefix2`, … that is not there yet.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn first_free(parent: &Path, prefix: &str) -> Result<Self> {
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        for i in 1u32.. {
            let path = parent.join(format!("{prefix}{i}"));
            match fs::create_dir(&path) {
                // Nobody else made this one.
                Ok(()) => return Self::take(&path, &[]),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::Io { path, source }),
            }
        }
        Err(Error::Usage(format!("{}: found no free number for a new folder", parent.display())))
    }

    /// Takes the folder of a run that is there.
    ///
    /// # Errors
    /// [`Error::Data`] if there is none, [`Error::InUse`] if another process works in it, [`Error::Io`].
    pub fn open_run(path: &Path) -> Result<Self> {
        input::open(&path.join(CONFIG), "the folder of a run")?;
        let folder = Self::lock(path, None)?;
        folder.remove_temporary(&RUN_FILES)?;
        Ok(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether others are really kept out: some network file systems have no locks.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    fn lock(path: &Path, on_wait: Option<&mut dyn FnMut(&str)>) -> Result<Self> {
        let mark_path = path.join(MARK);
        let mut mark = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&mark_path)
            .map_err(Error::io(&mark_path))?;
        let locked = match (mark.try_lock(), on_wait) {
            (Ok(()), _) => true,
            (Err(TryLockError::WouldBlock), None) => {
                return Err(Error::InUse { path: path.into(), holder: holder(&mut mark) });
            }
            (Err(TryLockError::WouldBlock), Some(on_wait)) => {
                on_wait(&holder(&mut mark));
                mark.lock().map_err(Error::io(&mark_path))?;
                true
            }
            (Err(TryLockError::Error(error)), _) if has_no_locks(&error) => false,
            (Err(TryLockError::Error(source)), _) => return Err(Error::Io { path: mark_path, source }),
        };
        let mut folder = Self { path: path.into(), mark, locked };
        // Who is here is for others to read. That it cannot be written (a full disk) will show where it matters.
        let text = format!("{MARK_TEXT}{}\n", this_process());
        let _ = folder.mark.set_len(0).and_then(|()| folder.mark.rewind());
        let _ = folder.mark.write_all(text.as_bytes());
        Ok(folder)
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        // The mark stays, without who was here. The lock goes with the file.
        let _ = self.mark.set_len(MARK_TEXT.len() as u64);
    }
}

fn not_ours(path: &Path, name: &Path) -> Error {
    let (path, name) = (path.display(), name.display());
    Error::Usage(format!("{path}: found {name} there, expected a new or an empty folder"))
}

/// File systems without locks say so in one of these ways.
fn has_no_locks(error: &std::io::Error) -> bool {
    // Linux: ENOLCK, ENOSYS.
    error.kind() == ErrorKind::Unsupported
        || (cfg!(target_os = "linux") && matches!(error.raw_os_error(), Some(37 | 38)))
}

fn this_process() -> String {
    let command: Vec<_> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { String::new() } else { format!(" on {}", host.trim()) };
    format!("process {}{host} (smoothcnn {})", std::process::id(), command.join(" ").replace(char::is_control, " "))
}

/// Who holds the lock, as far as it can be read. It is written right after the lock is taken.
fn holder(mark: &mut File) -> String {
    for _ in 0..20 {
        let mut text = vec![];
        let read = mark.rewind().and_then(|()| Read::by_ref(mark).take(4096).read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text);
        if let (Ok(_), Some(holder), true) = (read, text.lines().nth(1), text.ends_with('\n')) {
            return holder.to_owned();
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    "another process".into()
}

/// What a run's folder is called, also where it is named as `.`: it tells runs apart.
pub fn name_of(run: &Path) -> String {
    let whole = std::path::absolute(run).unwrap_or_else(|_| run.to_owned());
    whole.file_name().map_or_else(|| run.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The folder of the run that a file of weights is of, if it is of one.
pub fn run_of(model: &Path) -> Option<&Path> {
    let folder = folder_of(model);
    let of_run = WEIGHTS.iter().chain([&MODEL_EMA]).any(|name| model.file_name() == Some(name.as_ref()));
    (of_run && folder.join(CONFIG).is_file()).then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, names: &[&str]) {
        names.iter().for_each(|name| fs::write(path.join(name), "x").unwrap());
    }

    fn message(result: Result<OwnFolder>) -> String {
        result.map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn one_process_at_a_time_and_the_second_is_told_who() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/run");
        let held = OwnFolder::new_run(&path).unwrap();
        let said = message(OwnFolder::new_run(&path));
        assert!(said.contains(&format!("in use by process {}", std::process::id())), "{said}");
        write(&path, &[CONFIG]);
        assert!(message(OwnFolder::open_run(&path)).contains("in use by"));
        drop(held);
        assert_eq!(fs::read_to_string(path.join(MARK)).unwrap(), MARK_TEXT);
        drop(OwnFolder::open_run(&path).unwrap());
    }

    #[test]
    fn of_many_that_want_the_same_folder_one_gets_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        let taken: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| OwnFolder::new_run(&path))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(taken.iter().filter(|result| result.is_ok()).count(), 1);
        assert!(taken.iter().all(|result| matches!(result, Ok(_) | Err(Error::InUse { .. }))), "{taken:?}");
    }

    #[test]
    fn numbered_folders_are_never_shared() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("train2")).unwrap();
        let paths: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
            let first_free = || OwnFolder::first_free(parent.path(), "train").unwrap().path().to_owned();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(first_free)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let expected = [1, 3, 4, 5, 6, 7, 8, 9].map(|i| parent.path().join(format!("train{i}")));
        assert_eq!(paths, expected.into());
    }

    /// Catches a file of the user's that is replaced or removed.
    #[test]
    fn a_folder_of_others_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path();
        for name in ["thesis.tex", CONFIG, METRICS, ".config.toml.abcdef.tmp"] {
            write(path, &[name]);
            assert!(message(OwnFolder::new_run(path)).contains(&format!("found {name} there")), "{name}");
            assert_eq!(names(path).unwrap(), [Path::new(name)]);
            fs::remove_file(path.join(name)).unwrap();
        }
        // One that got in later stays.
        drop(OwnFolder::new_run(path).unwrap());
        write(path, &["thesis.tex", METRICS]);
        drop(OwnFolder::new_run(path).unwrap());
        assert_eq!(names(path).unwrap(), [Path::new(MARK), Path::new("thesis.tex")]);
    }

    #[test]
    fn a_run_without_a_checkpoint_is_begun_again_and_another_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path();
        drop(OwnFolder::new_run(path).unwrap());
        write(path, &[CONFIG, METRICS, FLIPPED, ".checkpoint.safetensors.a1B2c3.tmp"]);
        drop(OwnFolder::new_run(path).unwrap());
        assert_eq!(names(path).unwrap(), [Path::new(MARK)]);
        for whole in [CHECKPOINT, MODEL, RESULT] {
            write(path, &[CONFIG, whole, ".model.safetensors.a1B2c3.tmp"]);
            assert!(message(OwnFolder::new_run(path)).contains("found a run there"), "{whole}");
            drop(OwnFolder::open_run(path).unwrap());
            let mut left = [Path::new(MARK), Path::new(CONFIG), Path::new(whole)];
            left.sort();
            assert_eq!(names(path).unwrap(), left, "what a killed writer left");
            fs::remove_file(path.join(whole)).unwrap();
        }
    }

    #[test]
    fn a_run_is_known_by_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("train1");
        let own = OwnFolder::take(&run, &[]).unwrap();
        assert!(own.is_locked(), "the file system of the tests has locks");
        assert_eq!((own.path(), name_of(&run), name_of(&run.join("."))), (&*run, "train1".into(), "train1".into()));
        // A folder of weights is a run's with a configuration, and weights are of it by their names.
        assert_eq!(run_of(&run.join(MODEL)), None);
        write(&run, &[CONFIG]);
        assert_eq!((run_of(&run.join(MODEL)), run_of(&run.join("other.safetensors"))), (Some(&*run), None));
        // What is no folder, and cannot become one.
        let error = OwnFolder::first_free(&run.join(CONFIG), "x").expect_err("a file is in its place");
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn file_systems_without_locks_say_so() {
        let of = |code| has_no_locks(&std::io::Error::from_raw_os_error(code));
        // ENOLCK, ENOSYS; EIO, EACCES.
        assert_eq!([37, 38, 5, 13].map(of), [true, true, false, false]);
        assert!(has_no_locks(&ErrorKind::Unsupported.into()) && !has_no_locks(&ErrorKind::Other.into()));
    }
}
