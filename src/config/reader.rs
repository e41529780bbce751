//! Reads settings from the environment, and gathers all problems and warnings.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Display;

use super::variables::Setting;
use super::{Problems, Reference, parse, typos};

#[derive(Default)]
pub struct Reader {
    pub vars: HashMap<OsString, OsString>,
    pub problems: Vec<String>,
    pub warnings: Vec<String>,
    /// Warnings of names that look like ours. With other problems they are problems, since they may be the
    /// cause.
    pub hints: Vec<String>,
    pub references: Vec<Reference>,
}

impl Reader {
    pub fn new(vars: impl Iterator<Item = (OsString, OsString)>) -> Reader {
        Reader { vars: vars.collect(), ..Reader::default() }
    }

    /// Returns the set variables of these names, without `prefix`; an empty one counts as not set. envy alone
    /// would panic on a variable that is not UTF-8, and take an empty one for a value.
    pub fn values(&mut self, prefix: &str, names: impl Iterator<Item = String>) -> Vec<(String, String)> {
        let mut values = Vec::new();
        for name in names {
            let full = format!("{prefix}{name}");
            match self.vars.get(&OsString::from(&full)).map(|value| value.to_str()) {
                None => {}
                Some(None) => self.problems.push(format!("{full} is not valid UTF-8")),
                Some(Some(value)) => match parse::unquoted(value) {
                    "" => {}
                    value => values.push((name, value.to_owned())),
                },
            }
        }
        values
    }

    pub fn optional<T, E: Display>(
        &mut self,
        setting: Setting,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let parsed = parse(setting.value?);
        parsed.map_err(|reason| self.problems.push(format!("{} {reason}", setting.name))).ok()
    }

    pub fn or<T, E: Display>(
        &mut self,
        setting: Setting,
        default: T,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        self.optional(setting, parse).unwrap_or(default)
    }

    pub fn required<T, E: Display>(
        &mut self,
        setting: Setting,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        if setting.value.is_none() {
            self.problems.push(format!("{} is not set", setting.name));
        }
        self.optional(setting, parse)
    }

    /// Returns a setting of the tutorial, or its value under the name that the 2017 example reads.
    pub fn aliased<'a>(&mut self, setting: Setting<'a>, old: Setting<'a>) -> Setting<'a> {
        if setting.value.is_none() && old.value.is_some() {
            self.warnings.push(format!("{} is the 2017 example's name: call it {}", old.name, setting.name));
            return Setting { value: old.value, ..setting };
        }
        setting
    }

    /// Finds names that were probably meant as ours.
    pub fn find_typos(&mut self) {
        let set = self.vars.iter().filter(|(_, value)| !value.is_empty());
        let mut hints: Vec<String> =
            set.filter_map(|(name, _)| name.to_str()).filter_map(typos::of).collect();
        hints.sort_unstable();
        self.hints.extend(hints);
    }

    /// Returns the warnings and the problems.
    pub fn finish(mut self) -> (Vec<String>, Problems) {
        let target = if self.problems.is_empty() { &mut self.warnings } else { &mut self.problems };
        target.append(&mut self.hints);
        (self.warnings, Problems(self.problems))
    }
}
