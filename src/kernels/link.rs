//! Links the WGSL of a kernel: a file, and the files that it imports.
//!
//! ```text
//! #import step/place.wgsl                     includes the file, once per kernel
//! #import step/{ring,immediate}.wgsl          includes one of the files; the host chooses which
//! #import planes/{wide,narrow}.wgsl as key    includes the file under a name: side_ becomes key_, SIDE_ becomes KEY_
//! #import source/none.wgsl as key, value      includes the file once under each name
//! #import words/whole.wgsl as side            in a file that has a name itself: includes it under the same name
//!
//! #for row in ROWS                            repeats the lines up to #end for each number below ROWS:
//! sums_{row} += {row}u;                       sums_0 += 0u; sums_1 += 1u; and so on
//! #end
//! ```
//!
//! Paths are relative to the importing file. The host chooses by the path below `shaders/` without the braces
//! (`format/pack` for `../format/{q8_0,q4_0}/pack.wgsl`) and by the name. A file that is imported twice under one name
//! is included once.
//!
//! The host gives the number of repetitions. Kernels repeat lines instead of looping where an array must stay in
//! registers, or several loads must be in flight: wgpu adds a counter to every loop, and few drivers unroll it then.
//!
//! Numbers that do not determine a type are `override` declarations, and the host passes their values to the pipeline,
//! so kernels that differ only in such numbers share a shader module.
//!
//! WESL and `naga_oil` were tried on the scatter kernel of a cache with `q8_0` keys and `q4_0` values. Neither can
//! instantiate a module twice, so the host would still have to rename identifiers: in WESL by mounting each file twice,
//! in `naga_oil` by registering it twice. A definition meant for one of the two instances reaches both; with
//! `naga_oil` this built a kernel that was valid and wrong. There are thousands of variants, so they cannot be linked
//! before the crate is published, and everyone who depends on the crate would compile the linker: 46 more crates for
//! WESL, 12 for `naga_oil`. Both drop comments and rename identifiers, which makes a driver's log harder to read.

use std::{borrow::Cow, collections::HashSet};

use super::files;

/// The host's choices for one kernel.
pub(crate) struct Link<'a> {
    /// Returns which alternative to include, given the path without the braces and the name.
    pub choose: &'a dyn Fn(&str, &str) -> &'static str,
    /// Returns the text to insert before the first file under a name. The empty name is that of the whole kernel.
    pub prelude: &'a dyn Fn(&str) -> String,
    /// Returns the number of repetitions for the word after `in`.
    pub count: &'a dyn Fn(&str) -> u32,
}

/// Panics for a choice that no file of the kernel asks for.
pub(crate) fn no_choice(choice: &str, name: &str) -> &'static str {
    unreachable!("no file is chosen for {choice} of {name}")
}

/// The prelude of kernels that need none.
pub(crate) fn no_prelude(_: &str) -> String {
    String::new()
}

/// Panics for a number of repetitions that no file of the kernel asks for.
pub(crate) fn no_count(word: &str) -> u32 {
    unreachable!("no number is given for {word}")
}

impl Link<'_> {
    /// Returns the text of a file with all its imports included.
    pub fn text(&self, path: &str) -> String {
        let mut joined = Joined { link: self, text: (self.prelude)(""), files: HashSet::new(), names: HashSet::new() };
        joined.file(path, "");
        joined.text
    }
}

/// The state of one call of [`Link::text`].
struct Joined<'a> {
    link: &'a Link<'a>,
    text: String,
    /// Files included so far, each with the name that it was included under.
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
        for line in repeated(files::text(path), self.link.count).lines() {
            let Some(import) = Import::parse(line) else {
                own.push_str(line);
                own.push('\n');
                continue;
            };
            for named in import.names() {
                let name = if named == "side" { name } else { &named.replace("side_", &format!("{name}_")) };
                let file = import.file(path, |choice| (self.link.choose)(choice, name));
                self.file(&file, name);
            }
        }
        self.text.push_str(&named(&own, name));
    }
}

/// Returns a text with the lines of each `#for` repeated.
fn repeated<'a>(text: &'a str, count: &dyn Fn(&str) -> u32) -> Cow<'a, str> {
    let Some((before, rest)) = text.split_once("#for ") else { return text.into() };
    let (head, rest) = rest.split_once('\n').unwrap_or((rest, ""));
    let (word, number) = head.split_once(" in ").unwrap_or_else(|| unreachable!("#for {head} names no number"));
    // Where the lines end: at the `#end` that is not of a `#for` within.
    let mut depth = 1u32;
    let mut at = 0usize;
    for line in rest.split_inclusive('\n') {
        if line.starts_with("#for ") {
            depth = depth.saturating_add(1);
        } else if line.trim_end() == "#end" {
            depth = depth.saturating_sub(1);
        }
        if depth == 0 {
            break;
        }
        at = at.saturating_add(line.len());
    }
    let (lines, after) = rest.split_at(at);
    let after = after.strip_prefix("#end").unwrap_or_else(|| unreachable!("#for {head} has no #end"));
    let mark = format!("{{{word}}}");
    let turns: String = (0..count(number)).map(|turn| lines.replace(&mark, &turn.to_string())).collect();
    let after = after.strip_prefix('\n').unwrap_or(after);
    format!("{before}{}{}", repeated(&turns, count), repeated(after, count)).into()
}

/// A parsed `#import` line.
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

    /// Returns the names under which the file is included.
    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.names.split(", ")
    }

    /// Splits the path into the part before the braces, the alternatives in them, and the part after them.
    pub fn alternatives(&self) -> Option<(&'a str, Vec<&'a str>, &'a str)> {
        let (before, rest) = self.path.split_once('{')?;
        let (alternatives, after) = rest.split_once('}')?;
        Some((before, alternatives.split(',').collect(), after))
    }

    /// Resolves the path of the imported file against `from`, the importing file. `choose` picks one of the
    /// alternatives.
    fn file(&self, from: &str, choose: impl FnOnce(&str) -> &'static str) -> String {
        let Some((before, alternatives, after)) = self.alternatives() else { return beside(from, self.path) };
        let folder = beside(from, before.trim_end_matches('/'));
        let chosen = choose(&format!("{folder}{}", after.trim_end_matches(".wgsl")));
        assert!(alternatives.contains(&chosen), "{chosen} is none of {} in {from}", self.path);
        beside(from, &format!("{before}{chosen}{after}"))
    }
}

/// Resolves `relative` against the folder of the file `path`.
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

/// Renames the identifiers of a text for its name.
fn named<'a>(text: &'a str, name: &str) -> Cow<'a, str> {
    if name.is_empty() {
        return text.into();
    }
    let upper = name.to_ascii_uppercase();
    let side = text.replace("side_", &format!("{name}_")).replace("SIDE_", &format!("{upper}_"));
    side.replace("fn side(", &format!("fn {name}(")).into()
}
