//! The house as its files say it: which module names which. `cargo test --test structure -- --nocapture` prints the
//! graph.
//!
//! An arrow runs from a file to every file that its code names; what only comments and tests name has none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules, from the top down: those of a line do not name each other, and an arrow runs down only.
const ORDER: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["bench"],
    &["check"],
    &["report"],
    &["study"],
    &["export"],
    &["train"],
    &["backend"],
    &["data", "measure"],
    &["compile"],
    &["network"],
    &["loss", "optimizer"],
    &["ops"],
    &["layer"],
    &["plan"],
    &["cases", "input"],
    &["docs", "fs", "memory", "parse", "protobuf", "real", "rng", "schedule"],
    &["error"],
];

/// No file is longer.
const MOST_LINES: usize = 600;

/// No line of prose is longer, in characters.
const LONGEST_LINE: usize = 120;

/// What these are is said by the folder that they are in: the settings of a layer, where a kernel finds its buffers.
const OF_A_FOLDER: &[&str] = &["Buffers", "Settings"];

type Graph = BTreeMap<String, BTreeSet<String>>;

/// A source file: its place under `src` without `.rs`, its module's path, its code without comments, strings and tests.
struct Source {
    name: String,
    module: Vec<String>,
    lines: usize,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let paths = walk(&root, &["rs"]);
    let source = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let name = path.strip_prefix(&root).unwrap().with_extension("").to_string_lossy().replace('\\', "/");
        let mut module: Vec<String> = name.split('/').map(String::from).collect();
        if module.last().is_some_and(|last| last == "mod" || last == "lib") {
            module.pop();
        }
        let tested = module.last().is_some_and(|last| last == "tests");
        let code = if tested { String::new() } else { without_tests(&without_text(&text)) };
        Source { lines: text.lines().count(), code, name, module }
    };
    paths.iter().map(source).collect()
}

/// The files below `folder` whose names end so, in order.
fn walk(folder: &Path, ends: &[&str]) -> Vec<PathBuf> {
    let mut paths = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            paths.extend(walk(&path, ends));
        } else if path.extension().is_some_and(|end| ends.iter().any(|wanted| end == *wanted)) {
            paths.push(path);
        }
    }
    paths.sort();
    paths
}

/// Comments, strings and characters are left out.
fn without_text(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let raw = ["r\"", "r#\"", "br\""].iter().any(|start| rest.starts_with(start)) && !code.ends_with(is_word);
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if raw {
            let open = rest.find('"').unwrap();
            let close = if rest[..open].contains('#') { "\"#" } else { "\"" };
            open + 1 + rest[open + 1..].find(close).unwrap() + close.len()
        } else if first == '"' {
            let mut escaped = false;
            let ends = |c: char| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            };
            1 + rest[1..].find(ends).unwrap() + 1
        } else if first == '\'' {
            // A character, else a lifetime.
            let mut chars = rest.char_indices().skip(1);
            match (chars.next(), chars.next()) {
                (Some((_, '\\')), Some((at, _))) => at + 1 + rest[at + 1..].find('\'').unwrap() + 1,
                (Some(_), Some((at, '\''))) => at + 1,
                _ => 0,
            }
        } else {
            0
        };
        if len == 0 {
            code.push(first);
        }
        rest = &rest[len.max(first.len_utf8())..];
    }
    code
}

/// What stands under `#[cfg(test)]` is left out.
fn without_tests(code: &str) -> String {
    let mut parts = code.split("#[cfg(test)]");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut depth = 0;
        let end = part.char_indices().find(|&(_, c)| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0 && (c == ';' || c == '}')
        });
        kept.push_str(&part[end.map_or(part.len(), |(at, _)| at + 1)..]);
    }
    kept
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Every path that the code names, written out: `use a::{b, c::d}` names `a::b` and `a::c::d`.
fn named(code: &str) -> Vec<Vec<String>> {
    let mut found = vec![];
    let mut at = 0;
    while let Some(start) = code[at..].find(is_word).map(|skip| at + skip) {
        let len = code[start..].find(|c| !is_word(c)).unwrap_or(code.len() - start);
        at = start + len;
        if code[at..].starts_with("::") && !code[..start].ends_with("::") {
            at = tree(code, start, &[], &mut found);
        }
    }
    found
}

/// Reads a path, or a tree of them, and says where it ends.
fn tree(code: &str, mut at: usize, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    loop {
        if code[at..].starts_with('{') {
            at += 1;
            loop {
                at += code[at..].find(|c: char| !c.is_whitespace() && c != ',').unwrap_or(0);
                if code[at..].starts_with('}') {
                    return at + 1;
                }
                let end = tree(code, at, &path, found);
                // `as name`, or what is no tree.
                at = end.max(at + 1);
            }
        }
        let len = code[at..].find(|c| !is_word(c)).unwrap_or(code.len() - at);
        let word = &code[at..at + len];
        at += len;
        if word != "self" || path.is_empty() {
            path.extend((!word.is_empty()).then(|| word.to_owned()));
        }
        if !code[at..].starts_with("::") || len == 0 {
            found.push(path);
            return at;
        }
        at += 2;
    }
}

/// Where a path that a file names begins at the crate's root.
fn absolute(source: &Source, path: &[String]) -> Vec<String> {
    let ups = path.iter().take_while(|word| *word == "super").count();
    match &path[0][..] {
        "crate" | "smoothcnn" => path[1..].to_vec(),
        "self" => [&source.module[..], &path[1..]].concat(),
        "super" => [&source.module[..source.module.len().saturating_sub(ups)], &path[ups..]].concat(),
        // A module of one's own.
        _ => [&source.module[..], path].concat(),
    }
}

/// What each module gives on as its own: the name, and whose it is.
fn given_on(sources: &[Source]) -> BTreeMap<Vec<String>, Vec<String>> {
    let mut given = BTreeMap::new();
    for source in sources {
        for (at, start) in source.code.match_indices("use ") {
            let line = source.code[..at].rsplit('\n').next().unwrap_or_default();
            let end = source.code[at..].find(';').map_or(source.code.len(), |end| at + end);
            if !line.trim_start().starts_with("pub") {
                continue;
            }
            for path in named(&source.code[at + start.len()..end]) {
                let name = [&source.module[..], &path[path.len() - 1..]].concat();
                given.insert(name, absolute(source, &path));
            }
        }
    }
    given
}

/// The arrows between files. What a module gives on is its owner's.
fn arrows(sources: &[Source]) -> Graph {
    let modules: BTreeMap<&[String], &str> = sources.iter().map(|s| (&s.module[..], &s.name[..])).collect();
    let given = given_on(sources);
    let arrows = |source: &Source| {
        let mut to = BTreeSet::new();
        for path in named(&source.code) {
            let whole = absolute(source, &path);
            let owner = (1..=whole.len()).rev().find_map(|len| given.get(&whole[..len]));
            let whole = owner.unwrap_or(&whole);
            let file = (0..=whole.len()).rev().find_map(|len| modules.get(&whole[..len]).map(|name| (len, *name)));
            let relative = !matches!(&path[0][..], "crate" | "smoothcnn" | "self" | "super");
            if let Some((len, name)) = file
                && name != source.name
                && !(relative && len <= source.module.len())
            {
                to.insert(name.to_owned());
            }
        }
        to.remove("lib");
        (source.name.clone(), to)
    };
    sources.iter().filter(|source| source.name != "lib").map(arrows).collect()
}

fn top(name: &str) -> &str {
    name.split('/').next().unwrap()
}

/// One circle, if there is any among these.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    let mut left = graph.clone();
    loop {
        let names: BTreeSet<String> = left.keys().cloned().collect();
        let done: Vec<String> = left
            .iter()
            .filter(|(_, to)| to.iter().all(|to| !names.contains(to)))
            .map(|(name, _)| name.clone())
            .collect();
        if done.is_empty() {
            break;
        }
        done.iter().for_each(|name| drop(left.remove(name)));
    }
    // Whoever is left has an arrow to another who is.
    let mut path = vec![left.keys().next()?.clone()];
    loop {
        let next = left[path.last()?].iter().find(|to| left.contains_key(*to))?.clone();
        if let Some(at) = path.iter().position(|name| *name == next) {
            path.push(next);
            return Some(path.split_off(at));
        }
        path.push(next);
    }
}

fn modules(files: &Graph) -> Graph {
    let mut modules = Graph::new();
    for (from, to) in files {
        let own = top(from);
        modules.entry(own.into()).or_default().extend(to.iter().map(|to| top(to).to_owned()).filter(|to| to != own));
    }
    modules
}

/// An arrow to each module that one names: down, and never up.
#[test]
fn arrows_run_downward() {
    let files = arrows(&sources());
    let level = |name: &str| {
        let level = ORDER.iter().position(|level| level.contains(&name));
        level.unwrap_or_else(|| panic!("module {name}: expected it in ORDER"))
    };
    let modules = modules(&files);
    for (from, to) in ORDER.iter().flat_map(|level| *level).filter_map(|name| modules.get_key_value(*name)) {
        println!("{from} > {}", to.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
    }
    let mut wrong = vec![];
    for (from, to) in &files {
        for to in to.iter().filter(|to| top(to) != top(from) && level(top(from)) >= level(top(to))) {
            wrong.push(format!("{from} names {to}"));
        }
    }
    assert!(wrong.is_empty(), "arrows that run up:\n{}", wrong.join("\n"));
    assert_eq!(circle(&modules), None);
}

/// Within a module too, a file can be read before those that name it. A folder of a module is one thing, whose `mod.rs`
/// says what its files are parts of: they may name it, and not each other in a circle. Cases are made as a test makes
/// them, of whole layers and losses: within their module nothing follows from what they name.
#[test]
fn files_of_a_module_form_no_circle() {
    let files = arrows(&sources());
    let unit = |name: &str| match &name.split('/').collect::<Vec<_>>()[..] {
        [module, folder, _, ..] => format!("{module}/{folder}"),
        _ => name.to_owned(),
    };
    let folder = |name: &str| name.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
    let (mut units, mut siblings) = (Graph::new(), Graph::new());
    for (from, to) in &files {
        let of_module = to.iter().filter(|to| top(to) == top(from) && !from.ends_with("/cases"));
        let own = unit(from);
        units.entry(own.clone()).or_default().extend(of_module.clone().map(|to| unit(to)).filter(|to| *to != own));
        let beside = of_module.filter(|to| folder(to) == folder(from) && !to.ends_with("/mod"));
        siblings.insert(from.clone(), beside.cloned().collect());
    }
    let mut circles = vec![];
    for graph in [&mut units, &mut siblings] {
        while let Some(circle) = circle(graph) {
            graph.get_mut(&circle[0]).unwrap().remove(&circle[1]);
            circles.push(circle.join(" > "));
        }
    }
    assert!(circles.is_empty(), "circles:\n{}", circles.join("\n"));
}

/// A name in a message or in a signature says which type it is.
#[test]
fn a_public_type_has_a_name_of_its_own() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let program = ["main", "cli"];
    for source in sources().into_iter().filter(|source| !program.contains(&top(&source.name))) {
        for line in source.code.lines() {
            let words: Vec<&str> = line.split(|c| !is_word(c)).filter(|word| !word.is_empty()).collect();
            if let ["pub", "struct" | "enum" | "trait" | "type" | "union", name, ..] = words[..]
                && line.trim_start().starts_with("pub ")
            {
                places.entry(name.into()).or_default().push(source.name.clone());
            }
        }
    }
    let twice: Vec<String> = places
        .iter()
        .filter(|(name, files)| files.len() > 1 && !OF_A_FOLDER.contains(&&name[..]))
        .map(|(name, files)| format!("{name}: {}", files.join(", ")))
        .collect();
    assert!(twice.is_empty(), "names of more than one type:\n{}", twice.join("\n"));
}

#[test]
fn no_file_is_long() {
    let long = |source: &Source| (source.lines > MOST_LINES).then(|| format!("{}: {}", source.name, source.lines));
    let long: Vec<String> = sources().iter().filter_map(long).collect();
    assert!(long.is_empty(), "files of more than {MOST_LINES} lines: {long:?}");
}

/// The reader itself: what it takes for an arrow.
/// The lines of a text that are prose: of a page all, of code the comments. Tables, formulas in columns and code have
/// lines of their own.
fn prose<'a>(path: &Path, text: &'a str) -> Vec<(usize, &'a str)> {
    let page = path.extension().is_some_and(|end| end == "md");
    let mut code = false;
    let mut lines = vec![];
    for (i, line) in text.lines().enumerate() {
        let comment = ["//!", "///", "//", "# "].iter().find_map(|mark| line.trim_start().strip_prefix(mark));
        let Some(words) = comment.or(page.then_some(line)) else {
            code = false;
            continue;
        };
        let words = words.trim();
        if words.starts_with("```") {
            code = !code;
        } else if !code && !words.starts_with(['|', '!']) && !words.contains("  ") {
            lines.push((i + 1, line));
        }
    }
    lines
}

#[test]
fn lines_of_prose_end_in_time() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src", "shaders", "benches", "tests"].map(|folder| walk(&root.join(folder), &["rs", "wgsl", "md"]));
    let pages = ["README.md", "CHANGELOG.md", "Makefile"].map(|page| root.join(page));
    let mut lines = 0;
    let mut long = vec![];
    for path in folders.iter().flatten().chain(&pages) {
        let text = fs::read_to_string(path).unwrap();
        let found = prose(path, &text);
        lines += found.len();
        let too_long = found.into_iter().filter(|(_, line)| line.chars().count() > LONGEST_LINE);
        long.extend(too_long.map(|(at, line)| format!("{}:{at}: {line}", path.display())));
    }
    assert!(lines > 10_000, "{lines}");
    assert!(long.is_empty(), "longer than {LONGEST_LINE}:\n{}", long.join("\n"));
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let code = without_tests(&without_text(
        "// use crate::no;\nuse crate::a::{self, b::{C, D}};\nfn f<'a>() { super::g(\"crate::no\", 'x', '\\''); h::I }\n\
         #[cfg(test)]\nmod tests { use crate::no; }\nuse crate::z;",
    ));
    let found: Vec<String> = named(&code).iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["crate::a", "crate::a::b::C", "crate::a::b::D", "super::g", "h::I", "crate::z"]);
}

/// A circle is found, and only one that is there.
#[test]
fn circles_are_found() {
    let graph = |arrows: &[(&str, &[&str])]| -> Graph {
        arrows.iter().map(|(from, to)| ((*from).into(), to.iter().map(|&to| to.into()).collect())).collect()
    };
    assert_eq!(circle(&graph(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])), None);
    let found = circle(&graph(&[("a", &["b"]), ("b", &["c", "d"]), ("c", &["b"]), ("d", &[])])).unwrap();
    assert_eq!(found, ["b", "c", "b"]);
}
