//! What tokens cost: the model of the paper's section IV-C.
//!
//! A machine that was bought costs its price spread over the hours that it works in its lifetime (CAPEX), and the electricity
//! that it draws (OPEX), after Walker, *The real cost of a CPU hour* (2009); one that is rented costs its rent. The paper's Eq. 2
//! divides the sum by the tokens that come out.

use serde::Serialize;

/// The prices that are the same for all machines. The defaults are the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prices {
    /// For how many years a machine is used that was bought: 3.
    pub lifetime_years: f64,
    /// The share of that time in which it works: 0.7.
    pub utilisation: f64,
    /// Electricity, in US dollars a kilowatt-hour: 0.083.
    pub usd_per_kwh: f64,
}

impl Default for Prices {
    fn default() -> Self {
        Self { lifetime_years: 3.0, utilisation: 0.7, usd_per_kwh: 0.083 }
    }
}

/// How one comes by a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tenure {
    /// It was bought.
    Bought {
        /// For so many US dollars.
        usd: f64,
        /// It draws so many watts while it works.
        watts: f64,
    },
    /// It is rented, electricity included.
    Rented {
        /// For so many US dollars an hour.
        usd_per_hour: f64,
    },
}

/// Hours in a year of 365 days.
const HOURS: f64 = 8760.0;

impl Tenure {
    /// What an hour of work costs, in US dollars.
    #[must_use]
    pub fn usd_per_hour(&self, prices: &Prices) -> f64 {
        match *self {
            Self::Bought { usd, watts } => {
                let capex = usd / (prices.lifetime_years * HOURS * prices.utilisation);
                let opex = watts / 1e3 * prices.usd_per_kwh;
                capex + opex
            }
            Self::Rented { usd_per_hour } => usd_per_hour,
        }
    }
}

/// What a thousand tokens cost (Eq. 2), in US dollars: `usd_per_hour` of all machines together over `tokens_per_s`, of which
/// there must be some.
#[must_use]
pub fn usd_per_1k_tokens(usd_per_hour: f64, tokens_per_s: f64) -> f64 {
    usd_per_hour / (tokens_per_s * 3.6)
}

/// Which of these points `(cost, rate)` no other dominates: none costs less at the same rate, or is as cheap and faster.
#[must_use]
pub fn pareto_front(points: &[(f64, f64)]) -> Vec<bool> {
    let dominates = |a: &(f64, f64), b: &(f64, f64)| a.0 <= b.0 && a.1 >= b.1 && a != b;
    points.iter().map(|point| !points.iter().any(|other| dominates(other, point))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_was_bought_costs_its_share_and_its_electricity() {
        // 7300 $ over 2 years at half use are 8760 hours: 7300 / 8760 = 5/6 $ an hour; 500 W at 1/3 $ are 1/6.
        let prices = Prices { lifetime_years: 2.0, utilisation: 0.5, usd_per_kwh: 1.0 / 3.0 };
        let bought = Tenure::Bought { usd: 7300.0, watts: 500.0 };
        assert!((bought.usd_per_hour(&prices) - 1.0).abs() < 1e-12);
        // 1 $ an hour at 1000 tokens in 3.6 s is 1/1000 $ a thousand.
        assert!((usd_per_1k_tokens(1.0, 1000.0 / 3.6) - 1e-3).abs() < 1e-15);
        assert_eq!(Tenure::Rented { usd_per_hour: 20.2 }.usd_per_hour(&prices), 20.2);
    }

    #[test]
    fn the_papers_pi_5() {
        let hour = Tenure::Bought { usd: 80.0, watts: 8.0 }.usd_per_hour(&Prices::default());
        assert!((hour - (80.0 / 18_396.0 + 0.000_664)).abs() < 1e-15);
        // A 3B at 4.75 tokens/s: 0.03 cents a thousand.
        assert!((usd_per_1k_tokens(hour, 4.75) - hour / 17.1).abs() < 1e-15);
    }

    #[test]
    fn the_front_is_what_nothing_beats_in_both() {
        let points = [(1.0, 10.0), (2.0, 20.0), (2.0, 15.0), (3.0, 20.0), (0.5, 1.0), (2.0, 20.0)];
        assert_eq!(pareto_front(&points), [true, true, false, false, true, true]);
    }
}
