//! docs/beyond.md, written from the results.

use std::fmt::Write;

use super::Findings;
use super::capacity::{Capacities, with_goal};
use super::map::{DEVICES, DRAFTS, Map, STEPS, TRIPS};
use super::series::{CENTRAL, NAMES, ORACLE, RTT, Series};
use super::setting::{BIG, BIG_DRAFTER, JETSON, LAPTOP, OFFLOADED, Outcome, PI};
use crate::bench::ABOVE;

/// Differences below this are noise: the widths of the confidence intervals.
const NOISE: f64 = 0.02;

/// The page.
pub fn render(findings: &Findings) -> String {
    let mut page = head();
    page += &goals(findings);
    page += &map(&findings.map);
    for (name, series) in NAMES.iter().zip(&findings.series) {
        page += &section(name, series);
        if *name == "speed" {
            page += &energy(series);
            page += &capacity(&findings.capacity);
        }
    }
    page
}

fn head() -> String {
    format!(
        "# Beyond the paper\n\n\
         What speculation over a network is worth, where, and what it costs. This page is written by `sled beyond` from \
         `results/beyond/*.json`; a test compares the two. Everything here is *simulated*: the state machines of the product in \
         virtual time, with recorded drafts of Qwen2.5-Coder 0.5B for 1.5B (`data/drafts.json`), which stand in for other pairs of \
         like agreement. How far the simulator can be trusted is measured by `sled bench validate`.\n\n\
         `{CENTRAL}` is plain continuous batching of the same target on the same server: thin clients. Unless said otherwise the \
         round trip is {RTT} ms, devices use the default policy `goodput`, ask without a pause, and the server has the default \
         `continuous` batching with `assist auto`. The servers:\n\n\
         - *70B*: {} + {} n ms for n rows, {} ms for each thousand tokens in the cache (70B on four A100, FP16, from \
         `profiles/a100x4.toml`: published); {} W busy, {} W idle (assumed).\n\
         - *offloaded*: {} + {} n ms (a stated case: weights are read from slow memory for each pass); {} W, {} W.\n\
         - *server-side* speculation: the 70B server drafts itself with a 1B. Before each pass it runs one pass of the draft model \
         for each draft of the longest block, {} + {} n ms each (assumed: 1.2 ms to read the weights of a 1B in FP16 on one of the \
         GPUs, the rest launching), for all sessions at once; the target waits meanwhile, and the draft model reads all prompts \
         too. Drafts travel nowhere, so the round trip does not matter.\n\n\
         The drafters: {} ({} W drafting, {} W idle: assumed), {} ({} W, {} W; `profiles/orin-nano.toml`), {} ({} W, {} W; \
         `profiles/pi-5.toml`), each with a 1B in 4 bits.\n\n",
        BIG.fixed_ms,
        BIG.row_ms,
        BIG.context_ms,
        BIG.power_w,
        BIG.idle_w,
        OFFLOADED.fixed_ms,
        OFFLOADED.row_ms,
        OFFLOADED.power_w,
        OFFLOADED.idle_w,
        BIG_DRAFTER.0,
        BIG_DRAFTER.1,
        LAPTOP.name,
        LAPTOP.power_w,
        LAPTOP.idle_w,
        JETSON.name,
        JETSON.power_w,
        JETSON.idle_w,
        PI.name,
        PI.power_w,
        PI.idle_w,
    )
}

/// The user's speed over that of thin clients.
fn gain(series: &Series, line: &str, x: f64) -> Option<f64> {
    Some(series.get(line, x)?.speed.mean / series.get(CENTRAL, x)?.speed.mean)
}

fn goals(findings: &Findings) -> String {
    let mut rows = String::new();
    // With prompts as recorded, and where answers are so long that reading prompts does not matter.
    let mut goal = |goal: &str, found: &str, recorded: Option<bool>, generating: Option<bool>| {
        let [recorded, generating] = [recorded, generating].map(|met| match met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        });
        let _infallible = writeln!(rows, "| {goal} | {found} | {recorded} | {generating} |");
    };
    let by_name = |name: &str| NAMES.iter().zip(&findings.series).find(|(other, _)| **other == name).map(|(_, s)| s);

    let points = &findings.map.points;
    if let Some(worst) = points.iter().min_by(|a, b| a.gain.total_cmp(&b.gain)) {
        let below = points.iter().filter(|point| point.gain < 1.0 - NOISE).count();
        let found = format!(
            "{below} of {} cases of the map are below {:.2}; the worst is {:.2} (step {} ms, draft {} ms, RTT {} ms, {} devices)",
            points.len(),
            1.0 - NOISE,
            worst.gain,
            worst.step_ms,
            worst.draft_ms,
            worst.rtt_ms,
            worst.devices
        );
        goal("user speed never below plain continuous batching: fleets of one drafter", &found, None, Some(below == 0));
    }
    let thin = by_name("mixed").into_iter().flat_map(|mixed| {
        [4.0, 16.0, 64.0, 128.0].into_iter().filter_map(|count| Some((gain(mixed, "thin", count)?, count)))
    });
    if let Some((gain, count)) = thin.min_by(|a, b| a.0.total_cmp(&b.0)) {
        let found = format!("thin clients among fast drafters get down to {gain:.2} (at {count} devices)");
        goal("the same: mixed fleets", &found, Some(gain >= 1.0 - NOISE), None);
    }
    let rates = Capacities::rates();
    let capacities = &findings.capacity;
    let drafters = [LAPTOP, JETSON, PI];
    for (text, lines) in [
        ("capacity never below plain continuous batching: the rate is the server's goal", drafters.map(with_goal)),
        ("the same: the server is not told the rate", drafters.map(|drafter| drafter.name.to_owned())),
    ] {
        let ratios = lines.iter().flat_map(|line| {
            rates.iter().filter_map(move |&rate| {
                let central = capacities.get(CENTRAL, rate)?.devices;
                let sled = capacities.get(line, rate)?.devices;
                (central > 0).then(|| (sled as f64 / central as f64, line, rate))
            })
        });
        if let Some((ratio, line, rate)) = ratios.min_by(|a, b| a.0.total_cmp(&b.0)) {
            let found = format!("the least is {ratio:.2} ({line}, {rate} tokens/s)");
            goal(text, &found, Some(ratio >= 1.0 - NOISE), None);
        }
    }
    let mut least = |names: [&str; 2], text: &str, line: &str, counts: &[f64], wanted: f64| {
        let least = |name: &str| {
            let gains = counts.iter().filter_map(|&count| Some((gain(by_name(name)?, line, count)?, count)));
            gains.min_by(|a, b| a.0.total_cmp(&b.0))
        };
        if let (Some((with, at)), Some((without, at_without))) = (least(names[0]), least(names[1])) {
            let found = format!(
                "at least {with:.2} with prompts as recorded (at {at}), {without:.2} while generating (at {at_without})"
            );
            goal(text, &found, Some(with >= wanted), Some(without >= wanted));
        }
    };
    let big = ["speed", "generating"];
    let few = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
    least(big, "70B, drafts of 5 ms, up to 32 devices: 1.6 times the speed", LAPTOP.name, &few, 1.6);
    least(big, "the same at 64 devices: 1.4 times", LAPTOP.name, &[64.0], 1.4);
    let slow = ["offloaded", "offloaded-generating"];
    least(slow, "0.3 s a step, Pi-class drafters, 1 to 8 devices: 1.8 times", PI.name, &few[..4], 1.8);
    let reached = |line: &str| {
        let reached = rates.iter().filter(|&&rate| capacities.get(line, rate).is_some_and(|point| point.devices > 0));
        reached.copied().fold(0.0, f64::max)
    };
    let found =
        format!("{} tokens/s with {}, {} with `{CENTRAL}`", reached(LAPTOP.name), LAPTOP.name, reached(CENTRAL));
    goal("rates that no plain stream reaches", &found, Some(reached(LAPTOP.name) > reached(CENTRAL)), None);
    format!(
        "## Goals\n\nThe goals do not say whether prompts count. The runs without them were added after those with prompts as recorded \
         had missed some; both are judged.\n\n| goal | found | prompts as recorded | while generating |\n|---|---|---|---|\n{rows}\n"
    )
}

fn map(map: &Map) -> String {
    let mut text = String::from(
        "## The map\n\nWhat a user gets with drafts, over what plain continuous batching gives, by the time of a step, a draft and a \
         round trip, and by how many share the server (a row costs 0.6 % of a step, as on the A100; answers are so long that reading \
         prompts does not matter).\n\n\
         ![The map](../results/beyond/map.svg)\n\n",
    );
    let list: Vec<String> = map.tokens_per_round.iter().map(|tokens| format!("{tokens:.2}")).collect();
    let _infallible = write!(
        text,
        "To find your own case: a round of blocks of 1, 2, ... drafts brings E = {} tokens with these drafts. Without anything \
         beyond synchronous rounds, drafting beats plain decoding of an idle server if a step takes longer than (RTT + k drafts)/(E \
         - 1), with the best k:\n\n",
        list.join(", ")
    );
    let mut rows = Vec::new();
    for draft in DRAFTS {
        for trip in TRIPS {
            let gains = STEPS.map(|step| map.get(step, draft, trip, 1).map(|point| point.gain));
            let first = STEPS.iter().zip(gains).find(|(_, gain)| gain.is_some_and(|gain| gain > 1.05));
            let first = first.map_or("none of these".to_owned(), |(step, _)| format!("{step} ms"));
            rows.push(vec![
                format!("{draft} ms, RTT {trip} ms"),
                format!("{:.0} ms", map.break_even_ms(draft, trip)),
                first,
            ]);
        }
    }
    let head =
        ["draft, round trip", "rule: pays from a step of", "simulated, 1 device: first step with more than 1.05"];
    text += &table(&head.map(str::to_owned), &rows);
    text += "\nWhere a step takes less than that, drafting does nothing for the user, and assist sees to it that it costs nothing \
             either. By share of the cases:\n\n";
    let rows = DEVICES.map(|devices| {
        let of = || map.points.iter().filter(move |point| point.devices == devices);
        let share = |of_gain: &dyn Fn(f64) -> bool| {
            let share = of().filter(|point| of_gain(point.gain)).count() as f64 / of().count().max(1) as f64;
            format!("{:.0} %", 100.0 * share)
        };
        let best = of().map(|point| point.gain).fold(0.0, f64::max);
        vec![
            devices.to_string(),
            share(&|gain| gain >= 1.2),
            share(&|gain| (1.0 + NOISE..1.2).contains(&gain)),
            share(&|gain| (1.0 - NOISE..1.0 + NOISE).contains(&gain)),
            share(&|gain| gain < 1.0 - NOISE),
            format!("{best:.2}"),
        ]
    });
    let head = ["devices", "gain of 1.2 and more", "1.02 to 1.2", "no difference", "less than 0.98", "best"];
    text + &table(&head.map(str::to_owned), &rows) + "\n"
}

/// What each experiment asks, and how it is set up.
fn question(name: &str) -> (&'static str, &'static str) {
    match name {
        "speed" => ("A big target", "The 70B under growing load. Tokens/s of a device:"),
        "generating" => (
            "A big target, while generating",
            "The same with answers so long that reading prompts does not matter (prompts of one token; above a prompt has 64 tokens \
             and an answer 75 on average). Tokens/s of a device:",
        ),
        "offloaded" => ("A slow target", "The offloaded server, where a step takes 0.3 s. Tokens/s of a device:"),
        "offloaded-generating" => {
            ("A slow target, while generating", "The same without prompts. Tokens/s of a device:")
        }
        "rtt" => (
            "Distance",
            "The 70B with laptops, 1 and 32 of them (the number after each line's name): as shipped (pipelined, `goodput`), and the \
             paper's `confidence:0.5:8` without assist, asynchronous and synchronous. Tokens/s of a device:",
        ),
        "loss" => (
            "Lost messages",
            "16 devices, 50 ms away, on the 70B; each message is lost with this probability, and timers find out (as over datagrams: \
             TCP would repeat them sooner). Tokens/s of a device:",
        ),
        "batching" => (
            "Batches",
            "Laptops on the 70B: the paper's static batches of 8 and of 32 (100 ms at most, padded, asynchronous \
             `confidence:0.5:8`, no assist), the default, and the default with drafters that know which of their drafts are right \
             (`oracle`). Tokens/s of a device:",
        ),
        "lengths" => (
            "Draft lengths over load",
            "Laptops on the 70B: `goodput` beside every fixed length, all with assist and trimming. Tokens/s of a device:",
        ),
        "mixed" => (
            "Mixed fleets",
            "A quarter each of laptops, Jetsons, Pis and thin clients share the 70B; `central` is what as many thin clients get. \
             Tokens/s of a device of each class:",
        ),
        "two-cores" => (
            "Two cores",
            "A CPU instead of GPUs: 1.5B as F16 on two cores, from `profiles/xeon-2core.toml` (measured), with drafts recorded for it \
             (`data/drafts-f16.json`), no network between, 800 s each. Tokens/s of a device:",
        ),
        "two-cores-q4" => (
            "Two cores, quantised",
            "The same with 1.5B as Q4_K_M, where each further row takes about a third of what the first takes (`data/drafts.json`):",
        ),
        _ => (
            "Outages",
            "16 Jetsons on the 70B, each offline at random, a minute after the last outage on average. With `release` (the default) \
             drafts are shown as provisional meanwhile. Committed tokens/s of a device:",
        ),
    }
}

fn section(name: &str, series: &Series) -> String {
    let (title, question) = question(name);
    let mut text = format!("## {title}\n\n{question}\n\n");
    let lines = series.lines();
    let has_central = lines.contains(&CENTRAL);
    let head: Vec<String> =
        std::iter::once(series.x.clone()).chain(lines.iter().map(|line| (*line).to_owned())).collect();
    let cell = |line: &str, x: f64| {
        let Some(outcome) = series.get(line, x) else { return String::new() };
        let speed = number(outcome.speed.mean);
        match gain(series, line, x).filter(|_| has_central && line != CENTRAL) {
            Some(gain) => format!("{speed} ({gain:.2})"),
            None => speed,
        }
    };
    let row =
        |x: &f64| std::iter::once(x.to_string()).chain(lines.iter().map(|line| cell(line, *x))).collect::<Vec<_>>();
    text += &table(&head, &series.xs().iter().map(row).collect::<Vec<_>>());
    if has_central {
        text += "\nIn brackets: over `central`.";
    }
    if name == "offline" {
        let share = |x: f64| series.get("release", x).map_or(0.0, |outcome| 100.0 * outcome.provisional_share);
        let shares: Vec<String> = series.xs().iter().map(|&x| format!("{:.0} % at {x} s", share(x))).collect();
        let _infallible = write!(text, " Shown as provisional with `release`: {}.", shares.join(", "));
    }
    let worst = |lines: &[&str]| {
        let gains = series.xs().into_iter().flat_map(|x| lines.iter().filter_map(move |line| gain(series, line, x)));
        gains.fold(f64::INFINITY, f64::min)
    };
    match name {
        "lengths" => {
            let behind = series.xs().into_iter().filter_map(|x| {
                let best =
                    (1..=8).filter_map(|k| Some(series.get(&format!("fixed:{k}"), x)?.speed.mean)).fold(0.0, f64::max);
                Some((series.get("goodput", x)?.speed.mean / best, x))
            });
            if let Some((share, x)) = behind.min_by(|a, b| a.0.total_cmp(&b.0)) {
                let _infallible =
                    write!(text, " Against the best fixed length `goodput` is worst at {x} devices: {share:.2}.");
            }
        }
        "mixed" => {
            let _infallible = write!(
                text,
                " What the fast drafters gain makes passes longer for everybody: who cannot draft, or not fast enough, gets down to \
                 {:.2} of what it would have among thin clients alone. That follows from the goals of the others: a token takes a row at \
                 least, and the prompts of who is answered sooner come sooner too, so that whoever gains adds to each pass, and who \
                 takes one row of each pass loses. Nobody loses only where nobody gains. A rate goal says what nobody is to fall below.",
                worst(&[PI.name, "thin"])
            );
        }
        "offloaded-generating" => {
            let few = series.xs().into_iter().filter(|&x| x <= 8.0).filter_map(|x| gain(series, ORACLE, x));
            let _infallible = write!(
                text,
                " `oracle` are Pis that know which of their drafts are right: with 1 to 8 of them at least {:.2}. More than that \
                 takes a faster drafter.",
                few.fold(f64::INFINITY, f64::min)
            );
        }
        _ => {}
    }
    let widest = series.points.iter().filter_map(|point| Some(point.outcome.speed.ci95? / point.outcome.speed.mean));
    let _infallible = write!(
        text,
        " {} seeds; the 95 % confidence intervals are ±{:.1} % at most.\n\n![{title}](../results/beyond/{name}.svg)\n\n",
        series.seeds,
        100.0 * widest.fold(0.0, f64::max)
    );
    text
}

fn energy(series: &Series) -> String {
    let lines: Vec<&str> = series.lines();
    let head: Vec<String> =
        std::iter::once(series.x.clone()).chain(lines.iter().map(|line| (*line).to_owned())).collect();
    let cell = |outcome: &Outcome| format!("{} + {}", number(outcome.server_j), number(outcome.devices_j));
    let row = |x: &f64| {
        let cells = lines.iter().map(|line| series.get(line, *x).map(cell).unwrap_or_default());
        std::iter::once(x.to_string()).chain(cells).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = series.xs().iter().map(row).collect();
    format!(
        "### Energy\n\nJoules for each committed token, of the server + of the devices, in the same runs:\n\n{}\n",
        table(&head, &rows)
    )
}

fn capacity(capacities: &Capacities) -> String {
    let lines = capacities.lines();
    let head: Vec<String> =
        std::iter::once("tokens/s each".to_owned()).chain(lines.iter().map(|l| (*l).to_owned())).collect();
    let cell = |line: &str, rate: f64| {
        let Some(point) = capacities.get(line, rate) else { return String::new() };
        let central = capacities.get(CENTRAL, rate).map_or(0, |point| point.devices);
        let ratio =
            (line != CENTRAL && central > 0).then(|| format!(" ({:.2})", point.devices as f64 / central as f64));
        format!("{}{}", point.devices, ratio.unwrap_or_default())
    };
    let row = |rate: &f64| {
        std::iter::once(rate.to_string()).chain(lines.iter().map(|line| cell(line, *rate))).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = Capacities::rates().iter().map(row).collect();
    format!(
        "### Capacity\n\nThe most devices of which {:.0} % get a rate on the 70B, found by doubling and bisection with one seed. With \
         `rate goal` the server is told {} times the rate, and helps only who would fall below it. In brackets: over `central`. \
         Capacity asks for the slowest devices: thin clients are all alike, but where devices draft on a full server, each row of a \
         draft makes the pass longer for those that decode plainly just then, so that the mean may rise and the slowest fall.\n\n\
         {}\n![Capacity](../results/beyond/capacity.svg)\n\n",
        100.0 * capacities.share,
        ABOVE,
        table(&head, &rows)
    )
}

fn number(value: f64) -> String {
    let digits = if value < 10.0 { 2 } else { 1 };
    format!("{value:.digits$}")
}

fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(head) + &"|---".repeat(head.len()) + "|\n";
    rows.iter().for_each(|row| text += &line(row));
    text
}
