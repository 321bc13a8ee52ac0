//! `sled quantize`: a copy of a model in another format.

use std::path::Path;

use anyhow::ensure;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use sled_launch::{Usage, models::locate};
use sled_llama::{Footprint, Format, requantize};

use crate::args::QuantizeArgs;
use crate::disk;

/// Makes the copy, and says what is lost by it and how to serve it; its place is all that goes to standard output.
pub fn quantize(args: &QuantizeArgs) -> anyhow::Result<()> {
    let QuantizeArgs { model, out, format } = args;
    if out.extension().is_none_or(|extension| extension != "gguf") {
        let reason = format!("a model is known by the ending of its name; call the copy {}.gguf", out.display());
        return Err(Usage(reason).into());
    }
    let input = locate(model)?;
    let footprint = Footprint::read(&input)?;
    let stored = footprint.format.as_deref();
    if stored == Some(format.name()) {
        return Err(Usage(format!("{model} is {format} already; choose another format")).into());
    }
    check_room(out, format.least_bytes(footprint.parameters))?;
    let from = stored.unwrap_or("an unnamed format");
    eprintln!("{}: from {from}, {}, to {format}", footprint.name, HumanBytes(footprint.bytes));
    eprintln!("{}", loss(stored, *format));
    let bar = bar(format.least_bytes(footprint.parameters));
    let made = requantize(&input, out, *format, |bytes| advance(&bar, bytes));
    bar.finish_and_clear();
    made?;
    let bytes = std::fs::metadata(out).map_or(0, |metadata| metadata.len());
    println!("{}", out.display());
    eprintln!("{}; serve it with: sled serve -m {}", HumanBytes(bytes), out.display());
    Ok(())
}

/// Refuses a copy of `needed` bytes at least for which there is no place.
fn check_room(out: &Path, needed: u64) -> anyhow::Result<()> {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "there is no folder {}; make it, or name another", folder.display());
    let free = disk::free(folder).unwrap_or(u64::MAX);
    ensure!(
        needed <= free,
        "the copy takes {} and {} are free in {}; free some, or name another folder",
        HumanBytes(needed),
        HumanBytes(free),
        folder.display()
    );
    Ok(())
}

/// What the copy lacks of what the original has, which is stored as `from`.
fn loss(from: Option<&str>, to: Format) -> String {
    let name = from.unwrap_or("the original");
    let kept = from.and_then(Format::named).and_then(Format::significant_bits);
    match (kept, to.significant_bits()) {
        (Some(all), Some(some)) if some < all => format!(
            "Of the {all} significant bits of a weight {some} are kept: answers hardly change, and what is lost does not come back."
        ),
        (Some(_), Some(_)) if to == Format::F16 => {
            "Weights nearer to 0 than F16 can hold become 0; nothing else is lost.".to_owned()
        }
        (Some(_), Some(_)) => "Nothing is lost: the copy takes more room, and computes differently.".to_owned(),
        (Some(_), None) => format!(
            "Weights are rounded in blocks: answers change, and what is lost does not come back, so keep the {name} file."
        ),
        (None, Some(_)) => format!(
            "What {name} has rounded away does not come back: the copy takes more room, and only computes differently."
        ),
        (None, None) => format!(
            "What {name} has rounded away does not come back, and {to} rounds once more; from an F16 or BF16 file it loses less."
        ),
    }
}

/// How much of the copy is written, by what it will be at least.
fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let style = ProgressStyle::with_template("{msg:12} {bar:40} {bytes} of about {total_bytes} {eta}");
    if let Ok(style) = style { bar.with_style(style).with_message("writing") } else { bar }
}

fn advance(bar: &ProgressBar, bytes: u64) {
    if bar.length().is_some_and(|total| bytes > total) {
        bar.set_length(bytes);
    }
    bar.set_position(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_said_in_one_sentence() {
        let said = |from: &str, to| loss((!from.is_empty()).then_some(from), to);
        for (from, to, part) in [
            ("F32", Format::F16, "Of the 24 significant bits of a weight 11 are kept"),
            ("F16", Format::Bf16, "Of the 11 significant bits of a weight 8 are kept"),
            ("BF16", Format::F16, "nearer to 0 than F16 can hold"),
            ("BF16", Format::F32, "Nothing is lost"),
            ("F16", Format::Q4_0, "keep the F16 file"),
            ("Q4_K_M", Format::Bf16, "What Q4_K_M has rounded away does not come back: the copy takes more room"),
            ("Q4_1", Format::Q8_0, "What Q4_1 has rounded away does not come back, and Q8_0 rounds once more"),
            ("", Format::Q4_0, "What the original has rounded away does not come back, and Q4_0 rounds once more"),
        ] {
            let said = said(from, to);
            assert!(said.contains(part), "{from} to {to}: {said}");
            assert!(said.ends_with('.') && said.matches(". ").count() == 0, "{said}");
        }
    }
}
