//! Numbers on the command line.

/// A number of at least 0, for clap.
///
/// # Errors
/// If it is none; the sentence says what is one.
pub fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(value),
        _ => Err("use a number of at least 0".to_owned()),
    }
}

/// A number from 0 to 1, for clap.
///
/// # Errors
/// If it is none; the sentence says what is one.
pub fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("use a number from 0 to 1".to_owned()),
    }
}

/// A number above 0, for clap.
///
/// # Errors
/// If it is none; the sentence says what is one.
pub fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => Err("use a number above 0".to_owned()),
    }
}
