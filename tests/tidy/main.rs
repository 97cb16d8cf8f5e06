//! Rules of the code base that no linter checks: imports between layers, confined APIs, the length of files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod docs;
mod graph;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use graph::Graph;

/// The modules of the library, lowest layer first, and the modules that each may import.
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
    ("history_limit", &["error", "size"]),
    ("retention", &["error", "history_limit"]),
    ("units", &["error", "time"]),
    ("result_codes", &["error"]),
    ("settings", &["history_limit", "retention", "size"]),
    // unsafe code and calls of the operating system
    ("sys", &["error", "sync"]),
    // bytes: no paths, no files, no clock, no handles
    ("cipher", &["error", "sys"]),
    ("page", &["cipher", "error", "sys"]),
    ("seekable", &[]),
    ("stamps", &["units"]),
    ("pack", &["seekable", "stamps", "units"]),
    ("wal", &["page", "units"]),
    (
        "api",
        &[
            "settings",
            "cipher",
            "error",
            "history_limit",
            "name",
            "page",
            "point",
            "size",
            "time",
            "retention",
        ],
    ),
    ("pages", &["api", "cipher", "error", "page"]),
    ("description", &["cipher", "error", "history_limit", "name", "page", "size", "time", "retention"]),
    // files: no SQLite
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
            "pack",
            "page",
            "os_cache",
            "point",
            "progress",
            "seekable",
            "shm",
            "stamps",
            "sync",
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
            "history_limit",
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
            "time",
            "units",
            "vfs",
        ],
    ),
    // the facade
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
            "time",
            "vfs",
            "retention",
            "history_limit",
        ],
    ),
    // a thread for hosts, built on the facade
    ("maintainer", &["api", "error", "name", "plane", "point", "sync", "time"]),
];

/// Confined APIs: a text that occurs where one is used, and the files that may contain it.
const PLACES: &[(&str, &[&str])] = &[
    (
        "std::fs",
        &[
            "src/disk/copy.rs",
            "src/disk/dirs.rs",
            "src/disk/files.rs",
            "src/disk/metadata.rs",
            "src/disk/storage.rs",
            "src/cli/bench/temporary_dir.rs",
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
    // A path is a field of an error, which a server omits from its responses: see `Error::naming` and `Error::io_at`.
    (
        ".display()",
        &[
            "src/cli/bench/temporary_dir.rs",
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
            "src/sys/libaegis.rs",
            "src/sys/sqlite_file.rs",
            "src/sys/read_buf.rs",
            "src/sys/shared_words.rs",
            "src/sys/sqlite_log.rs",
            "src/vfs/shim/authorizer.rs",
            "src/vfs/shim/auto_extension.rs",
            "src/vfs/shim/call.rs",
            "src/vfs/shim/close.rs",
            "src/vfs/shim/control.rs",
            "src/vfs/shim/io.rs",
            "src/vfs/shim/open.rs",
            "src/vfs/shim/real.rs",
            "src/vfs/shim/register.rs",
            "src/vfs/shim/registered.rs",
            "src/vfs/shim/shm.rs",
            "src/vfs/shim/wal_index.rs",
        ],
    ),
    ("SystemTime", &["src/time.rs"]),
    (
        "serde",
        &[
            "src/api.rs",
            "src/description.rs",
            "src/cli/bench/report.rs",
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

/// Known import cycles, as lists of files. Any other cycle fails the test.
const KNOWN_CYCLES: [&str; 0] = [];

/// The maximum number of lines of a file.
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

/// Returns the code of a file without its comments and the unit tests at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |all, line| all + line + "\n")
}

/// Returns the modules that `code` names after `crate::`, alone or in braces.
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

/// Splits a list at the commas outside inner braces.
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
fn layers_import_only_lower_layers() {
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
fn confined_apis_are_used_only_in_their_files() {
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
    // The HTTP API uses the public API and, of the internal modules, only the mutex.
    for path in sources(&root().join("src/http")) {
        let modules = named(&code(&path));
        let inner = LAYERS.iter().find(|(module, _)| *module != "sync" && modules.contains(*module));
        assert!(inner.is_none(), "{} names crate::{}", shown(&path), inner.unwrap().0);
    }
    // The command line uses the public API only.
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
                // An ignored test names the external program that it needs; the test run prints it.
                let is_ignored = line.starts_with(concat!("#[", "ignore"));
                assert!(
                    !is_ignored || line.starts_with(concat!("#[", "ignore = \"needs ")),
                    "{shown}:{at}: an ignored test without the program that it needs"
                );
                assert!(
                    !(line.starts_with(concat!("matches", "!(")) && line.ends_with(';')),
                    "{shown}:{at}: the result of matches! is unused"
                );
                assert!(!line.contains(concat!("todo", "!(")), "{shown}:{at}: unfinished");
            }
        }
    }
}

#[test]
fn readme_describes_every_directory_of_fixtures() {
    let readme = fs::read_to_string(root().join("fixtures/README.md")).unwrap();
    for entry in fs::read_dir(root().join("fixtures")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || readme.contains(&format!("`{name}/`")), "fixtures/{name}");
    }
}

#[test]
fn named_modules_include_grouped_imports() {
    let code = "use crate::{a::{b, c}, d};\nuse crate::e;\nlet x = crate::f::g();";
    let expected: BTreeSet<_> = ["a", "d", "e", "f"].map(str::to_owned).into();
    assert_eq!(named(code), expected);
}

#[test]
fn imports_between_files_have_no_cycle() {
    let src = root().join("src");
    let files: Vec<_> = sources(&src).into_iter().filter(|file| !file.ends_with("src/main.rs")).collect();
    let known = KNOWN_CYCLES.map(|files| files.split(' ').map(str::to_owned).collect::<BTreeSet<_>>());
    for cycle in Graph::read(&src, &files).cycles() {
        assert!(known.iter().any(|known| cycle.is_subset(known)), "{cycle:#?}");
    }
}

#[test]
fn graph_follows_grouped_imports_and_reexports() {
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
