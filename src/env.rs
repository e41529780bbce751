//! Reads variables, and gathers all problems and warnings. The only reader of the environment.
//!
//! People paste: a whole address instead of an origin, `Bearer ` before a token, commas in a number. A value
//! with one safe reading is accepted; an unsafe one is refused. All problems are reported at once, by the
//! names of the variables and never with a value.

pub mod doc;
pub mod parse;
pub mod typos;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fmt::{self, Display};

use typos::Names;

use crate::route::Route;

/// One variable.
pub struct Setting<'a> {
    pub name: String,
    pub value: Option<&'a str>,
}

impl<'a> Setting<'a> {
    pub fn or_default(self, default: &'a str) -> Setting<'a> {
        Setting { value: self.value.or(Some(default)), ..self }
    }

    /// Returns the other one, if there is one and this one is not set.
    pub fn or(self, other: Option<Setting<'a>>) -> Setting<'a> {
        other.filter(|_| self.value.is_none()).unwrap_or(self)
    }
}

/// Makes one list of variables into three things: the struct that envy fills, a method for each variable, and `DOCS`,
/// from which `casebridge settings` makes the documents. Each entry has the variable's meaning, its name, and further
/// documentation, such as the default ([`doc`]).
macro_rules! variables {
    (
        $(#[$doc:meta])* $group:ident:
        $($(#[doc = $text:literal])* $name:ident = $entry:expr;)*
    ) => {
        $(#[$doc])*
        #[derive(Default, serde::Deserialize)]
        pub struct $group {
            #[serde(skip)]
            prefix: String,
            /// The variables of all routes, if these are those of one.
            #[serde(skip)]
            common: Option<Box<$group>>,
            $($(#[doc = $text])* pub $name: Option<String>,)*
        }

        impl $group {
            /// The documentation of all variables.
            pub const DOCS: &[$crate::env::doc::Doc] = {
                use $crate::env::doc::*;
                &[$($entry.named(stringify!($name), concat!($($text, "\n"),*))),*]
            };

            /// Reads the variables whose names begin with `prefix`.
            pub fn read(reader: &mut $crate::env::Reader, prefix: &str) -> $group {
                let values = reader.values(prefix, Self::names());
                // Every field is an optional string, so this cannot fail.
                let group = envy::from_iter(values).unwrap_or_default();
                $group { prefix: prefix.to_owned(), ..group }
            }

            /// Reads the variables of a route. Those that it does not set are those of all routes.
            #[allow(dead_code, reason = "some groups do not need it")]
            pub fn read_for(reader: &mut $crate::env::Reader, route: &$crate::route::Route, prefix: &str) -> $group {
                let common = $group::read(reader, prefix);
                match route.prefix.as_str() {
                    "" => common,
                    own => {
                        let own = $group::read(reader, &format!("{own}{prefix}"));
                        $group { common: Some(Box::new(common)), ..own }
                    }
                }
            }

            /// Returns the variables of the route if `is_set` holds for them, and otherwise those of all routes:
            /// variables that exclude each other come from one place.
            #[allow(dead_code, reason = "some groups do not need it")]
            pub fn own_if(&self, is_set: impl Fn(&$group) -> bool) -> &$group {
                self.common.as_deref().filter(|_| !is_set(self)).unwrap_or(self)
            }

            /// All names, without the prefix.
            pub fn names() -> impl Iterator<Item = String> {
                Self::DOCS.iter().map($crate::env::doc::Doc::name)
            }

            /// Whether any of them has a value.
            #[allow(dead_code, reason = "some groups do not need it")]
            pub fn is_any_set(&self) -> bool {
                [$(self.$name.is_some()),*].contains(&true)
            }

            $(pub fn $name(&self) -> $crate::env::Setting<'_> {
                let name = format!("{}{}", self.prefix, $crate::env::upper(stringify!($name)));
                let own = $crate::env::Setting { name, value: self.$name.as_deref() };
                own.or(self.common.as_ref().map(|common| common.$name()))
            })*
        }
    };
}

pub(crate) use variables;

/// Returns the name of the variable whose value the field holds.
pub fn upper(field: &str) -> String {
    field.trim_start_matches("r#").to_uppercase()
}

/// All problems of the configuration: variables and reasons, never values.
#[derive(Debug)]
pub struct Problems(Vec<String>);

impl std::error::Error for Problems {}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the problems; each names its variable.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} problem{}:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

#[derive(Default)]
pub struct Reader {
    pub vars: HashMap<OsString, OsString>,
    pub problems: Vec<String>,
    pub warnings: Vec<String>,
    /// Warnings of names that look like ours. If there are other problems, these become problems, too, since they may
    /// be the cause.
    pub hints: Vec<String>,
}

/// The variables of this process.
#[allow(clippy::disallowed_methods, reason = "this is where the environment is read")]
pub fn variables_of_process() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
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

    pub fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    /// Whether any of these variables has a value.
    pub fn is_any_set(&mut self, names: impl Iterator<Item = String>) -> bool {
        !self.values("", names).is_empty()
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

    /// Reads the settings of each route that goes to `destination`, by the route's name. `None`: there is a problem.
    pub fn by_route<T>(
        &mut self,
        routes: &[Route],
        destination: &str,
        read: impl Fn(&mut Reader, &Route) -> Option<T>,
    ) -> Option<BTreeMap<String, T>> {
        if routes.is_empty() {
            // There is another problem. Those of the common settings are reported with it.
            read(self, &Route::default());
        }
        let routes = routes.iter().filter(|route| route.goes_to(destination));
        let settings: Vec<_> = routes.map(|route| Some((route.name.clone(), read(self, route)?))).collect();
        self.drop_repeated();
        settings.into_iter().collect()
    }

    /// Returns a setting of the tutorial. If it is not set, its value comes from the 2017 example's name for it.
    pub fn aliased<'a>(&mut self, setting: Setting<'a>, old: Setting<'a>) -> Setting<'a> {
        if setting.value.is_none() && old.value.is_some() {
            self.warnings
                .push(format!("{} is the 2017 example's name: rename it to {}", old.name, setting.name));
            return Setting { value: old.value, ..setting };
        }
        setting
    }

    /// Reads two variables that make sense only together. The outer `None`: one of them is missing.
    pub fn pair<'a>(&mut self, one: Setting<'a>, two: Setting<'a>) -> Option<Option<(&'a str, &'a str)>> {
        match (one.value, two.value) {
            (None, None) => Some(None),
            (Some(one), Some(two)) => Some(Some((one, two))),
            (one_value, _) => {
                let (set, missing) = if one_value.is_some() { (one, two) } else { (two, one) };
                let (set, missing) = (set.name, missing.name);
                self.problems.push(format!("{missing} is not set, but {set} is: set both or neither"));
                None
            }
        }
    }

    /// Warns of secrets that are accepted, as by earlier versions, but should be replaced.
    pub fn warn_of_short(&mut self, name: &str, secrets: &[secrecy::SecretString]) {
        if secrets.iter().any(parse::is_short_secret) {
            self.warnings.push(format!(
                "{name} is shorter than 24 characters: replace it with a stronger one (openssl rand -hex 32)"
            ));
        }
    }

    /// Finds names that were probably meant as ours.
    pub fn find_typos(&mut self, names: &Names) {
        let set = self.vars.iter().filter(|(_, value)| !value.is_empty());
        let mut hints: Vec<String> =
            set.filter_map(|(name, _)| name.to_str()).filter_map(|name| typos::of(name, names)).collect();
        hints.sort_unstable();
        self.hints.extend(hints);
    }

    /// Drops repeated problems: several routes or destinations may have read the same setting.
    pub fn drop_repeated(&mut self) {
        for list in [&mut self.problems, &mut self.warnings] {
            let mut known = HashSet::new();
            list.retain(|text| known.insert(text.clone()));
        }
    }

    /// Returns the warnings and the problems.
    pub fn finish(mut self) -> (Vec<String>, Problems) {
        let target = if self.problems.is_empty() { &mut self.warnings } else { &mut self.problems };
        target.append(&mut self.hints);
        (self.warnings, Problems(self.problems))
    }
}
