//! The formats that weights are stored in.

use std::fmt;

use llama_cpp_sys_2 as sys;

use super::ffi;

/// A format that a copy of a model can have its weights in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 32 bits: a token's logits are then, for all practical purposes, the same in every batch.
    F32,
    /// 16 bits, 11 of them significant.
    F16,
    /// 16 bits, 8 of them significant, with the range of 32; fast where a processor multiplies it natively.
    Bf16,
    /// 8.5 bits, in blocks of 32.
    Q8_0,
    /// 4.5 bits, in blocks of 32.
    Q4_0,
    /// About 4.9 bits, in blocks of 256; more for the tensors that matter most.
    Q4KM,
    /// 4.5 bits, in blocks of 32, with steps that are not of one size.
    Iq4Nl,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q4_0, Self::Q4KM, Self::Iq4Nl];

    /// What llama.cpp and model hubs call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4KM => "Q4_K_M",
            Self::Iq4Nl => "IQ4_NL",
        }
    }

    /// The format of this name, in capitals or not.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name))
    }

    /// How many significant bits a weight keeps, of formats that store each by itself; none of those that round blocks of them.
    #[must_use]
    pub fn significant_bits(self) -> Option<u32> {
        match self {
            Self::F32 => Some(24),
            Self::F16 => Some(11),
            Self::Bf16 => Some(8),
            Self::Q8_0 | Self::Q4_0 | Self::Q4KM | Self::Iq4Nl => None,
        }
    }

    /// How many bytes `parameters` weights take at least; a few tensors are kept in more bits.
    #[must_use]
    pub fn least_bytes(self, parameters: u64) -> u64 {
        // Bytes of 32 weights.
        let block = match self {
            Self::F32 => 128,
            Self::F16 | Self::Bf16 => 64,
            Self::Q8_0 => 34,
            Self::Q4_0 | Self::Q4KM | Self::Iq4Nl => 18,
        };
        (parameters / 32).saturating_mul(block)
    }

    pub(super) fn file_type(self) -> sys::llama_ftype {
        match self {
            Self::F32 => sys::LLAMA_FTYPE_ALL_F32,
            Self::F16 => sys::LLAMA_FTYPE_MOSTLY_F16,
            Self::Bf16 => sys::LLAMA_FTYPE_MOSTLY_BF16,
            Self::Q8_0 => sys::LLAMA_FTYPE_MOSTLY_Q8_0,
            Self::Q4_0 => sys::LLAMA_FTYPE_MOSTLY_Q4_0,
            Self::Q4KM => sys::LLAMA_FTYPE_MOSTLY_Q4_K_M,
            Self::Iq4Nl => sys::LLAMA_FTYPE_MOSTLY_IQ4_NL,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What model hubs call the format of this number in a file's header; none if llama.cpp does not know it.
pub(super) fn stored(file_type: u64) -> Option<String> {
    let number = sys::llama_ftype::try_from(file_type).ok()?;
    let known = Format::ALL.into_iter().find(|format| format.file_type() == number);
    known.map(|format| format.name().to_owned()).or_else(|| short(&ffi::file_type_name(number)))
}

/// `Q5_K_M` of `Q5_K - Medium`, `IQ4_XS` of `IQ4_XS - 4.25 bpw`.
fn short(name: &str) -> Option<String> {
    let (format, what) = name.split_once(" - ").unwrap_or((name, ""));
    let size = match what {
        "Small" => "_S",
        "Medium" => "_M",
        "Large" => "_L",
        _ => "",
    };
    (!format.contains("unknown")).then(|| format!("{format}{size}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_the_names_that_hubs_use() {
        for format in Format::ALL {
            assert_eq!(Format::named(&format.name().to_lowercase()), Some(format));
            assert_eq!(stored(format.file_type().into()), Some(format.name().to_owned()));
        }
        assert_eq!(Format::named("Q4_1"), None);
        for (number, name) in [(3, "Q4_1"), (17, "Q5_K_M"), (14, "Q4_K_S"), (30, "IQ4_XS")] {
            assert_eq!(stored(number).as_deref(), Some(name));
        }
        for number in [5, 999, 1024 + 999, u64::MAX] {
            assert_eq!(stored(number), None, "{number}");
        }
    }
}
