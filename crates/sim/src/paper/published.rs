//! What the paper reports, to be set beside our own.

/// Table I: the machine's profile, the devices that SLED and that centralised serving carry, and the ratio.
pub const TABLE_1: [(&str, f64, f64, f64); 3] =
    [("pi-4b", 18.30, 7.05, 2.60), ("pi-5", 5.24, 1.83, 2.86), ("orin-nano", 19.53, 7.06, 2.77)];

/// Fig. 4: tokens a second of SLED over centralised serving.
pub const FIG_4_GAIN: f64 = 2.2;

/// Fig. 6: tokens a second of SLED with 16 devices at 4 bits.
pub const FIG_6_TOKENS_PER_S: f64 = 137.0;

/// Fig. 6: what it costs there, in US dollars for a thousand tokens.
pub const FIG_6_USD_PER_1K: f64 = 0.13;

/// Fig. 6: its tokens a second over centralised serving.
pub const FIG_6_GAIN: f64 = 3.5;

/// Fig. 6: its cost over that of centralised serving.
pub const FIG_6_COST_SHARE: f64 = 0.29;

/// Fig. 6: its tokens a second over the best all-edge set-up.
pub const FIG_6_GAIN_OVER_EDGE: f64 = 1.65;

/// Fig. 6: how many devices that is with.
pub const FIG_6_DEVICES: usize = 16;
