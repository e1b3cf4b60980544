//! The incidents' scenarios keep every property, and come through the interleavings that they are there for.

use crate::scenario::{SCENARIOS, holds_and_reaches_its_goals};

#[test]
fn the_engine_survives_all_five_incidents() {
    let incidents = SCENARIOS.iter().filter(|scenario| scenario.name.starts_with("incident-"));
    let mut count = 0;
    for scenario in incidents {
        count += 1;
        holds_and_reaches_its_goals(scenario);
    }
    assert_eq!(count, 5);
}
