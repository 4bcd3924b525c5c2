//! `smoothcnn data preview`.

use std::path::PathBuf;

use smoothcnn::data::format::Loaded;
use smoothcnn::data::sheet::ContactSheet;
use smoothcnn::data::source::Source;
use smoothcnn::fs::{is_standard_output, write_output};
use smoothcnn::report::png;
use smoothcnn::{Error, Result};

use super::common;
use super::dataset::DataArgs;

/// Writes a contact sheet of training images.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Keep only the first N training images
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    limit_train: Option<usize>,
    /// The PNG to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Images of each class, at most
    #[arg(long, default_value_t = 20, value_parser = common::at_least_one)]
    columns: usize,
}

/// On a side of the sheet: more than most programs show.
const MOST_PIXELS: u64 = 1 << 15;

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    let source = Source { limit_train: args.limit_train, limit_test: Some(0), ..args.data.wanted().source()? };
    let bar = common::ReadingBar::default();
    let Loaded { train, notes, .. } = source.load(None, &|done, all| bar.show(done, all))?;
    notes.iter().for_each(common::note);
    common::note(format_args!("data: {}, {} training images", source.describe(), train.len()));
    let mut counts = vec![0; train.classes];
    train.labels.iter().for_each(|&label| counts[label as usize] += 1);
    let most = counts.into_iter().max().unwrap_or(0);
    let columns = args.columns.min(most);
    // Each pixel is drawn as two by two.
    let [_, h, w] = train.shape.map(|size| 2 * size as u64);
    let (width, height) = (w * columns as u64, h * train.classes as u64);
    if width.max(height) > MOST_PIXELS {
        return Err(Error::Usage(format!(
            "--columns: found {columns}, which makes a sheet of {width}x{height} pixels, expected at most \
             {MOST_PIXELS} on a side"
        )));
    }
    let sheet = ContactSheet::new(&train, columns);
    write_output(&args.output, &png(&sheet))?;
    let done = format!("{}: {}x{} pixels", args.output.display(), sheet.width, sheet.height);
    if is_standard_output(&args.output) {
        common::note(done);
    } else {
        common::print(done)?;
    }
    Ok(0)
}
