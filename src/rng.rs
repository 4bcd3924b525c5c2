//! Philox4x32-10, a counter-based generator: the n-th number of a stream is a pure function of (seed, stream, n).
//!
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
//! The same seed gives the same numbers on every machine; nothing here calls the platform's maths library.

/// What a stream of a run's seed serves. No two have a number in common: the upper half says what, the lower half which
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The first values of a parameter, by its place in the network.
    Parameter(usize),
    /// The order of an epoch's images, from 1.
    Shuffle(usize),
    /// A resample of the bootstrap.
    Bootstrap(usize),
    /// Which labels are flipped: the order in which images are taken.
    FlipOrder,
    /// To which class an image's label flips.
    Flip(usize),
    /// Which images of a class are held out.
    Split(usize),
    /// Which images of a class become the test set of data that has none.
    TestSplit(usize),
    /// Into which part of a cross-fit an image comes.
    Folds,
    /// A resample of a study's seeds.
    Seeds(usize),
    /// Made-up answers of a perfectly calibrated network.
    Perfect(usize),
    /// As `FlipOrder`, among the images held out.
    HeldOutFlipOrder,
    /// As `Flip`, of an image held out.
    HeldOutFlip(usize),
    /// What makes a test image worse.
    Corrupt(usize),
    /// How the images of an update are moved, mirrored and cut ([`Philox::of_image`]).
    Augment,
    /// How they are turned and scaled.
    Affine,
    /// How they are made brighter or darker.
    Tone,
    /// How the images of a batch are mixed ([`Philox::of_batch`]).
    Mix,
    /// What a layer draws in training, by its place in the network ([`Philox::of_layer`]).
    Layer(usize),
}

impl Stream {
    /// The stream's number.
    pub fn number(self) -> u64 {
        let (what, which) = match self {
            Self::Parameter(which) => (1, which),
            Self::Shuffle(which) => (2, which),
            Self::Bootstrap(which) => (3, which),
            Self::FlipOrder => (4, 0),
            Self::Flip(which) => (5, which),
            Self::Split(which) => (6, which),
            Self::Layer(which) => (7, which),
            Self::TestSplit(which) => (8, which),
            Self::Augment => (9, 0),
            Self::Folds => (10, 0),
            Self::Seeds(which) => (11, which),
            Self::Perfect(which) => (12, which),
            Self::Affine => (13, 0),
            Self::Tone => (14, 0),
            Self::Mix => (15, 0),
            Self::HeldOutFlipOrder => (16, 0),
            Self::HeldOutFlip(which) => (17, which),
            Self::Corrupt(which) => (18, which),
        };
        assert!(u32::try_from(which).is_ok(), "{self:?} would run into the next stream");
        what << 32 | which as u64
    }
}

/// One stream of random numbers. Streams of one seed are independent.
#[derive(Clone, Debug)]
pub struct Philox {
    key: [u32; 2],
    /// Words 0 and 1 count blocks, words 2 and 3 are the stream.
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Philox {
    /// The stream `stream` of `seed`, at its start.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            counter: [0, 0, stream as u32, (stream >> 32) as u32],
            block: [0; 4],
            used: 4,
        }
    }

    /// The stream that serves `what`, at its start.
    pub fn of(seed: u64, what: Stream) -> Self {
        Self::new(seed, what.number())
    }

    /// 32 random bits for element `i` of what a layer draws in update `step`: word `i % 4` of block `step * 2^32 + i /
    /// 4` of the layer's stream (what of the update is above 32 bits goes beside the stream's number).
    /// `shaders/common/random.wgsl` gives the same.
    pub fn of_layer(seed: u64, step: u64, layer: usize, i: usize) -> u32 {
        let stream = Stream::Layer(layer).number();
        let above = (step >> 32) as u32;
        let counter = [(i / 4) as u32, step as u32, stream as u32, (stream >> 32) as u32 | above << 8];
        Self::rounds(counter, [seed as u32, (seed >> 32) as u32])[i % 4]
    }

    /// 128 random bits for image `k` of the batch of update `step`: block `step * 2^32 + k` of a stream without a
    /// number of its own, as [`Self::of_layer`] has it. `shaders/common/random.wgsl` gives the same.
    pub fn of_image(seed: u64, what: Stream, step: u64, k: usize) -> [u32; 4] {
        let stream = what.number();
        let counter = [k as u32, step as u32, stream as u32, (stream >> 32) as u32 | ((step >> 32) as u32) << 8];
        Self::rounds(counter, [seed as u32, (seed >> 32) as u32])
    }

    /// The numbers that batch `which`, from 0, of update `step` draws of a stream without a number of its own: from
    /// block `step * 2^32 + which * 2^12` on, as [`Self::of_layer`] has it.
    pub fn of_batch(seed: u64, what: Stream, step: u64, which: usize) -> Self {
        let mut batch = Self::of(seed, what);
        let above = (step >> 32) as u32;
        batch.counter = [(which << 12) as u32, step as u32, batch.counter[2], batch.counter[3] | above << 8];
        batch
    }

    /// Ten rounds of Philox over one counter.
    fn rounds(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
        for _ in 0..10 {
            let a = u64::from(c[0]) * 0xD251_1F53;
            let b = u64::from(c[2]) * 0xCD9E_8D57;
            c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
            k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
        }
        c
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = Self::rounds(self.counter, self.key);
            self.used = 0;
            let blocks = (u64::from(self.counter[1]) << 32 | u64::from(self.counter[0])) + 1;
            self.counter[0] = blocks as u32;
            self.counter[1] = (blocks >> 32) as u32;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Uniform in [0, 1), with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        let high = u64::from(self.next_u32() >> 5);
        let low = u64::from(self.next_u32() >> 6);
        ((high << 26) | low) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Normal, with mean 0 and variance 1, from two uniform numbers (Box and Muller 1958): four words each, so number
    /// `i` of a stream has block `i`.
    pub fn normal(&mut self) -> f64 {
        // Not 0, of which there is no logarithm.
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// Uniform in 0..n without bias (Lemire's method: multiply, reject the short last interval). `n` is at least 1.
    pub fn below(&mut self, n: u32) -> u32 {
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(Philox::rounds([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(Philox::rounds([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            Philox::rounds([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    /// Catches a stream that is another's: no two have a number in common, whatever they count.
    #[test]
    fn streams_are_disjoint() {
        use Stream::{
            Affine, Augment, Bootstrap, Corrupt, Flip, FlipOrder, Folds, HeldOutFlip, HeldOutFlipOrder, Layer, Mix,
            Parameter, Perfect, Seeds, Shuffle, Split, TestSplit, Tone,
        };
        let last = u32::MAX as usize;
        let kinds = [
            Parameter,
            Shuffle,
            Bootstrap,
            |_| FlipOrder,
            Flip,
            Split,
            Layer,
            TestSplit,
            |_| Augment,
            |_| Folds,
            Seeds,
            Perfect,
            |_| Affine,
            |_| Tone,
            |_| Mix,
            |_| HeldOutFlipOrder,
            HeldOutFlip,
            Corrupt,
        ];
        let ranges = kinds.map(|kind| [kind(0).number(), kind(last).number()]);
        assert!(ranges.windows(2).all(|pair| pair[0][0] <= pair[0][1] && pair[0][1] < pair[1][0]), "{ranges:x?}");
    }

    /// Catches a mask that repeats from one layer, update or element to the next.
    #[test]
    fn what_a_layer_draws_is_a_part_of_its_stream() {
        let mut stream = Philox::of(5, Stream::Layer(3));
        stream.counter[1] = 9;
        let drawn: Vec<u32> = (0..11).map(|_| stream.next_u32()).collect();
        assert_eq!(drawn, (0..11).map(|i| Philox::of_layer(5, 9, 3, i)).collect::<Vec<_>>());
    }

    /// Catches a variance that is not 1, a tail that is cut off, and numbers that follow from those before them.
    #[test]
    fn normal_numbers_are_normal() {
        let mut rng = Philox::new(1, 3);
        let drawn: Vec<f64> = (0..100_000).map(|_| rng.normal()).collect();
        let mean = |of: &dyn Fn(f64) -> f64| drawn.iter().map(|&v| of(v)).sum::<f64>() / 1e5;
        // Each is within five of its own standard deviations.
        for (name, found, expected, variance) in [
            ("mean", mean(&|v| v), 0.0, 1.0),
            ("variance", mean(&|v| v * v), 1.0, 2.0),
            ("third moment", mean(&|v| v.powi(3)), 0.0, 15.0),
            ("fourth moment", mean(&|v| v.powi(4)), 3.0, 96.0),
            ("above 2", mean(&|v| f64::from(u8::from(v > 2.0))), 0.022_750, 0.022_233),
            ("neighbours", drawn.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / 1e5, 0.0, 1.0),
        ] {
            let allowed = 5.0 * (variance / 1e5f64).sqrt();
            assert!((found - expected).abs() < allowed, "{name}: {found}, expected {expected} +- {allowed}");
        }
        // The stream's own place: four words a number.
        let mut words = Philox::new(1, 3);
        for _ in 0..400_000 {
            words.next_u32();
        }
        assert_eq!(rng.next_u32(), words.next_u32());
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let mut rng = Philox::new(1, 2);
        let mut seen = [0u32; 7];
        for _ in 0..70_000 {
            seen[rng.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (9_500..10_500).contains(&n)), "{seen:?}");
    }

    #[test]
    fn shuffle_is_a_permutation() {
        let mut items: Vec<u32> = (0..1000).collect();
        Philox::new(3, 0).shuffle(&mut items);
        assert_ne!(items, (0..1000).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..1000).collect::<Vec<_>>());
    }
}
