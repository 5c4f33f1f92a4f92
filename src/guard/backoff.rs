//! How long to wait before the next server.

use std::time::Duration;

const DELAY_FIRST: Duration = Duration::from_millis(10);
const DELAY_MAX: Duration = Duration::from_secs(10);
/// A server that lived less than this crashes at once.
const CRASHES_AT_ONCE: Duration = Duration::from_millis(100);
/// A server that lived at least this long was well.
const WAS_WELL: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(1);

/// The next delay, from the last one and how long the server was ready (`None`: it never was).
///
/// A server that was well is replaced at once. One that crashes at once makes the delay double, up to a bound.
/// In between it falls, and never quite to nothing: what crashes every second is still in trouble.
pub(super) fn next_delay(last: Duration, ready_for: Option<Duration>) -> Duration {
    match ready_for {
        Some(time) if time >= WAS_WELL => Duration::ZERO,
        Some(time) if time >= CRASHES_AT_ONCE => last / 2 + STEP,
        _ => (last * 2).clamp(DELAY_FIRST, DELAY_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_at_once_slow_down_and_stay_bounded() {
        let mut delay = Duration::ZERO;
        let mut delays = Vec::new();
        for _ in 0..100 {
            delay = next_delay(delay, None);
            delays.push(delay);
        }
        assert!(delays.is_sorted());
        assert_eq!(delays.first(), Some(&DELAY_FIRST));
        assert_eq!(delays.last(), Some(&DELAY_MAX));
    }

    #[test]
    fn a_kill_every_second_costs_next_to_nothing() {
        let mut delay = Duration::ZERO;
        for _ in 0..100 {
            delay = next_delay(delay, Some(Duration::from_secs(1)));
            assert!(delay <= Duration::from_millis(2));
        }
    }

    #[test]
    fn a_server_that_was_well_is_replaced_at_once() {
        assert_eq!(next_delay(DELAY_MAX, Some(WAS_WELL)), Duration::ZERO);
    }
}
