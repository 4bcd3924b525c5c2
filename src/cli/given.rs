//! What the command line itself says, as opposed to the defaults that stand in where it is silent: so that no flag is
//! dropped without a word.

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use smoothcnn::{Error, Result};

use super::sources;

/// The flags, and the arguments without one, that were given to the command that runs.
#[derive(Clone, Debug)]
pub struct Given(Vec<String>);

impl Given {
    /// What `matches`, of the whole command line, has from it.
    pub fn new(command: &Command, matches: &ArgMatches) -> Self {
        let (mut command, mut matches) = (command, matches);
        let mut given = vec![];
        loop {
            // Groups of arguments have identifiers too, and are no arguments.
            // What the file of flags has was given; that there is one has no effect of its own.
            let from_line = |id: &&clap::Id| {
                ![sources::CONFIG, sources::RECIPE].contains(&id.as_str())
                    && matches.value_source(id.as_str()) == Some(ValueSource::CommandLine)
            };
            let argument = |id: &clap::Id| command.get_arguments().find(|argument| argument.get_id() == id);
            given.extend(matches.ids().filter(from_line).filter_map(argument).map(
                |argument| match argument.get_long() {
                    Some(long) => format!("--{long}"),
                    None => argument.get_id().to_string(),
                },
            ));
            let below = matches.subcommand().and_then(|(name, below)| Some((command.find_subcommand(name)?, below)));
            let Some(below) = below else { return Self(given) };
            (command, matches) = below;
        }
    }

    /// Refuses the flags `idle`, which have no effect with `with`.
    pub fn without(&self, with: &str, idle: &[&str]) -> Result<()> {
        match self.0.iter().find(|given| idle.contains(&&given[..])) {
            Some(found) => Err(Error::Usage(format!("{found}: found with {with}, which leaves it no effect"))),
            None => Ok(()),
        }
    }

    /// Whether this flag was given.
    pub fn has(&self, flag: &str) -> bool {
        self.0.iter().any(|given| given == flag)
    }

    /// What was given with `with` beside `with` itself and the flags `allowed`.
    pub fn beside(&self, with: &str, allowed: &[&str]) -> Vec<&str> {
        let counts = |given: &&str| *given == with || allowed.contains(given);
        self.0.iter().map(|given| &given[..]).filter(|given| !counts(given)).collect()
    }

    /// Refuses whatever was given with `with` beside `with` itself and the flags `allowed`, all that count there.
    pub fn only(&self, with: &str, allowed: &[&str]) -> Result<()> {
        match self.beside(with, allowed).first() {
            None => Ok(()),
            Some(found) => {
                let expected = if allowed.is_empty() { "it alone".into() } else { allowed.join(", ") };
                Err(Error::Usage(format!("{found}: found with {with}, which leaves it no effect; expected {expected}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(line: &str) -> Given {
        let mut command = Command::new("p")
            .arg(clap::arg!(--loud))
            .subcommand(Command::new("go").arg(clap::arg!(--by <N>).default_value("1")).arg(clap::arg!([place])));
        let matches = command.try_get_matches_from_mut(line.split_whitespace()).unwrap();
        Given::new(&command, &matches)
    }

    #[test]
    fn what_the_line_says_and_no_default() {
        assert_eq!(given("p go").0, [""; 0]);
        assert_eq!(given("p --loud go --by 1 home").0, ["--loud", "--by", "place"]);
        let found = given("p go --by 2");
        assert!(found.only("--by", &[]).is_ok() && found.only("--to", &["--by"]).is_ok());
        let error = found.only("--to", &["--at"]).unwrap_err().to_string();
        assert_eq!(error, "--by: found with --to, which leaves it no effect; expected --at");
    }
}
