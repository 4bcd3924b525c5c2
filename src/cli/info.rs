//! `smoothcnn data info`.

use smoothcnn::Result;
use smoothcnn::data::Dataset;
use smoothcnn::data::format::{Loaded, Pictures};
use smoothcnn::data::record::Record;
use smoothcnn::data::source::{DataChoice, Wanted};
use smoothcnn::error::escaped;

use super::common;
use super::dataset::{PictureArgs, choice};

/// Says what a data set has: counts, sizes, classes, mean and deviation, and every file that is no picture.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Data set: its name, or a path to data of your own
    #[arg(value_name = "NAME|PATH", value_parser = choice)]
    data: DataChoice,
    /// Folder with the files of a named data set [default: data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<std::path::PathBuf>,
    #[command(flatten)]
    pictures: PictureArgs,
}

/// Runs the command. Files that are no pictures are listed, not refused.
pub fn run(args: Args) -> Result<u8> {
    let pictures: Pictures = args.pictures.into();
    let mut source = Wanted { data: Some(args.data), dir: args.data_dir, pictures }.source()?;
    source.pictures.skip_bad |= source.data.format().is_of_pictures();
    let bar = common::ReadingBar::default();
    let loaded = source.load(None, &|done, all| bar.show(done, all))?;
    let record = Record::new(&loaded);
    let Loaded { train, validation, test, classes, normalisation, notes, left_out, sizes, .. } = &loaded;
    // Below, each has a line.
    notes.iter().filter(|note| !note.starts_with("data: left out")).for_each(common::note);

    common::print(format_args!("data       {}", source.describe()))?;
    let [c, h, w] = train.shape;
    common::print(format_args!("images     {c}x{h}x{w} (channels, height, width)"))?;
    if !sizes.is_empty() {
        let n = sizes.iter().map(|(_, n)| n).sum::<usize>();
        let list: Vec<_> = sizes.iter().take(8).map(|([h, w], n)| format!("{h}x{w} ({n})")).collect();
        let more = if sizes.len() > 8 { format!(", and {} more sizes", sizes.len() - 8) } else { String::new() };
        common::print(format_args!("pictures   {n} files, height x width: {}{more}", list.join(", ")))?;
    }
    for (channel, [mean, std]) in normalisation.iter().enumerate() {
        common::print(format_args!("channel {channel}  mean {mean:.4}, std {std:.4}"))?;
    }
    let sets: Vec<(&str, &Dataset, &str)> = [
        Some(("training", train, &record.train_sha256[..])),
        validation.as_ref().map(|set| ("validation", set, record.val_sha256.as_deref().unwrap_or_default())),
        Some(("test", test, &record.test_sha256[..])),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (name, _, hash) in &sets {
        common::print(format_args!("SHA-256    {hash} ({name} set)"))?;
    }
    let counts: Vec<Vec<usize>> = sets.iter().map(|(_, set, _)| counts(set)).collect();
    let row = |class: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:>10}")).collect();
        common::print(format_args!("{class:<32}{cells}"))
    };
    row("class", sets.iter().map(|(name, ..)| String::from(*name)).collect())?;
    for (i, class) in classes.iter().enumerate() {
        row(&escaped(class), counts.iter().map(|counts| counts[i].to_string()).collect())?;
    }
    row("all", sets.iter().map(|(_, set, _)| set.len().to_string()).collect())?;
    for line in left_out {
        common::print(format_args!("no picture: {}", escaped(line)))?;
    }
    Ok(0)
}

fn counts(set: &Dataset) -> Vec<usize> {
    let mut counts = vec![0; set.classes];
    for &label in &set.labels {
        if let Some(count) = counts.get_mut(label as usize) {
            *count += 1;
        }
    }
    counts
}
