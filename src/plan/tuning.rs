//! Which form of a fused kernel runs. Every form computes the same sums, up to the order in which they are rounded;
//! which one is fastest depends on the device. A choice is a plain value: a run records it, and a resumed run takes it
//! over, so that the bits stay the same.

/// How a kernel divides its work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Tiles {
    /// Every thread on its own, with its tile in registers: runs on every device.
    #[default]
    Registers,
    /// The threads of a workgroup load for each other, into its memory: for hardware GPUs.
    Workgroup,
    /// The same, the work divided into fewer workgroups: for some 256 lanes, as an integrated GPU has.
    WorkgroupFew,
    /// The same, the work divided into more workgroups: for 10,000 lanes and more.
    WorkgroupMany,
    /// The eight lanes of a subgroup load for each other. For software drivers, with subgroups of exactly eight.
    Lanes,
}

impl Tiles {
    /// Every form of the kernels.
    pub const ALL: [Self; 3] = [Self::Registers, Self::Workgroup, Self::Lanes];

    /// Every form, and every way to divide its work.
    pub const DIVISIONS: [Self; 5] =
        [Self::Registers, Self::Workgroup, Self::WorkgroupFew, Self::WorkgroupMany, Self::Lanes];

    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registers => "registers",
            Self::Workgroup => "workgroup",
            Self::WorkgroupFew => "workgroup-few",
            Self::WorkgroupMany => "workgroup-many",
            Self::Lanes => "lanes",
        }
    }

    /// Workgroups that a large dispatch should have: where large parts are fewer, small ones are taken, and a weight's
    /// gradient is split into so many. That depends on nothing but the form and the shapes, so that every device has
    /// the same parts and adds in the same order.
    ///
    /// A lane wants some 16 threads, so that others run while one waits: 64 workgroups of 64 threads are that for 256
    /// lanes, and 256 for 1,024. With 1,024, 10,000 lanes have 6, where a batch of 64 images has parts for so many.
    /// More parts cost more: a small part uses what it loads for fewer products, and the optimizer adds all splits.
    pub fn workgroups(self) -> usize {
        match self {
            Self::WorkgroupFew => 64,
            Self::WorkgroupMany => 1024,
            Self::Registers | Self::Workgroup | Self::Lanes => 256,
        }
    }
}

/// Threads of a subgroup that [`Tiles::Lanes`] is written for, as `LANES` in the shaders.
pub const LANES: usize = 8;

/// Whether the fastest forms are found out by timing them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Autotune {
    /// Once for each network and batch; the choice is kept in the user's cache folder.
    On,
    /// No: the kind of adapter decides.
    Off,
}

/// The forms that a network's fused kernels have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Tuning {
    /// Forward of convolution, ReLU and pooling.
    pub conv_forward: Tiles,
    /// Its gradients.
    pub conv_backward: Tiles,
    /// Fully connected layers; in the form for workgroups they run as in registers.
    pub linear: Tiles,
}

impl Tuning {
    /// Every kernel in this form.
    pub fn all(tiles: Tiles) -> Self {
        Self { conv_forward: tiles, conv_backward: tiles, linear: tiles }
    }

    /// Every kernel's form.
    pub fn tiles(&self) -> [Tiles; 3] {
        [self.conv_forward, self.conv_backward, self.linear]
    }
}
