//! `sled plan`: how many devices a server will carry, how, at what cost, and what to buy next.

mod plot;

use anyhow::Context;
use sled_sim::economics::Prices;
use sled_sim::plan::{self, Limit, Plan, Wish};
use sled_sim::profile::Profiles;

use crate::args::PlanArgs;
use crate::output::write_json;
use crate::virtual_time::with_bar;
use sled_launch::Usage;

/// Plans, and prints the answer.
pub fn run(args: &PlanArgs) -> anyhow::Result<()> {
    if args.utilisation == 0.0 {
        return Err(
            Usage("a machine that never works costs infinitely much; use --utilisation above 0".to_owned()).into()
        );
    }
    let profiles = Profiles::load(&args.profiles)?;
    let wish = Wish {
        server: args.server.clone(),
        devices: args.device.clone(),
        rate: args.rate,
        rtt_ms: args.rtt,
        context: args.context as usize,
        recording: args.drafts.clone(),
        prices: Prices { lifetime_years: args.lifetime, utilisation: args.utilisation, usd_per_kwh: args.usd_per_kwh },
    };
    let plan = with_bar("simulated", |progress| plan::plan(&wish, &profiles, progress))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&plan)?);
    } else {
        print(args, &plan);
    }
    if let Some(out) = &args.out {
        write_json(out, &plan)?;
        let picture = out.with_extension("svg");
        plot::draw(&picture, &plan, args.rate)
            .with_context(|| format!("cannot draw {}; check --out", picture.display()))?;
        eprintln!("written to {} and {}", out.display(), picture.display());
    }
    Ok(())
}

fn print(args: &PlanArgs, plan: &Plan) {
    let names: Vec<&str> = args.device.iter().map(|(name, _)| name.as_str()).collect();
    println!("{} for {}, {} ms away, {} tokens/s each\n", args.server, names.join(" and "), args.rtt, args.rate);
    match plan.best.devices {
        0 => println!("Nobody gets {} tokens/s from this server.", args.rate),
        devices => {
            let how = match plan.best.policy.as_str() {
                "none" => "decoding plainly: these drafters do not help".to_owned(),
                policy => format!("with --policy {policy}"),
            };
            println!("{devices} devices get it, {how}.");
        }
    }
    println!("What limits that: {}.", limit(plan));
    println!("{}\n", next(plan));
    println!(
        "{:12} {:>8} {:>10} {:>12} {:>12} {:>14}",
        "policy", "devices", "tokens/s", "server $/h", "devices $/h", "$/1K tokens"
    );
    let usd = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    for choice in &plan.choices {
        println!(
            "{:12} {:>8} {:>10.0} {:>12} {:>12} {:>14}",
            choice.policy,
            choice.devices,
            choice.tokens_per_s,
            usd(choice.server_usd_per_hour, 2),
            usd(choice.devices_usd_per_hour, 2),
            usd(choice.usd_per_1k_tokens, 5)
        );
    }
    if let Some(memory) = plan.memory {
        println!("\nThe memory holds {memory} sessions of {} tokens.", args.context);
    }
    println!("\n{:28} {:>8}", "if there were", "devices");
    for what in &plan.what_if {
        println!("{:28} {:>8}", what.change, what.devices);
    }
    println!("\n{:>10} {:>10} {:>14}", "tokens/s", "devices", "thin clients");
    for point in &plan.curve {
        println!("{:>10.1} {:>10} {:>14}", point.rate, point.devices, point.central);
    }
}

fn limit(plan: &Plan) -> &'static str {
    match plan.limit {
        Limit::Compute => "the server's passes",
        Limit::Memory => "the server's memory",
        Limit::Link => "the round trip",
        Limit::Drafter => "how fast the devices draft",
    }
}

/// What to buy next: whatever brings the most devices.
fn next(plan: &Plan) -> String {
    if plan.limit == Limit::Memory {
        return "What to buy next: memory for the KV cache, or a smaller one (`--cache-type q8_0` holds twice as much).".to_owned();
    }
    let most = plan.what_if.iter().rev().max_by_key(|what| what.devices);
    match most.filter(|what| what.devices > plan.best.devices) {
        Some(what) => {
            let buy = match what.limit {
                Limit::Compute | Limit::Memory => "a faster server, or a second one",
                Limit::Drafter => "faster devices, or smaller draft models",
                Limit::Link => "a server nearer by",
            };
            format!("What to buy next: {buy}. With {} it would be {}.", what.change, what.devices)
        }
        None => "What to buy next: a second server; nothing else brings more devices.".to_owned(),
    }
}
