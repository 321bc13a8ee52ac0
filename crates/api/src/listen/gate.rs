//! How many are inside at once, over all and of one client.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lets in so many at once, and no more than so many from one address.
#[derive(Debug)]
pub struct Gate {
    most: usize,
    per_client: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// A place inside, which is given back when this is dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    client: IpAddr,
}

impl Gate {
    /// A gate for `most` at once, of whom `per_client` may have one address.
    #[must_use]
    pub fn new(most: usize, per_client: usize) -> Self {
        Self { most, per_client, inside: Mutex::default() }
    }

    /// A place for someone from `address`; `None` if all are taken, or all that this address may have.
    #[must_use]
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Pass> {
        let client = household(address);
        let mut inside = self.inside();
        let of_client = inside.of.get(&client).copied().unwrap_or(0);
        if inside.all >= self.most || of_client >= self.per_client {
            return None;
        }
        inside.all += 1;
        inside.of.insert(client, of_client + 1);
        drop(inside);
        Some(Pass { gate: Arc::clone(self), client })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.gate.inside();
        inside.all -= 1;
        if let Some(of_client) = inside.of.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                inside.of.remove(&self.client);
            }
        }
    }
}

/// Whose address it is: a subscriber to IPv6 has a network of 64 bits, and an IPv4 address may be written as one of IPv6.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn places_are_counted_over_all_and_by_client_and_given_back() {
        let gate = Arc::new(Gate::new(3, 2));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = gate.enter(address("10.0.0.1")).unwrap();
        let second = gate.enter(address("::ffff:10.0.0.1")).unwrap();
        assert!(gate.enter(address("10.0.0.1")).is_none(), "it has two places");
        let third = gate.enter(address("2001:db8:0:1::1")).unwrap();
        assert!(gate.enter(address("10.0.0.2")).is_none(), "all places are taken");
        drop(second);
        let fourth = gate.enter(address("2001:db8:0:1:ffff::2")).unwrap();
        drop(first);
        assert!(gate.enter(address("2001:db8:0:1::3")).is_none(), "its network has two places");
        drop((third, fourth));
        let inside = gate.inside();
        assert_eq!((inside.all, inside.of.len()), (0, 0));
    }
}
