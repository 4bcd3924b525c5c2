//! The names that other programs give to the same tensors: behind the prefixes of wrappers, and with the numbers of a
//! plain `nn.Sequential`.

use std::collections::{BTreeMap, BTreeSet};

/// What `DataParallel`, `torch.compile` and modules that hold the network put before a name.
const PREFIXES: [&str; 3] = ["module.", "model.", "_orig_mod."];

/// The names that a file has.
pub(super) struct Renamed {
    /// In the file, in the order of the network's own.
    pub names: Vec<String>,
    /// What was done, for a line that says so.
    pub how: String,
}

/// Finds the network's tensors, `own` by layer, among the names that were `found`. None where they have their own
/// names, and where nothing fits: then what is missing is for the reader to say.
///
/// # Errors
/// What was found and what was expected, where the names are those of a wrapper or of an `nn.Sequential`, and do not
/// fit.
pub(super) fn renamed(found: &[String], own: &[Vec<String>]) -> Result<Option<Renamed>, String> {
    let names: BTreeSet<&str> = found.iter().map(|name| &name[..]).collect();
    if own.iter().flatten().all(|name| names.contains(&name[..])) {
        return Ok(None);
    }
    let prefixes: BTreeSet<&str> = found.iter().map(|name| prefix(name)).collect();
    if prefixes.len() > 1 {
        let found: Vec<_> = prefixes.iter().map(|prefix| format!("{prefix:?}")).collect();
        return Err(format!(
            "found names with the prefixes {}, expected the same one before each",
            found.join(" and ")
        ));
    }
    let prefix = prefixes.first().copied().unwrap_or_default();
    let mut how = vec![];
    if !prefix.is_empty() {
        how.push(format!("the prefix {prefix:?} of its names is left out"));
    }
    let rest: BTreeSet<&str> = found.iter().map(|name| &name[prefix.len()..]).collect();
    let mut names: Vec<String> = own.iter().flatten().cloned().collect();
    if let Some(numbered) = numbered(&rest) {
        names = in_order(&numbered, own)?;
        let [numbers, layers] = [numbers(&numbered), layers(own)];
        how.push(format!("the layers {numbers} of an nn.Sequential are {layers}"));
    } else if prefix.is_empty() {
        return Ok(None);
    }
    let names = names.into_iter().map(|name| format!("{prefix}{name}")).collect();
    Ok(Some(Renamed { names, how: how.join("; ") }))
}

/// All prefixes of a name, however deep.
fn prefix(name: &str) -> &str {
    let mut rest = name;
    while let Some(shorter) = PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        rest = shorter;
    }
    &name[..name.len() - rest.len()]
}

/// The parameters' own names by the number of their layer.
type Numbered<'a> = BTreeMap<u32, BTreeSet<&'a str>>;

/// None where there is no name, or one has no number, or one that no PyTorch writes (`03`).
fn numbered<'a>(names: &BTreeSet<&'a str>) -> Option<Numbered<'a>> {
    let mut layers = Numbered::new();
    for name in names {
        let (number, own) = name.split_once('.')?;
        let parsed: u32 = number.parse().ok().filter(|parsed: &u32| parsed.to_string() == number)?;
        layers.entry(parsed).or_default().insert(own);
    }
    (!layers.is_empty()).then_some(layers)
}

/// The numbered names in the order of the network's own.
fn in_order(numbered: &Numbered, own: &[Vec<String>]) -> Result<Vec<String>, String> {
    if numbered.len() != own.len() {
        let [numbers, layers] = [numbers(numbered), layers(own)];
        return Err(format!("found the layers {numbers} of an nn.Sequential, expected as many as {layers}"));
    }
    let mut names = vec![];
    for ((number, found), own) in numbered.iter().zip(own) {
        let last = |name: &String| name.rsplit('.').next().unwrap_or_default().to_owned();
        let expected: Vec<String> = own.iter().map(last).collect();
        if !found.iter().copied().eq(expected.iter().map(|name| &name[..]).collect::<BTreeSet<_>>()) {
            let found = found.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" and ");
            let (layer, expected) = (layer(own), expected.join(" and "));
            return Err(format!(
                "found layer {number} of an nn.Sequential with {found}, expected {expected} of {layer}"
            ));
        }
        names.extend(expected.iter().map(|name| format!("{number}.{name}")));
    }
    Ok(names)
}

fn layer(own: &[String]) -> &str {
    own.first().and_then(|name| name.rsplit_once('.')).map_or("", |(layer, _)| layer)
}

fn layers(own: &[Vec<String>]) -> String {
    own.iter().map(|own| layer(own)).collect::<Vec<_>>().join(", ")
}

/// The first few of them: a file may have any number.
fn numbers(numbered: &Numbered) -> String {
    const SHOWN: usize = 12;
    let mut text = numbered.keys().take(SHOWN).map(u32::to_string).collect::<Vec<_>>().join(", ");
    if numbered.len() > SHOWN {
        text += &format!(" and {} more", numbered.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [&[&str]; 2] = [&["conv1.weight", "conv1.bias"], &["fc1.weight", "fc1.bias"]];

    fn of(found: &[&str]) -> Result<Option<Renamed>, String> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        renamed(&owned(found), &OWN.map(owned))
    }

    /// Catches a prefix that stays or takes a part of a name with it, numbers in the order of text, and own names that
    /// are changed.
    #[test]
    fn names_of_wrappers_and_of_sequences_are_understood() {
        let all = |prefix: &str| OWN.concat().iter().map(|name| format!("{prefix}{name}")).collect::<Vec<_>>();
        for prefix in ["module.", "model.", "_orig_mod.", "_orig_mod.module.model."] {
            let found = all(prefix);
            let renamed = of(&found.iter().map(|name| &name[..]).collect::<Vec<_>>()).unwrap().unwrap();
            assert_eq!(
                (renamed.names, renamed.how),
                (found, format!("the prefix {prefix:?} of its names is left out"))
            );
        }
        let renamed = of(&["10.bias", "10.weight", "3.weight", "3.bias"]).unwrap().unwrap();
        assert_eq!(renamed.names, ["3.weight", "3.bias", "10.weight", "10.bias"]);
        assert_eq!(renamed.how, "the layers 3, 10 of an nn.Sequential are conv1, fc1");
        let renamed = of(&["model.0.weight", "model.0.bias", "model.2.weight", "model.2.bias"]).unwrap().unwrap();
        assert_eq!(renamed.names, ["model.0.weight", "model.0.bias", "model.2.weight", "model.2.bias"]);
        // Its own names, and a checkpoint's.
        assert!(of(&OWN.concat()).unwrap().is_none());
        assert!(of(&[&OWN.concat()[..], &["optimizer.exp_avg.conv1.weight"]].concat()).unwrap().is_none());
        // Nothing that is known: the reader says what is missing.
        assert!(of(&["stem.weight", "stem.bias"]).unwrap().is_none());
        assert!(of(&[]).unwrap().is_none());
    }

    #[test]
    fn twelve_numbers_are_shown() {
        let of = |n: u32| numbers(&(0..n).map(|i| (i, Default::default())).collect());
        let twelve = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11";
        assert_eq!((of(12), of(14)), (twelve.to_owned(), format!("{twelve} and 2 more")));
    }

    /// Catches a guess where names can be read in two ways or do not fit.
    #[test]
    fn what_is_ambiguous_or_does_not_fit_is_an_error() {
        for (found, parts) in [
            (&["module.conv1.weight", "conv1.bias"][..], &["prefixes \"\" and \"module.\""][..]),
            (&["0.weight", "0.bias"], &["layers 0 of", "as many as conv1, fc1"]),
            (&["0.weight", "1.weight", "1.bias"], &["layer 0", "with \"weight\"", "weight and bias of conv1"]),
            (&["0.weight", "0.bias", "1.weight", "1.bias", "1.scale"], &["layer 1", "\"scale\"", "of fc1"]),
        ] {
            let message = of(found).err().unwrap_or_else(|| panic!("{found:?} is taken"));
            parts.iter().for_each(|part| assert!(message.contains(part), "{message:?} lacks {part:?}"));
        }
    }
}
