//! Profiles: what machines and models take, cost and draw, each number with where it is from.
//!
//! A profile is a TOML file about one machine, with the models that it drafts with and those that it serves. A machine has the
//! name of its file; a model on it is called `MACHINE/MODEL`, such as `pi-5/1b-4bit` or `a100x4/70b-16bit`.

mod number;
mod target;
mod write;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

pub use number::{Entry, Mark, Number};
pub use target::{PassTime, Points, Target};

use crate::Error;

/// A machine, and what models do on it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it is, for people.
    pub title: String,
    /// What it draws while it computes, in watts.
    pub watts: Option<Number>,
    /// What it costs to buy, in US dollars.
    pub price_usd: Option<Number>,
    /// What it costs to rent, in US dollars an hour.
    pub rent_usd_per_hour: Option<Number>,
    /// The memory that holds weights and KV cache, in GiB.
    pub memory_gib: Option<Number>,
    /// The models that draft on it.
    #[serde(default)]
    pub drafters: BTreeMap<String, Drafter>,
    /// The models that it serves.
    #[serde(default)]
    pub targets: BTreeMap<String, Target>,
}

/// A model that drafts on a machine.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drafter {
    /// What it is, for people.
    pub title: String,
    /// How many tokens a second it drafts.
    pub tokens_per_s: Number,
}

impl Drafter {
    /// The time that a draft takes.
    #[must_use]
    pub fn draft_time(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.tokens_per_s.value)
    }
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// If the file cannot be read, has a key that means nothing, lacks one, or a number is out of range or without a source.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let at = |reason: String| Error::Profile { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| at(error.to_string()))?;
        Self::parse(&text).map_err(at)
    }

    /// Reads a profile from its text.
    fn parse(text: &str) -> Result<Self, String> {
        let profile: Self = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        match profile.drafters.iter().find(|(_, drafter)| drafter.tokens_per_s.value <= 0.0) {
            Some((name, _)) => Err(format!("`tokens_per_s` of the drafter `{name}` must be above 0")),
            None => Ok(profile),
        }
    }

    /// Every number in it, by its name in the file.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry<'_>> {
        let mut entries = Vec::new();
        for (key, number) in self.of_machine() {
            entries.extend(number.map(|number| Entry::new(key.to_owned(), number)));
        }
        for (name, drafter) in &self.drafters {
            entries.push(Entry::new(format!("drafters.{name}.tokens_per_s"), &drafter.tokens_per_s));
        }
        for (name, target) in &self.targets {
            entries.extend(target.entries(&format!("targets.{name}")));
        }
        entries
    }

    fn of_machine(&self) -> [(&'static str, Option<&Number>); 4] {
        [
            ("watts", self.watts.as_ref()),
            ("price_usd", self.price_usd.as_ref()),
            ("rent_usd_per_hour", self.rent_usd_per_hour.as_ref()),
            ("memory_gib", self.memory_gib.as_ref()),
        ]
    }
}

/// The profiles of a folder, by name.
#[derive(Clone, Debug)]
pub struct Profiles(BTreeMap<String, Profile>);

impl Profiles {
    /// Reads every `*.toml` of `folder`.
    ///
    /// # Errors
    /// If the folder cannot be read, or one of the files is no profile.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let at = |error: std::io::Error| Error::Profile { path: folder.to_owned(), reason: error.to_string() };
        let mut profiles = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(at)? {
            let path = entry.map_err(at)?.path();
            if let (Some("toml"), Some(name)) =
                (path.extension().and_then(|ext| ext.to_str()), path.file_stem().and_then(|stem| stem.to_str()))
            {
                profiles.insert(name.to_owned(), Profile::load(&path)?);
            }
        }
        Ok(Self(profiles))
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Profile)> {
        self.0.iter().map(|(name, profile)| (name.as_str(), profile))
    }

    /// The machine of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn machine(&self, name: &str) -> Result<&Profile, Error> {
        self.0.get(name).ok_or_else(|| unknown("machine", name, self.0.keys().cloned()))
    }

    /// The drafter `MACHINE/MODEL`, and its machine.
    ///
    /// # Errors
    /// If there is none.
    pub fn drafter(&self, name: &str) -> Result<(&Profile, &Drafter), Error> {
        self.find("drafter", name, |profile| &profile.drafters)
    }

    /// The target `MACHINE/MODEL`, and its machine.
    ///
    /// # Errors
    /// If there is none.
    pub fn target(&self, name: &str) -> Result<(&Profile, &Target), Error> {
        self.find("target", name, |profile| &profile.targets)
    }

    fn find<'a, T>(
        &'a self,
        what: &'static str,
        name: &str,
        models: impl Fn(&'a Profile) -> &'a BTreeMap<String, T>,
    ) -> Result<(&'a Profile, &'a T), Error> {
        let found = name.split_once('/').and_then(|(machine, model)| {
            let profile = self.0.get(machine)?;
            Some((profile, models(profile).get(model)?))
        });
        found.ok_or_else(|| {
            let known = self
                .0
                .iter()
                .flat_map(|(machine, profile)| models(profile).keys().map(move |model| format!("{machine}/{model}")));
            unknown(what, name, known)
        })
    }
}

fn unknown(what: &'static str, name: &str, known: impl Iterator<Item = String>) -> Error {
    Error::UnknownProfile { what, name: name.to_owned(), known: known.collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn committed() -> Profiles {
        Profiles::load(&Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../profiles")).unwrap()
    }

    #[test]
    fn every_committed_number_says_where_it_is_from() {
        let profiles = committed();
        for (name, profile) in profiles.iter() {
            let entries = profile.entries();
            assert!(!entries.is_empty(), "{name} has no numbers");
            for Entry { key, source, .. } in entries {
                assert!(source.len() > 10, "{name}: {key} has no source");
            }
        }
        for machine in ["pi-4b", "pi-5", "orin-nano"] {
            for model in ["1b", "3b"] {
                let rate = |bits| {
                    let name = format!("{machine}/{model}-{bits}bit");
                    profiles.drafter(&name).unwrap().1.tokens_per_s.value
                };
                assert!(rate(16) < rate(8) && rate(8) < rate(4), "{machine} {model}");
            }
            let machine = profiles.machine(machine).unwrap();
            assert!(machine.watts.is_some() && machine.price_usd.is_some());
        }
        for model in ["11b", "70b"] {
            let step = |bits| {
                let name = format!("a100x4/{model}-{bits}bit");
                profiles.target(&name).unwrap().1.pass(1, 0)
            };
            assert!(step(16) > step(8) && step(8) > step(4), "{model}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        for (name, profile) in committed().iter() {
            assert_eq!(Profile::parse(&profile.to_toml()).as_ref(), Ok(profile), "{name}");
        }
    }

    #[test]
    fn names_that_are_not_there_are_answered_with_those_that_are() {
        let message = |error: Error| error.to_string();
        let profiles = committed();
        let known = message(profiles.drafter("pi-5/2b-4bit").unwrap_err());
        assert!(known.contains("`pi-5/2b-4bit`") && known.contains("pi-5/3b-4bit"), "{known}");
        let known = message(profiles.target("a100x4").unwrap_err());
        assert!(known.contains("a100x4/70b-16bit"), "{known}");
        assert!(message(profiles.machine("pi-3").unwrap_err()).contains("pi-4b"));
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        let number = |value: &str| format!("{{ value = {value}, mark = 'measured', source = 'a test of it' }}");
        let read = |text: String| Profile::parse(&format!("title = 'x'\n{text}"));
        let refused = |text: String, because: &str| {
            let reason = read(text).unwrap_err();
            assert!(reason.contains(because), "{reason}");
        };
        assert!(read(format!("watts = {}", number("5"))).is_ok());
        refused(format!("wats = {}", number("5")), "wats");
        refused("watts = { value = 5, mark = 'guessed', source = 'a test of it' }".to_owned(), "guessed");
        refused("watts = { value = 5, mark = 'assumed', source = ' ' }".to_owned(), "source");
        refused("watts = { value = 5, mark = 'assumed' }".to_owned(), "source");
        refused(format!("watts = {}", number("-1")), "-1");
        refused(format!("watts = {}", number("nan")), "NaN");
        refused(format!("[drafters.d]\ntitle = 'd'\ntokens_per_s = {}", number("0")), "`d`");
        let target = |text: String| format!("[targets.t]\ntitle = 't'\n{text}");
        refused(target(format!("fixed_ms = {}", number("5"))), "row_ms");
        let line = format!("fixed_ms = {}\nrow_ms = {}", number("5"), number("1"));
        assert!(read(target(line.clone())).is_ok());
        refused(target(format!("{line}\npoints = {}", number("[[1, 5], [2, 6]]"))), "points");
        refused(target(format!("points = {}", number("[[1, 5]]"))), "two");
        refused(target(format!("points = {}", number("[[2, 5], [1, 6]]"))), "rise");
    }
}
