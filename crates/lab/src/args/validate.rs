//! What `sled bench validate` is told.

use clap::Args;

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// What `sled bench serve` measured; may be several files
    #[arg(value_name = "FILE", required = true)]
    pub measured: Vec<std::path::PathBuf>,

    /// The profile of the machine and the target that was measured, MACHINE/MODEL; one for each model of the files
    #[arg(long, env = "SLED_PROFILE", value_name = "NAME", value_delimiter = ',', required = true)]
    pub profile: Vec<String>,

    /// The folder of profiles
    #[arg(long, env = "SLED_PROFILES", value_name = "FOLDER", default_value = "profiles")]
    pub profiles: std::path::PathBuf,

    /// With how many equal tokens all prompts begin: the chat template's system prompt
    #[arg(long, env = "SLED_SHARED_TOKENS", value_name = "N", default_value_t = 24)]
    pub shared_tokens: usize,

    /// How many seeds to simulate each point with
    #[arg(long, env = "SLED_SEEDS", value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub seeds: u32,

    /// Where to write the results
    #[arg(long, env = "SLED_OUT", value_name = "FILE", default_value = "results/validate.json")]
    pub out: std::path::PathBuf,
}
