//! Pages for users of the program and of the library. Each begins with who it is for.

/// How the code is laid out, and how to add to it.
#[doc = include_str!("docs/design.md")]
pub mod design {}

/// Every file of a run, and what it promises.
#[doc = include_str!("docs/formats.md")]
pub mod formats {}

/// How fast the kernels are, how right, and how both are measured.
#[doc = include_str!("docs/kernels.md")]
pub mod kernels {}

/// What label smoothing is, its two formulas, and its settings.
#[doc = include_str!("docs/label_smoothing.md")]
pub mod label_smoothing {}

/// Networks by name and by file, and training images that change.
#[doc = include_str!("docs/networks.md")]
pub mod networks {}

/// A layer of your own, from outside the crate.
#[doc = include_str!("docs/own_layer.md")]
///
/// `swish.wgsl`:
///
/// ```wgsl
#[doc = include_str!("../tests/own_layer/swish.wgsl")]
/// ```
///
/// `main.rs`:
///
/// ```rust,ignore
#[doc = include_str!("../tests/own_layer/main.rs")]
/// ```
pub mod own_layer {}

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

/// Schedules of the learning rate, and what is done beside the plain update.
#[doc = include_str!("docs/training.md")]
pub mod training {}

#[cfg(test)]
mod tests {
    use crate::ops;

    /// Catches a layer that the page on design does not list, or lists in other words.
    #[test]
    fn the_table_of_layers_is_the_registry() {
        let line = |entry: &ops::Entry| format!("| `{}` | {} |", entry.name, entry.summary);
        let expected = ["| layer | what |".to_owned(), "|---|---|".into()].into_iter().chain(ops::ALL.iter().map(line));
        let expected = expected.collect::<Vec<_>>().join("\n");
        let page = include_str!("docs/design.md");
        assert!(page.contains(&expected), "src/docs/design.md: expected this table\n{expected}");
    }
}
