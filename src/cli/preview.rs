//! `smoothcnn data preview`.

use std::path::PathBuf;

use image::ImageEncoder;
use smoothcnn::Result;
use smoothcnn::data::digits::contact_sheet;
use smoothcnn::fs::{is_standard_output, write_output};

use super::common::{self, DataArgs};

/// Writes a contact sheet of training images.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// The PNG to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Images of each class, at most
    #[arg(long, default_value_t = 20, value_parser = common::at_least_one)]
    columns: usize,
}

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    let (train, _) = common::load_data(&args.data, None)?;
    let mut counts = vec![0; train.classes];
    train.labels.iter().for_each(|&label| counts[label as usize] += 1);
    let most = counts.into_iter().max().unwrap_or(0);
    let sheet = contact_sheet(&train, args.columns.min(most));
    let mut png = vec![];
    image::codecs::png::PngEncoder::new(&mut png)
        .write_image(&sheet.pixels, sheet.width as u32, sheet.height as u32, image::ExtendedColorType::L8)
        .expect("a grey image of the stated size, written to memory, always encodes");
    write_output(&args.output, &png)?;
    let done = format!("{}: {}x{} pixels", args.output.display(), sheet.width, sheet.height);
    if is_standard_output(&args.output) {
        common::note(done);
    } else {
        common::print(done)?;
    }
    Ok(0)
}
