//! What the commands are told that fetch, list and copy models.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use sled_llama::Format;

#[derive(Debug, Args)]
pub struct PullArgs {
    /// A name from `sled list`, or hf:ORG/REPO/FILE.gguf
    pub model: String,
}

#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// The model to copy: a name from `sled list`, hf:ORG/REPO/FILE.gguf, or a path
    pub model: String,

    /// Where the copy goes: FILE.gguf
    pub out: std::path::PathBuf,

    /// The format of its weights
    #[arg(value_name = "TYPE", ignore_case = true, value_parser = format())]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long, env = "SLED_JSON")]
    pub json: bool,
}

fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name))
        .try_map(|name| Format::named(&name).ok_or_else(|| format!("there is no format {name}")))
}
