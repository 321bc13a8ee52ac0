//! What `sled plan` is told.

use clap::Args;

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The server and its target: MACHINE/MODEL of a profile
    #[arg(long, env = "SLED_TARGET", value_name = "NAME", default_value = "a100x4/70b-16bit")]
    pub server: String,

    /// Devices and what they draft with: MACHINE/MODEL of a profile, and their share of all after an `=`; may be given several
    /// times
    #[arg(long, env = "SLED_DEVICE", value_name = "NAME[=SHARE]", value_delimiter = ',', default_value = "pi-5/1b-4bit", value_parser = device)]
    pub device: Vec<(String, f64)>,

    /// Tokens a second that each device is to get
    #[arg(long, env = "SLED_RATE", value_name = "R", default_value = "10", value_parser = sled_launch::args::rate)]
    pub rate: f64,

    /// The round trip between devices and server, in milliseconds
    #[arg(long, env = "SLED_RTT", value_name = "MS", default_value = "20", value_parser = sled_launch::args::not_negative)]
    pub rtt: f64,

    /// Tokens of a session in the KV cache, for what the server's memory holds
    #[arg(long, env = "SLED_CONTEXT", value_name = "TOKENS", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    pub context: u32,

    /// Recorded drafts of a pair like this one
    #[arg(long, env = "SLED_DRAFTS", value_name = "FILE", default_value = "data/drafts.json")]
    pub drafts: std::path::PathBuf,

    /// The folder of profiles
    #[arg(long, env = "SLED_PROFILES", value_name = "FOLDER", default_value = "profiles")]
    pub profiles: std::path::PathBuf,

    /// For how many years a machine is used that was bought
    #[arg(long, env = "SLED_LIFETIME", value_name = "YEARS", default_value = "3", value_parser = sled_launch::args::rate)]
    pub lifetime: f64,

    /// The share of that time in which it works
    #[arg(long, env = "SLED_UTILISATION", value_name = "SHARE", default_value = "0.7", value_parser = sled_launch::args::share)]
    pub utilisation: f64,

    /// Electricity, in US dollars a kilowatt-hour
    #[arg(long, env = "SLED_USD_PER_KWH", value_name = "USD", default_value = "0.083", value_parser = sled_launch::args::not_negative)]
    pub usd_per_kwh: f64,

    /// Print JSON
    #[arg(long, env = "SLED_JSON")]
    pub json: bool,

    /// Where to write the plan, as JSON and beside it as a picture
    #[arg(long, env = "SLED_OUT", value_name = "FILE")]
    pub out: Option<std::path::PathBuf>,
}

fn device(text: &str) -> Result<(String, f64), String> {
    let Some((name, share)) = text.split_once('=') else { return Ok((text.to_owned(), 1.0)) };
    match share.parse::<f64>() {
        Ok(share) if share > 0.0 && share.is_finite() => Ok((name.to_owned(), share)),
        _ => Err(format!("`{share}` is no share of the devices; use a number above 0, say {name}=2")),
    }
}
