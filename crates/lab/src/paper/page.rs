//! The page: a function of the data, and of nothing else.

use sled_sim::economics::Prices;
use sled_sim::paper::{
    ACCEPTANCE, About, CostPoint, Fig4, Fig5, Fig6, LENGTH, Paper, Setting, Strategy, Table1, conclusions, published,
};
use sled_sim::theory::tokens_per_round;

use super::table2::CLAIMS;
use super::text::{estimate, number, table};

/// The page as Markdown; plots are beside the data, in `../results/paper/`.
pub fn page(paper: &Paper) -> String {
    let says = |about| {
        let bold = |says: &str, holds: bool| format!("- {says}{}\n", if holds { "" } else { " **(does not hold)**" });
        let all = conclusions(paper).into_iter().filter(|conclusion| conclusion.about == about);
        all.map(|conclusion| bold(conclusion.says, conclusion.holds)).collect::<String>()
    };
    [
        head(paper),
        inputs(paper),
        section("Fig. 3: confidence and acceptance", &says(About::Fig3), &fig3(paper)),
        section("Table I: capacity", &says(About::Table1), &table1(&paper.table1)),
        section("Fig. 4: tokens a second", &says(About::Fig4), &fig4(&paper.fig4)),
        section("Fig. 5: the length of drafts", &says(About::Fig5), &fig5(&paper.fig5)),
        section("Fig. 6: cost", &says(About::Fig6), &fig6(&paper.fig6)),
        table2(),
    ]
    .join("\n")
}

fn section(title: &str, says: &str, body: &str) -> String {
    format!("## {title}\n\n{says}\n{body}")
}

fn head(paper: &Paper) -> String {
    let seeds: Vec<String> = paper.seeds.iter().map(u64::to_string).collect();
    format!(
        "# The paper's results

This page is written by a program: `make paper` (or `sled paper --seeds {seeds}`) simulates everything on it anew, in minutes, with
the state machines that `sled serve` and `sled run` are made of, and a test checks that the page says what
[the data](../results/paper/paper.json) say. The sentences at the top of each section are assertions: they are tested with other
seeds, in a quarter of the virtual time.

Each result is shown twice. **Under the paper's assumptions**: a server as slow as the paper's, one request at a time or static
batches, devices that draft {LENGTH} tokens and wait for the verdict; each is an independent source of requests, the time that it
drafts is exponentially distributed, at the speed of the real device. **Against a strong baseline**: continuous batching of the same
target at published speed, against which SLED has its own defaults (`goodput`, continuous batching, assist) and the recorded drafts
of a real pair. All devices want tokens all the time.

Values are *simulated*, as the mean over seeds {seeds} with half the 95 % confidence interval, unless they are said to be something
else; the *laws* are closed forms of `crates/sim/src/theory.rs`. Nothing was tuned towards the paper but what is called calibrated.
",
        seeds = seeds.join(",")
    )
}

fn inputs(paper: &Paper) -> String {
    let row = |input: &sled_sim::paper::Input| {
        vec![input.name.clone(), input.value.clone(), input.mark.clone(), input.source.clone()]
    };
    let prices = Prices::default();
    format!(
        "## What goes in

<details><summary>{} numbers, each with its source</summary>

{}
</details>

Prices that are no machine's are the paper's: {} years, used {:.0} % of the time, {} $/kWh. Drafts against the strong baseline are
recorded: Qwen2.5-Coder 0.5B drafting for 1.5B (`data/drafts.json`), which stands in for the acceptance of larger pairs. The costs
of passes are lines through measurements of up to 64 rows; beyond that they are extrapolated, and 0.17 ms a row is about what the
arithmetic of a 70B takes on four A100.
",
        paper.inputs.len(),
        table(&["input", "value", "mark", "source"], paper.inputs.iter().map(row)),
        prices.lifetime_years,
        100.0 * prices.utilisation,
        prices.usd_per_kwh,
    )
}

fn fig3(paper: &Paper) -> String {
    let row = |of: &sled_sim::paper::Reliability| {
        let share = |from: f64, to: f64| {
            let bins = || of.bins.iter().filter(|bin| (from..to).contains(&(bin.from + 0.01)));
            let drafts: usize = bins().map(|bin| bin.drafts).sum();
            let right: f64 = bins().map(|bin| bin.acceptance * bin.drafts as f64).sum();
            number(right / drafts.max(1) as f64)
        };
        let target = of.target.trim_end_matches(".gguf").to_owned();
        let shares = [(0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 0.9), (0.9, 1.0)];
        let shares = shares.into_iter().map(|(from, to)| share(from, to));
        [target, number(of.acceptance)].into_iter().chain(shares).collect()
    };
    format!(
        "*Measured*: every draft of both recordings, on the target's own path. The paper shows the same rise, without numbers that
survive in its text.

{}
![Confidence and acceptance](../results/paper/fig3.svg)
",
        table(
            &["target", "all", "below 0.2", "to 0.4", "to 0.6", "to 0.8", "to 0.9", "above"],
            paper.fig3.iter().map(row)
        )
    )
}

fn table1(table1: &Table1) -> String {
    let rows = published::TABLE_1.iter().zip(&table1.slow).map(|((name, sled, central, gain), row)| {
        vec![
            (*name).to_owned(),
            number(row.draft_rate),
            number(row.rate),
            number(*central),
            estimate(row.central),
            number(row.central_law),
            number(*sled),
            estimate(row.sled),
            number(row.sled_law),
            format!("x{gain:.2}"),
            format!("x{}", estimate(row.gain)),
        ]
    });
    let implied = published::TABLE_1.iter().zip(&table1.slow).map(|((name, _, central, _), row)| {
        format!("{name} {} x {} = {}", number(*central), number(row.draft_rate), number(central * row.draft_rate))
    });
    let strong = table1.strong.iter().map(|row| {
        vec![
            row.drafter.clone(),
            number(row.rate),
            number(row.central_law),
            estimate(row.central),
            number(row.fixed_law),
            estimate(row.fixed),
            estimate(row.shipped),
            format!("{:.2}", row.shipped.mean / row.central.mean.max(1.0)),
            format!("{}, {}", estimate(row.shipped_mean), estimate(row.shipped_p5)),
        ]
    });
    let pi5 = published::TABLE_1[1].2;
    let expected = tokens_per_round(ACCEPTANCE, LENGTH);
    format!(
        "### Under the paper's assumptions

Each device is to get what one of its kind gets from SLED when it has the server to itself; capacity is the saturated server's
tokens a second over that rate. The server was *calibrated* on one number, the {pi5} Pi 5 of centralised serving: a pass of n rows
takes {} + {} n ms. The other five are predictions.

{}
The gain is E (a + b) / (a + b (k + 1)) on any device, where E = {} are the tokens of a round with {LENGTH} drafts and an
acceptance of {ACCEPTANCE}; the paper's x2.60 to x2.86 are acceptances of 0.67 to 0.72. It is won against a server that decodes one
sequence at a time.

*What does not follow from the published inputs.* Capacity times the rate of each device is what the server makes in a second, so
that it should be the same number in each column. With the devices' own decoding speeds it is {} tokens/s:
a Jetson drafts twenty times as fast as a Pi 4, and cannot be carried in the same number at its own speed. And no rate is given: at
the Pi 5's own 4.75 tokens/s the server would make {} a second, but a device that waits for the verdict on {LENGTH} drafts commits at
most E / {LENGTH} = {} tokens for each that it drafts, and would not reach that rate itself.

### Against continuous batching

The most devices of which the median gets the rate, on four A100 with the 70B at 16 bits. `fixed` drafts {LENGTH} tokens and waits,
without assist; SLED has its defaults. The last column is what a device gets, in tokens/s, if there are as many as the centralised
server carries.

{}
The laws: plain decoding at rate r carries (1/r - a) / b devices, verification (E/r - a - waits) / (b rows) if all are in every
pass. Where devices are out of step the server does better than that, and it cuts drafts that are not worth their rows. As soon as
many devices share the fixed part of a pass it is rows that count, and SLED spends more of them on a token than one. It wins where
the rate is high against the length of a pass and drafts are fast. Where hundreds of devices saturate the server it loses: those
whose drafts are good take from those whose are not, so that the mean device is as fast as with plain decoding, but the median is
not. The KV cache limits all of them alike: it has room for 545 sessions of a thousand tokens beside the weights.
",
        number(table1.slow_fixed_ms),
        number(table1.slow_row_ms),
        table(
            &[
                "device, 3B 4 bits", "drafts/s", "rate", "centralised: paper", "ours", "law", "SLED: paper", "ours", "law", "gain: paper",
                "ours"
            ],
            rows
        ),
        number(expected),
        implied.collect::<Vec<_>>().join(", "),
        number(pi5 * 4.75),
        number(expected / f64::from(LENGTH)),
        table(
            &["drafter", "tokens/s each", "centralised: law", "simulated", "fixed: law", "simulated", "SLED", "SLED / centralised", "SLED with as many: mean, slowest 5 %"],
            strong
        ),
    )
}

fn fig4(fig4: &Fig4) -> String {
    let batches = fig4.batches.iter().map(|point| {
        vec![
            point.target.clone(),
            point.batch.to_string(),
            estimate(point.central),
            estimate(point.sled),
            format!("x{}", estimate(point.gain)),
            format!("x{}", number(point.gain_law)),
        ]
    });
    let loads = fig4.loads.iter().map(|point| {
        vec![
            point.target.clone(),
            point.drafter.clone(),
            point.devices.to_string(),
            estimate(point.central),
            estimate(point.fixed),
            estimate(point.shipped),
            format!("{:.2}", point.shipped.mean / point.central.mean),
        ]
    });
    format!(
        "### Under the paper's assumptions

The paper: x{} over centralised serving, with the same number of devices and both targets. Ours: 2048 Pi 5 with a 3B drafter, so
that a full batch is always waiting.

{}
![Tokens a second over batch size](../results/paper/fig4.svg)

The gain is E (a + b B) / (a + b B (k + 1)): E while the fixed part of a pass dominates, and less as rows begin to cost. It takes
hundreds of devices to keep the batches full: a Pi 5 takes 0.84 s for {LENGTH} drafts, and a batch of 16 is verified in 43 ms.

### Against continuous batching

{}
![Tokens a second of each device](../results/paper/fig4-continuous.svg)

With as many devices on both sides and no batch to wait for, a device is limited by its own drafts: {LENGTH} of them take a Pi 5 as long as
29 passes of the 70B. Speculation over a network makes a device faster where E plain steps take longer than one round:
step > (drafting + round trip) / (E - 1). A Jetson with a 1B drafter meets that for the 70B, with short drafts, and not for the 11B.
Where it is not met, assist makes the defaults as fast as the centralised server.
",
        published::FIG_4_GAIN,
        table(&["target", "batch", "centralised, tokens/s", "SLED, tokens/s", "gain", "law"], batches),
        table(&["target", "drafter", "devices", "centralised, tokens/s", "fixed", "SLED", "SLED / centralised"], loads),
    )
}

fn fig5(fig5: &Fig5) -> String {
    let lengths = fig5.lengths.iter().map(|point| {
        vec![
            point.k.to_string(),
            estimate(point.rate),
            number(point.rate_law),
            estimate(point.capacity),
            number(point.capacity_law),
            estimate(point.throughput),
        ]
    });
    let goal = fig5
        .at_goal
        .iter()
        .map(|point| vec![point.system.clone(), point.law.map(number).unwrap_or_default(), estimate(point.capacity)]);
    format!(
        "The paper: a longer draft makes the device slower and the capacity higher (no numbers survive in its text). Ours, under its
assumptions, a 1B on a Pi 5 and the slow server of Table I:

{}
![The length of drafts](../results/paper/fig5.svg)

A device alone commits E / (k t + round trip + a + b (k + 1)) tokens a second. Capacity is (k t + round trip) / (a + b (k + 1)) + 1:
it rises with k because the server sees a device less often, and *because each length is held to the rate that it reaches*, which
falls. The server's own tokens a second hardly rise beyond eight drafts.

### Against continuous batching

Held to one rate, {} tokens/s, on the fast server of the strong baseline with recorded drafts, lengths compare like this:

{}
A device that drafts longer has less of its time left for the server, and needs more rows. The law is for devices that are all in
every pass. Devices that are all equally fast can fall in step, with the server idle while all of them draft, or not: at lengths with
a wide interval some seeds did and others did not, and out of step nearly twice as many are carried. Assist leaves no idle time.
",
        table(
            &["drafts", "device, tokens/s", "law", "capacity at that rate", "law", "server saturated, tokens/s"],
            lengths
        ),
        number(fig5.goal),
        table(&["who", "law", "devices"], goal),
    )
}

fn fig6(fig6: &Fig6) -> String {
    let find = |setting, strategy| {
        let is = |p: &&CostPoint| {
            (p.setting, p.strategy, p.bits, p.devices) == (setting, strategy, 4, published::FIG_6_DEVICES)
        };
        fig6.points.iter().find(is)
    };
    let tokens = |setting, strategy| find(setting, strategy).map_or(0.0, |point| point.tokens_per_s.mean);
    let cost = |setting, strategy| find(setting, strategy).map_or(0.0, |point| point.usd_per_1k[0]);
    let least = |setting| {
        let of_front = fig6.points.iter().filter(|point| point.setting == setting && point.front);
        of_front.map(|point| point.usd_per_1k[0]).fold(f64::INFINITY, f64::min)
    };
    let (sled, server, edge) = (Strategy::Sled, Strategy::AllServer, Strategy::AllEdge);
    let beside = |what: &str, paper: f64, of: &dyn Fn(Setting) -> f64| {
        vec![what.to_owned(), number(paper), number(of(Setting::Paper)), number(of(Setting::Strong))]
    };
    let rows = [
        beside("SLED, tokens/s", published::FIG_6_TOKENS_PER_S, &|s| tokens(s, sled)),
        beside("over centralised", published::FIG_6_GAIN, &|s| tokens(s, sled) / tokens(s, server)),
        beside("over all-edge", published::FIG_6_GAIN_OVER_EDGE, &|s| tokens(s, sled) / tokens(s, edge)),
        beside("SLED, $ a thousand tokens", published::FIG_6_USD_PER_1K, &|s| cost(s, sled)),
        beside("over centralised", published::FIG_6_COST_SHARE, &|s| cost(s, sled) / cost(s, server)),
    ];
    let all = fig6.points.iter().filter(|point| [1, 4, 16, 64].contains(&point.devices)).map(|point| {
        vec![
            if point.setting == Setting::Paper { "the paper's" } else { "continuous" }.to_owned(),
            point.strategy.name().to_owned(),
            point.bits.to_string(),
            point.devices.to_string(),
            estimate(point.tokens_per_s),
            number(point.usd_per_1k[0]),
            number(point.usd_per_1k[1]),
            match (point.front, point.front_of_all) {
                (true, true) => "front, front of all",
                (true, false) => "front",
                (false, true) => "front of all",
                (false, false) => "",
            }
            .to_owned(),
        ]
    });
    let hour = published::FIG_6_USD_PER_1K * published::FIG_6_TOKENS_PER_S * 3.6;
    let each = published::FIG_6_TOKENS_PER_S / published::FIG_6_DEVICES as f64;
    let edge_each = each / published::FIG_6_GAIN_OVER_EDGE;
    format!(
        "Cost is Eq. 2 (`crates/sim/src/economics.rs`): {} $ an hour for four A100 ({} at the cheapest offers), {} $ for a Pi 5 that was
bought; over the tokens that come out. 16 devices, 4 bits, paper's values beside ours:

{}
![Cost against tokens a second](../results/paper/fig6.svg)

*The law.* Where a rented server is nearly all of the cost, a token costs its rent over its tokens a second: whatever makes the server
faster makes it cheaper by as much, and nothing else does. Against one sequence at a time that is SLED; against continuous batching it
is the batch.

So the front is a point: at a fixed rent what is fastest is cheapest, the target at 4 bits with the most devices. On the paper's
server that is SLED; with continuous batching it is all-server, as the Pi 5 cost a little too. Where the tokens of the 3B will do,
all-edge at 4 bits takes {} of the least cost there.

*What does not follow from the published inputs.*

- {} tokens/s at {} $ a thousand are {} $ an hour, {} times the {} $ at which four A100 are rented here, and {} times the cheapest
  offers.
- {} tokens/s of 16 devices are {} each, x{} of all-edge, so that a Pi 5 drafts {} tokens/s. A device that waits for the verdict
  on k drafts commits at most (k + 1) / k tokens for each: 1.25 with {LENGTH} drafts, were all of them accepted. x1.65 takes one draft
  a round, accepted at 0.65, and a server that takes no time; but a round of one draft commits 1.65 tokens, and cannot be the x2.8 of Table I.

<details><summary>All points with 1, 4, 16 and 64 devices</summary>

All-edge makes the tokens of the 3B, not of the target. `front` is among those that make the target's, `front of all` among all of
a server, both at the dearer rent.

{}
</details>
",
        number(fig6.rents[0]),
        number(fig6.rents[1]),
        number(fig6.device_usd_per_hour),
        table(&["", "paper", "on the paper's server", "continuous batching"], rows),
        number(cost(Setting::Strong, edge) / least(Setting::Strong)),
        number(published::FIG_6_TOKENS_PER_S),
        number(published::FIG_6_USD_PER_1K),
        number(hour),
        number(hour / fig6.rents[0]),
        number(fig6.rents[0]),
        number(hour / fig6.rents[1]),
        number(published::FIG_6_TOKENS_PER_S),
        number(each),
        number(published::FIG_6_GAIN_OVER_EDGE),
        number(edge_each),
        table(
            &["server", "strategy", "bits", "devices", "tokens/s", "$ a thousand", "at the cheapest", ""],
            all
        ),
    )
}

fn table2() -> String {
    let rows = CLAIMS.iter().map(|claim| {
        let test = |(file, name): &(&str, &str)| format!("`{name}` ({file})");
        vec![
            claim.column.to_owned(),
            claim.does.to_owned(),
            claim.tests.iter().map(test).collect::<Vec<_>>().join("<br>"),
        ]
    });
    format!(
        "## Table II: what it does\n\nThe paper's columns, and the tests that show them; a test checks that they exist.\n\n{}",
        table(&["column", "what this system does", "shown by"], rows)
    )
}
