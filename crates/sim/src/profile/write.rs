//! A profile as TOML, each number on a line of its own with where it is from.

use toml::Value;

use super::target::pairs;
use super::{Mark, Number, PassTime, Points, Profile};

const HEAD: &str = "# `mark`: measured, published (by others) or assumed (by the arithmetic in `source`).\n\n";

impl Profile {
    /// The profile as it is kept in a file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = HEAD.to_owned() + &line("title", &string(&self.title));
        for (key, number) in self.of_machine() {
            text += &optional(key, number);
        }
        for (name, drafter) in &self.drafters {
            text += &format!("\n[drafters.{}]\n", string(name));
            text += &line("title", &string(&drafter.title));
            text += &optional("tokens_per_s", Some(&drafter.tokens_per_s));
        }
        for (name, target) in &self.targets {
            text += &format!("\n[targets.{}]\n", string(name));
            text += &line("title", &string(&target.title));
            match &target.time {
                PassTime::Line { fixed_ms, row_ms } => {
                    text += &optional("fixed_ms", Some(fixed_ms));
                    text += &optional("row_ms", Some(row_ms));
                }
                PassTime::Points(Points { value, mark, source, .. }) => {
                    text += &line("points", &sourced(&pairs(value), *mark, source));
                }
            }
            text += &optional("context_ms", target.context_ms.as_ref());
            text += &optional("prompt_row", target.prompt_row.as_ref());
            text += &optional("weights_gib", target.weights_gib.as_ref());
            text += &optional("kv_kib", target.kv_kib.as_ref());
        }
        text
    }
}

fn line(key: &str, value: &str) -> String {
    format!("{key} = {value}\n")
}

fn string(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

fn optional(key: &str, number: Option<&Number>) -> String {
    let written = |number: &Number| line(key, &sourced(&number.value.to_string(), number.mark, &number.source));
    number.map(written).unwrap_or_default()
}

fn sourced(value: &str, mark: Mark, source: &str) -> String {
    format!("{{ value = {value}, mark = \"{}\", source = {} }}", mark.name(), string(source))
}
