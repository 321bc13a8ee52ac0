//! Traces for an OpenTelemetry collector.

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::filter;

/// Where traces go; without it there are none. The exporter reads it itself.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The spans that are exported, unless --log says which: requests and sessions.
const SPANS: &str = "off,sled_device=info,sled_server=info";

/// Traces under way; when this is dropped, what is left goes out.
pub struct Traces(SdkTracerProvider);

impl Drop for Traces {
    fn drop(&mut self) {
        // A collector that is not there must not turn a success into an error.
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last traces are lost");
        }
    }
}

/// Starts to export spans over OTLP/HTTP if the environment says where to.
pub fn start<S>(log: Option<&str>) -> anyhow::Result<Option<(impl Layer<S> + use<S>, Traces)>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    if std::env::var_os(ENDPOINT).is_none_or(|endpoint| endpoint.is_empty()) {
        return Ok(None);
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .build()
        .with_context(|| format!("traces cannot be sent; check {ENDPOINT}, which is to be like http://HOST:4318"))?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("sled");
    }
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("sled"));
    Ok(Some((layer.with_filter(filter(log.unwrap_or(SPANS))?), Traces(provider))))
}
