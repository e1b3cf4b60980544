//! P4: the fence strictly rises, and what an attempt wrote under an old fence is never what ends the task. Handlers of the simulation put their fence into the output.

use super::{Facts, Found, Property};
use steadfast_core::State;

pub(super) const PROPERTY: Property =
    Property { name: "P4", meaning: "a stale fence changes nothing", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    for (_, before, after) in facts.changes() {
        let id = &after.id;
        if let Some(before) = before.filter(|before| before.fence > after.fence) {
            found.add(id, format!("the fence of {id} fell from {} to {}", before.fence, after.fence));
        }
        if after.state != State::Succeeded {
            continue;
        }
        let output = after.output.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        if let Some(fence) = output.strip_prefix("fence ").filter(|fence| *fence != after.fence.to_string()) {
            found.add(
                id,
                format!(
                    "{id} has the outcome of its attempt under fence {fence}, but its fence is {}",
                    after.fence
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    #[test]
    fn the_outcome_of_a_stale_attempt_is_noticed() {
        let ended = |fence, output: &str| {
            let mut task = running();
            task.state = State::Succeeded;
            task.fence = fence;
            task.output = Some(output.as_bytes().into());
            task
        };
        let good = changes(&[(0, running()), (1, ended(1, "fence 1"))]);
        tells_apart(&PROPERTY, &good, &changes(&[(0, running()), (1, ended(2, "fence 1"))]));
        tells_apart(&PROPERTY, &good, &changes(&[(0, running()), (1, ended(0, "fence 0"))]));
    }
}
