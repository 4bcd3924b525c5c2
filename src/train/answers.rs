//! For whoever asks a saved model about pictures: it knows itself how they become its images, and what its classes are
//! called.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::model::{Inference, Interface, Model, ModelFile, OpenModel};
use crate::backend::device::Note;
use crate::data::folder::is_picture;
use crate::data::format::CropMode;
use crate::data::{Dataset, picture};
use crate::measure::conformal::{Calibration, SetMaker};
use crate::measure::scaling::Scaling;
use crate::{Error, Result, fs};

/// What a model says of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The picture.
    pub file: PathBuf,
    /// Classes, and the probability of each, the most probable first; of equals the first class.
    pub top: Vec<(usize, f64)>,
    /// The classes of the promised set, the most probable first; `None` where none was asked for.
    pub set: Option<Vec<usize>>,
}

/// A saved model that is asked about pictures.
pub struct Answerer {
    model: Model,
    classes: Vec<String>,
    crop_mode: CropMode,
    scaling: Scaling,
    sets: Option<SetMaker>,
}

impl Answerer {
    /// The model of `file`, whose logits are scaled. All that it needs is in its metadata.
    ///
    /// # Errors
    /// [`Error::Data`] for a model that does not say what its images and its classes are; as [`Model::load`] and
    /// [`Scaling::check`].
    pub fn new(file: &ModelFile, scaling: Scaling) -> Result<Self> {
        let Interface { shape, classes, crop_mode } = file.interface()?;
        if ![1, 3].contains(&shape[0]) {
            let message =
                format!("found a model of images with {} channels, expected 1 or 3, as pictures have", shape[0]);
            return Err(Error::data(&file.path, message));
        }
        let model = Model::load(&file.path, shape, classes.len())?;
        scaling.check(classes.len())?;
        Ok(Self { model, classes, crop_mode, scaling, sets: None })
    }

    /// The same, whose answers have sets too: of a share `coverage` of all pictures like those that `calibration` is
    /// of, the right class is among them.
    pub fn with_sets(self, calibration: Calibration, coverage: f64) -> Self {
        Self { sets: Some(SetMaker::new(calibration, coverage)), ..self }
    }

    /// What the classes are called, by their label.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// How a picture becomes an image, in words.
    pub fn describe(&self) -> String {
        let [channels, h, w] = self.model.net.input;
        let colours = if channels == 1 { "grey" } else { "RGB" };
        let crop_mode = match self.crop_mode {
            CropMode::Center => "cut around the centre",
            CropMode::Border => "filled up with black",
            CropMode::Squash => "squashed",
        };
        let scaled = if self.scaling.is_none() { String::new() } else { format!("; {}", self.scaling.describe()) };
        format!("{colours} of {h}x{w}, {crop_mode}{scaled}")
    }

    /// Answers pictures in their order, `each` as soon as it is known: with its `topk` most probable classes, or with
    /// what is wrong with its file.
    ///
    /// # Errors
    /// Those of the device, and what `each` gives.
    pub fn answer(
        &self,
        pictures: &[PathBuf],
        topk: usize,
        how: &Inference,
        note: Note,
        each: &mut dyn FnMut(Result<Answer>) -> Result<()>,
    ) -> Result<()> {
        /// Pictures that are in the memory at a time, and the bytes that they take as images.
        const AT_A_TIME: usize = 1024;
        const BYTES: usize = 64 << 20;
        let shape = self.model.net.input;
        let at_a_time = (BYTES / shape.iter().product::<usize>()).clamp(1, AT_A_TIME);
        // A model of `train` has its own.
        let usual = vec![[f64::NAN; 2]; shape[0]];
        let mut opened: Option<OpenModel> = None;
        for pictures in pictures.chunks(at_a_time) {
            let read = |path: &PathBuf| picture::read(path, shape, self.crop_mode);
            let read: Vec<Result<Vec<u8>>> = pictures.par_iter().map(read).collect();
            let images: Vec<u8> = read.iter().flatten().flatten().copied().collect();
            let n = read.iter().filter(|image| image.is_ok()).count();
            let classes = self.classes.len();
            let set = Dataset { shape, classes, images, labels: vec![0; n], files: vec![] };
            let (mut probabilities, mut plain) = (vec![], vec![]);
            if n > 0 {
                if opened.is_none() {
                    opened = Some(self.model.opened(&usual, how, note)?);
                }
                let logits = opened.as_ref().map(|opened| opened.logits(&set)).transpose()?.unwrap_or_default();
                probabilities = self.model.probabilities(&logits, &self.scaling)?;
                if self.sets.is_some() {
                    plain = self.model.probabilities(&logits, &Scaling::NONE)?;
                }
            }
            let (mut rows, mut plain_rows) = (probabilities.chunks(classes), plain.chunks(classes));
            for (file, image) in pictures.iter().zip(read) {
                each(image.map(|_| {
                    let mut top: Vec<(usize, f64)> =
                        rows.next().unwrap_or_default().iter().copied().enumerate().collect();
                    // Stable: of equals the first class stays first.
                    top.sort_by(|a, b| b.1.total_cmp(&a.1));
                    top.truncate(topk);
                    let of_row = |sets: &SetMaker| sets.set(plain_rows.next().unwrap_or_default());
                    Answer { file: file.clone(), top, set: self.sets.as_ref().map(of_row) }
                }))?;
            }
        }
        Ok(())
    }
}

/// The pictures that `path` names: itself, or, of a folder, every file in it and in the folders below that is called as
/// a picture is, in order. Names with a dot before them and links to folders are left out.
///
/// # Errors
/// [`Error::Data`] where there is nothing, or a folder without pictures; [`Error::Io`].
pub fn pictures_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.exists() {
        return Err(Error::data(path, "found nothing there, expected a picture or a folder of pictures"));
    }
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut pictures = vec![];
    walk(path, &mut pictures)?;
    match pictures.is_empty() {
        true => Err(Error::data(path, "found a folder without pictures, expected at least one")),
        false => Ok(pictures),
    }
}

fn walk(folder: &Path, pictures: &mut Vec<PathBuf>) -> Result<()> {
    for name in fs::names(folder)? {
        let path = folder.join(&name);
        let kind = std::fs::symlink_metadata(&path).map_err(Error::io(&path))?.file_type();
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() {
            walk(&path, pictures)?;
        } else if is_picture(&path) && path.is_file() {
            pictures.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_pictures_are_the_files_that_are_called_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert!(pictures_of(folder.path()).unwrap_err().to_string().contains("found a folder without pictures"));
        std::fs::create_dir_all(path("b/.hidden")).unwrap();
        for name in ["c.png", "b/d.JPG", "a.txt", ".e.png", "b/.hidden/f.png"] {
            std::fs::write(path(name), "").unwrap();
        }
        assert_eq!(pictures_of(folder.path()).unwrap(), [path("b/d.JPG"), path("c.png")]);
        assert_eq!(pictures_of(&path("a.txt")).unwrap(), [path("a.txt")], "what is named is taken");
        assert!(pictures_of(&path("z.png")).unwrap_err().to_string().contains("found nothing there"));
        #[cfg(unix)]
        std::os::unix::fs::symlink(path("nowhere"), path("g.png")).unwrap();
        assert_eq!(pictures_of(folder.path()).unwrap().len(), 2, "a link that leads nowhere is no picture");
    }
}
