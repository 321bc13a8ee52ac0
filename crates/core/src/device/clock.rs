//! Time as a device counts it.

use std::time::Duration;

/// Time as the device counts it: what the shell says, except that a clock that is set back stands still instead.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    shell: Duration,
    now: Duration,
}

impl Clock {
    pub(super) fn advance(&mut self, shell: Duration) {
        self.now += shell.saturating_sub(self.shell);
        self.shell = shell;
    }

    pub(super) fn now(self) -> Duration {
        self.now
    }

    /// The shell's time for a time of the device's.
    pub(super) fn to_shell(self, time: Duration) -> Duration {
        self.shell + time.saturating_sub(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_stands_still() {
        let s = Duration::from_secs;
        let mut clock = Clock::default();
        clock.advance(s(100));
        clock.advance(s(40));
        assert_eq!((clock.now(), clock.to_shell(s(103))), (s(100), s(43)));
        clock.advance(s(43));
        assert_eq!(clock.now(), s(103));
    }
}
