//! Where the log goes, and how it is written.

#[cfg(feature = "otlp")]
mod otlp;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{Cli, Command, LogFormat};
use sled_launch::Usage;

/// A log that was started. What has not gone out yet goes when it is dropped.
pub struct Log {
    #[cfg(feature = "otlp")]
    _traces: Option<otlp::Traces>,
}

/// Starts the log, which goes to stderr.
pub fn start(cli: &Cli) -> anyhow::Result<Log> {
    let log = cli.log.as_deref().unwrap_or(match cli.command {
        Command::Serve(_) => "warn,sled_server=info,llama=error",
        _ => "warn,llama=error",
    });
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match cli.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter(log)?));
    #[cfg(feature = "otlp")]
    let (subscriber, _traces) = {
        let (layer, traces) = otlp::start(cli.log.as_deref())?.unzip();
        (subscriber.with(layer), traces)
    };
    subscriber.init();
    Ok(Log {
        #[cfg(feature = "otlp")]
        _traces,
    })
}

fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    Ok(EnvFilter::try_new(text)
        .map_err(|error| Usage(format!("`{text}` is not a log filter ({error}); use say --log info")))?)
}
