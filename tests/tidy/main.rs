//! The house rules that no linter knows: which file may name which, what stands where, how long files are.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

mod docs;
mod graph;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use graph::Graph;

/// The library's modules from the lowest up, and the modules that each may name.
const LAYERS: &[(&str, &[&str])] = &[
    // values
    ("error", &[]),
    ("finding", &[]),
    ("time", &["error"]),
    ("id", &["error", "time"]),
    ("name", &["error"]),
    ("point", &["time"]),
    ("progress", &["error"]),
    ("size", &["error"]),
    ("sync", &["error"]),
    ("retention", &["error"]),
    ("units", &["error", "time"]),
    ("result_codes", &["error"]),
    ("settings", &["retention", "size"]),
    // bytes: no paths, no files, no clock, no handles
    ("cipher", &["error"]),
    ("page", &["cipher", "error"]),
    ("seekable", &[]),
    ("stamps", &["units"]),
    ("wal", &["page", "units"]),
    ("api", &["settings", "cipher", "error", "name", "page", "point", "size", "time", "retention"]),
    ("description", &["cipher", "error", "name", "page", "size", "time", "retention"]),
    // files: no SQLite
    ("sys", &["error", "sync", "wal"]),
    ("disk", &["error", "sync", "sys"]),
    ("layout", &["name", "units"]),
    ("os_cache", &["disk", "sys"]),
    ("shm", &["disk", "error", "layout", "units", "wal"]),
    // services
    (
        "history",
        &[
            "disk",
            "error",
            "finding",
            "layout",
            "page",
            "os_cache",
            "point",
            "progress",
            "seekable",
            "shm",
            "stamps",
            "sync",
            "sys",
            "time",
            "units",
            "wal",
            "retention",
        ],
    ),
    ("sqlite", &["disk", "error", "result_codes"]),
    (
        "vfs",
        &[
            "history",
            "result_codes",
            "cipher",
            "disk",
            "error",
            "layout",
            "page",
            "os_cache",
            "size",
            "stamps",
            "sync",
            "sys",
            "time",
            "units",
            "wal",
        ],
    ),
    ("fence", &["vfs"]),
    ("changes", &["disk", "error", "layout", "name", "sync", "time"]),
    (
        "catalog",
        &[
            "api",
            "cipher",
            "description",
            "disk",
            "error",
            "layout",
            "name",
            "page",
            "size",
            "sqlite",
            "sync",
            "time",
            "retention",
        ],
    ),
    ("live_copy", &["disk", "error", "layout", "page", "progress", "shm", "size", "units", "vfs", "wal"]),
    // operations
    (
        "connect",
        &["api", "history", "catalog", "changes", "cipher", "disk", "error", "id", "sqlite", "time", "vfs"],
    ),
    (
        "seed",
        &[
            "api",
            "history",
            "cipher",
            "connect",
            "disk",
            "error",
            "live_copy",
            "layout",
            "page",
            "os_cache",
            "point",
            "progress",
            "size",
            "sqlite",
            "sys",
            "time",
            "units",
            "vfs",
        ],
    ),
    // the face
    (
        "plane",
        &[
            "api",
            "history",
            "catalog",
            "changes",
            "cipher",
            "connect",
            "description",
            "disk",
            "error",
            "finding",
            "id",
            "layout",
            "name",
            "page",
            "point",
            "progress",
            "seed",
            "size",
            "sys",
            "time",
            "vfs",
            "retention",
        ],
    ),
    // a host's own thread: it uses the face
    ("maintainer", &["api", "error", "name", "plane", "point", "sync", "time"]),
];

/// Where a thing may stand, by the text that gives it away.
const PLACES: &[(&str, &[&str])] = &[
    (
        "std::fs",
        &[
            "src/disk/copy.rs",
            "src/disk/dirs.rs",
            "src/disk/files.rs",
            "src/disk/metadata.rs",
            "src/disk/storage.rs",
            "src/cli/keys.rs",
            "src/cli/interrupt.rs",
            "src/cli/shell.rs",
            "src/cli/tour.rs",
            "src/http/auth.rs",
            "src/http/private_dir.rs",
            "src/http/export.rs",
        ],
    ),
    // Positioned reads and writes go through the storage, which tests replace.
    ("FileExt", &["src/disk/storage.rs"]),
    // A path is data of an error, so that clients of a server are not told it: `Error::naming`, `Error::io_at`.
    (
        ".display()",
        &[
            "src/cli/keys.rs",
            "src/cli/mod.rs",
            "src/cli/serve.rs",
            "src/cli/shell.rs",
            "src/cli/tour.rs",
            "src/error.rs",
            "src/finding.rs",
            "src/seed/upload.rs",
        ],
    ),
    (
        concat!("unsafe", " {"),
        &[
            "src/sys/isolated_fds.rs",
            "src/sys/read_buf.rs",
            "src/sys/shared_words.rs",
            "src/sys/sqlite_log.rs",
            "src/sys/wal_index.rs",
            "src/vfs/shim/authorizer.rs",
            "src/vfs/shim/call.rs",
            "src/vfs/shim/close.rs",
            "src/vfs/shim/control.rs",
            "src/vfs/shim/io.rs",
            "src/vfs/shim/open.rs",
            "src/vfs/shim/real.rs",
            "src/vfs/shim/register.rs",
            "src/vfs/shim/registered.rs",
            "src/vfs/shim/shm.rs",
        ],
    ),
    ("SystemTime", &["src/time.rs"]),
    (
        "serde",
        &[
            "src/api.rs",
            "src/description.rs",
            "src/cli/output.rs",
            "src/cli/sql.rs",
            "src/http/body.rs",
            "src/http/history_body.rs",
            "src/http/request.rs",
        ],
    ),
    ("aegis::", &["src/cipher/mod.rs", "src/cipher/aegis.rs"]),
    ("ring::aead", &["src/cipher/ring.rs"]),
    ("aes_gcm::", &["src/cipher/rustcrypto.rs"]),
    ("zstd::", &["src/seekable.rs"]),
    ("base64::", &["src/cipher/key.rs", "src/cli/output.rs"]),
];

/// Files that still import each other. A cycle outside these sets fails the test.
const KNOWN_CYCLES: [&str; 0] = [];

/// No file grows past this without a reason to part it.
const LINES_MAX: usize = 500;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A file's code: without its comments and without the tests at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |all, line| all + line + "\n")
}

/// The modules of the crate that a piece of code names: after `crate::`, alone or in braces.
fn named(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let list = if let Some(inner) = rest.strip_prefix('{') {
            let mut depth = 1;
            let end = inner.find(|sign| {
                depth += i32::from(sign == '{') - i32::from(sign == '}');
                depth == 0
            });
            top_level_items(&inner[..end.unwrap()])
        } else {
            vec![rest.to_owned()]
        };
        for item in list {
            names.insert(
                item.trim().chars().take_while(|sign| sign.is_alphanumeric() || *sign == '_').collect(),
            );
        }
    }
    names.remove("");
    names
}

/// The items between commas that stand in no inner braces.
fn top_level_items(list: &str) -> Vec<String> {
    let mut depth = 0;
    let mut items = vec![String::new()];
    for sign in list.chars() {
        depth += i32::from(sign == '{') - i32::from(sign == '}');
        if sign == ',' && depth == 0 {
            items.push(String::new());
        } else {
            items.last_mut().unwrap().push(sign);
        }
    }
    items
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_lower_layer_never_names_a_higher_one() {
    for (at, (module, allowed)) in LAYERS.iter().enumerate() {
        let lower: BTreeSet<_> = LAYERS[..at].iter().map(|(name, _)| *name).collect();
        for name in *allowed {
            assert!(lower.contains(name), "the row of {module} allows {name}, which is not below it");
        }
    }
    let mut seen = BTreeSet::new();
    for path in sources(&root().join("src")) {
        let shown = shown(&path);
        let module = shown.trim_start_matches("src/").split(['/', '.']).next().unwrap().to_owned();
        if ["lib", "main", "cli", "http", "internals"].contains(&module.as_str()) {
            continue;
        }
        let row = LAYERS.iter().find(|(name, _)| *name == module);
        let (_, allowed) = row.unwrap_or_else(|| panic!("{shown} has no row in LAYERS"));
        seen.insert(module.clone());
        for name in named(&code(&path)) {
            assert!(
                name == module || allowed.contains(&name.as_str()),
                "{shown} names crate::{name}, which its row does not allow"
            );
        }
    }
    assert_eq!(seen.len(), LAYERS.len(), "a row of LAYERS has no file");
}

#[test]
fn things_stand_where_they_belong() {
    for path in sources(&root().join("src")) {
        let (shown, code) = (shown(&path), code(&path));
        for (text, places) in PLACES {
            let there = code.contains(text);
            assert!(
                !there || places.contains(&shown.as_str()),
                "{shown} has {text:?}, which belongs in {places:?}"
            );
        }
    }
    // What is served uses the face that hosts have, and no module behind it but the mutex.
    for path in sources(&root().join("src/http")) {
        let modules = named(&code(&path));
        let inner = LAYERS.iter().find(|(module, _)| *module != "sync" && modules.contains(*module));
        assert!(inner.is_none(), "{} names crate::{}", shown(&path), inner.unwrap().0);
    }
    // The command line is a host like any other.
    for path in sources(&root().join("src/cli")) {
        let code = code(&path);
        assert!(
            !code.contains("crate::") || !named(&code).iter().any(|name| name != "cli"),
            "{}",
            shown(&path)
        );
    }
}

#[test]
fn files_are_short_and_tests_can_fail() {
    for dir in ["src", "tests", "benches"] {
        for path in sources(&root().join(dir)) {
            let (shown, text) = (shown(&path), fs::read_to_string(&path).unwrap());
            let lines = text.lines().count();
            assert!(lines <= LINES_MAX, "{shown} has {lines} lines");
            for (at, line) in text.lines().enumerate() {
                let line = line.trim_start();
                let at = at + 1;
                assert!(
                    !line.starts_with(concat!("#[", "allow")),
                    "{shown}:{at}: expect a lint, with a reason"
                );
                // One that needs a program from elsewhere says so, and the test run lists it with that.
                let is_ignored = line.starts_with(concat!("#[", "ignore"));
                assert!(
                    !is_ignored || line.starts_with(concat!("#[", "ignore = \"needs ")),
                    "{shown}:{at}: a test that is not run"
                );
                assert!(
                    !(line.starts_with(concat!("matches", "!(")) && line.ends_with(';')),
                    "{shown}:{at}: a check that nobody looks at"
                );
                assert!(!line.contains(concat!("todo", "!(")), "{shown}:{at}: unfinished");
            }
        }
    }
}

#[test]
fn every_folder_of_fixtures_says_how_it_was_made() {
    let readme = fs::read_to_string(root().join("fixtures/README.md")).unwrap();
    for entry in fs::read_dir(root().join("fixtures")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || readme.contains(&format!("`{name}/`")), "fixtures/{name}");
    }
}

#[test]
fn the_table_reads_uses_as_rust_does() {
    let code = "use crate::{a::{b, c}, d};\nuse crate::e;\nlet x = crate::f::g();";
    let expected: BTreeSet<_> = ["a", "d", "e", "f"].map(str::to_owned).into();
    assert_eq!(named(code), expected);
}

#[test]
fn no_files_import_each_other_in_a_cycle() {
    let src = root().join("src");
    let files: Vec<_> = sources(&src).into_iter().filter(|file| !file.ends_with("src/main.rs")).collect();
    let known = KNOWN_CYCLES.map(|files| files.split(' ').map(str::to_owned).collect::<BTreeSet<_>>());
    for cycle in Graph::read(&src, &files).cycles() {
        assert!(known.iter().any(|known| cycle.is_subset(known)), "{cycle:#?}");
    }
}

#[test]
fn the_graph_follows_groups_and_reexports() {
    let files = [
        ("", "mod a; mod c;"),
        ("a", "mod b; pub(crate) use b::{B, Other as Renamed};"),
        ("a::b", "use super::super::c::{self, C}; fn f() -> C { c::g() }"),
        ("c", "use crate::{a::Renamed, x}; pub(in crate::a) fn g() { println!(\"{}\", crate::a::B::new()) }"),
    ];
    let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let graph = Graph::parse(&files);
    let edges: Vec<_> = graph
        .iter()
        .map(|(from, to)| (from.as_str(), to.iter().map(String::as_str).collect::<Vec<_>>()))
        .collect();
    assert_eq!(edges, [("", vec![]), ("a", vec![]), ("a::b", vec!["c"]), ("c", vec!["a::b"])]);
    assert_eq!(graph.cycles(), [["a::b", "c"].map(str::to_owned).into()].into());
}
