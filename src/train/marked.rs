//! For whoever looks at a saved model's answers one by one: which classes it takes for which, and its worst mistakes.

use super::model::Model;
use crate::Result;
use crate::data::Dataset;
use crate::measure::classes::{ClassMeasures, Confusion, Mistake, answers, mistakes};
use crate::measure::scaling::Scaling;

/// A saved model's answers to labelled images.
pub struct Marked {
    /// The images whose class took part in training; every one has a label.
    pub images: Dataset,
    /// `[images]`: the place of each in the set that it is from.
    pub places: Vec<u32>,
    /// `[images, classes]`.
    pub probabilities: Vec<f64>,
    /// How often images of each class get each answer.
    pub confusion: Confusion,
    /// The measures of each class.
    pub classes: Vec<ClassMeasures>,
    /// The wrong answers, the surest first; an index is one into [`Self::images`].
    pub mistakes: Vec<Mistake>,
}

impl Marked {
    /// Of `images`, each with a label, which stand at `places` in the set that they are from; of the model's `logits`
    /// `[images, classes]`, scaled.
    ///
    /// # Errors
    /// As [`Model::probabilities`].
    pub fn new(model: &Model, images: &Dataset, places: &[u32], logits: &[f64], scaling: &Scaling) -> Result<Self> {
        let classes = model.net.classes;
        // What took no part in training is no answer, and none is expected.
        let allowed = model.file.class_mask(classes)?;
        let takes_part = |&i: &u32| allowed.as_ref().is_none_or(|allowed| allowed[images.labels[i as usize] as usize]);
        let part: Vec<u32> = (0..images.len() as u32).filter(takes_part).collect();
        let rows = part.iter().flat_map(|&i| &logits[i as usize * classes..][..classes]);
        let probabilities = model.probabilities(&rows.copied().collect::<Vec<_>>(), scaling)?;
        let places = part.iter().map(|&i| places[i as usize]).collect();
        let images = images.subset(&part);
        let answers = answers(&probabilities, classes);
        let confusion = Confusion::new(&images.labels, &answers, classes);
        let measures = confusion.measures();
        let mistakes = mistakes(&probabilities, &images.labels, &answers, classes);
        Ok(Self { images, places, probabilities, confusion, classes: measures, mistakes })
    }

    /// An image's file within the data, else its place in the set.
    pub fn name(&self, index: usize) -> String {
        self.images.files.get(index).cloned().unwrap_or_else(|| format!("image {}", self.places[index]))
    }

    /// `[images]`: whether each is answered right.
    pub fn right(&self) -> Vec<bool> {
        let answers = answers(&self.probabilities, self.confusion.classes);
        self.images.labels.iter().zip(answers).map(|(&label, answer)| label as usize == answer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_right_or_wrong_and_an_image_has_a_name() {
        let labels = vec![0, 1, 1];
        let images = Dataset { labels: labels.clone(), files: vec!["a.png".into()], ..Dataset::default() };
        let probabilities = vec![0.75, 0.25, 0.5, 0.5, 0.0, 1.0];
        let answers = answers(&probabilities, 2);
        let confusion = Confusion::new(&labels, &answers, 2);
        let (classes, mistakes) = (confusion.measures(), mistakes(&probabilities, &labels, &answers, 2));
        let marked = Marked { images, places: vec![7, 8, 9], probabilities, confusion, classes, mistakes };
        assert_eq!(marked.right(), [true, false, true]);
        assert_eq!([0, 1, 2].map(|i| marked.name(i)), ["a.png", "image 8", "image 9"]);
    }
}
