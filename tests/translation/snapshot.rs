//! What the translations are, as a list that stands in the repository: another version of naga, or a changed shader,
//! shows as a diff.

use sha2::{Digest, Sha256};

use crate::translate::{self, Translated};

/// Set, it has the test write the list instead.
const WRITE: &str = "SMOOTHCNN_WRITE_TRANSLATIONS";

const HEADER: &str = "\
# Every pass of every shader as naga translates it: shader, pass, target, bytes, SHA-256 (the first 16 digits).
# To write this list again: SMOOTHCNN_WRITE_TRANSLATIONS=1 cargo test --test translation
";

fn lines(translated: &Translated) -> [String; 3] {
    let spirv: Vec<u8> = translated.spirv.iter().flat_map(|word| word.to_le_bytes()).collect();
    let targets = [("hlsl", translated.hlsl.as_bytes()), ("msl", translated.msl.as_bytes()), ("spirv", &spirv)];
    targets.map(|(target, bytes)| {
        let hash = Sha256::digest(bytes);
        let digits: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {} {target} {} {digits}", translated.shader.name, translated.entry.name, bytes.len())
    })
}

/// Catches a shader that one kind of device would refuse, since naga cannot translate it, and a translation that
/// changed unseen: with an upgrade of naga, or with a shader that was not meant to change.
#[test]
fn translations_are_those_of_the_list() {
    let mut lines: Vec<String> = translate::all().iter().flat_map(lines).collect();
    lines.sort();
    let text = HEADER.to_owned() + &lines.join("\n") + "\n";
    if std::env::var_os(WRITE).is_some_and(|value| !value.is_empty()) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/translation/list.txt");
        return std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    // Git on Windows may have changed the ends of lines.
    let kept = include_str!("list.txt").replace('\r', "");
    let only_in = |a: &str, b: &str| -> Vec<String> {
        let b: std::collections::BTreeSet<&str> = b.lines().collect();
        a.lines().filter(|line| !b.contains(line)).map(str::to_owned).collect()
    };
    let (gone, new) = (only_in(&kept, &text), only_in(&text, &kept));
    assert!(
        kept == text,
        "tests/translation/list.txt is not what naga gives now. If that is meant: {WRITE}=1 cargo test --test translation\n\
         in the list only:\n{}\nnow:\n{}",
        gone.join("\n"),
        new.join("\n")
    );
}
