//! The import graph of the crate's source files.
//!
//! An edge leads from a file to each file that it names: in a `use` item, grouped or not, or in a path in its code, macro
//! arguments included. A name that a `mod.rs` only re-exports counts as a name of the file that defines it. Unit tests at
//! the end of a file do not count, and neither do the re-exports themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Item, UseTree, Visibility};

/// A path as its segments, from the root of the crate.
type Segments = Vec<String>;

/// One source file as a module.
#[derive(Debug, Default)]
struct Module {
    /// Names that other files can use through this one, and the path of each.
    exports: BTreeMap<String, Segments>,
    /// Names that only this file can use.
    imports: BTreeMap<String, Segments>,
    /// Paths of two segments or more in the file's code.
    paths: BTreeSet<Segments>,
}

/// The files of a source tree and the files that each of them names.
#[derive(Debug)]
pub(crate) struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    /// Reads the files of `src`. `files` are paths below `src`.
    pub(crate) fn read(src: &Path, files: &[PathBuf]) -> Self {
        let modules = files
            .iter()
            .map(|file| {
                let text = std::fs::read_to_string(file).unwrap();
                let name = module_name(file.strip_prefix(src).unwrap());
                (name, text)
            })
            .collect::<Vec<_>>();
        Self::parse(&modules)
    }

    /// Builds the graph of modules, each given by its path (`a::b`, empty for the root) and its text.
    pub(crate) fn parse(files: &[(String, String)]) -> Self {
        let modules: BTreeMap<Segments, Module> =
            files.iter().map(|(name, text)| (segments(name), Module::parse(&segments(name), text))).collect();
        let edges = modules.iter().map(|(name, module)| {
            let aliases = module.imports.iter().chain(&module.exports).collect::<BTreeMap<_, _>>();
            let mut targets = BTreeSet::new();
            for path in module.imports.values() {
                // An imported module counts by the names that are used through it.
                if !modules.contains_key(path) {
                    targets.extend(resolve(&modules, path));
                }
            }
            for path in &module.paths {
                let full = match (path[0].as_str(), aliases.get(&path[0])) {
                    ("crate" | "super" | "self", _) => absolute(name, path),
                    (_, Some(alias)) => [alias.as_slice(), &path[1..]].concat(),
                    // A child module, declared in this file.
                    (_, None) => [name.as_slice(), path.as_slice()].concat(),
                };
                targets.extend(resolve(&modules, &full));
            }
            targets.remove(name);
            (name.join("::"), targets.iter().map(|target| target.join("::")).collect())
        });
        Self(edges.collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &BTreeSet<String>)> {
        self.0.iter()
    }

    /// Returns the sets of two or more files that import each other, directly or indirectly.
    pub(crate) fn cycles(&self) -> BTreeSet<BTreeSet<String>> {
        let reached: BTreeMap<_, _> = self.0.keys().map(|from| (from, self.reached(from))).collect();
        let mutual = |from: &String| {
            let back = |to: &&String| reached.get(to).is_some_and(|reached| reached.contains(from));
            reached[from].iter().filter(back).cloned().collect::<BTreeSet<_>>()
        };
        self.0.keys().map(mutual).filter(|cycle| cycle.len() > 1).collect()
    }

    fn reached(&self, from: &String) -> BTreeSet<String> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(next) = open.pop() {
            for to in self.0.get(next).into_iter().flatten() {
                if reached.insert(to.clone()) {
                    open.push(to);
                }
            }
        }
        reached
    }
}

impl Module {
    fn parse(name: &[String], text: &str) -> Self {
        let mut module = Self::default();
        for item in syn::parse_file(text).unwrap().items {
            match item {
                Item::Use(item) => {
                    let names = if matches!(item.vis, Visibility::Inherited) {
                        &mut module.imports
                    } else {
                        &mut module.exports
                    };
                    for (alias, path) in leaves(&item.tree) {
                        let path = match path[0].as_str() {
                            "crate" | "super" | "self" => absolute(name, &path),
                            // Another crate, or a child module.
                            _ => [name, path.as_slice()].concat(),
                        };
                        names.insert(alias, path);
                    }
                }
                Item::Mod(item)
                    if item.attrs.iter().any(|it| it.to_token_stream().to_string().contains("test")) => {}
                Item::Mod(item) if item.content.is_none() => {}
                other => module.scan(other.to_token_stream()),
            }
        }
        module
    }

    /// Collects the paths in code.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path = Segments::new();
        let mut tokens = tokens.into_iter().peekable();
        let mut is_joined = false;
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Ident(ident) => {
                    if !is_joined {
                        self.add(&mut path);
                    }
                    path.push(ident.to_string());
                    // The path in `pub(in …)` limits who sees the item; it uses no name.
                    if ident == "pub" && matches!(tokens.peek(), Some(TokenTree::Group(_))) {
                        tokens.next();
                    }
                    is_joined = false;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => is_joined = true,
                TokenTree::Group(group) => {
                    self.add(&mut path);
                    self.scan(group.stream());
                    is_joined = false;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.add(&mut path);
                    is_joined = false;
                }
            }
        }
        self.add(&mut path);
    }

    fn add(&mut self, path: &mut Segments) {
        if path.len() > 1 {
            self.paths.insert(std::mem::take(path));
        }
        path.clear();
    }
}

/// Returns the module that defines `path`. `None` if another crate defines it.
fn resolve(modules: &BTreeMap<Segments, Module>, path: &[String]) -> Option<Segments> {
    let len = (0..=path.len()).rev().find(|len| modules.contains_key(&path[..*len]))?;
    let module = &modules[&path[..len]];
    let Some(name) = path.get(len) else { return Some(path.to_vec()) };
    if let Some(exported) = module.exports.get(name) {
        // `pub use rusqlite` exports another crate under its own name.
        if exported[..] == path[..=len] {
            return None;
        }
        return resolve(modules, &[exported.as_slice(), &path[len + 1..]].concat());
    }
    // A path without a module below the root is a name of the root or of another crate.
    (len > 0).then(|| path[..len].to_vec())
}

/// Replaces `crate`, `self` and `super` at the start of a path that file `of` contains.
fn absolute(of: &[String], path: &[String]) -> Segments {
    let mut base = of.to_vec();
    let mut rest = path;
    while let Some((first, others)) = rest.split_first() {
        match first.as_str() {
            "crate" => base.clear(),
            "self" => {}
            "super" => {
                base.pop();
            }
            _ => break,
        }
        rest = others;
    }
    [base.as_slice(), rest].concat()
}

/// Returns the names that a `use` tree brings into scope, and the path of each.
fn leaves(tree: &UseTree) -> Vec<(String, Segments)> {
    let below = |ident: &syn::Ident, tree: &UseTree| {
        let with = |(name, path): (String, Segments)| {
            let name = if name == "self" { ident.to_string() } else { name };
            let path = path.into_iter().filter(|segment| segment != "self");
            (name, [ident.to_string()].into_iter().chain(path).collect())
        };
        leaves(tree).into_iter().map(with).collect()
    };
    match tree {
        UseTree::Path(path) => below(&path.ident, &path.tree),
        UseTree::Name(name) => vec![(name.ident.to_string(), vec![name.ident.to_string()])],
        UseTree::Rename(name) => vec![(name.rename.to_string(), vec![name.ident.to_string()])],
        UseTree::Glob(_) => vec![("*".to_owned(), vec![])],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
    }
}

fn segments(name: &str) -> Segments {
    name.split("::").filter(|segment| !segment.is_empty()).map(str::to_owned).collect()
}

/// Returns the module path of a file below `src`: `a::b` for `a/b.rs` and `a/b/mod.rs`.
fn module_name(file: &Path) -> String {
    let name = file.with_extension("");
    let segments = name.iter().map(|segment| segment.to_str().unwrap());
    segments.filter(|segment| !["mod", "lib"].contains(segment)).collect::<Vec<_>>().join("::")
}
