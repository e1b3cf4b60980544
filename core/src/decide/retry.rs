//! When the next attempt may begin.

use std::time::Duration;

use crate::name::TaskId;
use crate::task::Backoff;

/// The share by which a delay may be shorter or longer, in percent.
const JITTER_PERCENT: u64 = 20;

/// `min × 2ⁿ⁻¹` after the n-th attempt, at most `max`, then moved by up to ± 20 %. The jitter is derived from the
/// task and the attempt, so that it is the same wherever it is computed, and differs between tasks that fail together.
pub fn retry_delay(task: &TaskId, attempt: u32, backoff: Backoff) -> Duration {
    let doublings = attempt.saturating_sub(1).min(32);
    let delay = backoff.min.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(backoff.max);
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(task.as_str().as_bytes());
    hash.update(&attempt.to_le_bytes());
    let span = 2 * JITTER_PERCENT + 1;
    let percent = 100 - JITTER_PERCENT + hash.digest() % span;
    Duration::from_micros(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX / 200) / 100 * percent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_delay_stays_within_a_fifth_of_its_step(id in "[a-z0-9]{1,20}", attempt in 1u32..80, min_ms in 1u64..5_000) {
            let backoff = Backoff { min: Duration::from_millis(min_ms), max: Duration::from_secs(300) };
            let step = (min_ms as f64 * 2f64.powi(attempt as i32 - 1)).min(300_000.0) / 1_000.0;
            let delay = retry_delay(&TaskId::trusted(id), attempt, backoff).as_secs_f64();
            prop_assert!(delay >= step * 0.799 && delay <= step * 1.201, "{delay} for a step of {step}");
        }
    }

    #[test]
    fn tasks_that_fail_together_do_not_come_back_together() {
        let delay = |id: &str| retry_delay(&TaskId::trusted(id), 1, Backoff::default());
        assert_eq!(delay("a"), delay("a"));
        let delays: std::collections::BTreeSet<_> =
            ["a", "b", "c", "d", "e"].map(delay).into_iter().collect();
        assert!(delays.len() > 2, "{delays:?}");
    }
}
