//! What the commands are told that fetch, list and copy models.

use clap::Args;
use sled_llama::Precision;

#[derive(Debug, Args)]
pub struct PullArgs {
    /// A name from `sled list`, or hf:ORG/REPO/FILE.gguf
    pub model: String,
}

#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The model to copy: a name from `sled list`, hf:ORG/REPO/FILE.gguf, or a path
    pub model: String,

    /// Where the copy goes
    pub out: std::path::PathBuf,

    /// f16 or f32
    #[arg(long, env = "SLED_PRECISION", value_name = "f16|f32", default_value = "f16", value_parser = precision)]
    pub precision: Precision,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long, env = "SLED_JSON")]
    pub json: bool,
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "f16" => Ok(Precision::F16),
        "f32" => Ok(Precision::F32),
        _ => Err("use f16 or f32".to_owned()),
    }
}
