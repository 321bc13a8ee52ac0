//! `SplitMix64` (Steele, Lea & Flood, *Fast splittable pseudorandom number generators*, 2014): the one hash of 64 bits and the one
//! generator of random numbers of the workspace.

/// 2^64 divided by the golden ratio, made odd: by this much the state grows.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser (Stafford, *Better bit mixing*, 2011, mix 13): a bijection in which every input bit flips every output bit about
/// half of the time.
#[inline(always)]
#[must_use]
pub const fn finalise(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A hash of 64 bits: what the generator whose state is `x` gives next.
#[inline(always)]
#[must_use]
pub const fn hash(x: u64) -> u64 {
    finalise(x.wrapping_add(STEP))
}

/// The next 64 bits of the generator with this state.
pub const fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(STEP);
    finalise(*state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_the_published_numbers() {
        let mut state = 0;
        let outputs = [next(&mut state), next(&mut state), next(&mut state)];
        assert_eq!(outputs, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f], "from the seed 0");
        assert_eq!(hash(0), outputs[0]);
    }
}
