//! The structure of the source is that of `host/crates/README.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A file with more lines says why in its first ones.
const MAX_LINES: usize = 500;

fn host() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The names in backquotes.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn crates_depend_on_each_other_as_the_table_says() {
    let table = fs::read_to_string(host().join("crates/README.md")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let allowed: BTreeMap<String, BTreeSet<String>> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').collect();
            (quoted(cells[1]).into_iter().next().unwrap(), quoted(cells[3]))
        })
        .collect();
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(host().join("crates")).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let names = manifest["dependencies"].as_table().unwrap().keys();
        let ours = names.filter_map(|name| name.strip_prefix("lovage-").map(str::to_owned));
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        found.insert(name, ours.collect::<BTreeSet<_>>());
    }
    assert_eq!(found, allowed);
}

#[test]
fn long_files_say_why() {
    let mut folders = vec![host()];
    let mut silent = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let says_why =
                text.lines().take(60).any(|line| line.starts_with("// Over 500 lines: "));
            let lines = text.lines().count();
            if lines > MAX_LINES && !says_why {
                silent.push(format!("{}: {lines}", path.display()));
            }
        }
    }
    assert!(silent.is_empty(), "split these, or say why not: {silent:#?}");
}
