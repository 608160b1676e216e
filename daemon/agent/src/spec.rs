//! Which controllers there are, by value: what a configuration or a replay chooses from. It owns their names and how
//! each is written.

use super::contrary::Contrary;
use super::controller::Controller;
use super::explore::Explore;
use super::rules::{Off, Rules, Schedule};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Which controller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ControllerSpec {
    /// Explainable rules.
    #[default]
    Rules,
    /// A language model behind an OpenAI-compatible endpoint.
    Llm,
    /// A trained classifier, from this file.
    Classifier(PathBuf),
    /// A replacement every N windows.
    Schedule(u64),
    /// Decisions drawn with this seed, to collect what classifiers learn from.
    Explore(u64),
    /// Always wrong, to hold the guard against.
    Contrary,
    /// No controller.
    Off,
}

impl ControllerSpec {
    /// The controller, if it needs nothing but its name.
    #[must_use]
    pub fn simple(&self) -> Option<Box<dyn Controller>> {
        match self {
            ControllerSpec::Rules => Some(Box::new(Rules)),
            ControllerSpec::Schedule(every) => Some(Box::new(Schedule { every: *every })),
            ControllerSpec::Explore(seed) => Some(Box::new(Explore { seed: *seed })),
            ControllerSpec::Contrary => Some(Box::new(Contrary)),
            ControllerSpec::Off => Some(Box::new(Off)),
            ControllerSpec::Llm | ControllerSpec::Classifier(_) => None,
        }
    }
}

const FORMS: &str = "`rules`, `llm`, `classifier:FILE`, `schedule:N`, `explore:SEED`, `contrary` or `off`";

impl FromStr for ControllerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a controller: write {FORMS}");
        match (text, text.split_once(':')) {
            ("rules", _) => Ok(Self::Rules),
            ("llm", _) => Ok(Self::Llm),
            ("off", _) => Ok(Self::Off),
            ("contrary", _) => Ok(Self::Contrary),
            (_, Some(("classifier", file))) if !file.is_empty() => Ok(Self::Classifier(PathBuf::from(file))),
            (_, Some(("schedule", every))) => {
                every.parse().ok().filter(|&every| every > 0).map(Self::Schedule).ok_or_else(wrong)
            }
            (_, Some(("explore", seed))) => seed.parse().map(Self::Explore).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for ControllerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules => f.write_str("rules"),
            Self::Llm => f.write_str("llm"),
            Self::Classifier(file) => write!(f, "classifier:{}", file.display()),
            Self::Schedule(every) => write!(f, "schedule:{every}"),
            Self::Explore(seed) => write!(f, "explore:{seed}"),
            Self::Contrary => f.write_str("contrary"),
            Self::Off => f.write_str("off"),
        }
    }
}

impl Serialize for ControllerSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ControllerSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_read_what_they_print() {
        for text in ["rules", "llm", "off", "contrary", "schedule:5", "explore:7", "classifier:/etc/rudder/model.json"]
        {
            assert_eq!(text.parse::<ControllerSpec>().unwrap().to_string(), text);
        }
        for wrong in ["", "rule", "schedule", "schedule:0", "schedule:x", "explore:", "explore:-1", "classifier:"] {
            assert!(wrong.parse::<ControllerSpec>().unwrap_err().contains("`schedule:N`"), "{wrong}");
        }
    }
}
