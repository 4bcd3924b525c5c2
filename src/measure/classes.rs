//! What a classifier makes of each class: the confusion matrix, precision, recall and F1, and its worst mistakes.
//!
//! With n_jk the images of class j that are answered k: precision of k is n_kk / sum_j n_jk, recall n_kk / sum_k'
//! n_kk', F1 the harmonic mean of both. 0/0 is 0, as with scikit-learn's `zero_division=0`.

/// How often images of each class get each answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// How many classes.
    pub classes: usize,
    /// `[label, answer]`: how many images.
    pub counts: Vec<usize>,
}

/// The measures of one class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassMeasures {
    /// The share of its answers that are right.
    pub precision: f64,
    /// The share of its images that are answered right.
    pub recall: f64,
    /// The harmonic mean of both.
    pub f1: f64,
    /// How many images it has.
    pub support: usize,
    /// How many images are answered with it.
    pub answered: usize,
}

/// An image that is answered wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mistake {
    /// Its place among the images.
    pub index: usize,
    /// Its class.
    pub label: usize,
    /// The answer.
    pub answer: usize,
    /// The answer's probability.
    pub probability: f64,
}

/// The answer of each row of `probabilities` (`[images, classes]`): the class of the largest one, of equals the first.
pub fn answers(probabilities: &[f64], classes: usize) -> Vec<usize> {
    let top = |row: &[f64]| (1..row.len()).fold(0, |top, k| if row[k] > row[top] { k } else { top });
    probabilities.chunks(classes).map(top).collect()
}

impl Confusion {
    /// The matrix of images with these labels and answers, each below `classes`.
    pub fn new(labels: &[u32], answers: &[usize], classes: usize) -> Self {
        let mut counts = vec![0; classes * classes];
        for (&label, &answer) in labels.iter().zip(answers) {
            counts[label as usize * classes + answer] += 1;
        }
        Self { classes, counts }
    }

    /// How many images of class `label` are answered `answer`.
    pub fn count(&self, label: usize, answer: usize) -> usize {
        self.counts[label * self.classes + answer]
    }

    /// The measures of each class.
    pub fn measures(&self) -> Vec<ClassMeasures> {
        let all = 0..self.classes;
        let ratio = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let of = |class: usize| {
            let right = self.count(class, class);
            let support = all.clone().map(|answer| self.count(class, answer)).sum();
            let answered = all.clone().map(|label| self.count(label, class)).sum();
            // 2 p r / (p + r), without the two divisions.
            let f1 = ratio(2 * right, support + answered);
            ClassMeasures { precision: ratio(right, answered), recall: ratio(right, support), f1, support, answered }
        };
        all.clone().map(of).collect()
    }

    /// Pairs of label and answer that differ, and how many images each has, the most first; of equals the first pair.
    /// Without those that have none.
    pub fn confused(&self) -> Vec<(usize, usize, usize)> {
        let pairs = (0..self.classes).flat_map(|label| (0..self.classes).map(move |answer| (label, answer)));
        let mut pairs: Vec<_> = pairs
            .filter(|(label, answer)| label != answer)
            .map(|(label, answer)| (label, answer, self.count(label, answer)))
            .filter(|(.., count)| *count > 0)
            .collect();
        pairs.sort_by_key(|(.., count)| usize::MAX - count);
        pairs
    }
}

/// The images that are answered wrong, the surest answers first; of equals the first image.
pub fn mistakes(probabilities: &[f64], labels: &[u32], answers: &[usize], classes: usize) -> Vec<Mistake> {
    let mut wrong: Vec<Mistake> = (labels.iter().zip(answers).enumerate())
        .filter(|(_, (label, answer))| **label as usize != **answer)
        .map(|(index, (&label, &answer))| Mistake {
            index,
            label: label as usize,
            answer,
            probability: probabilities[index * classes + answer],
        })
        .collect();
    wrong.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    wrong
}

/// The plain mean of precision, recall and F1 over the classes that have images or are answered: scikit-learn's `macro
/// avg`.
pub fn macro_mean(measures: &[ClassMeasures]) -> [f64; 3] {
    let seen: Vec<_> = measures.iter().filter(|of| of.support > 0 || of.answered > 0).collect();
    let mean =
        |of: fn(&ClassMeasures) -> f64| seen.iter().map(|measures| of(measures)).sum::<f64>() / seen.len() as f64;
    [mean(|of| of.precision), mean(|of| of.recall), mean(|of| of.f1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scikit-learn's own example, `classification_report([0, 1, 2, 2, 2], [0, 0, 2, 2, 1])`: precision 0.5, 0, 1;
    /// recall 1, 0, 2/3; F1 2/3, 0, 0.8; macro 0.5, 0.5556, 0.4889.
    #[test]
    fn measures_are_those_of_scikit_learn() {
        let confusion = Confusion::new(&[0, 1, 2, 2, 2], &[0, 0, 2, 2, 1], 3);
        assert_eq!(confusion.counts, [1, 0, 0, 1, 0, 0, 0, 1, 2]);
        let measures = confusion.measures();
        let rows: Vec<_> = measures.iter().map(|of| (of.precision, of.recall, of.f1, of.support)).collect();
        assert_eq!(rows, [(0.5, 1.0, 2.0 / 3.0, 1), (0.0, 0.0, 0.0, 1), (1.0, 2.0 / 3.0, 0.8, 3)]);
        let means = macro_mean(&measures).map(|mean| (mean * 1e4).round());
        assert_eq!(means, [5000.0, 5556.0, 4889.0]);
        assert_eq!(confusion.confused(), [(1, 0, 1), (2, 1, 1)]);
        // A class that is never answered and has no image: 0, and no part of the mean.
        let without = Confusion::new(&[0, 1], &[0, 1], 3).measures();
        assert_eq!(without[2], ClassMeasures { precision: 0.0, recall: 0.0, f1: 0.0, support: 0, answered: 0 });
        assert_eq!(macro_mean(&without), [1.0; 3]);
        // One that has no image and is answered counts: scikit-learn 1.9.1's 0.6667, 0.5, 0.5556.
        let answered = Confusion::new(&[0, 0, 1, 1], &[0, 2, 1, 1], 3).measures();
        let means = macro_mean(&answered).map(|mean| (mean * 1e4).round());
        assert_eq!(means, [6667.0, 5000.0, 5556.0]);
        // So does one that has an image and is never answered: of two images of one class each, both answered 0.
        let never = macro_mean(&Confusion::new(&[0, 1], &[0, 0], 2).measures());
        assert_eq!(never, [0.25, 0.5, 1.0 / 3.0]);
    }

    #[test]
    fn the_surest_mistake_is_the_first() {
        let probabilities = [0.6, 0.4, 0.1, 0.9, 0.5, 0.5, 0.2, 0.8, 0.9, 0.1];
        let answers = answers(&probabilities, 2);
        assert_eq!(answers, [0, 1, 0, 1, 0]);
        let wrong = mistakes(&probabilities, &[1, 1, 1, 0, 1], &answers, 2);
        let rows: Vec<_> = wrong.iter().map(|of| (of.index, of.label, of.answer, of.probability)).collect();
        assert_eq!(rows, [(4, 1, 0, 0.9), (3, 0, 1, 0.8), (0, 1, 0, 0.6), (2, 1, 0, 0.5)]);
    }
}
