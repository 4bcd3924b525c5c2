//! The flags that choose a data set.

use std::path::PathBuf;

use smoothcnn::data::format::{CropMode, MOST_SIDE, Pictures};
use smoothcnn::data::source::{DataChoice, FORMATS, Wanted};

/// Flags that say how pictures become images.
#[derive(Clone, Debug, clap::Args)]
pub struct PictureArgs {
    /// Scale pictures to this height and width [default: their own, which must then be the same]
    #[arg(long, value_name = "HxW", value_parser = size)]
    pub size: Option<[usize; 2]>,
    /// What a picture of another shape loses or gains
    #[arg(long, value_enum, default_value = "center", requires = "size")]
    pub crop_mode: CropMode,
    /// 1 for grey images, 3 for RGB [default: 3 where a training picture has a colour, else 1]
    #[arg(long, value_name = "N")]
    pub channels: Option<usize>,
    /// The share of every class that becomes the test set, where the data has none [default: 0.2]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub test_split: Option<f64>,
    /// Leave out files that are no pictures, and list them
    #[arg(long)]
    pub skip_bad: bool,
}

impl From<PictureArgs> for Pictures {
    fn from(PictureArgs { size, crop_mode, channels, test_split, skip_bad }: PictureArgs) -> Self {
        Self { size, crop_mode, channels, test_split, skip_bad }
    }
}

/// `HxW`, or one number for both.
fn size(text: &str) -> Result<[usize; 2], String> {
    let (h, w) = text.split_once('x').unwrap_or((text, text));
    match (h.parse(), w.parse()) {
        (Ok(h @ 1..=MOST_SIDE), Ok(w @ 1..=MOST_SIDE)) => Ok([h, w]),
        _ => Err(format!("found {text:?}, expected HEIGHTxWIDTH, each from 1 to {MOST_SIDE}")),
    }
}

/// Flags that choose a data set.
#[derive(Clone, Debug, clap::Args)]
pub struct DataArgs {
    /// Data set: a name below, or a path to data of your own [default: that of the model or run, where there is one,
    /// else digits]
    #[arg(long, value_name = "NAME|PATH", value_parser = choice)]
    pub data: Option<DataChoice>,
    /// Folder with the data set's files, plain or .gz, under their published names [default: where the model or run had
    /// them, else data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub pictures: PictureArgs,
}

impl DataArgs {
    /// What the flags name.
    pub fn wanted(&self) -> Wanted {
        Wanted { data: self.data.clone(), dir: self.data_dir.clone(), pictures: self.pictures.clone().into() }
    }
}

pub fn choice(text: &str) -> Result<DataChoice, String> {
    DataChoice::parse(text).ok_or_else(|| {
        let names: Vec<_> = FORMATS.iter().map(|format| format.name()).collect();
        format!("found {text:?}, expected a path, or one of {}", names.join(", "))
    })
}
