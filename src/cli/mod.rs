//! The commands, one file each, and what they share.

mod bench;
mod beyond;
mod calibrate;
mod check;
mod columns;
mod common;
mod config;
mod dataset;
mod details;
mod devices;
mod eval;
mod export;
mod fetch;
mod folder;
mod full;
#[cfg(test)]
mod fuzz;
mod given;
mod help;
mod info;
mod loss;
mod lr_find;
mod model;
mod plan;
mod predict;
mod preview;
mod recipe;
mod report;
mod screen;
mod signals;
mod sources;
mod sweep;
mod threads;
mod train;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use smoothcnn::{Error, Result};

pub use common::note;
pub use given::Given;

/// Trains convolutional classifiers with label smoothing, on hand-written GPU kernels or on the CPU.
///
/// Results go to standard output, progress to standard error. Exit codes: 0 done, 1 failed, 2 usage, 3 no adapter,
/// 4 bad data, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a network.
    Train(Box<train::Args>),
    Sweep(Box<sweep::Args>),
    LrFind(Box<lr_find::Args>),
    /// Measure a saved model on a test set.
    ///
    /// Four lines say whether its confidence can be trusted. ece: by how much confidence and accuracy differ, in 15
    /// bins. ece, debiased: the same less what chance adds, which for a calibrated model is all of it. smece: the same
    /// without bins. calibrated: whether a perfectly calibrated model could have an ece as large as this one by chance
    /// (no: in fewer than 5 of 100 test sets).
    ///
    /// aurc: the error among the surest answers, over all shares of them; lower is better. Smoothing often makes it
    /// worse. aurc, max logit and aurc, normalised: the same where the largest logit, or the largest of normalised
    /// logits, says which answers are the surest; where one is lower, refuse answers by that score.
    Eval(eval::Args),
    /// Answer pictures, or a data set's test images, with a saved model.
    Predict(predict::Args),
    Report(report::Args),
    #[command(subcommand)]
    Export(export::Command),
    /// Fit a temperature to a saved model, by which `eval --temperature` divides its logits.
    ///
    /// The temperature is the one of the least nll on the last of the training images; the test images are only
    /// reported on. A model that was trained on those images is surer of them than of new ones, and rightly so, which
    /// makes the fit optimistic: the temperature comes out too low. Keep them out of the training for a fit that can be
    /// trusted. Where the model says that it was trained on them, and where the fit ends at an end of its range,
    /// nothing is written: exit code 1.
    ///
    /// Beside the temperature stands its 95 % interval: where other images of the same kind would have put it. The nll
    /// on the images that it was fitted on is a little too low; so they are dealt into five parts, and each part is
    /// judged with the temperature of the others. "It helps" is said by that nll.
    ///
    /// `--method vector` fits a weight and a bias for each class instead, which mends classes that are answered too
    /// often or too seldom, as after class weights. It is written only where its cross-fitted nll is below the
    /// temperature's.
    Calibrate(calibrate::Args),
    /// Hold every kernel, and training steps of the network, against the f64 oracle on this machine's adapter.
    Check(check::Args),
    /// Measure training and inference on this machine, kernel by kernel.
    Bench(bench::Args),
    /// Print the list of dispatches of a training step, with work and memory. Needs no device.
    ///
    /// It needs no data either: what `--class-weights balanced` and `--smoothing-prior unigram` count changes no
    /// dispatch. The files that the loss's flags name are read; soft labels must be as many as --train-images. That a
    /// teacher is asked, once before the training, is no part of a step.
    Plan(plan::Args),
    /// List what can be computed on.
    Devices(devices::Args),
    /// Work with data sets.
    #[command(subcommand)]
    Data(DataCommand),
    /// Print a script that completes commands and flags in a shell.
    Completions(help::CompletionArgs),
    /// Print the manual page, in troff: `smoothcnn man | man -l -`.
    Man,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    Fetch(fetch::Args),
    Info(info::Args),
    /// Write a contact sheet: a row for each class.
    Preview(preview::Args),
}

/// Reads the command line, the file of flags that it names and the environment, or ends the program with what is wrong
/// with the line; and says what is given.
pub fn parse() -> Result<(Cli, Given)> {
    let mut command = help::arranged(Cli::command());
    let line = sources::expanded(&command, std::env::args_os().collect(), std::env::vars_os())?;
    line.said.iter().for_each(common::note);
    let matches = command.try_get_matches_from_mut(line.words).unwrap_or_else(|error| error.exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit());
    Ok((cli, Given::new(&command, &matches)))
}

/// Runs a command. `Ok` carries the exit code: 1 where the command's own answer is "no".
pub fn run(cli: Cli, given: &Given) -> Result<u8> {
    signals::watch().map_err(Error::io("signals"))?;
    threads::start()?;
    match cli.command {
        Command::Train(args) => train::run(*args, given),
        Command::Sweep(args) => sweep::run(*args),
        Command::LrFind(args) => lr_find::run(*args, given),
        Command::Eval(args) => eval::run(args),
        Command::Predict(args) => predict::run(args, given),
        Command::Report(args) => report::run(args),
        Command::Export(command) => export::run(command),
        Command::Calibrate(args) => calibrate::run(args),
        Command::Check(args) => check::run(args),
        Command::Bench(args) => bench::run(args, given),
        Command::Plan(args) => plan::run(args, given),
        Command::Devices(args) => devices::run(args),
        Command::Completions(args) => help::completions(&args, Cli::command()),
        Command::Man => help::man(Cli::command()),
        Command::Data(DataCommand::Fetch(args)) => fetch::run(args),
        Command::Data(DataCommand::Info(args)) => info::run(args),
        Command::Data(DataCommand::Preview(args)) => preview::run(args),
    }
}
