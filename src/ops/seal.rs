//! A seal on a result: a stamp and a checksum that the device leaves beside it. A driver that gives up a submission may
//! say nothing of it (Metal after a time-out, amdgpu after a "soft recovery"), and what is read then is what was there
//! before, or nothing at all. Whoever reads a sealed result sees that.

use super::WORKGROUP;
use crate::Result;
use crate::plan::shaders::SEAL;
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// Threads of a seal, at most: each has a share of the checksum.
const THREADS: usize = 64 * WORKGROUP;
/// Words that are enough for a thread.
const WORDS_EACH: usize = 16;

uniform! {
    /// `Seal` in `shaders/seal.wgsl`.
    struct Dims {
        len: u32,
        row: u32,
    }
}

/// How much is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// This many words.
    Words(usize),
    /// This many words for each of the batch's images, of which there are at most so many.
    Rows(usize, usize),
}

impl Extent {
    /// Words of the seal itself: a stamp and a share of the checksum from each thread.
    pub fn seal_len(self) -> usize {
        2 * self.threads()
    }

    fn threads(self) -> usize {
        let words = match self {
            Self::Words(words) => words,
            Self::Rows(row, rows) => row.saturating_mul(rows),
        };
        words.div_ceil(WORDS_EACH).clamp(1, THREADS).next_multiple_of(WORKGROUP)
    }
}

/// Records the seal `at` ([`Extent::seal_len`] words) of `words`.
pub fn close(plan: &mut Plan, name: &str, extent: Extent, words: Slice, at: Slice) -> Result<()> {
    let dims = match extent {
        Extent::Words(len) => Dims { len: word(len), row: 0 },
        Extent::Rows(row, _) => Dims { len: 0, row: word(row) },
    };
    let grid = Grid::Workgroups(extent.threads() / WORKGROUP);
    plan.dispatch(format!("{name}.seal"), (&SEAL, "close"), dims, grid, 0, &[("words", words), ("seal", at)])
}

/// Whether the seal is the step's, and whole, and that of these words.
pub fn holds(seal: &[u32], stamp: u32, words: &[u32]) -> bool {
    let (pairs, rest) = seal.as_chunks::<2>();
    let sum = pairs.iter().fold(0u32, |sum, pair| sum.wrapping_add(pair[1]));
    rest.is_empty() && !pairs.is_empty() && pairs.iter().all(|pair| pair[0] == stamp) && sum == checksum(words)
}

/// The sum of the words, each with a factor that is odd and its own.
pub fn checksum(words: &[u32]) -> u32 {
    let factor = |i: usize| (2 * i + 1) as u32;
    words.iter().enumerate().fold(0, |sum, (i, word)| sum.wrapping_add(word.wrapping_mul(factor(i))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_word_that_changed_breaks_the_seal_and_so_does_another_stamp() {
        let words: Vec<u32> = (0..100).map(|i: u32| i.wrapping_mul(0x9e37_79b9)).collect();
        let [part, rest] = [1234, checksum(&words).wrapping_sub(1234)];
        let seal = [7, part, 7, rest];
        assert!(holds(&seal, 7, &words));
        assert!(!holds(&seal, 8, &words));
        assert!(!holds(&[7, part, 6, rest], 7, &words), "a thread that is a step behind");
        assert!(!holds(&[], 0, &[]) && !holds(&seal[..3], 7, &words));
        for i in 0..words.len() {
            for changed in [0, words[i] ^ 1 << 31, words[i] ^ 1, 0x7fc0_0000] {
                let mut found = words.clone();
                found[i] = changed;
                assert_eq!(holds(&seal, 7, &found), found == words, "word {i}: {changed:#x}");
            }
        }
        let mut exchanged = words.clone();
        exchanged.swap(3, 77);
        assert!(!holds(&seal, 7, &exchanged));
    }

    #[test]
    fn a_seal_has_whole_workgroups_of_threads() {
        for (extent, threads) in [
            (Extent::Words(1), 64),
            (Extent::Words(1025), 128),
            (Extent::Rows(10, 64), 64),
            (Extent::Words(1 << 22), 4096),
        ] {
            assert_eq!(extent.seal_len(), 2 * threads, "{extent:?}");
        }
    }
}
