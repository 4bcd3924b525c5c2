//! Pages for users of the program and of the library. Each begins with who it is for.

/// Every file of a run, and what it promises.
#[doc = include_str!("docs/formats.md")]
pub mod formats {}

/// How fast the kernels are, how right, and how both are measured.
#[doc = include_str!("docs/kernels.md")]
pub mod kernels {}

/// What label smoothing is, its two formulas, and its settings.
#[doc = include_str!("docs/label_smoothing.md")]
pub mod label_smoothing {}

/// Commands, devices, exit codes, and what to do when something looks wrong.
#[doc = include_str!("docs/program.md")]
pub mod program {}

/// What holds when things go wrong, and how that was tried.
#[doc = include_str!("docs/reliability.md")]
pub mod reliability {}

/// What is said of label smoothing, and what we measured.
#[doc = include_str!("docs/study.md")]
pub mod study {}

/// Many runs, on one machine or on many.
#[doc = include_str!("docs/sweeps.md")]
pub mod sweeps {}
