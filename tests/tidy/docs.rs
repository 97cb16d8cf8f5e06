//! The pages in `src/docs` agree with the source.

use std::fs;

use super::root;

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Returns the names in backticks in the first cell of each row of the first table after a heading.
fn first_cells(page: &str, heading: &str) -> Vec<String> {
    let (_, section) = page.split_once(&format!("\n{heading}\n")).unwrap();
    let rows =
        section.lines().skip_while(|line| !line.starts_with("| ")).take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

#[test]
fn architecture_lists_every_rank_in_lock_order() {
    let source = read("src/sync.rs");
    let (_, ranks) = source.split_once("enum Rank {").unwrap();
    let (ranks, _) = ranks.split_once("\n}").unwrap();
    let ranks: Vec<_> = ranks
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(char::is_uppercase))
        .map(|line| line.trim_end_matches(',').to_owned())
        .collect();
    assert_eq!(first_cells(&read("src/docs/architecture.md"), "## Lock order"), ranks);
}

#[test]
fn architecture_names_every_module() {
    let page = read("src/docs/architecture.md");
    let (_, modules) = page.split_once("\n## Modules\n").unwrap();
    let (modules, _) = modules.split_once("\n## ").unwrap();
    for line in read("src/lib.rs").lines() {
        let declared = line.strip_prefix("mod ").or_else(|| line.strip_prefix("pub mod "));
        let Some(module) = declared.and_then(|module| module.strip_suffix(';')) else { continue };
        if module != "internals" {
            assert!(modules.contains(&format!("`{module}`")), "architecture.md lacks the module {module}");
        }
    }
}

#[test]
fn every_page_is_part_of_the_documentation() {
    let library = read("src/lib.rs");
    for entry in fs::read_dir(root().join("src/docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(library.contains(&format!("include_str!(\"docs/{name}\")")), "{name}");
    }
}

#[test]
fn pages_name_every_variable_of_serve() {
    let (source, page) = (read("src/cli/args.rs"), read("src/docs/http.md"));
    let names = source.split("env = \"").skip(1).map(|rest| rest.split('"').next().unwrap());
    for name in names.filter(|name| *name != "LITEFLEET_ROOT") {
        assert!(page.contains(&format!("`{name}`")), "http.md lacks {name}");
    }
}
