//! For whoever reads a data set by its name: the list of [`FORMATS`], and what finds a set.
//!
//! A [`Source`] is all that finds a data set: a configuration records it, and [`Source::load`] reads it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::format::{Format, Loaded, Pictures, ReadProgress, Reading};
use super::{cifar_10, cifar_100, digits, fashion_mnist, idx_folder, mnist};
#[cfg(feature = "pictures")]
use super::{folder, npz, table};
use crate::ops::IGNORED;
use crate::{Error, Result, fs, memory};

/// Every format, the one that stands where nobody names one first.
pub static FORMATS: &[&dyn Format] = &[
    &digits::Builtin,
    &mnist::Mnist,
    &fashion_mnist::FashionMnist,
    &cifar_10::Cifar10,
    &cifar_100::Cifar100 { coarse: false },
    &cifar_100::Cifar100 { coarse: true },
    &idx_folder::IdxFolder,
    #[cfg(feature = "pictures")]
    &npz::Npz,
    #[cfg(feature = "pictures")]
    &table::Table,
    // Any folder of folders: after those that know the files in it.
    #[cfg(feature = "pictures")]
    &folder::ClassFolders,
];

/// One of [`FORMATS`], by its name in files.
#[derive(Clone, Copy)]
pub struct DataKind(&'static dyn Format);

impl DataKind {
    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        FORMATS.iter().find(|format| format.name() == name).map(|format| Self(*format))
    }

    /// The format.
    pub fn format(self) -> &'static dyn Format {
        self.0
    }

    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Whether it needs no files.
    pub fn is_built_in(self) -> bool {
        self.0.is_built_in()
    }
}

impl Default for DataKind {
    fn default() -> Self {
        Self(FORMATS[0])
    }
}

impl PartialEq for DataKind {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl fmt::Debug for DataKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}", self.name())
    }
}

impl Serialize for DataKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for DataKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        static NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
        let name = String::deserialize(deserializer)?;
        let names = NAMES.get_or_init(|| FORMATS.iter().map(|format| format.name()).collect());
        Self::from_name(&name).ok_or_else(|| de::Error::unknown_variant(&name, names))
    }
}

/// Where a data set's files are, if nobody says.
pub(super) const FOLDER: &str = "data";

/// Data as a user names it.
#[derive(Clone, Debug, PartialEq)]
pub enum DataChoice {
    /// By the name of its format; its files lie in a folder of their own.
    Named(DataKind),
    /// By where it is; its format is recognised.
    At(PathBuf),
}

impl DataChoice {
    /// What `text` names: a format, or a path, which has a separator in it or is there.
    pub fn parse(text: &str) -> Option<Self> {
        let path = Path::new(text);
        let is_path = || text.contains(std::path::is_separator) || path.exists();
        DataKind::from_name(text).map(Self::Named).or_else(|| is_path().then(|| Self::At(path.into())))
    }
}

/// What a user says of the data, if anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Which set.
    pub data: Option<DataChoice>,
    /// Where its files are.
    pub dir: Option<PathBuf>,
    /// How its pictures become images.
    pub pictures: Pictures,
}

/// All that finds a data set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// Which set.
    pub data: DataKind,
    /// Where its files are; without a meaning for what is built in.
    pub data_dir: PathBuf,
    /// Only the first so many training images.
    pub limit_train: Option<usize>,
    /// Only the first so many test images.
    pub limit_test: Option<usize>,
    /// How its pictures become images.
    pub pictures: Pictures,
    /// The classes in the order of their labels, where a model has them; else the data says.
    pub classes: Option<Vec<String>>,
}

impl Wanted {
    /// What is named, else the built-in digits; without limits.
    ///
    /// # Errors
    /// [`Error::Usage`] for a folder beside a set that is built in or a path, or one that is no text; [`Error::Data`]
    /// for a path with nothing that any format recognises.
    pub fn source(&self) -> Result<Source> {
        let (data, data_dir) = match &self.data {
            Some(DataChoice::At(path)) => {
                if let Some(dir) = &self.dir {
                    let (dir, path) = (dir.display(), path.display());
                    return Err(Error::Usage(format!("--data-dir: found {dir} with --data {path}, expected one path")));
                }
                (recognise(path)?, recorded("--data", path)?)
            }
            Some(DataChoice::Named(data)) => (*data, self.dir_of(*data)?),
            None => (DataKind::default(), self.dir_of(DataKind::default())?),
        };
        self.check_pictures(data)?;
        Ok(Source { data, data_dir, pictures: self.pictures.clone(), ..Source::default() })
    }

    fn dir_of(&self, data: DataKind) -> Result<PathBuf> {
        self.check(data)?;
        match data.is_built_in() {
            true => Ok(FOLDER.into()),
            false => recorded("--data-dir", self.dir.as_deref().unwrap_or(Path::new(FOLDER))),
        }
    }

    /// Refuses flags of pictures that have no meaning for `data`.
    fn check_pictures(&self, data: DataKind) -> Result<()> {
        self.pictures.check()?;
        match self.pictures.first_given() {
            Some(flag) if !data.format().is_of_pictures() => {
                let name = data.name();
                Err(Error::Usage(format!(
                    "--{flag}: found with {name}, whose images are as they are; expected pictures"
                )))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check(&self, data: DataKind) -> Result<()> {
        match &self.dir {
            Some(dir) if data.is_built_in() => Err(Error::Usage(format!(
                "--data-dir: found {}, but the digits are built in; expected --data with a set that is read from files",
                dir.display()
            ))),
            _ => Ok(()),
        }
    }
}

impl Source {
    /// `mnist in /home/me/data`.
    pub fn describe(&self) -> String {
        match self.data.is_built_in() {
            true => format!("{} (built in)", self.data.name()),
            false => format!("{} in {}", self.data.name(), self.data_dir.display()),
        }
    }

    /// The sets, cut to the limits. The label `ignored` has become [`IGNORED`] in both. `progress` is told how far a
    /// long reading is.
    ///
    /// # Errors
    /// [`Error::Data`] where a file is missing, damaged, or not what it should be; [`Error::OverLimit`] where the
    /// memory does not hold the images twice.
    pub fn load(&self, ignored: Option<i64>, progress: ReadProgress) -> Result<Loaded> {
        self.load_checked(ignored, false, progress)
    }

    /// As [`Self::load`]; with `places` only if every training image is at its place in the published set.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_checked(&self, ignored: Option<i64>, places: bool, progress: ReadProgress) -> Result<Loaded> {
        let format = self.data.format();
        if let (Some(ignored), true) = (ignored, format.is_of_pictures()) {
            // Labels are places among the classes there: no number of the data's own would mean the same.
            let found = format!("found {ignored} with data in the format {}, whose labels are classes", format.name());
            return Err(Error::Usage(format!(
                "--ignore-index: {found}; expected none: leave such images out of the data"
            )));
        }
        let Self { limit_train, limit_test, pictures, classes, .. } = self.clone();
        let cache = fs::cache_folder().map(|folder| folder.join("images"));
        let how = Reading { limit_train, limit_test, ignored, pictures, classes, cache };
        let mut loaded = format.read(&self.data_dir, &how, progress)?;
        loaded.ignored = loaded.ignored.or(ignored);
        let Loaded { train, validation, test, .. } = &mut loaded;
        if places {
            format.check_places(&self.data_dir, train).map_err(|error| match error {
                Error::Data { path, message } => {
                    Error::data(path, format!("{message}: --train-labels and --soft-labels go by their place in it"))
                }
                other => other,
            })?;
        }
        train.truncate(self.limit_train.unwrap_or(usize::MAX));
        test.truncate(self.limit_test.unwrap_or(usize::MAX));
        // What is split or left out is a copy.
        let held_out = validation.as_ref().map_or(0, |held_out| held_out.images.len());
        let copies = (train.images.len() + held_out + test.images.len()) as u64;
        if let Some(available) = memory::available().filter(|available| copies > *available) {
            let [copies, available] = [copies, available].map(memory::bytes);
            let message = format!("found {copies} of images, and {available} of memory are available to copy them");
            return Err(Error::OverLimit(format!("{}: {message}; --limit-train takes fewer", self.describe())));
        }
        if ignored.is_some() && !format.reads_ignored() {
            let held_out = validation.iter_mut().flat_map(|held_out| &mut held_out.labels);
            for label in train.labels.iter_mut().chain(&mut test.labels).chain(held_out) {
                if ignored == Some((*label).into()) {
                    *label = IGNORED;
                }
            }
        }
        Ok(loaded)
    }
}

/// The format of what lies at `path`.
fn recognise(path: &Path) -> Result<DataKind> {
    let names = || FORMATS.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ");
    // A set may be named by what its files' names begin with: then there is nothing at the path itself.
    let known = FORMATS.iter().find(|format| format.recognises(path));
    if known.is_none() && !path.exists() {
        let expected = format!("the name of a data set ({}) or a path", names());
        return Err(Error::data(path, format!("found nothing there, expected {expected}")));
    }
    known
        .map(|format| DataKind(*format))
        .ok_or_else(|| Error::data(path, format!("found nothing that is known as data, expected one of {}", names())))
}

/// A path as a configuration records it: from the root, so that it means the same wherever the run goes on. `flag` gave
/// it.
///
/// # Errors
/// [`Error::Usage`] for a path that is no text; [`Error::Io`].
pub fn recorded(flag: &str, path: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(path).map_err(Error::io(path))?;
    match whole.to_str() {
        Some(_) => Ok(whole),
        None => {
            Err(Error::Usage(format!("{flag}: found {path:?}, expected a path in UTF-8, which config.toml can hold")))
        }
    }
}

/// Mean and standard deviation of each channel: what was given, else the `usual` ones. `names` are what gave them.
///
/// # Errors
/// [`Error::Usage`] for another number of values than 1 or one a channel, and as [`check_normalisation`].
pub fn normalisation(usual: &[[f64; 2]], names: [&str; 2], [mean, std]: [&[f64]; 2]) -> Result<Vec<[f64; 2]>> {
    let channels = usual.len();
    if usual.iter().flatten().any(|value| value.is_nan()) && [mean, std].iter().any(|given| given.is_empty()) {
        let message = "found none, and no training images to take them from; expected both";
        return Err(Error::Usage(format!("{} and {}: {message}", names[0], names[1])));
    }
    let one_each = |name: &str, given: &[f64], which: usize| match given.len() {
        0 => Ok(usual.iter().map(|channel| channel[which]).collect()),
        1 => Ok(vec![given[0]; channels]),
        n if n == channels => Ok(given.to_vec()),
        n => Err(Error::Usage(format!("{name}: found {n} values, expected 1 or one for each of {channels} channels"))),
    };
    let (mean, std) = (one_each(names[0], mean, 0)?, one_each(names[1], std, 1)?);
    check_normalisation(names, [&mean, &std])?;
    Ok(mean.into_iter().zip(std).map(|(mean, std)| [mean, std]).collect())
}

/// Refuses what makes no numbers of pixels, whatever the data.
///
/// # Errors
/// [`Error::Usage`], with the name of what is wrong.
pub fn check_normalisation(names: [&str; 2], [mean, std]: [&[f64]; 2]) -> Result<()> {
    // Kernels divide by it in f32.
    if let Some(bad) = std.iter().find(|std| !(std.is_finite() && **std >= f64::from(f32::MIN_POSITIVE))) {
        return Err(Error::Usage(format!("{}: found {bad}, expected numbers above 0", names[1])));
    }
    if let Some(bad) = mean.iter().find(|mean| !(**mean as f32).is_finite()) {
        return Err(Error::Usage(format!("{}: found {bad}, expected numbers", names[0])));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a new format with a name that another one has.
    #[test]
    fn every_format_is_whole_and_known_by_its_name() {
        for &format in FORMATS {
            let kind = DataKind::from_name(format.name()).unwrap();
            assert_eq!(kind.format().about(), format.about(), "two formats are called {}", format.name());
            let text = serde_json::to_string(&kind).unwrap();
            assert_eq!((text.clone(), serde_json::from_str::<DataKind>(&text).unwrap()), (format!("{kind:?}"), kind));
            assert!(!format.about().is_empty(), "{kind:?}");
        }
        let error = serde_json::from_str::<DataKind>("\"imagenet\"").unwrap_err().to_string();
        assert!(error.starts_with("unknown variant `imagenet`, expected one of `digits`, `mnist`"), "{error}");
    }
}
