//! Pages are templates in Jinja; how their numbers look is decided by filters.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

use crate::numbers::{estimate, number, short, thousands};

/// The page that `template` makes of `data`. What it asks for and the data do not have is an error.
pub fn render(template: &str, data: impl Serialize) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    environment.set_syntax(syntax?);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_filter("number", number);
    environment.add_filter("short", short);
    environment.add_filter("estimate", |Serde(value)| estimate(value));
    // With so many digits after the point.
    environment.add_filter("fixed", |value: f64, digits: usize| format!("{value:.digits$}"));
    // A large number, its digits in groups.
    environment.add_filter("thousands", |value: f64| thousands(value));
    // As short as it can be: 3, not 3.0.
    environment.add_filter("plain", |value: f64| value.to_string());
    Ok(environment.render_str(template, Serde(data))?)
}
