//! Flags of a recipe (`--recipe`), from a file (`-c`) and from the environment (`SMOOTHCNN_EPOCHS` for `--epochs`).
//! They are put into the command line ahead of what is there, the recipe's first, then the file's: of a flag that is
//! given twice the last one counts.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use smoothcnn::{Error, Result, input};
use toml::Value;

/// The flag that names the file.
pub const CONFIG: &str = "config";
/// The flag that names a recipe.
pub const RECIPE: &str = "recipe";
/// Flags that go well together, by name.
const RECIPES: [(&str, &str); 2] =
    [("cifar", include_str!("recipes/cifar.toml")), ("mnist-fast", include_str!("recipes/mnist-fast.toml"))];
/// Flags of a recipe that fall away where another optimizer is given: they are of the recipe's own.
const OF_AN_OPTIMIZER: [&str; 5] = ["opt", "lr", "momentum", "nesterov", "weight-decay"];
/// What the variables begin with.
const PREFIX: &str = "SMOOTHCNN_";
/// Variables that are no flags: of the program, and of its tests.
const OTHERS: [&str; 8] = [
    "CACHE",
    "ENDS_WITH_STDIN",
    "ISA_CHILD",
    "LOSE_DEVICE_AFTER_STEP",
    "PYTHON",
    "REQUIRE_ALL",
    "THOROUGH",
    "WRITE_TRANSLATIONS",
];

/// A command line with all that it takes from elsewhere.
pub struct Line {
    /// Its words.
    pub words: Vec<OsString>,
    /// What came from where, for a person to read.
    pub said: Vec<String>,
}

/// The flag of every command that has flags.
pub fn argument() -> Arg {
    Arg::new(CONFIG)
        .short('c')
        .long(CONFIG)
        .value_name("FILE.toml")
        .value_parser(value_parser!(PathBuf))
        .help("Take flags from this file, a key each: `batch-size = 128`; those given here count first")
}

/// The names that `--recipe` takes.
pub fn recipes() -> impl IntoIterator<Item = &'static str> {
    RECIPES.map(|(name, _)| name)
}

/// `words` with the flags of the recipe, of the file and of the environment, in `variables`, behind the name of the
/// command that is called.
pub fn expanded(
    command: &Command,
    words: Vec<OsString>,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Line> {
    let variables: Vec<(String, OsString)> =
        variables.filter_map(|(name, value)| Some((name.to_str()?.strip_prefix(PREFIX)?.to_owned(), value))).collect();
    check_names(command, &variables)?;
    let (called, at) = called(command, &words);
    let flags = || called.get_arguments().filter(|argument| name(argument).is_some());
    let variable = |argument: &Arg| {
        let wanted = variable_of(name(argument)?);
        variables.iter().find(|(name, value)| *name == wanted && !value.is_empty())
    };
    let (mut added, mut said) = (vec![], vec![]);
    let file = named::<PathBuf>(command, &words, CONFIG).or_else(|| {
        let of_environment = flags().find(|argument| name(argument) == Some(CONFIG)).and_then(variable);
        of_environment.map(|(_, file)| file.into())
    });
    if let Some(path) = file {
        let of_file = of_file(called, &path)?;
        said.push(format!("{}: {}", path.display(), shown(&of_file)));
        added.extend(of_file);
    }
    let mut of_environment = vec![];
    for argument in flags().filter(|argument| name(argument) != Some(CONFIG)) {
        if let (Some(long), Some((variable, value))) = (name(argument), variable(argument)) {
            of_environment.extend(of_variable(argument, long, variable, value)?);
        }
    }
    if !of_environment.is_empty() {
        said.push(format!("environment: {}", shown(&of_environment)));
        added.extend(of_environment);
    }
    let mut words = words;
    words.splice(at..at, added);
    // The file and the environment may name it too.
    let recipe = named::<String>(command, &words, RECIPE);
    if let Some((name, text)) = RECIPES.into_iter().find(|(name, _)| recipe.as_deref() == Some(name)) {
        let mut of_recipe = of_text(called, Path::new(name), text)?;
        let own = of_recipe.iter().find_map(|word| word.to_str()?.strip_prefix("--opt=")).unwrap_or("adam").to_owned();
        if given(command, &words, "opt").is_some_and(|opt| opt != own.as_str()) {
            of_recipe.retain(|word| flag_of(word).is_none_or(|flag| !OF_AN_OPTIMIZER.contains(&flag)));
        }
        said.insert(0, format!("recipe {name}: {}", shown(&of_recipe)));
        words.splice(at..at, of_recipe);
    }
    Ok(Line { words, said })
}

/// The variables that are flags of some command, as they are set now: a program that this one starts gets its flags by
/// its line.
pub fn variables() -> impl Iterator<Item = OsString> {
    let is_flag = |name: &OsString| {
        let name = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        name.is_some_and(|name| !OTHERS.contains(&name))
    };
    std::env::vars_os().map(|(name, _)| name).filter(is_flag)
}

/// The command that `words` call, and where its flags begin.
fn called<'a>(command: &'a Command, words: &[OsString]) -> (&'a Command, usize) {
    let (mut called, mut at) = (command, 1.min(words.len()));
    while let Some(below) = words.get(at).and_then(|word| called.find_subcommand(word)) {
        (called, at) = (below, at + 1);
    }
    (called, at)
}

/// What a flag names. What is wrong with the rest of the line shows when it is read in earnest.
fn named<T: Any + Clone + Send + Sync>(command: &Command, words: &[OsString], flag: &str) -> Option<T> {
    matches(command, words)?.try_get_one::<T>(flag).ok()?.cloned()
}

/// What is given to a flag that has a default, as it is written.
fn given(command: &Command, words: &[OsString], flag: &str) -> Option<OsString> {
    let matches = matches(command, words)?;
    let value = matches.try_get_raw(flag).ok()??.next_back()?.to_owned();
    (matches.value_source(flag) == Some(ValueSource::CommandLine)).then_some(value)
}

/// Those of the command that is called.
fn matches(command: &Command, words: &[OsString]) -> Option<ArgMatches> {
    let mut matches = command.clone().ignore_errors(true).try_get_matches_from(words).ok()?;
    while let Some((_, below)) = matches.remove_subcommand() {
        matches = below;
    }
    Some(matches)
}

/// The long name of the flag in a word such as `--lr=0.1`.
fn flag_of(word: &OsStr) -> Option<&str> {
    word.to_str()?.strip_prefix("--")?.split('=').next()
}

/// The long name of a flag that may come from elsewhere.
fn name(argument: &Arg) -> Option<&str> {
    argument.get_long().filter(|long| !["help", "version"].contains(long))
}

fn is_switch(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::SetTrue)
}

/// `BATCH_SIZE`, of `batch-size`.
fn variable_of(long: &str) -> String {
    long.replace('-', "_").to_uppercase()
}

fn shown(words: &[OsString]) -> String {
    words.iter().map(super::common::quoted).collect::<Vec<_>>().join(" ")
}

fn word(long: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(format!("--{long}="));
    word.push(value);
    word
}

/// The flags in the file at `path`, for the command `called`.
fn of_file(called: &Command, path: &Path) -> Result<Vec<OsString>> {
    of_text(called, path, &input::read_text(path, "a TOML file of flags")?)
}

/// The flags in the `text` of the file at `path`.
fn of_text(called: &Command, path: &Path, text: &str) -> Result<Vec<OsString>> {
    let table: toml::Table = smoothcnn::parse::toml(path, text)?;
    let mut words = vec![];
    for (key, value) in &table {
        let wrong =
            |found: &str, expected: &str| Error::data(path, format!("key {key}: found {found}, expected {expected}"));
        let long = key.replace('_', "-");
        let flags = || called.get_arguments().filter(|argument| name(argument).is_some_and(|name| name != CONFIG));
        let Some(argument) = flags().find(|argument| name(argument) == Some(&long)) else {
            let near = near(&long, flags().filter_map(name));
            let name = called.get_name();
            let near = near.map_or(String::new(), |near| format!(" such as {near}"));
            return Err(wrong("no flag of that name", &format!("a flag of `{name}`{near}")));
        };
        let values: Vec<&Value> = match value {
            Value::Array(values) if argument.get_value_delimiter().is_some() => values.iter().collect(),
            value => vec![value],
        };
        let text = |value: &Value| match value {
            Value::String(text) if values.len() > 1 && text.contains(',') => {
                Err(wrong(&format!("{text:?} in a list"), "no comma in it"))
            }
            Value::String(text) => Ok(text.clone()),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Ok(value.to_string()),
            other => Err(wrong(&format!("a TOML {}", other.type_str()), "one value")),
        };
        match value {
            Value::Boolean(true) if is_switch(argument) => words.push(format!("--{long}").into()),
            Value::Boolean(false) if is_switch(argument) => {}
            other if is_switch(argument) => return Err(wrong(&other.to_string(), "true or false")),
            _ => {
                let texts = values.iter().map(|value| text(value)).collect::<Result<Vec<_>>>()?;
                words.push(word(&long, texts.join(",").as_ref()));
            }
        }
    }
    Ok(words)
}

fn of_variable(argument: &Arg, long: &str, variable: &str, value: &OsStr) -> Result<Option<OsString>> {
    match value.to_str() {
        _ if !is_switch(argument) => Ok(Some(word(long, value))),
        Some("1" | "true") => Ok(Some(format!("--{long}").into())),
        Some("0" | "false") => Ok(None),
        _ => Err(Error::Usage(format!("{PREFIX}{variable}: found {value:?}, expected 1 or 0"))),
    }
}

/// Refuses a variable that is a flag of no command.
fn check_names(command: &Command, variables: &[(String, OsString)]) -> Result<()> {
    let mut known = vec![];
    collect(command, &mut known);
    let unknown = |(name, _): &&(String, OsString)| !OTHERS.contains(&&name[..]) && !known.contains(name);
    let Some((name, _)) = variables.iter().find(unknown) else { return Ok(()) };
    let near = near(name, known.iter().map(String::as_str));
    let near = near.map_or(String::new(), |near| format!(" such as {PREFIX}{near}"));
    Err(Error::Usage(format!("{PREFIX}{name}: found no flag of that name, expected one{near}")))
}

fn collect(command: &Command, known: &mut Vec<String>) {
    known.extend(command.get_arguments().filter_map(name).map(variable_of));
    command.get_subcommands().for_each(|below| collect(below, known));
}

/// The known name that is most like `name`, if one is.
fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = known.map(|known| (strsim::jaro_winkler(name, known), known));
    likeness.filter(|(likeness, _)| *likeness > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::{Cli, help};
    use super::*;

    /// The words that `line` becomes, with this file as `f.toml` and these variables; or what is wrong.
    fn expand(line: &str, file: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.toml");
        std::fs::write(&path, file).unwrap();
        let path = path.to_str().unwrap();
        let words = line.split_whitespace().map(|word| word.replace("f.toml", path).into()).collect();
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let found = expanded(&help::arranged(Cli::command()), words, variables).map_err(|error| error.to_string())?;
        let words: Vec<_> = found.words.iter().map(|word| word.to_str().unwrap().replace(path, "f.toml")).collect();
        Ok(words.join(" "))
    }

    /// Catches a recipe with a flag that there is not, and one that counts before what is said elsewhere.
    #[test]
    fn a_recipe_counts_last() {
        for name in recipes() {
            expand(&format!("smoothcnn train --recipe {name}"), "", &[]).unwrap();
            expand(&format!("smoothcnn sweep --recipe {name}"), "", &[]).unwrap();
        }
        let found = expand("smoothcnn train -c f.toml", "recipe = \"mnist-fast\"\nepochs = 3", &[]).unwrap();
        let [recipe, rest] = ["--epochs=1 ", "--epochs=3 --recipe=mnist-fast -c f.toml"].map(|part| found.find(part));
        assert!(recipe.unwrap() < rest.unwrap(), "{found}");
    }

    /// Catches a rate of one optimizer that another one trains with, and a recipe that refuses another optimizer.
    #[test]
    fn another_optimizer_than_the_recipes_has_its_own_flags() {
        let found = expand("smoothcnn train --recipe cifar --opt muon --lr 0.01", "", &[]).unwrap();
        assert!(found.contains("--lr-schedule=one-cycle") && found.contains("--epochs=30"), "{found}");
        for flag in ["--lr=", "--nesterov", "--momentum", "--weight-decay", "--opt="] {
            assert!(!found.contains(flag), "{flag}: {found}");
        }
        for same in ["", " --opt sgd"] {
            let found = expand(&format!("smoothcnn train --recipe cifar{same}"), "", &[]).unwrap();
            assert!(found.contains("--lr=0.2") && found.contains("--nesterov"), "{found}");
        }
        let found = expand("smoothcnn train --recipe mnist-fast -c f.toml", "opt = \"sgd\"", &[]).unwrap();
        assert!(!found.contains("--lr="), "{found}");
    }

    #[test]
    fn the_line_counts_before_the_environment_and_that_before_the_file() {
        let found = expand(
            "smoothcnn train -c f.toml --epochs 3",
            "lr = 0.5\nepochs = 1\nbatch_size = 8\nnesterov = true\nno-shuffle = false\nmean = [0.5, 0.25]",
            &[
                ("SMOOTHCNN_EPOCHS", "2"),
                ("SMOOTHCNN_JSON", "1"),
                ("SMOOTHCNN_CACHE", "x"),
                ("HOME", "y"),
                ("SMOOTHCNN_SEED", ""),
            ],
        );
        let file = "--batch-size=8 --epochs=1 --lr=0.5 --mean=0.5,0.25 --nesterov";
        assert_eq!(found.unwrap(), format!("smoothcnn train {file} --epochs=2 --json -c f.toml --epochs 3"));
        let found = expand("smoothcnn sweep plan --seeds 2", "", &[("SMOOTHCNN_LABEL_SMOOTHING", "0,0.1")]);
        assert_eq!(found.unwrap(), "smoothcnn sweep plan --label-smoothing=0,0.1 --seeds 2");
        // What the project's own tests are told is no flag, and no mistake.
        let of_tests: Vec<(String, &str)> = OTHERS.iter().map(|name| (format!("{PREFIX}{name}"), "1")).collect();
        let of_tests: Vec<(&str, &str)> = of_tests.iter().map(|(name, value)| (&name[..], *value)).collect();
        assert_eq!(expand("smoothcnn devices", "", &of_tests).unwrap(), "smoothcnn devices");
        // A flag of another command has no part in this one, and is no mistake.
        assert_eq!(expand("smoothcnn devices", "", &[("SMOOTHCNN_EPOCHS", "2")]).unwrap(), "smoothcnn devices");
        assert_eq!(expand("smoothcnn", "", &[]).unwrap(), "smoothcnn");
    }

    #[test]
    fn what_is_unknown_is_refused_with_what_is_near() {
        let of_file = |text: &str| expand("smoothcnn train --config f.toml", text, &[]).unwrap_err();
        assert!(
            of_file("epoch = 3")
                .ends_with("key epoch: found no flag of that name, expected a flag of `train` such as epochs")
        );
        assert!(of_file("zzz = 3").ends_with("expected a flag of `train`"));
        assert!(of_file("json = 3").ends_with("key json: found 3, expected true or false"));
        assert!(of_file("[lr]\na = 1").ends_with("key lr: found a TOML table, expected one value"));
        assert!(of_file("lr = [1, 2]").ends_with("key lr: found a TOML array, expected one value"));
        assert!(of_file("config = 'x'").contains("key config: found no flag"));
        let of_variable = |name: &str, value: &str| expand("smoothcnn train", "", &[(name, value)]).unwrap_err();
        let expected = "SMOOTHCNN_EPOCH: found no flag of that name, expected one such as SMOOTHCNN_EPOCHS";
        assert_eq!(of_variable("SMOOTHCNN_EPOCH", "3"), expected);
        assert_eq!(of_variable("SMOOTHCNN_JSON", "maybe"), "SMOOTHCNN_JSON: found \"maybe\", expected 1 or 0");
    }
}
