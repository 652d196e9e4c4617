//! Which paths a crate's sources name. The files are found as the compiler finds them: from the root, along `mod`, also
//! where `#[path]` says where a file is. One that is compiled in two places is read in both.
//!
//! Tokens are read, not text, so comments and strings do not count while macros' arguments do. What is compiled for
//! tests only is left out: tests may know more than what they test. `use` is resolved within its file, which is enough
//! to see through `use crate::bus; bus::EmbeddedBus`; a type that arrives through another file's re-export is seen under
//! the path by which it is named there.

use std::collections::HashMap;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A module and what it names.
#[derive(Debug)]
pub(crate) struct Module {
    /// From the crate's name on, such as `tocsin::bus::embedded`.
    pub(crate) path: String,
    /// Absolute paths: those of this crate from its name on, those of others from theirs.
    pub(crate) names: Vec<Name>,
}

/// A path as it stands in a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Name {
    pub(crate) path: String,
    pub(crate) line: usize,
}

/// Reads a crate from its root file: all its modules but those of tests.
pub(crate) fn read_crate(name: &str, root: &Path) -> Vec<Module> {
    let mut modules = Vec::new();
    read_file(&[name.to_owned()], root, root.parent().unwrap(), &mut modules);
    modules
}

fn read_file(module: &[String], file: &Path, children: &Path, modules: &mut Vec<Module>) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let (names, declared) = read_text(module, &text);
    modules.push(Module { path: module.join("::"), names });
    for Declared { name, file: elsewhere } in declared {
        let path = [module, std::slice::from_ref(&name)].concat();
        match elsewhere {
            None => read_file(&path, &children.join(&name).with_extension("rs"), &children.join(&name), modules),
            Some(elsewhere) => {
                let file = file.parent().unwrap().join(elsewhere);
                read_file(&path, &file, file.parent().unwrap(), modules);
            }
        }
    }
}

/// A module that is a file of its own.
#[derive(Debug, PartialEq)]
pub(crate) struct Declared {
    pub(crate) name: String,
    /// Where `#[path]` says that it is.
    pub(crate) file: Option<String>,
}

/// What a module's text names, and the modules that it declares as files.
pub(crate) fn read_text(module: &[String], text: &str) -> (Vec<Name>, Vec<Declared>) {
    let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{}: {error}", module.join("::")));
    let mut reader = Reader::default();
    reader.read(module, tokens);
    let resolved = |(segments, line): &(Vec<String>, usize)| {
        let segments = match reader.imports.get(&segments[0]) {
            Some(import) => [import, &segments[1..]].concat(),
            None => segments.clone(),
        };
        Name { path: segments.join("::"), line: *line }
    };
    (reader.named.iter().map(resolved).collect(), reader.declared)
}

/// What has been read of a file.
#[derive(Default)]
struct Reader {
    /// Paths with their lines.
    named: Vec<(Vec<String>, usize)>,
    /// What `use` has given a name to.
    imports: HashMap<String, Vec<String>>,
    declared: Vec<Declared>,
}

impl Reader {
    fn read(&mut self, module: &[String], tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = match &tokens[at] {
                TokenTree::Punct(punct) if punct.as_char() == '#' && is_cfg_test(tokens.get(at + 1)) => {
                    end_of_item(&tokens, at + 2)
                }
                TokenTree::Ident(ident) if *ident == "mod" => self.read_mod(module, &tokens, at),
                TokenTree::Ident(ident) if *ident == "use" => self.read_tree(module, &[], true, &tokens, at + 1),
                TokenTree::Ident(_) if is_member(&tokens, at) => at + 1,
                TokenTree::Ident(_) => self.read_tree(module, &[], false, &tokens, at),
                TokenTree::Group(group) => {
                    self.read(module, group.stream());
                    at + 1
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => at + 1,
            };
        }
    }

    /// Reads `mod name;` or `mod name { … }`; returns where to go on.
    fn read_mod(&mut self, module: &[String], tokens: &[TokenTree], at: usize) -> usize {
        let Some(TokenTree::Ident(name)) = tokens.get(at + 1) else { return at + 1 };
        match tokens.get(at + 2) {
            Some(TokenTree::Group(body)) => self.read(&[module, &[name.to_string()]].concat(), body.stream()),
            _ => {
                let file = at.checked_sub(1).and_then(|before| path_attribute(&tokens[before]));
                self.declared.push(Declared { name: name.to_string(), file });
            }
        }
        at + 3
    }

    /// Reads a path, with the braces of a `use`, that goes on from `before`; returns where to go on.
    fn read_tree(
        &mut self,
        module: &[String],
        before: &[String],
        is_use: bool,
        tokens: &[TokenTree],
        at: usize,
    ) -> usize {
        let (mut path, mut at) = (before.to_vec(), at);
        let line = tokens.get(at).map_or(0, |token| token.span().start().line);
        loop {
            match tokens.get(at) {
                Some(TokenTree::Ident(segment)) => path.push(segment.to_string()),
                Some(TokenTree::Punct(star)) if is_use && star.as_char() == '*' => path.push("*".into()),
                // `use ::a`.
                Some(TokenTree::Punct(colon)) if is_use && path.is_empty() && colon.as_char() == ':' => {
                    at += 1;
                    continue;
                }
                Some(TokenTree::Group(group)) if is_use && group.delimiter() == Delimiter::Brace => {
                    self.read_branches(module, &path, group.stream());
                    return at + 1;
                }
                _ => break,
            }
            at += 1;
            if !is_path_separator(tokens, at) {
                break;
            }
            at += 2;
        }
        if path.is_empty() {
            return at + 1;
        }
        if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
            path.pop();
        }
        let path = absolute(module, path);
        if is_use {
            let alias = match (tokens.get(at), tokens.get(at + 1)) {
                (Some(TokenTree::Ident(word)), Some(TokenTree::Ident(alias))) if *word == "as" => alias.to_string(),
                _ => path.last().cloned().unwrap_or_default(),
            };
            self.imports.insert(alias, path.clone());
        }
        self.named.push((path, line));
        at
    }

    /// Reads what is between the braces of a `use`.
    fn read_branches(&mut self, module: &[String], before: &[String], branches: TokenStream) {
        let tokens: Vec<TokenTree> = branches.into_iter().collect();
        for branch in tokens.split(|token| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ',')) {
            if !branch.is_empty() {
                self.read_tree(module, before, true, branch, 0);
            }
        }
    }
}

/// `crate`, `self` and `super` replaced by what they stand for.
fn absolute(module: &[String], path: Vec<String>) -> Vec<String> {
    let mut base = match path[0].as_str() {
        "crate" => return [&module[..1], &path[1..]].concat(),
        "self" | "super" if path.len() > 1 => module.to_vec(),
        _ => return path,
    };
    let relative = path.iter().take_while(|segment| matches!(segment.as_str(), "self" | "super")).count();
    for _ in path[..relative].iter().filter(|segment| *segment == "super") {
        base.pop();
    }
    [&base, &path[relative..]].concat()
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    let is_colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    is_colon(at) && is_colon(at + 1)
}

/// Whether the word is a field or a method: `.name`.
fn is_member(tokens: &[TokenTree], at: usize) -> bool {
    at > 0 && matches!(&tokens[at - 1], TokenTree::Punct(dot) if dot.as_char() == '.')
}

/// The file that an attribute `path = "…"` names.
fn path_attribute(attribute: &TokenTree) -> Option<String> {
    let TokenTree::Group(group) = attribute else { return None };
    let text = group.stream().to_string();
    let file = text.strip_prefix("path")?.trim_start().strip_prefix('=')?;
    Some(file.trim().trim_matches('"').to_owned())
}

fn is_cfg_test(attribute: Option<&TokenTree>) -> bool {
    matches!(attribute, Some(TokenTree::Group(group)) if group.stream().to_string().replace(' ', "") == "cfg(test)")
}

/// Behind an item: behind its `;` or its body.
fn end_of_item(tokens: &[TokenTree], from: usize) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Punct(punct) => punct.as_char() == ';',
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        _ => false,
    };
    tokens[from..].iter().position(ends).map_or(tokens.len(), |end| from + end + 1)
}

#[test]
fn a_path_is_seen_however_it_is_written() {
    let module = ["tocsin", "api", "rest"].map(str::to_owned);
    let check = |text: &str, expect: &[&str]| {
        let paths: Vec<String> = read_text(&module, text).0.into_iter().map(|name| name.path).collect();
        for path in expect {
            assert!(paths.iter().any(|p| p == path), "{text}: {path} is not among {paths:?}");
        }
    };
    check(
        "use crate::bus::{self, Bus, embedded::{Log as L, *}};",
        &["tocsin::bus", "tocsin::bus::Bus", "tocsin::bus::embedded::Log", "tocsin::bus::embedded::*"],
    );
    check("use super::super::store; fn f() { store::rows::x() }", &["tocsin::store", "tocsin::store::rows::x"]);
    check("use crate::bus as b; type T = Vec<b::EmbeddedBus>;", &["tocsin::bus::EmbeddedBus"]);
    check("fn f() -> Result<(), sqlx::Error> { select! { _ = fjall::open() => {} } }", &["sqlx::Error", "fjall::open"]);
    check("#[derive(sqlx::FromRow)] struct R;", &["sqlx::FromRow"]);
    check("fn f() -> impl Fn() + use<> { sqlx::query() }", &["sqlx::query"]);
    check("use ::tonic::Status; mod inner { use super::x; }", &["tonic::Status", "tocsin::api::rest::x"]);
}

#[test]
fn comments_strings_and_tests_name_nothing() {
    let text = r#"
        // sqlx::a
        const S: &str = "sqlx::b";
        #[cfg(test)]
        mod tests { use sqlx::c; }
        #[cfg(test)]
        use sqlx::d;
        #[cfg(test)]
        mod file_of_tests;
        mod file;
        #[path = "elsewhere/name.rs"]
        mod moved;
        fn f(x: X) { x.sqlx(); }
    "#;
    let (names, declared) = read_text(&["tocsin".into()], text);
    assert!(names.iter().all(|name| !name.path.contains("sqlx")), "{names:?}");
    let declared: Vec<_> = declared.iter().map(|module| (module.name.as_str(), module.file.as_deref())).collect();
    assert_eq!(declared, [("file", None), ("moved", Some("elsewhere/name.rs"))]);
}
