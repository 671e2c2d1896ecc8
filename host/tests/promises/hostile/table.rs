//! The table of `docs/hostile-corpus.md`, which is made from the fixtures.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::{Fixture, Seen, groups};

/// Where the table begins in the page.
const BEGIN: &str = "<!-- the table: made by `LOVAGE_UPDATE=1 cargo test hostile::table` -->\n";

#[test]
fn the_table_of_fixtures_is_complete() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/hostile-corpus.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let (head, _) = page.split_once(BEGIN).expect("the page has a place for the table");
    let made = format!("{head}{BEGIN}{}", table());
    if std::env::var_os("LOVAGE_UPDATE").is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let page = std::fs::read_to_string(&file).unwrap();
    assert_eq!(page, made, "see the comment above the table");
}

#[test]
fn every_fixture_has_a_name_of_its_own_and_there_are_many() {
    let all: Vec<String> =
        groups().into_iter().flat_map(|group| group.fixtures).map(|fixture| fixture.name).collect();
    let unique: BTreeSet<_> = all.iter().collect();
    assert_eq!(unique.len(), all.len());
    assert!(all.len() >= 40, "{}", all.len());
}

fn table() -> String {
    let mut text = String::new();
    for group in groups() {
        write!(text, "\n## {}\n\n| fixture | what it does | what is seen |\n", group.promise)
            .unwrap();
        text.push_str("| --- | --- | --- |\n");
        for fixture in &group.fixtures {
            writeln!(text, "| `{}` | {} | {} |", fixture.name, fixture.does, seen(fixture))
                .unwrap();
        }
    }
    text
}

/// What is seen, in Markdown on one line.
fn seen(fixture: &Fixture) -> String {
    // As code that may have grave accents in it.
    let words = |words: &str| format!("“{}”", words.trim().replace('|', "\\|").escape_debug());
    let of = |what: &str, kind: &str, said: &str| match said.trim() {
        "" => format!("{what}, `{kind}`"),
        said => format!("{what}, `{kind}`: {}", words(said)),
    };
    match fixture.seen {
        Seen::Refused(said) => format!("not loaded: {}", words(said)),
        Seen::Crashed(kind, said) => of("crashed", kind, said),
        Seen::Failed(kind, said) => of("failed", kind, said),
        Seen::TimedOut => "timed out".to_owned(),
        Seen::Rejected(said) => of("rejected", "rejected", said),
        Seen::Retried(said) => of("retry", "retry", said),
        Seen::Snoozed => "put back".to_owned(),
        Seen::Done => "done: nothing is harmed".to_owned(),
        Seen::Told(said) => format!("done: {}", words(said)),
        Seen::Any => "an end of its own, whichever: nothing is harmed".to_owned(),
    }
}
