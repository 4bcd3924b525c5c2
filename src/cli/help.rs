//! How the help is arranged: which flags come first, and under which heading each stands.

use clap::{Arg, ArgAction, Command};
use clap_complete::Shell;
use smoothcnn::{Error, Result};

use super::{common, sources};

/// The flags that most people need; `-h` shows no others.
const COMMON: [&str; 10] =
    ["data", "label-smoothing", "epochs", "batch-size", "lr", "val-split", "seed", "device", "out", "resume"];

/// The headings of the others, in their order.
const HEADINGS: [(&str, &[&str]); 5] = [
    (
        "Data",
        &[
            "data-dir",
            "size",
            "crop-mode",
            "channels",
            "test-split",
            "skip-bad",
            "limit-train",
            "limit-test",
            "mean",
            "std",
            "train-labels",
            "label-noise",
            "noise",
            "allow-changed-data",
        ],
    ),
    (
        "Loss",
        &[
            "loss",
            "smoothing-variant",
            "smoothing-prior",
            "smoothing-schedule",
            "smoothing-epochs",
            "allow-negative-smoothing",
            "focal-gamma",
            "confidence-beta",
            "mbls-lambda",
            "mbls-margin",
            "class-weights",
            "class-weighting",
            "class-mask",
            "ignore-index",
            "soft-labels",
            "teacher",
            "distill-temperature",
            "distill-alpha",
        ],
    ),
    (
        "Training",
        &[
            "recipe",
            "network",
            "augment",
            "opt",
            "momentum",
            "nesterov",
            "weight-decay",
            "no-decay",
            "lr-schedule",
            "lr-epochs",
            "warmup-epochs",
            "warmup-steps",
            "warmup-lr",
            "min-lr",
            "decay-epochs",
            "decay-rate",
            "clip-grad-norm",
            "ema",
            "mixup",
            "cutmix",
            "accumulate",
            "init",
            "no-shuffle",
            "best-by",
            "patience",
            "checkpoint-every",
            "entry",
            "index",
        ],
    ),
    ("Device", &["adapter", "kernels", "tiles", "autotune", "dtype", "activations"]),
    ("Output", &["log-every", "tensorboard", "json"]),
];

/// The command line with its help arranged. Of a flag that is given twice the last one counts, as with Python's
/// argparse, so that a script can add to a line that it was given.
pub fn arranged(command: Command) -> Command {
    let has_flags = command.get_arguments().any(|argument| argument.get_long().is_some());
    let command = if has_flags { command.arg(sources::argument()) } else { command };
    let command = command.args_override_self(true);
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| {
        let arrange: fn(Command) -> Command = if name == "train" { train } else { arranged };
        command.mut_subcommand(name, arrange)
    })
}

fn train(command: Command) -> Command {
    let more = "`--help` shows every flag: data, loss, training, device, output.";
    command
        .args_override_self(true)
        .mut_args(place)
        .arg(sources::argument().help_heading("Common"))
        .after_help(more)
        .after_long_help("")
}

fn place(argument: Arg) -> Arg {
    // Values with commas between them are one value of the flag, and the last one counts.
    let argument = match argument.get_action() {
        ArgAction::Append if argument.get_value_delimiter().is_some() => argument.action(ArgAction::Set),
        _ => argument,
    };
    let Some(name) = argument.get_long().map(str::to_owned) else { return argument };
    let of = |names: &[&str]| names.iter().position(|known| *known == name);
    if let Some(at) = of(&COMMON) {
        return argument.help_heading("Common").display_order(at);
    }
    for (heading, names) in HEADINGS {
        if let Some(at) = of(names) {
            return argument.help_heading(heading).display_order(at).hide_short_help(true);
        }
    }
    argument
}

/// Flags of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints a shell's script for `command`.
pub fn completions(args: &CompletionArgs, command: Command) -> Result<u8> {
    let mut command = arranged(command);
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut command, "smoothcnn", &mut script);
    printed(&script)
}

/// Prints the manual page of `command`.
pub fn man(command: Command) -> Result<u8> {
    let mut page = vec![];
    clap_mangen::Man::new(arranged(command)).render(&mut page).map_err(Error::io("the manual page"))?;
    printed(&page)
}

fn printed(bytes: &[u8]) -> Result<u8> {
    common::print(String::from_utf8_lossy(bytes).trim_end())?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Cli;
    use super::*;

    /// Catches a new flag of training that nobody put under a heading, and a heading of a flag that is not there.
    #[test]
    fn every_flag_of_training_has_a_heading() {
        let command = Cli::command();
        let train = command.find_subcommand("train").unwrap();
        let mut flags: Vec<&str> = train.get_arguments().filter_map(|arg| arg.get_long()).collect();
        let known = COMMON.iter().chain(HEADINGS.iter().flat_map(|(_, names)| *names));
        let mut known: Vec<&str> = known.copied().collect();
        flags.sort();
        known.sort();
        assert_eq!(known, flags);
    }

    #[test]
    fn the_short_help_of_training_fits_a_screen() {
        let mut command = arranged(Cli::command());
        command.build();
        let help = command.find_subcommand_mut("train").unwrap().render_help().to_string();
        assert!(help.lines().count() <= 32, "{help}");
        assert!(help.contains("Common:\n      --data <NAME|PATH>"), "{help}");
        assert!(!help.contains("--nesterov"), "{help}");
        let long = command.find_subcommand_mut("train").unwrap().render_long_help().to_string();
        let at = |text: &str| long.find(text).unwrap_or_else(|| panic!("{text}: {long}"));
        let headings = ["Common:", "Data:", "Training:", "Loss:", "Device:", "Output:"].map(at);
        assert!(headings.is_sorted(), "{headings:?}");
        assert!(at("--nesterov") > at("Training:"));
    }

    #[test]
    fn of_a_flag_given_twice_the_last_counts() {
        let line =
            ["smoothcnn", "train", "--lr", "1", "--mean", "0.5", "--epochs", "3", "--lr", "2", "--mean", "0.25,3"];
        let matches = arranged(Cli::command()).try_get_matches_from(line).unwrap();
        let (_, train) = matches.subcommand().unwrap();
        assert_eq!(train.get_one::<f64>("lr"), Some(&2.0));
        assert_eq!(train.get_many::<f64>("mean").unwrap().copied().collect::<Vec<_>>(), [0.25, 3.0]);
    }
}
