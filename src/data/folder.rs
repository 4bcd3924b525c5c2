//! A folder with a folder of pictures for each class, or with `train`, `val` and `test` over them: the layouts of
//! torchvision's `ImageFolder`, of Ultralytics, and of timm.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::format::{Format, Loaded, ReadProgress, Reading};
use super::pictures::{Listing, SPLITS, load};
use super::reader::Item;
use crate::{Error, Result, fs};

/// The layout as a format.
pub struct ClassFolders;

impl Format for ClassFolders {
    fn name(&self) -> &'static str {
        "folder"
    }

    fn about(&self) -> &'static str {
        "a folder of pictures for each class, or train, val and test over them"
    }

    fn recognises(&self, path: &Path) -> bool {
        path.is_dir() && folders(path).is_ok_and(|(folders, _)| !folders.is_empty())
    }

    fn is_of_pictures(&self) -> bool {
        true
    }

    fn read(&self, path: &Path, how: &Reading, progress: ReadProgress) -> Result<Loaded> {
        load(listing(path, how.classes.as_deref())?, how, progress)
    }
}

/// What the folders of the sets are called, in the order of [`SPLITS`].
const NAMES: [&[&str]; 3] = [&["train", "training"], &["val", "valid", "validation"], &["test", "testing"]];

/// What the folders list; `known` are the classes in the order of their labels, where a model has them.
fn listing(path: &Path, known: Option<&[String]>) -> Result<Listing> {
    if !path.is_dir() {
        return Err(Error::data(path, "found no folder, expected one with a folder of pictures for each class"));
    }
    let (top, files) = folders(path)?;
    // A class may be called `train`: the folder of a set has folders in it.
    let mut sets = [None, None, None];
    for name in &top {
        let Some(set) = NAMES.iter().position(|names| names.contains(&&name.to_lowercase()[..])) else { continue };
        if folders(&path.join(name))?.0.is_empty() {
            continue;
        }
        if let Some(other) = sets[set].replace(name.as_str()) {
            let message = format!("found two folders of the {} set, {other} and {name}, expected one", SPLITS[set]);
            return Err(Error::data(path, message));
        }
    }
    let mut notes = vec![];
    let sets: Vec<(usize, PathBuf, String)> = match sets {
        [None, None, None] => {
            if let Some(picture) = files.first() {
                let message = format!("found {picture} beside the folders of the classes, expected it in one of them");
                return Err(Error::data(path, message));
            }
            vec![(0, path.to_owned(), String::new())]
        }
        [None, ..] if known.is_none() => {
            let named = sets.into_iter().flatten().collect::<Vec<_>>().join(" and ");
            return Err(Error::data(path, format!("found {named} and no folder train, expected a training set")));
        }
        _ => {
            let others: Vec<_> = top.iter().filter(|name| !sets.contains(&Some(name))).cloned().collect();
            if !others.is_empty() {
                notes.push(format!("data: the folders {} are of no set, and are not read", others.join(", ")));
            }
            let named = sets.into_iter().enumerate();
            named.filter_map(|(set, name)| Some((set, path.join(name?), format!("{}/", name?)))).collect()
        }
    };
    let mut of_set = [BTreeMap::new(), BTreeMap::new(), BTreeMap::new()];
    for (set, folder, prefix) in &sets {
        of_set[*set] = classes_in(path, folder, prefix, *set == 0 && known.is_none())?;
    }
    let classes = match known {
        Some(known) => known.to_vec(),
        None => of_set[0].keys().cloned().collect(),
    };
    for (set, of_class) in of_set.iter().enumerate() {
        if let Some(unknown) = of_class.keys().find(|name| !classes.contains(name)) {
            let of = if known.is_some() { "the model has" } else { "the training set has" };
            let message = format!("found the class {unknown} in the {} set, which is none that {of}", SPLITS[set]);
            return Err(Error::data(path, message));
        }
    }
    let label = |class: &str| classes.iter().position(|name| name == class).unwrap_or(0) as u32;
    let splits = of_set.map(|of_class| {
        let of_class = of_class.into_iter().map(|(class, files)| (label(&class), files));
        let mut items: Vec<_> =
            of_class.flat_map(|(label, files)| files.into_iter().map(move |file| Item { file, label })).collect();
        // By the picture's own name, so that the first so many are of every class.
        let name = |item: &Item| item.file.rsplit('/').next().unwrap_or_default().to_owned();
        items.sort_by_cached_key(|item| (name(item), item.label));
        items
    });
    Ok(Listing { root: path.to_owned(), path: path.to_owned(), classes, splits, notes })
}

/// The files of each class, by its name; their paths begin with `prefix`. With `whole`, a class without a file is an
/// error.
fn classes_in(root: &Path, folder: &Path, prefix: &str, whole: bool) -> Result<BTreeMap<String, Vec<String>>> {
    let mut of_class = BTreeMap::new();
    for class in folders(folder)?.0 {
        let path = folder.join(&class);
        let mut files = vec![];
        for name in visible(&path)? {
            let file = path.join(&name);
            if std::fs::metadata(&file).is_ok_and(|metadata| metadata.is_dir()) {
                return Err(Error::data(
                    &file,
                    format!("found a folder inside the class {class}, expected pictures only"),
                ));
            }
            files.push(format!("{prefix}{class}/{name}"));
        }
        if files.is_empty() && whole {
            return Err(Error::data(&path, "found an empty folder, expected the pictures of a class"));
        }
        of_class.insert(class, files);
    }
    if of_class.is_empty() {
        let of = folder.strip_prefix(root).unwrap_or(folder).display();
        return Err(Error::data(root, format!("found no folder of a class in {of}, expected one for each")));
    }
    Ok(of_class)
}

/// The names of the folders in a folder, in order, and of its pictures, as their names have it.
fn folders(folder: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let is_folder = |name: &String| std::fs::metadata(folder.join(name)).is_ok_and(|metadata| metadata.is_dir());
    let (folders, files): (Vec<_>, Vec<_>) = visible(folder)?.into_iter().partition(is_folder);
    Ok((folders, files.into_iter().filter(|file| is_picture(Path::new(file))).collect()))
}

/// Whether a file is called as pictures are.
pub fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_lowercase();
    ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff"].contains(&&extension[..])
}

/// The names in a folder, in order, without those that systems and programs hide or leave behind.
fn visible(folder: &Path) -> Result<Vec<String>> {
    let mut names = vec![];
    for name in fs::names(folder)? {
        match name.to_str() {
            Some(name) if name.starts_with('.') || ["Thumbs.db", "desktop.ini"].contains(&name) => {}
            Some(name) => names.push(name.to_owned()),
            None => return Err(Error::data(folder, format!("found the name {name:?}, expected names in UTF-8"))),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::super::format::Pictures;
    use super::super::pictures::tests::save_grey;
    use super::*;

    fn read(path: &Path, how: &Reading) -> Result<Loaded> {
        ClassFolders.read(path, how, &|_, _| {})
    }

    fn refusal(path: &Path) -> String {
        let error = read(path, &Reading::default()).unwrap_err();
        assert!(matches!(error, Error::Data { .. }), "{error:?}");
        error.to_string()
    }

    /// `n` pictures of a class, of values `from`, `from` + 1, ….
    fn class(folder: &Path, n: u8, from: u8) {
        (0..n).for_each(|i| save_grey(&folder.join(format!("{i:02}.png")), from + i, 2));
    }

    #[test]
    fn class_ids_go_by_name_and_hidden_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        class(&root.join("dog"), 10, 100);
        class(&root.join("cat"), 10, 0);
        std::fs::write(root.join("cat/.DS_Store"), "x").unwrap();
        std::fs::write(root.join("cat/Thumbs.db"), "x").unwrap();
        std::fs::write(root.join("README.txt"), "x").unwrap();
        std::fs::create_dir(root.join(".git")).unwrap();
        assert!(ClassFolders.recognises(root) && !ClassFolders.recognises(&root.join("cat")));
        let Loaded { train, test, classes, .. } = read(root, &Reading::default()).unwrap();
        assert_eq!(classes, ["cat", "dog"]);
        assert_eq!((train.len(), test.len()), (16, 4));
        assert!((0..16).all(|i| (train.image(i)[0] >= 100) == (train.labels[i] == 1)));
        // The first few are of every class.
        assert_eq!(train.labels[..2].iter().sum::<u32>(), 1, "{:?}", train.files);
    }

    #[test]
    fn sets_over_the_classes_are_found_under_each_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        class(&root.join("train/b"), 10, 0);
        class(&root.join("train/a"), 10, 50);
        class(&root.join("valid/b"), 2, 20);
        class(&root.join("test/b"), 3, 30);
        // A set that lacks a class shifts nothing.
        let Loaded { train, validation, test, classes, notes, .. } = read(root, &Reading::default()).unwrap();
        assert_eq!((classes.len(), train.len(), test.labels), (2, 20, vec![1, 1, 1]));
        assert_eq!(validation.unwrap().labels, [1, 1]);
        assert_eq!(notes, Vec::<String>::new());
        assert_eq!(train.files[0], "train/a/00.png");
        // A validation set is none to measure on in the end.
        std::fs::rename(root.join("test"), root.join("other")).unwrap();
        let Loaded { train, validation, test, notes, .. } = read(root, &Reading::default()).unwrap();
        assert_eq!((train.len(), validation.unwrap().len(), test.len()), (16, 2, 4));
        assert!(notes[0].contains("the folders other are of no set"), "{notes:?}");
        assert!(notes[1].contains("no test set is there: 20 % of each class, 4 images"), "{notes:?}");
        class(&root.join("test/c"), 1, 0);
        assert!(refusal(root).ends_with("found the class c in the test set, which is none that the training set has"));
    }

    /// A class of vehicles is called train.
    #[test]
    fn a_class_may_be_called_as_a_set_is() {
        let dir = tempfile::tempdir().unwrap();
        class(&dir.path().join("train"), 10, 0);
        class(&dir.path().join("bus"), 10, 50);
        assert_eq!(read(dir.path(), &Reading::default()).unwrap().classes, ["bus", "train"]);
    }

    #[test]
    fn classes_that_are_known_keep_their_labels() {
        let dir = tempfile::tempdir().unwrap();
        class(&dir.path().join("b"), 2, 7);
        let known: Vec<String> = ["c", "b", "a"].map(String::from).into();
        let pictures = Pictures { test_split: Some(1.0), ..Pictures::default() };
        let how = Reading { classes: Some(known), pictures, ..Reading::default() };
        let Loaded { train, test, classes, .. } = read(dir.path(), &how).unwrap();
        assert_eq!((train.len(), test.labels, classes.len()), (0, vec![1, 1], 3));
        class(&dir.path().join("d"), 2, 7);
        let message = read(dir.path(), &how).unwrap_err().to_string();
        assert!(
            message.ends_with("found the class d in the training set, which is none that the model has"),
            "{message}"
        );
    }

    #[test]
    fn what_is_no_such_folder_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        class(&root.join("a"), 10, 0);
        assert!(refusal(root).ends_with("found one class only, a, expected at least two"));
        std::fs::create_dir(root.join("b")).unwrap();
        assert!(refusal(root).ends_with("b: found an empty folder, expected the pictures of a class"));
        class(&root.join("b/inner"), 1, 0);
        assert!(refusal(root).ends_with("inner: found a folder inside the class b, expected pictures only"));
        std::fs::remove_dir_all(root.join("b/inner")).unwrap();
        class(&root.join("b"), 10, 90);
        save_grey(&root.join("stray.png"), 1, 2);
        assert!(
            refusal(root).ends_with("found stray.png beside the folders of the classes, expected it in one of them")
        );
        assert!(refusal(&root.join("stray.png")).contains("found no folder"));
        class(&root.join("val/a"), 1, 0);
        assert!(refusal(root).ends_with("found val and no folder train, expected a training set"));
    }

    /// A link to the folder above would be read for ever.
    #[cfg(unix)]
    #[test]
    fn a_loop_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        class(&root.join("a"), 10, 0);
        class(&root.join("b"), 10, 20);
        std::os::unix::fs::symlink(root, root.join("b/again")).unwrap();
        assert!(refusal(root).ends_with("again: found a folder inside the class b, expected pictures only"));
        std::fs::remove_file(root.join("b/again")).unwrap();
        std::os::unix::fs::symlink(root.join("b/self.png"), root.join("b/self.png")).unwrap();
        assert!(refusal(root).contains("self.png: found "), "{}", refusal(root));
    }
}
