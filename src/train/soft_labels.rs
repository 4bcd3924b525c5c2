//! For whoever has more than one label for an image: the shares of people that chose each class, from a file.

use std::path::Path;

use super::checkpoint;
use crate::data::idx;
use crate::{Error, Result};

/// The shares `[kept.len(), classes]` of the images at the places `kept`, over the classes that are `allowed`. The file
/// has a row for each image: counts as an IDX file of two dimensions, or safetensors `[images, classes]`.
///
/// # Errors
/// [`Error::Data`] for a file that has not these rows, or a row that is no distribution; [`Error::Io`].
pub fn read(path: &Path, allowed: &[bool], kept: &[u32]) -> Result<Vec<f64>> {
    let classes = allowed.len();
    let safetensors = path.extension().is_some_and(|extension| extension == "safetensors");
    let (rows, columns, counts, numbers) = match safetensors {
        true => {
            let (rows, columns, numbers) = checkpoint::load_matrix(path)?;
            (rows, columns, vec![], numbers)
        }
        false => {
            let counts = idx::read_counts(path)?;
            (counts.rows, counts.columns, counts.values, vec![])
        }
    };
    // Not widened as a whole: a file of bytes may be large.
    let value = |i: usize| if safetensors { numbers[i] } else { counts[i].into() };
    if columns != classes {
        return Err(Error::data(path, format!("found rows of {columns} numbers, expected {classes}: one a class")));
    }
    let needed = kept.iter().max().map_or(0, |&last| last as usize + 1);
    if rows < needed {
        return Err(Error::data(path, format!("found {rows} rows, expected one for each of {needed} images")));
    }
    let mut soft = Vec::with_capacity(kept.len() * classes);
    for &image in kept {
        let first = image as usize * classes;
        let row: Vec<f64> = (first..first + classes).map(value).collect();
        if let Some(bad) = row.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
            return Err(Error::data(path, format!("row {image}: found {bad}, expected numbers from 0 on")));
        }
        let part = || row.iter().zip(allowed).map(|(&v, &allowed)| if allowed { v } else { 0.0 });
        let total: f64 = part().sum();
        if !(total > 0.0 && total.is_finite()) {
            let message = format!("row {image}: found a sum of {total} over the classes that take part, expected more");
            return Err(Error::data(path, message));
        }
        soft.extend(part().map(|v| v / total));
    }
    Ok(soft)
}
