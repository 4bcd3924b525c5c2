//! What a study does to labels: noise of a known rate, and a validation split. Both are pure functions of a seed.

use crate::rng::{Philox, Stream};

/// How a flipped label is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Noise {
    /// Any other class that takes part, each as likely (van Rooyen et al. 2015).
    #[default]
    Symmetric,
    /// The next class that takes part, the last one's being the first (Han et al. 2018).
    PairFlip,
}

impl Noise {
    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Symmetric => "symmetric",
            Self::PairFlip => "pair-flip",
        }
    }
}

/// Whose labels are flipped: each has random numbers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flipped {
    /// Those trained on.
    Training,
    /// Those of the images held out.
    HeldOut,
}

impl Flipped {
    fn order(self) -> Stream {
        match self {
            Self::Training => Stream::FlipOrder,
            Self::HeldOut => Stream::HeldOutFlipOrder,
        }
    }

    fn of_image(self, i: usize) -> Stream {
        match self {
            Self::Training => Stream::Flip(i),
            Self::HeldOut => Stream::HeldOutFlip(i),
        }
    }
}

/// Flips `round(rate * eligible)` labels, chosen at random, and gives their indices in ascending order. Eligible are
/// the labels among the classes `part` (ascending), and each chosen one becomes another of these classes. The labels
/// that a higher rate flips include those of a lower one. Labels of other classes, and those that are no class, stay as
/// they are.
pub fn flip(labels: &mut [u32], whose: Flipped, part: &[u32], rate: f64, noise: Noise, seed: u64) -> Vec<u32> {
    let n = part.len() as u32;
    if n < 2 {
        return vec![];
    }
    let place = |label: u32| part.binary_search(&label).ok();
    let mut flipped: Vec<u32> = (0..labels.len() as u32).collect();
    Philox::of(seed, whose.order()).shuffle(&mut flipped);
    flipped.retain(|&i| place(labels[i as usize]).is_some());
    flipped.truncate((rate * flipped.len() as f64).round() as usize);
    for &i in &flipped {
        let by = match noise {
            // One stream for each image: its new label does not depend on how many others are flipped.
            Noise::Symmetric => 1 + Philox::of(seed, whose.of_image(i as usize)).below(n - 1),
            Noise::PairFlip => 1,
        };
        let label = &mut labels[i as usize];
        if let Some(at) = place(*label) {
            *label = part[(at + by as usize) % part.len()];
        }
    }
    flipped.sort_unstable();
    flipped
}

/// Splits images into those to train on and those to validate on, `round(share * count)` of each class, chosen at
/// random. Indices are in ascending order. Images whose label is no class are trained on: there is nothing to measure.
pub fn stratified_split(labels: &[u32], classes: usize, share: f64, seed: u64) -> (Vec<u32>, Vec<u32>) {
    split(labels, classes, share, |class| Philox::of(seed, Stream::Split(class)))
}

/// As [`stratified_split`], into images to train on and a test set. It does not depend on a run's seed: runs that
/// differ in it are measured on the same images.
#[cfg(feature = "pictures")]
pub(super) fn carve(labels: &[u32], classes: usize, share: f64) -> (Vec<u32>, Vec<u32>) {
    split(labels, classes, share, |class| Philox::of(0, Stream::TestSplit(class)))
}

fn split(labels: &[u32], classes: usize, share: f64, random: impl Fn(usize) -> Philox) -> (Vec<u32>, Vec<u32>) {
    let mut of_class = vec![vec![]; classes];
    let (mut train, mut validation) = (vec![], vec![]);
    for (i, &label) in labels.iter().enumerate() {
        of_class.get_mut(label as usize).unwrap_or(&mut train).push(i as u32);
    }
    for (class, indices) in of_class.iter_mut().enumerate() {
        random(class).shuffle(indices);
        let count = (share * indices.len() as f64).round() as usize;
        let (held_out, rest) = indices.split_at(count.min(indices.len()));
        validation.extend_from_slice(held_out);
        train.extend_from_slice(rest);
    }
    train.sort_unstable();
    validation.sort_unstable();
    (train, validation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [u32; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

    fn labels() -> Vec<u32> {
        (0..10_000).map(|i| i * 7 % 10).collect()
    }

    #[test]
    fn noise_has_its_rate_changes_every_chosen_label_and_no_other() {
        for (noise, rate) in
            [(Noise::Symmetric, 0.2), (Noise::Symmetric, 0.4), (Noise::PairFlip, 0.3), (Noise::Symmetric, 0.0)]
        {
            let (clean, mut noisy) = (labels(), labels());
            let flipped = flip(&mut noisy, Flipped::Training, &ALL, rate, noise, 3);
            let differs: Vec<u32> = (0..10_000).filter(|&i| clean[i as usize] != noisy[i as usize]).collect();
            assert_eq!((flipped.len(), flipped), ((rate * 1e4) as usize, differs), "{noise:?} {rate}");
            assert!(noisy.iter().all(|&label| label < 10));
        }
    }

    #[test]
    fn symmetric_noise_is_even_over_the_other_classes_and_pair_flip_is_the_next() {
        let mut noisy = vec![4; 9_000];
        flip(&mut noisy, Flipped::Training, &ALL, 1.0, Noise::Symmetric, 1);
        let count = |class| noisy.iter().filter(|&&label| label == class).count();
        assert!(
            (0..10).filter(|&c| c != 4).all(|c| (900..1100).contains(&count(c))),
            "{:?}",
            (0..10).map(count).collect::<Vec<_>>()
        );
        let mut noisy = vec![9; 5];
        flip(&mut noisy, Flipped::Training, &ALL, 1.0, Noise::PairFlip, 1);
        assert_eq!(noisy, [0; 5]);
    }

    #[test]
    fn the_rate_is_among_what_counts_and_flips_stay_within_it() {
        for noise in [Noise::Symmetric, Noise::PairFlip] {
            // Among them are classes that take no part, and labels that are ignored.
            let clean: Vec<u32> = (0..1000).map(|i| if i % 4 == 0 { u32::MAX } else { i % 10 }).collect();
            let part = [1, 4, 7, 9];
            let counts = |label: &u32| part.contains(label);
            let mut noisy = clean.clone();
            let flipped = flip(&mut noisy, Flipped::Training, &part, 0.5, noise, 7);
            let eligible = clean.iter().filter(|label| counts(label)).count();
            assert_eq!(flipped.len(), (0.5 * eligible as f64).round() as usize, "{noise:?}");
            for (i, (was, is)) in clean.iter().zip(&noisy).enumerate() {
                assert_eq!(was != is, flipped.contains(&(i as u32)), "{noise:?} {i}");
                assert!(was == is || counts(was) && counts(is), "{noise:?} {i}: {was} became {is}");
            }
        }
        assert!(
            flip(&mut [1, 1], Flipped::Training, &[1], 1.0, Noise::Symmetric, 1).is_empty(),
            "there is no other class"
        );
    }

    #[test]
    fn more_noise_adds_to_less_and_the_seed_decides() {
        let run = |rate, seed| {
            let mut noisy = labels();
            (flip(&mut noisy, Flipped::Training, &ALL, rate, Noise::Symmetric, seed), noisy)
        };
        let ((few, some), (many, more)) = (run(0.1, 5), run(0.3, 5));
        assert!(few.iter().all(|i| many.contains(i) && some[*i as usize] == more[*i as usize]));
        assert_eq!(run(0.1, 5), run(0.1, 5));
        assert_ne!(run(0.1, 5).0, run(0.1, 6).0);
    }

    #[test]
    fn a_split_takes_its_share_of_every_class_and_loses_nobody() {
        let labels: Vec<u32> = (0..1000).map(|i| u32::from(i % 10 == 0)).collect();
        let (train, validation) = stratified_split(&labels, 2, 0.2, 9);
        let ones = |indices: &[u32]| indices.iter().filter(|&&i| labels[i as usize] == 1).count();
        assert_eq!((validation.len(), ones(&validation), ones(&train)), (200, 20, 80));
        let mut all = [train, validation].concat();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
        assert_eq!(stratified_split(&labels, 2, 0.2, 9), stratified_split(&labels, 2, 0.2, 9));
    }
}
