//! For whoever goes on with a run: what it began with, and cannot change.

use toml::{Table, Value};

use super::Config;
use crate::{Error, Result};

/// Flags whose key has another name, and the table that it is in.
const RENAMED: [(&str, &str, &str); 3] =
    [("opt", "optimizer", "name"), ("loss", "loss", "kind"), ("no-shuffle", "", "shuffle")];
/// The tables whose other keys are flags.
const TABLES: [&str; 5] = ["labels", "loss", "optimizer", "pictures", "recipe"];

impl Config {
    /// Refuses the first of `flags` (`--lr`) that `asked` has another value of than this run. Gives those of which
    /// `asked` has none: they are no settings of a run.
    ///
    /// # Errors
    /// [`Error::Usage`] with the flag, what was found and what the run has.
    pub fn refuse_changes<'a>(&self, asked: &Self, flags: &[&'a str]) -> Result<Vec<&'a str>> {
        let dirs = [self, asked].map(|config| Value::from(config.data_dir.to_string_lossy().into_owned()));
        let [has, found] = [self, asked].map(Self::whole_table);
        let mut unknown = vec![];
        for flag in flags {
            let key = flag.trim_start_matches("--");
            let Some(found) = value(&found, key) else {
                unknown.push(*flag);
                continue;
            };
            let (mut found, mut has) = (found, value(&has, key));
            if key == "data" && has == Some(found) {
                // Data by path is known by the path.
                (found, has) = (&dirs[1], Some(&dirs[0]));
            }
            if !has.is_some_and(|has| same(has, found)) {
                let has = has.map_or("none".into(), shown);
                let found = shown(found);
                return Err(Error::Usage(format!(
                    "{flag} cannot change in a run that goes on: found {found}, the run has {has}"
                )));
            }
        }
        Ok(unknown)
    }

    /// As config.toml, with what is left out there where nobody changed it.
    fn whole_table(&self) -> Table {
        let mut table = Table::try_from(self).unwrap_or_default();
        let mut set = |key: &str, value: std::result::Result<Value, toml::ser::Error>| {
            value.ok().and_then(|value| table.insert(key.into(), value));
        };
        set("loss", Value::try_from(&self.loss));
        set("pictures", Value::try_from(&self.pictures));
        set("recipe", Value::try_from(&self.recipe));
        set("activations", Value::try_from(self.activations));
        if self.loss.smoothing_prior.is_some() {
            set("smoothing-variant", Ok("prior".into()));
        }
        table
    }
}

fn value<'a>(config: &'a Table, key: &str) -> Option<&'a Value> {
    if let Some((_, table, key)) = RENAMED.iter().find(|(name, ..)| *name == key) {
        return if table.is_empty() { config.get(*key) } else { config.get(*table)?.get(*key) };
    }
    let names = [key.to_owned(), key.replace('-', "_")];
    let of = |table: &'a Table| names.iter().find_map(|key| table.get(key));
    of(config).or_else(|| TABLES.iter().find_map(|table| of(config.get(*table)?.as_table()?)))
}

/// Whether the value that was found stands for the one that the run has: one number may stand for each channel's.
fn same(has: &Value, found: &Value) -> bool {
    match (has, found) {
        (Value::Array(has), Value::Array(found)) if found.len() == 1 => has.iter().all(|has| *has == found[0]),
        _ => has == found,
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::{Optimizer, Sgd};

    fn refused(has: &Config, asked: &Config, flag: &str) -> String {
        has.refuse_changes(asked, &[flag]).unwrap_err().to_string()
    }

    /// Catches a setting that changes in mid-run, a default that is taken for a change, and a flag that nobody knows
    /// and is taken.
    #[test]
    fn each_setting_is_held_to_its_own() {
        let has = Config { mean: vec![0.5, 0.5], ..Config::default() };
        let mut asked = Config { mean: vec![0.5], batch_size: 32, ..Config::default() };
        for flag in ["--lr", "--opt", "--loss", "--activations", "--mean", "--seed", "--smoothing-variant", "--noise"] {
            assert_eq!(has.refuse_changes(&asked, &[flag]).unwrap(), [""; 0], "{flag}");
        }
        assert_eq!(has.refuse_changes(&asked, &["--lr", "--colour"]).unwrap(), ["--colour"]);
        let expected = "--batch-size cannot change in a run that goes on: found 32, the run has 64";
        assert_eq!(refused(&has, &asked, "--batch-size"), expected);
        asked.mean = vec![0.25];
        assert!(refused(&has, &asked, "--mean").ends_with("found [0.25], the run has [0.5, 0.5]"));
        asked.optimizer = Optimizer::Sgd(Sgd { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.0 });
        assert!(refused(&has, &asked, "--opt").ends_with("found sgd, the run has adam"));
        assert!(refused(&has, &asked, "--lr").ends_with("found 0.1, the run has 0.001"));
        assert!(refused(&has, &asked, "--nesterov").ends_with("found true, the run has none"));
        asked.loss.smoothing_prior = Some("unigram".into());
        assert!(refused(&has, &asked, "--smoothing-variant").ends_with("found prior, the run has uniform"));
        asked.shuffle = false;
        assert!(refused(&has, &asked, "--no-shuffle").ends_with("found false, the run has true"));
        let has = Config { data_dir: "here".into(), ..has };
        asked.data_dir = "there".into();
        assert!(refused(&has, &asked, "--data").ends_with("found there, the run has here"));
    }
}
