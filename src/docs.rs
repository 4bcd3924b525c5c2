//! Pages for users of the program and of the library.

/// What holds when things go wrong, and how that was tried.
#[doc = include_str!("docs/reliability.md")]
pub mod reliability {}
