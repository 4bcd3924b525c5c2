//! For whoever reads files of settings, plans and reports, in TOML or JSON: they are read strictly. A key that is not
//! known is an error that names the near one, and so is a file of a version that is newer than this program: it may
//! mean something that this one does not know.

use std::path::Path;

use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Text in TOML.
///
/// # Errors
/// [`Error::Data`] with `path`: what is no TOML, no `T`, or of a newer version.
pub fn toml<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    #[derive(Deserialize)]
    struct Versioned {
        version: Option<String>,
    }
    let failed = |e: toml::de::Error| Error::data(path, explain(e.message()));
    // First: what a newer version writes is not to be judged by this one's keys.
    if let Ok(Versioned { version: Some(version) }) = toml::from_str(text) {
        check_version(path, &version)?;
    }
    toml::from_str(text).map_err(failed)
}

/// Text in JSON; a `version` may be anywhere in it. `expected` says in a refusal what it should have been.
///
/// # Errors
/// [`Error::Data`] with `path`: what is no JSON, no `T`, or of a newer version.
pub fn json<T: DeserializeOwned>(path: &Path, text: &str, expected: &str) -> Result<T> {
    let failed = |e: serde_json::Error| Error::data(path, format!("{}; expected {expected}", explain(&e.to_string())));
    check_versions(path, &serde_json::from_str(text).map_err(failed)?)?;
    serde_json::from_str(text).map_err(failed)
}

/// A value as one line of JSON. What is not a number is written as null.
///
/// # Panics
/// If a map in `value` has keys that are no strings: the caller's mistake.
pub fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structs with string keys always serialise")
}

fn check_versions(path: &Path, value: &serde_json::Value) -> Result<()> {
    match value {
        serde_json::Value::Array(values) => values.iter().try_for_each(|value| check_versions(path, value)),
        serde_json::Value::Object(map) => map.iter().try_for_each(|(key, value)| match value.as_str() {
            Some(version) if key == "version" => check_version(path, version),
            _ => check_versions(path, value),
        }),
        _ => Ok(()),
    }
}

/// Refuses a version that is newer than this program's, and what is none.
fn check_version(path: &Path, version: &str) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    match (numbers(version), numbers(own)) {
        (Some(found), Some(known)) if found <= known => Ok(()),
        _ => Err(Error::data(path, format!("version: found {version:?}, expected at most {own}, this program's own"))),
    }
}

fn numbers(version: &str) -> Option<[u64; 3]> {
    let parts: Vec<u64> = version.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    parts.try_into().ok()
}

/// serde's message on one line. Where it lists every name there is, only that which is nearest to the one found.
fn explain(message: &str) -> String {
    let message = message.replace('\n', " ");
    let Some((kind, rest)) = ["field", "variant"].iter().find_map(|kind| {
        let rest = message.split_once(&format!("unknown {kind} `"))?.1;
        Some((if *kind == "field" { "key" } else { "value" }, rest))
    }) else {
        return message;
    };
    let mut quoted = rest.split('`').step_by(2);
    let found = quoted.next().unwrap_or_default();
    let nearest = quoted.filter(|name| !name.is_empty()).min_by_key(|name| distance(found, name));
    match nearest {
        Some(near) if distance(found, near) <= 2.max(found.chars().count() / 3) => {
            format!("found an unknown {kind} {found:?}, expected perhaps {near:?}")
        }
        _ => format!(
            "found an unknown {kind} {}",
            message.split_once(" `").map_or("", |(_, rest)| rest).replace('`', "")
        ),
    }
}

/// How many letters must be changed, added or taken away to make one of the other (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Bytes in hexadecimal digits, two each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it can be read matters")]
    struct Settings {
        version: Option<String>,
        batch_size: Option<usize>,
        epochs: Option<usize>,
    }

    fn refused(text: &str) -> String {
        toml::<Settings>(Path::new("f"), text).unwrap_err().to_string()
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "", 0), ("epochs", "epochs", 0), ("epoch", "epochs", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_the_near_one() {
        assert_eq!(refused("batchsize = 3"), "f: found an unknown key \"batchsize\", expected perhaps \"batch-size\"");
        let far = refused("colour = 3");
        assert!(far.starts_with("f: found an unknown key colour, expected one of version, batch-size"), "{far}");
        let error = json::<Settings>(Path::new("f"), r#"{"epoch": 3}"#, "settings").unwrap_err().to_string();
        assert_eq!(error, "f: found an unknown key \"epoch\", expected perhaps \"epochs\"; expected settings");
    }

    #[test]
    fn newer_versions_are_refused_before_their_keys() {
        assert!(toml::<Settings>(Path::new("f"), "version = \"0.0.9\"").is_ok());
        for version in ["999.0.0", "0.1000.0", "new", "1"] {
            let text = format!("version = {version:?}\ncolour = 1");
            assert!(refused(&text).contains(&format!("version: found {version:?}, expected at most")), "{version}");
        }
        let plan = r#"[{"version": "0.0.1", "config": {"version": "9.0.0"}}]"#;
        assert!(json::<serde_json::Value>(Path::new("f"), plan, "a plan").is_err());
    }
}
