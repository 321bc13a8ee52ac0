//! `sled serve`.

use sled_launch::args::ServeArgs;
use sled_launch::ports;
use sled_launch::serve::start;
use sled_server::EngineStats;

use crate::show::announce;

/// Serves until interrupted.
pub async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    ports::raise_open_files();
    let server = start(&args).await?;
    // Whoever reads that it listens may tell it to end.
    let told = ports::told_to_end();
    announce(&format!("listening on http://{}", server.address()?));
    if let Some(address) = server.http_address() {
        announce(&format!("API and dashboard on http://{address}"));
    }
    let stats = server.run(told).await?;
    eprintln!("{}", summary(&stats));
    Ok(())
}

fn summary(stats: &EngineStats) -> String {
    let per_commit = |time: std::time::Duration| 1e3 * time.as_secs_f64() / (stats.commits.max(1) as f64);
    format!(
        "served {} commits in {} steps of {} rows: {:.2} ms a commit in the model, {:.3} ms beside it; {} evictions",
        stats.commits,
        stats.steps,
        stats.rows,
        per_commit(stats.forward),
        per_commit(stats.overhead),
        stats.evictions
    )
}
