//! Which of the formats at hand to serve.

use std::path::Path;

use indicatif::HumanBytes;

use super::checks::{Check, NATIVE, ok, warning};
use super::facts::{Facts, Format, Machine, Target};

/// What is faster by less than this is as fast, as far as a few passes can tell.
const NOISE: f64 = 1.05;

const NAME: &str = "formats";

/// What the formats at hand come to: which is the fastest, those that could not be measured, and whether one is missing.
pub fn of(facts: &Facts) -> Vec<Check> {
    let Some(target) = facts.target.as_ref().filter(|target| target.error.is_none()) else { return Vec::new() };
    let unmeasured = facts.formats.iter().filter_map(|format| {
        let fact = format!("{} was not measured: {}", format.name, format.error.as_ref()?);
        Some(warning(NAME, fact, "leave it out, or name another file of the same model with -m"))
    });
    let checks = fastest(target, &facts.formats).into_iter().chain(unmeasured);
    checks.chain(bf16(target, &facts.formats, &facts.machine)).collect()
}

/// How the format that was asked for compares with the fastest.
fn fastest(target: &Target, formats: &[Format]) -> Option<Check> {
    let mut measured: Vec<(&Format, f64)> = formats.iter().filter_map(|it| Some((it, it.sled?))).collect();
    measured.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let (asked, rate) = *measured.iter().find(|(format, _)| format.name == target.name)?;
    let (best, most) = *measured.first()?;
    let (count, for_devices) = (measured.len(), devices(target.devices));
    let Some((second, less)) = measured.get(1) else {
        return Some(ok(NAME, format!("{} is the only one at hand; sled quantize makes others", asked.format)));
    };
    if best.name == asked.name && most >= less * NOISE {
        let fact = format!(
            "{} is the fastest of the {count} at hand {for_devices}: {:.2} times {}",
            asked.format,
            most / less,
            second.format
        );
        return Some(ok(NAME, fact));
    }
    if most < rate * NOISE {
        return Some(ok(NAME, format!("{} is as fast as any of the {count} at hand {for_devices}", asked.format)));
    }
    let fact = format!("{} is {:.2} times as fast as {} {for_devices}", best.format, most / rate, asked.format);
    let coarser = if best.bytes < asked.bytes { "; it is coarser, so compare its answers" } else { "" };
    Some(warning(NAME, fact, &format!("serve it with -m {}{coarser}", best.name)))
}

/// Whom a speed is for.
pub fn devices(number: u32) -> String {
    if number == 1 { "for one device".to_owned() } else { format!("for {number} devices") }
}

/// Whether a processor that computes BF16 natively has none to compute, and the memory for it.
fn bf16(target: &Target, formats: &[Format], machine: &Machine) -> Option<Check> {
    if !machine.has_bf16 || formats.is_empty() || formats.iter().any(|format| format.format == "BF16") {
        return None;
    }
    let bytes = sled_llama::Format::Bf16.least_bytes(target.parameters);
    if machine.memory_available.is_some_and(|available| bytes > available) {
        return None;
    }
    // From what has lost the least so far.
    let source = formats.iter().filter(|format| format.error.is_none()).max_by_key(|format| format.bytes)?;
    let out = format!("{}-bf16.gguf", stem(&source.name));
    let build = match machine.unused_features.iter().any(|name| name == "AVX512_BF16") {
        true => format!("{NATIVE}, then "),
        false => String::new(),
    };
    let advice = format!(
        "{build}sled quantize {} {out} BF16 makes one of {}, and sled doctor -m {} -m {out} tells whether it pays",
        source.name,
        HumanBytes(bytes),
        target.name
    );
    Some(warning(
        "BF16",
        "this processor computes it natively, and no such file of the model is at hand".to_owned(),
        &advice,
    ))
}

/// What a model is called, without its folder and ending.
fn stem(name: &str) -> String {
    match Path::new(name).file_stem() {
        Some(stem) if name.ends_with(".gguf") => stem.to_string_lossy().into_owned(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::checks::Mark;

    const GIB: u64 = 1 << 30;

    fn format(name: &str, format: &str, bytes: u64, sled: f64) -> Format {
        let points = vec![[1.0, 30.0], [8.0, 150.0]];
        let (sled, plain) = (Some(sled), Some(sled / 1.2));
        Format { name: name.to_owned(), format: format.to_owned(), bytes, points, sled, plain, error: None }
    }

    fn facts(devices: u32, formats: Vec<Format>) -> Facts {
        let target = Target { name: "big".to_owned(), devices, parameters: GIB, ..Target::default() };
        Facts { target: Some(target), formats, ..Facts::default() }
    }

    fn said(facts: &Facts) -> Vec<(Mark, String, Option<String>)> {
        of(facts).into_iter().map(|check| (check.mark, check.fact, check.advice)).collect()
    }

    #[test]
    fn a_faster_format_is_recommended() {
        let formats = vec![format("/m/b.gguf", "BF16", 3 * GIB, 12.0), format("big", "Q4_K_M", GIB, 10.0)];
        let (fact, advice) = ("BF16 is 1.20 times as fast as Q4_K_M for 4 devices", "serve it with -m /m/b.gguf");
        assert_eq!(said(&facts(4, formats)), [(Mark::Warning, fact.to_owned(), Some(advice.to_owned()))]);
        let formats = vec![format("small", "Q4_0", GIB / 2, 15.0), format("big", "Q4_K_M", GIB, 10.0)];
        let advice = said(&facts(1, formats)).remove(0).2;
        assert_eq!(advice.as_deref(), Some("serve it with -m small; it is coarser, so compare its answers"));
    }

    #[test]
    fn what_is_asked_for_stays_where_nothing_is_faster() {
        let ok = |fact: &str| [(Mark::Ok, fact.to_owned(), None)];
        let big = || format("big", "Q4_K_M", GIB, 10.0);
        let other = |sled| format("small", "Q4_0", GIB / 2, sled);
        let fact = "Q4_K_M is the fastest of the 2 at hand for one device: 1.25 times Q4_0";
        assert_eq!(said(&facts(1, vec![big(), other(8.0)])), ok(fact));
        let fact = "Q4_K_M is as fast as any of the 2 at hand for 16 devices";
        assert_eq!(said(&facts(16, vec![other(10.4), big()])), ok(fact));
        assert_eq!(said(&facts(16, vec![big(), other(9.6)])), ok(fact));
        assert_eq!(said(&facts(16, vec![big()])), ok("Q4_K_M is the only one at hand; sled quantize makes others"));
        assert_eq!(said(&facts(16, Vec::new())), []);
    }

    #[test]
    fn what_was_not_measured_is_said() {
        let error = Some("it is another model, Large".to_owned());
        let other = Format { name: "large".to_owned(), error, ..Format::default() };
        let said = said(&facts(1, vec![format("big", "Q4_K_M", GIB, 10.0), other]));
        assert_eq!(said[1].1, "large was not measured: it is another model, Large");
        assert_eq!(said.len(), 2);
    }

    #[test]
    fn a_processor_that_computes_bf16_is_given_some_to_measure() {
        let mut facts = facts(1, vec![format("big", "Q4_K_M", GIB, 10.0), format("/m/x.gguf", "F16", 2 * GIB, 5.0)]);
        let advice = |facts: &Facts| of(facts).into_iter().find(|check| check.name == "BF16").and_then(|it| it.advice);
        assert_eq!(advice(&facts), None);
        facts.machine.has_bf16 = true;
        let expected = "sled quantize /m/x.gguf x-bf16.gguf BF16 makes one of 2.00 GiB, and sled doctor -m big -m x-bf16.gguf \
            tells whether it pays";
        assert_eq!(advice(&facts).as_deref(), Some(expected));
        facts.machine.unused_features = vec!["AVX512_BF16".to_owned()];
        assert_eq!(advice(&facts), Some(format!("make build NATIVE=1, then {expected}")));
        facts.machine.memory_available = Some(GIB);
        assert_eq!(advice(&facts), None);
        facts.machine.memory_available = None;
        facts.formats.push(format("b", "BF16", 2 * GIB, 8.0));
        assert_eq!(advice(&facts), None);
    }
}
