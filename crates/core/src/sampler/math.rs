//! Elementary functions out of basic operations alone.
//!
//! The standard library leaves `exp` and `ln` to the platform, whose last bits differ from one C library (and even one
//! processor) to the next. The law may not depend on that, so these are computed here, with the operations that IEEE
//! 754 defines to the last bit (a fused multiply-add is one of them). [`exp`] also vectorises.

use std::f64::consts::LN_2;

/// ln 2 in two parts (Cody & Waite, *Software Manual for the Elementary Functions*, 1980): the first has so few bits
/// that its product with a small integer is exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// Below this, [`exp`] is 0: its results would no longer be normal numbers.
const EXP_UNDERFLOW: f32 = -87.0;

/// e^x for `x <= 0`, with a relative error below 3e-7; 0 for `x < -87`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // x = n ln 2 + r with |r| <= ln(2)/2, where seven terms of the Taylor series leave 1.2e-7.
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let mut series = 1.0_f32 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series.mul_add(r, coefficient);
    }
    let power_of_two = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x < EXP_UNDERFLOW { 0.0 } else { series * power_of_two }
}

/// The natural logarithm of a positive normal number, with a relative error below 1e-15.
pub(super) fn ln(x: f64) -> f64 {
    /// 1/3, 1/5, ... 1/23: more terms than [`f64`] can tell, as s² <= 0.0295.
    const SERIES: [f64; 11] = {
        let mut series = [0.0; 11];
        let mut term = 0;
        while term < series.len() {
            series[term] = 1.0 / (2 * term + 3) as f64;
            term += 1;
        }
        series
    };
    // x = 2^e * m with m in [sqrt(1/2), sqrt(2)), and ln m = 2 artanh s with s = (m - 1) / (m + 1).
    let above = x.to_bits().wrapping_sub(std::f64::consts::FRAC_1_SQRT_2.to_bits()) as i64;
    let exponent = above >> 52;
    let m = f64::from_bits(x.to_bits().wrapping_sub((exponent << 52) as u64));
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let tail = SERIES.iter().rev().fold(0.0, |sum, coefficient| (sum + coefficient) * square);
    exponent as f64 * LN_2 + 2.0 * (s + s * tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_double_precision() {
        let mut worst = 0.0_f64;
        for step in 0..=870_000 {
            let x = -(step as f32) * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 3e-7, "{worst:e}");
    }

    #[test]
    fn exp_ends_in_zero() {
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-87.0) > 0.0);
        for x in [-87.001, -1e4, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(exp(x), 0.0);
        }
    }

    #[test]
    fn ln_agrees_with_the_platform() {
        let mut worst = 0.0_f64;
        for step in 1..200_000 {
            let fraction = f64::from(step) / 200_000.0;
            for x in [fraction, 1.0 - fraction * f64::EPSILON, fraction * 40.0, fraction * 1e-15] {
                if x != 1.0 {
                    worst = worst.max(((ln(x) - x.ln()) / x.ln()).abs());
                }
            }
        }
        assert!(worst < 1e-15, "{worst:e}");
        assert_eq!(ln(1.0), 0.0);
    }
}
