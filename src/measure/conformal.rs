//! Sets with a guarantee: instead of one answer, every class that is not out of the question, so that the right one is
//! among them for a share of all images that is chosen beforehand (split-conformal prediction).
//!
//! Each class of an image has a score, the larger the stranger: [`Score`]. Of n images that were neither trained on nor
//! chosen by, the scores of the true classes are kept ([`Calibration`]). The threshold for a coverage c is the k-th
//! smallest of them, k = ceil((n + 1) c), and a set holds the classes whose score is at most that. A new image of the
//! same kind has its class in its set with a probability of at least c; over all draws of the n images the mean is
//! between c and c + 1/(n + 1) where no two scores are equal. The most probable class is always in, so that no set is
//! empty: that can only raise the coverage.
//!
//! Sources: Vovk, Gammerman, Shafer 2005; LAC: Sadinle, Lei, Wasserman 2019; APS: Romano, Sesia, Candès 2020; RAPS:
//! Angelopoulos, Bates, Malik, Jordan 2021. APS and RAPS are taken without their random part, so that an image has the
//! same set every time.

use serde::{Deserialize, Serialize};

use super::temperature::{self, End};
use crate::rng::{Philox, Stream};

/// What makes a class strange for an image, with p its probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// 1 - p: the smallest sets on average.
    #[default]
    Lac,
    /// The sum of the probabilities down to this class, the largest first: sets that are larger where the network is
    /// unsure.
    Aps,
    /// As `aps`, and 0.1 for each class before this one: no long tails of unlikely classes.
    Raps,
}

/// What each rank after the first adds to a score of [`Score::Raps`].
pub const PENALTY: f64 = 0.1;

impl Score {
    /// Every score.
    pub const ALL: [Self; 3] = [Self::Lac, Self::Aps, Self::Raps];

    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lac => "lac",
            Self::Aps => "aps",
            Self::Raps => "raps",
        }
    }

    /// The score of each class, by its label. Of equal probabilities the first class comes first.
    pub fn of(self, probabilities: &[f64]) -> Vec<f64> {
        if self == Self::Lac {
            return probabilities.iter().map(|p| 1.0 - p).collect();
        }
        let (mut sum, mut scores) = (0.0, vec![0.0; probabilities.len()]);
        for (rank, class) in by_probability(probabilities).into_iter().enumerate() {
            sum += probabilities[class];
            scores[class] = sum + if self == Self::Raps { PENALTY * rank as f64 } else { 0.0 };
        }
        scores
    }
}

/// The classes, the most probable first; of equals the first.
fn by_probability(probabilities: &[f64]) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..probabilities.len()).collect();
    classes.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    classes
}

/// The scores of the true classes of images that nothing was fitted to or chosen by.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    score: Score,
    /// Ascending.
    scores: Vec<f64>,
}

impl Calibration {
    /// Of `probabilities` (`[labels.len(), classes]`, row-major).
    ///
    /// # Panics
    /// If a label is not below `classes`.
    pub fn new(score: Score, probabilities: &[f64], labels: &[u32], classes: usize) -> Self {
        let of = |(row, &label): (&[f64], &u32)| score.of(row)[label as usize];
        Self::of_scores(score, probabilities.chunks(classes.max(1)).zip(labels).map(of).collect())
    }

    /// Of scores that were kept, in any order.
    pub fn of_scores(score: Score, mut scores: Vec<f64>) -> Self {
        scores.sort_by(f64::total_cmp);
        Self { score, scores }
    }

    /// The scores, ascending.
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }

    /// The largest score of a class in a set, for a coverage between 0 and 1; infinite where there are too few images
    /// to promise that much: then every class is in.
    pub fn threshold(&self, coverage: f64) -> f64 {
        // A product such as 0.9 * 10 may round to just above a whole number.
        let k = ((self.scores.len() + 1) as f64 * coverage - 1e-9).ceil().max(1.0) as usize;
        self.scores.get(k - 1).copied().unwrap_or(f64::INFINITY)
    }

    /// The set of an image for a threshold, the most probable class first.
    pub fn set(&self, probabilities: &[f64], threshold: f64) -> Vec<usize> {
        let scores = self.score.of(probabilities);
        let classes = by_probability(probabilities).into_iter().enumerate();
        classes.filter(|&(rank, class)| rank == 0 || scores[class] <= threshold).map(|(_, class)| class).collect()
    }

    /// How the sets do on other images (`[labels.len(), classes]`, row-major): all of them, and each class's own.
    pub fn measured(&self, coverage: f64, probabilities: &[f64], labels: &[u32], classes: usize) -> Sets {
        let threshold = self.threshold(coverage);
        let mut of_class = vec![Tally::default(); classes];
        for (row, &label) in probabilities.chunks(classes.max(1)).zip(labels) {
            let set = self.set(row, threshold);
            let tally = &mut of_class[label as usize];
            tally.images += 1;
            tally.covered += usize::from(set.contains(&(label as usize)));
            tally.size += set.len();
        }
        let all = of_class.iter().fold(Tally::default(), |sum, tally| Tally {
            images: sum.images + tally.images,
            covered: sum.covered + tally.covered,
            size: sum.size + tally.size,
        });
        Sets { score: self.score, threshold, all: all.into(), classes: of_class.into_iter().map(Share::from).collect() }
    }
}

/// What makes the sets of a promise.
#[derive(Clone, Debug, PartialEq)]
pub struct SetMaker {
    calibration: Calibration,
    threshold: f64,
}

impl SetMaker {
    /// Sets of which a share `coverage` holds the right class, of images like those that `calibration` is of.
    pub fn new(calibration: Calibration, coverage: f64) -> Self {
        Self { threshold: calibration.threshold(coverage), calibration }
    }

    /// The set of an image, the most probable class first. A class of probability 0 took no part in training, and is in
    /// no set.
    pub fn set(&self, probabilities: &[f64]) -> Vec<usize> {
        let mut classes = self.calibration.set(probabilities, self.threshold);
        classes.retain(|&class| probabilities[class] > 0.0);
        classes
    }
}

/// Images, how many of their sets hold the true class, and how many classes these hold in all.
#[derive(Clone, Copy, Default)]
struct Tally {
    images: usize,
    covered: usize,
    size: usize,
}

/// How sets do on test images, made of the logits as they are and of logits divided by a temperature.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Promise {
    /// The share that is promised.
    pub promised: f64,
    /// The logits as they are.
    pub plain: Sets,
    /// After a temperature that was fitted to one half of the calibration images, the other half being the sets'.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaled: Option<Sets>,
}

/// The sets of each score for `coverage`, made of calibration logits and their labels and measured on test logits and
/// theirs (`[labels, classes]` each, row-major).
pub fn promises(
    coverage: f64,
    (logits, labels): (&[f64], &[u32]),
    (test_logits, test_labels): (&[f64], &[u32]),
    classes: usize,
) -> [Promise; 3] {
    let of = |logits: &[f64], labels: &[u32], test: &[f64]| {
        let [own, test] = [logits, test].map(|logits| super::probabilities(logits, classes));
        Score::ALL
            .map(|score| Calibration::new(score, &own, labels, classes).measured(coverage, &test, test_labels, classes))
    };
    // A temperature that knew the sets' own images would break the promise.
    let mut order: Vec<usize> = (0..labels.len()).collect();
    Philox::of(0, Stream::Folds).shuffle(&mut order);
    let (fitted, own) = order.split_at(labels.len() / 2);
    let chosen = |images: &[usize]| {
        let rows = images.iter().flat_map(|&i| &logits[i * classes..][..classes]).copied();
        (rows.collect::<Vec<_>>(), images.iter().map(|&i| labels[i]).collect::<Vec<_>>())
    };
    let (rows, of_rows) = chosen(fitted);
    let found = temperature::fit(&rows, &of_rows, classes).ok().filter(|found| found.end == End::Minimum);
    let scaled = found.map(|found| {
        let (rows, of_rows) = chosen(own);
        of(&temperature::apply(&rows, found.value), &of_rows, &temperature::apply(test_logits, found.value))
    });
    let mut scaled = scaled.map(IntoIterator::into_iter);
    of(logits, labels, test_logits).map(|plain| {
        let scaled = scaled.as_mut().and_then(Iterator::next);
        Promise { promised: coverage, plain, scaled }
    })
}

/// How sets do on some images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// How many images.
    pub images: usize,
    /// The share of them whose set holds their class; NaN where there are none.
    pub coverage: f64,
    /// How many classes a set holds on average; NaN where there are no images.
    pub size: f64,
}

impl From<Tally> for Share {
    fn from(Tally { images, covered, size }: Tally) -> Self {
        Self { images, coverage: covered as f64 / images as f64, size: size as f64 / images as f64 }
    }
}

/// How sets do on a set of images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sets {
    /// By what they are made.
    pub score: Score,
    /// The largest score in a set; infinite (null in JSON) where every class is in.
    pub threshold: f64,
    /// On all images. The guarantee is about these.
    pub all: Share,
    /// On each class's images, for which nothing is guaranteed.
    pub classes: Vec<Share>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::probabilities;

    /// Images of a network that is sure of some and not of others, and wrong about some of either.
    fn made_up(images: usize, classes: usize, rng: &mut Philox) -> (Vec<f64>, Vec<u32>) {
        let (mut logits, mut labels) = (vec![], vec![]);
        for _ in 0..images {
            let label = rng.below(classes as u32);
            let margin = rng.range(0.0, 4.0);
            logits.extend((0..classes as u32).map(|k| rng.range(-1.5, 1.5) + if k == label { margin } else { 0.0 }));
            labels.push(label);
        }
        (probabilities(&logits, classes), labels)
    }

    /// Catches sets that cover less than they promise, or much more: over 200 splits of 400 images to calibrate and 400
    /// others, the covered ones are within the interval of the law that they follow (a binomial share, itself drawn
    /// from the beta distribution of the k-th of n: Vovk 2012), in all and split by split.
    #[test]
    fn coverage_is_what_is_promised_over_many_splits() {
        let (n, classes, coverage) = (400usize, 6, 0.9);
        let k = ((n + 1) as f64 * coverage).ceil();
        let mean = k / (n + 1) as f64;
        // Of the share that a threshold covers, and of the images that are looked at.
        let variance = mean * (1.0 - mean) / (n + 2) as f64;
        let deviation = (variance + (mean * (1.0 - mean) - variance) / n as f64).sqrt();
        let mut sizes = vec![];
        for score in Score::ALL {
            let (mut covered, mut outside, mut size) = (0.0, 0, 0.0);
            for split in 0..200 {
                let mut rng = Philox::new(split, 3);
                let (calibration, calibration_labels) = made_up(n, classes, &mut rng);
                let (test, labels) = made_up(n, classes, &mut rng);
                let kept = Calibration::new(score, &calibration, &calibration_labels, classes);
                let found = kept.measured(coverage, &test, &labels, classes);
                // The law is that of the scores alone: that the most probable class is always in comes on top.
                let threshold = kept.threshold(coverage);
                let by_score = |(row, label): &(&[f64], &u32)| score.of(row)[**label as usize] <= threshold;
                let share = test.chunks(classes).zip(&labels).filter(by_score).count() as f64 / n as f64;
                assert!(found.all.coverage >= share && (score == Score::Aps || found.all.coverage == share));
                covered += share / 200.0;
                outside += usize::from((share - mean).abs() > 1.96 * deviation);
                size += found.all.size / 200.0;
                assert_eq!(found.classes.iter().map(|class| class.images).sum::<usize>(), n);
            }
            let error = 3.0 * deviation / 200f64.sqrt();
            assert!((covered - mean).abs() < error, "{score:?}: {covered}, expected {mean} within {error}");
            // 5 % of 200, within three deviations of the binomial.
            assert!(outside <= 19, "{score:?}: {outside} of 200 splits outside their interval");
            sizes.push(size);
        }
        assert!(sizes[0] < sizes[1] && sizes[2] < sizes[1] && sizes[0] > 1.0, "{sizes:?}");
    }

    /// Catches sets of halves that are not the promise's, or that are measured without their temperature: of a network
    /// that is twice as sure as it should be.
    #[test]
    fn a_temperature_breaks_no_promise() {
        let (n, classes) = (4000, 6);
        let mut rng = Philox::new(5, 3);
        let mut logits = |images: usize| {
            let (probabilities, labels) = made_up(images, classes, &mut rng);
            (probabilities.iter().map(|p| 2.0 * p.ln()).collect::<Vec<_>>(), labels)
        };
        let (calibration, test) = (logits(n), logits(n));
        let [calibration, test] = [&calibration, &test].map(|(logits, labels)| (&logits[..], &labels[..]));
        for (found, score) in promises(0.9, calibration, test, classes).into_iter().zip(Score::ALL) {
            assert_eq!(found.plain.score, score);
            let scaled = found.scaled.clone().unwrap();
            for sets in [&found.plain, &scaled] {
                // Of 4,000 and 2,000 images: four deviations.
                assert!(sets.all.coverage > 0.9 - 4.0 * (0.09f64 * (1.0 / 2000.0 + 1.0 / 4000.0)).sqrt(), "{sets:?}");
            }
            assert_ne!(scaled.all, found.plain.all);
            // The thresholds are those of probabilities that are less sure.
            assert!(score != Score::Aps || scaled.threshold < found.plain.threshold, "{found:?} {scaled:?}");
        }
        let [few, ..] = promises(0.9, (&[1.0, 0.0], &[0]), (&[1.0, 0.0], &[0]), 2);
        assert!(few.scaled.is_none() && few.plain.all.size == 2.0);
    }

    #[test]
    fn scores_and_sets_by_hand() {
        let p = [0.2, 0.5, 0.3];
        let close = |found: Vec<f64>, expected: [f64; 3]| {
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-12), "{found:?} {expected:?}");
        };
        close(Score::Lac.of(&p), [0.8, 0.5, 0.7]);
        close(Score::Aps.of(&p), [1.0, 0.5, 0.8]);
        close(Score::Raps.of(&p), [1.2, 0.5, 0.9]);
        // Nine scores: 0.9 asks for the 9th smallest, 0.91 for a tenth.
        let nine = Calibration::of_scores(Score::Lac, (1..=9).rev().map(|i| f64::from(i) / 10.0).collect());
        assert_eq!((nine.threshold(0.9), nine.threshold(0.5), nine.threshold(0.91)), (0.9, 0.5, f64::INFINITY));
        assert_eq!(
            (nine.set(&p, 0.75), nine.set(&p, 0.1), nine.set(&p, f64::INFINITY)),
            (vec![1, 2], vec![1], vec![1, 2, 0])
        );
        let found = nine.measured(0.7, &[p, p].concat(), &[0, 2], 3);
        assert_eq!((found.all.images, found.all.coverage, found.all.size), (2, 0.5, 2.0));
        assert!((found.classes[0].coverage, found.classes[2].coverage) == (0.0, 1.0) && found.classes[1].size.is_nan());
        let none = Calibration::of_scores(Score::Aps, vec![]);
        assert_eq!(none.set(&p, none.threshold(0.9)).len(), 3, "without images nothing is out of the question");
    }
}
