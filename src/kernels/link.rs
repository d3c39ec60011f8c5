//! Joins the text of a kernel from the files that it imports.
//!
//! ```text
//! #import step/place.wgsl                     the file, once in a kernel
//! #import step/{ring,immediate}.wgsl          one of the files, which the host chooses
//! #import planes/{wide,narrow}.wgsl as key    the file under a name: side_ becomes key_, and SIDE_ becomes KEY_
//! #import source/none.wgsl as key, value      the file once under each name
//! #import words/whole.wgsl as side            in a file that is under a name itself: under the same
//! #import layer.wgsl as layer_*               under layer_0, layer_1, and so on, as many as the host says
//! ```
//!
//! Paths are relative to the file. The host chooses by the path in `shaders/` without the braces (`format/pack` for
//! `../format/{q8_0,q4_0}/pack.wgsl`) and by the name. A file that is imported twice under one name is joined once.
//!
//! Numbers that shape no type are `override` declarations of the files, for which the host gives values to the
//! pipeline: kernels that differ in nothing else share a module.
//!
//! WESL and `naga_oil` were tried on the scatter kernel of a cache of `q8_0` keys and `q4_0` values. Neither has a
//! module that is instantiated twice, so the host would still replace names in texts: in WESL by mounting each file
//! twice, in `naga_oil` by registering it twice. A definition for one of the two instances reaches both, and made
//! `naga_oil` build a wrong kernel that is valid. There are thousands of variants, so texts cannot be linked before the
//! crate is published, and everyone who embeds it would compile the linker: 46 more crates for WESL, 12 for `naga_oil`.
//! Both drop comments and change names, which a log of a driver then shows.

use std::{borrow::Cow, collections::HashSet};

use super::files;

/// What the host says of a kernel.
pub(crate) struct Link<'a> {
    /// The file to take, by the path without the alternatives and by the name.
    pub choose: &'a dyn Fn(&str, &str) -> &'static str,
    /// What stands before the first file under a name.
    pub prelude: &'a dyn Fn(&str) -> String,
    /// How many names `*` stands for.
    pub repeats: u32,
}

/// A choice that no file of the kernel asks for.
pub(crate) fn no_choice(choice: &str, name: &str) -> &'static str {
    unreachable!("no file is chosen for {choice} of {name}")
}

/// No text before a file.
pub(crate) fn no_prelude(_: &str) -> String {
    String::new()
}

impl Link<'_> {
    /// The joined text of a file.
    pub fn text(&self, path: &str) -> String {
        let mut joined = Joined { link: self, text: (self.prelude)(""), files: HashSet::new(), names: HashSet::new() };
        joined.file(path, "");
        joined.text
    }
}

/// A text that is being joined.
struct Joined<'a> {
    link: &'a Link<'a>,
    text: String,
    /// Files that were joined, with their names.
    files: HashSet<(String, String)>,
    names: HashSet<String>,
}

impl Joined<'_> {
    fn file(&mut self, path: &str, name: &str) {
        if !self.files.insert((path.to_owned(), name.to_owned())) {
            return;
        }
        if !name.is_empty() && self.names.insert(name.to_owned()) {
            self.text.push_str(&named(&(self.link.prelude)(name), name));
        }
        let mut own = String::new();
        for line in files::text(path).lines() {
            let Some(import) = Import::parse(line) else {
                own.push_str(line);
                own.push('\n');
                continue;
            };
            for named in import.names(self.link.repeats) {
                let name = if named == "side" { name } else { &named.replace("side_", &format!("{name}_")) };
                let file = import.file(path, |choice| (self.link.choose)(choice, name));
                self.file(&file, name);
            }
        }
        self.text.push_str(&named(&own, name));
    }
}

/// An import of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Import<'a> {
    pub path: &'a str,
    names: &'a str,
}

impl<'a> Import<'a> {
    pub fn parse(line: &'a str) -> Option<Self> {
        let import = line.strip_prefix("#import ")?;
        let (path, names) = import.split_once(" as ").unwrap_or((import, ""));
        Some(Import { path, names })
    }

    /// The names under which the file is joined.
    fn names(&self, repeats: u32) -> Vec<String> {
        match self.names.split_once('*') {
            Some((before, _)) => (0..repeats).map(|index| format!("{before}{index}")).collect(),
            None => self.names.split(", ").map(str::to_owned).collect(),
        }
    }

    /// What stands before the alternatives, the alternatives, and what stands after them.
    pub fn alternatives(&self) -> Option<(&'a str, Vec<&'a str>, &'a str)> {
        let (before, rest) = self.path.split_once('{')?;
        let (alternatives, after) = rest.split_once('}')?;
        Some((before, alternatives.split(',').collect(), after))
    }

    /// The path of the file from that of the importing one: `choose` takes one of the alternatives.
    fn file(&self, from: &str, choose: impl FnOnce(&str) -> &'static str) -> String {
        let Some((before, alternatives, after)) = self.alternatives() else { return beside(from, self.path) };
        let folder = beside(from, before.trim_end_matches('/'));
        let chosen = choose(&format!("{folder}{}", after.trim_end_matches(".wgsl")));
        assert!(alternatives.contains(&chosen), "{chosen} is none of {} in {from}", self.path);
        beside(from, &format!("{before}{chosen}{after}"))
    }
}

/// The path of a file from that of another.
pub(super) fn beside(path: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in relative.split('/') {
        match part {
            "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A text under a name.
fn named<'a>(text: &'a str, name: &str) -> Cow<'a, str> {
    if name.is_empty() {
        return text.into();
    }
    let upper = name.to_ascii_uppercase();
    let side = text.replace("side_", &format!("{name}_")).replace("SIDE_", &format!("{upper}_"));
    side.replace("fn side(", &format!("fn {name}(")).into()
}
